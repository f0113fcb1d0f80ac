"""Evaluate trained networks and data sets, and test differences between runs."""
