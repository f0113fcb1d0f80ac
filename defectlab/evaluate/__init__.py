"""How good a run really is, and whether one is better than another."""
