"""From a config to objects, and one experiment from start to report."""
