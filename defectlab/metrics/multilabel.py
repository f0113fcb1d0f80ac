"""Metrics and thresholds of images that may have several classes, or none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from defectlab.metrics.decisions import are_right, confidence_of, decide
from defectlab.metrics.ranking import Flags, rank_figures
from defectlab.metrics.results import ClassMetrics, SplitMetrics, expected_calibration_error, mean_of_defined, ratio

if TYPE_CHECKING:
    from torch import Tensor


def choose_f1_thresholds(probabilities: npt.NDArray[np.floating[Any]], labels: npt.NDArray[Any]) -> list[float]:
    """Choose for each class the threshold of the largest F1 on validation images; of equal ones the nearest to 0.5.

    Lipton, Elkan & Naryanaswamy, "Optimal thresholding of classifiers to maximize F1 measure" (ECML 2014). A class without
    an image, or of which all are, keeps 0.5.

    Args:
        probabilities: `(N, C)`.
        labels: `(N, C)` of 0 and 1.
    """
    return [_best_threshold(p, truth) for p, truth in zip(probabilities.T, labels.astype(bool).T, strict=True)]


def _best_threshold(scores: npt.NDArray[np.floating[Any]], positive: Flags) -> float:
    if not positive.any() or positive.all():
        return 0.5
    values, counts = np.unique(scores, return_counts=True)
    hits = np.array([positive[scores == value].sum() for value in values])
    flagged, found = counts[::-1].cumsum()[::-1], hits[::-1].cumsum()[::-1]  # from each value up
    f1 = 2 * found / (flagged + positive.sum())
    below = np.append(0.0, values[:-1])
    # Any threshold between a score and the one below it decides alike: the nearest to 0.5 within, a little inside.
    inner = np.clip(0.5, below + (values - below) / 4, values - (values - below) / 4)
    best = np.flatnonzero(f1 == f1.max())
    return float(inner[best[np.abs(inner[best] - 0.5).argmin()]])


def evaluate_multilabel(
    logits: Tensor, labels: Tensor, class_names: Sequence[str], thresholds: Sequence[float]
) -> SplitMetrics:
    """Compute the metrics of checked logits `(N, C)` and labels `(N, C)` of 0 and 1; see `evaluate_predictions`."""
    from torch.nn.functional import binary_cross_entropy_with_logits

    probabilities, truth = logits.sigmoid().numpy(), labels.numpy().astype(bool)
    n, classes = truth.shape
    predicted = decide(probabilities, thresholds)
    right = are_right(predicted, truth)
    losses = binary_cross_entropy_with_logits(logits, labels.double(), reduction="none")
    per_class: dict[str, ClassMetrics] = {}
    recalls, specificities = [], []
    for k, name in enumerate(class_names):
        hits, support, called = int((predicted & truth)[:, k].sum()), int(truth[:, k].sum()), int(predicted[:, k].sum())
        auroc, average_precision, at_1_percent = rank_figures(probabilities[:, k], truth[:, k])
        recalls.append(ratio(hits, support))
        specificities.append(1 - ratio(called - hits, n - support))
        per_class[name] = {
            "accuracy": recalls[k], "precision": ratio(hits, called), "recall": recalls[k],
            "f1": ratio(2 * hits, support + called), "support": support, "auroc": auroc,
            "average_precision": average_precision, "recall_at_1_percent": at_1_percent, "threshold": float(thresholds[k]),
        }  # fmt: skip
    hits_all = int((predicted & truth).sum())
    # A class beside the true ones is called in their place, or as well.
    matrix = truth.T.astype(np.int64) @ (predicted & ~truth).astype(np.int64)
    matrix[np.arange(classes), np.arange(classes)] = (predicted & truth).sum(axis=0)
    loss = math.fsum(losses.flatten().tolist()) / losses.numel()
    sets = np.unique(truth, axis=0, return_counts=True)[1]
    return {
        "n": n, "loss": loss, "training_loss": loss, "accuracy": int(right.sum()) / n,
        "macro_f1": mean_of_defined([c["f1"] for c in per_class.values()]), "macro_recall": mean_of_defined(recalls),
        "balanced_accuracy": mean_of_defined([(a + b) / 2 for a, b in zip(recalls, specificities, strict=True)]),
        "auroc": mean_of_defined([c["auroc"] for c in per_class.values()]),
        "average_precision": mean_of_defined([c["average_precision"] for c in per_class.values()]),
        "majority_share": int(sets.max()) / n,
        "ece": expected_calibration_error(confidence_of(probabilities, thresholds), right),
        "per_class": per_class, "confusion_matrix": matrix.tolist(),
        "micro_f1": ratio(2 * hits_all, int(truth.sum() + predicted.sum())),
    }  # fmt: skip
