"""Metrics of classification and their statistics, from logits, labels and counts."""

from defectlab.metrics.classification import (
    ClassMetrics,
    SplitMetrics,
    accuracy_interval,
    evaluate_predictions,
    fit_temperature,
)

__all__ = ["ClassMetrics", "SplitMetrics", "accuracy_interval", "evaluate_predictions", "fit_temperature"]
