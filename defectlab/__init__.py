"""Classify surface defects with small CNNs and MobileNets."""

__version__ = "0.1.0"
