"""Figures of one style, without pyplot."""
