"""Metrics of the predictions on one split, from all its logits.

torch and torchmetrics, which take seconds to import, are imported where they are used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from defectlab.errors import InputError
from defectlab.metrics.decisions import Labels, are_right
from defectlab.metrics.multilabel import evaluate_multilabel
from defectlab.metrics.ranking import rank_figures
from defectlab.metrics.results import ClassMetrics, SplitMetrics, expected_calibration_error, mean_of_defined, ratio

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "ClassMetrics", "SplitMetrics", "accuracy_interval", "confident_mistakes", "evaluate_predictions", "fit_temperature",
    "probabilities_of",
]  # fmt: skip


def evaluate_predictions(
    logits: Tensor, labels: Tensor, class_names: Sequence[str], thresholds: Sequence[float] | None = None
) -> SplitMetrics:
    """Compute the metrics of a split from logits `(N, C)`, on the CPU in float64.

    Args:
        logits: of softmax, or of a multi-label task of the logistic function.
        labels: `(N,)` int64 in [0, C); of a multi-label task `(N, C)` of 0 and 1.
        class_names: C names.
        thresholds: of a multi-label task `(C,)`, the probability from which it decides for a class; None for 0.5.

    Raises:
        InputError: no images, shapes that do not fit together, labels out of range, repeated class
            names, or logits that are not finite.
    """
    import torch
    from torch.nn.functional import cross_entropy
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    _check(logits, labels, class_names)
    logits = logits.detach().to("cpu", torch.float64)
    if labels.ndim == 2:
        return evaluate_multilabel(logits, labels.detach().cpu(), class_names, thresholds or [0.5] * logits.shape[1])
    labels = labels.detach().to("cpu", torch.int64)
    n, classes = logits.shape

    losses = cross_entropy(logits, labels, reduction="none")
    by_class = logits.softmax(dim=1)
    likeliest = by_class.max(dim=1)
    ece = expected_calibration_error(likeliest.values.numpy(), (likeliest.indices == labels).numpy())
    matrix: list[list[int]] = multiclass_confusion_matrix(logits.argmax(1), labels, classes).tolist()

    # Ratios of the integer counts: torchmetrics' own class figures are rounded to float32.
    per_class: dict[str, ClassMetrics] = {}
    for index, name in enumerate(class_names):
        hits, support = matrix[index][index], sum(matrix[index])
        predicted = sum(row[index] for row in matrix)
        recall = ratio(hits, support)
        auroc, average_precision, recall_at_1_percent = rank_figures(
            by_class[:, index].numpy(), (labels == index).numpy()
        )
        per_class[name] = {
            "accuracy": recall,
            "precision": ratio(hits, predicted),
            "recall": recall,
            "f1": ratio(2 * hits, support + predicted),
            "support": support,
            "auroc": auroc,
            "average_precision": average_precision,
            "recall_at_1_percent": recall_at_1_percent,
        }
    balanced_accuracy = mean_of_defined([c["recall"] for c in per_class.values()])
    loss = math.fsum(losses.tolist()) / n  # fsum: the same bits for any number of threads
    return {
        "n": n,
        "loss": loss,
        "training_loss": loss,
        "accuracy": sum(matrix[i][i] for i in range(classes)) / n,
        "macro_f1": mean_of_defined([c["f1"] for c in per_class.values()]),
        "macro_recall": balanced_accuracy,
        "balanced_accuracy": balanced_accuracy,
        "auroc": mean_of_defined([c["auroc"] for c in per_class.values()]),
        "average_precision": mean_of_defined([c["average_precision"] for c in per_class.values()]),
        "majority_share": max(c["support"] for c in per_class.values()) / n,
        "ece": ece,
        "per_class": per_class,
        "confusion_matrix": matrix,
    }


def probabilities_of(logits: Tensor, multilabel: bool = False) -> Tensor:
    """Compute the probabilities of logits `(N, C)`, float64 on the CPU; InputError for logits that are not finite."""
    values = logits.detach().double().cpu()
    broken = int((~values.isfinite()).any(dim=1).sum())
    if broken:
        raise InputError(
            f"the network's output is not finite for {broken} of {len(values)} images: expected numbers; train it anew "
            "with a lower learning rate, or take another checkpoint"
        )
    return values.sigmoid() if multilabel else values.softmax(dim=1)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature in [0.05, 20] that logits `(N, C)` are divided by for the largest likelihood of the labels.

    Guo et al. 2017, section 4.2; the lower bound where no label is missed. Labels are `(N,)`, or of a multi-label task
    `(N, C)`.
    """
    from scipy.optimize import minimize_scalar
    from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

    values, truth = logits.detach().double().cpu(), labels.cpu()

    def loss(power: float) -> float:
        scaled = values / math.exp(power)
        return float(
            binary_cross_entropy_with_logits(scaled, truth.double())
            if truth.ndim == 2
            else cross_entropy(scaled, truth)
        )

    best = minimize_scalar(loss, bounds=(math.log(0.05), math.log(20)), method="bounded")
    return math.exp(float(best.x))


def confident_mistakes(
    confidence: npt.NDArray[np.floating[Any]], predicted: Labels, labels: Labels
) -> npt.NDArray[np.int64]:
    """Return the indices of the N images that are decided wrongly, the most confident first."""
    wrong = np.flatnonzero(~are_right(predicted, labels))
    order: npt.NDArray[np.int64] = wrong[np.argsort(-confidence[wrong], kind="stable")]
    return order


def accuracy_interval(correct: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Compute Wilson's score interval (1927), in [0, 1], of an accuracy of `correct` out of `n` images.

    Raises:
        InputError: counts that are not 0 <= correct <= n with n >= 1, or a level outside (0, 1).
    """
    if n < 1 or not 0 <= correct <= n:
        raise InputError(f"{correct} correct of n = {n}: expected 0 <= correct <= n and n >= 1")
    if not 0 < level < 1:
        raise InputError(f"level = {level}: expected a fraction between 0 and 1, such as 0.95")
    z = NormalDist().inv_cdf((1 + level) / 2)
    accuracy = correct / n
    centre = accuracy + z * z / (2 * n)
    half = z * math.sqrt(accuracy * (1 - accuracy) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = 0.0 if correct == 0 else (centre - half) / scale
    high = 1.0 if correct == n else (centre + half) / scale
    return low, high


def _check(logits: Tensor, labels: Tensor, class_names: Sequence[str]) -> None:
    classes = len(class_names)
    if classes < 2 or len(set(class_names)) != classes:
        raise InputError(f"class_names = {list(class_names)}: expected at least two different names")
    if logits.ndim != 2 or logits.shape[1] != classes or labels.shape not in (logits.shape[:1], logits.shape):
        raise InputError(
            f"logits of shape {tuple(logits.shape)} and labels of shape {tuple(labels.shape)}: "
            f"expected (N, {classes}) and (N,), as there are {classes} class names"
        )
    if len(labels) == 0:
        raise InputError("the split holds no images, so there is nothing to evaluate; check the data folder")
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= (2 if labels.ndim == 2 else classes):
        raise InputError(
            f"labels run from {lowest} to {highest}: expected 0 to {1 if labels.ndim == 2 else classes - 1}"
        )
    broken = int((~logits.isfinite()).any(dim=1).sum())
    if broken:
        raise InputError(
            f"the network's output is not finite for {broken} of {len(labels)} images: "
            "training diverged; lower the learning rate"
        )
