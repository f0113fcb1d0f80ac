"""Trained networks at work: prediction, thresholds, prediction sets, costs."""
