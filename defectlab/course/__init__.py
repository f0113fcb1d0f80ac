"""The programs that courses teach with, each a config, and the table of what they reach."""
