"""Run the programs of the course, each a config, and tabulate their accuracy."""
