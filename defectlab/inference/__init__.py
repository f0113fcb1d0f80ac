"""Predict with trained networks: probabilities, thresholds, prediction sets, decisions by cost."""
