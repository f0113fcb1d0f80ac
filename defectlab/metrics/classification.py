"""Metrics of the predictions on one split, from all its logits.

torch and torchmetrics, which take seconds to import, are imported where they are used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import numpy.typing as npt

from defectlab.errors import InputError
from defectlab.metrics.ranking import curve

if TYPE_CHECKING:
    from torch import Tensor

ECE_BINS = 15


class ClassMetrics(TypedDict):
    """Metrics of one class in [0, 1]; NaN (null in JSON) where the denominator is zero. `accuracy` is the recall.

    The last three are of the ranking by the class's probability against all other classes; `recall_at_1_percent` is the
    largest recall with at most 1 % false alarms on these images.
    """

    accuracy: float
    precision: float
    recall: float
    f1: float
    support: int
    auroc: float
    average_precision: float
    recall_at_1_percent: float


class SplitMetrics(TypedDict):
    """Metrics of one split, in plain values.

    - `loss`: mean cross-entropy in nats, without class weights or label smoothing; `training_loss`: with them.
    - `accuracy`: fraction of images that are right (micro).
    - `macro_f1`: mean over the classes that occur among labels or predictions, as in torchmetrics and scikit-learn.
    - `balanced_accuracy`, also `macro_recall`: mean recall of the classes that have images.
    - `auroc`, `average_precision`: mean over the classes that have images, each against all others.
    - `majority_share`: fraction of the most frequent class, the accuracy of always predicting it.
    - `ece`: expected calibration error of the top probability, 15 equal bins, L1
      (Guo et al. 2017, On Calibration of Modern Neural Networks, eq. 3).
    - `confusion_matrix`: image counts, rows are true classes, columns predicted ones.
    """

    n: int
    loss: float
    training_loss: float
    accuracy: float
    macro_f1: float
    macro_recall: float
    balanced_accuracy: float
    auroc: float
    average_precision: float
    majority_share: float
    ece: float
    per_class: dict[str, ClassMetrics]
    confusion_matrix: list[list[int]]


def evaluate_predictions(logits: Tensor, labels: Tensor, class_names: Sequence[str]) -> SplitMetrics:
    """Compute the metrics of a split from logits `(N, C)` and labels `(N,)`, int64 in [0, C), on the CPU in float64.

    Raises:
        InputError: no images, shapes that do not fit together, labels out of range, repeated class
            names, or logits that are not finite.
    """
    import torch
    from torch.nn.functional import cross_entropy
    from torchmetrics.functional.classification import multiclass_calibration_error, multiclass_confusion_matrix

    _check(logits, labels, class_names)
    logits = logits.detach().to("cpu", torch.float64)
    labels = labels.detach().to("cpu", torch.int64)
    n, classes = logits.shape

    losses = cross_entropy(logits, labels, reduction="none")
    by_class = logits.softmax(dim=1)
    # torchmetrics bins in float32 and gives a confidence of exactly 1 a sixteenth bin of its own.
    probabilities = by_class.clamp(max=1 - 2**-24)
    ece = multiclass_calibration_error(probabilities, labels, num_classes=classes, n_bins=ECE_BINS, norm="l1")
    matrix: list[list[int]] = multiclass_confusion_matrix(logits.argmax(1), labels, classes).tolist()

    # Ratios of the integer counts: torchmetrics' own class figures are rounded to float32.
    per_class: dict[str, ClassMetrics] = {}
    for index, name in enumerate(class_names):
        hits, support = matrix[index][index], sum(matrix[index])
        predicted = sum(row[index] for row in matrix)
        recall = _ratio(hits, support)
        auroc, average_precision, recall_at_1_percent = _ranking(by_class[:, index], labels == index)
        per_class[name] = {
            "accuracy": recall,
            "precision": _ratio(hits, predicted),
            "recall": recall,
            "f1": _ratio(2 * hits, support + predicted),
            "support": support,
            "auroc": auroc,
            "average_precision": average_precision,
            "recall_at_1_percent": recall_at_1_percent,
        }
    balanced_accuracy = _mean_of_defined([c["recall"] for c in per_class.values()])
    loss = math.fsum(losses.tolist()) / n  # fsum: the same bits for any number of threads
    return {
        "n": n,
        "loss": loss,
        "training_loss": loss,
        "accuracy": sum(matrix[i][i] for i in range(classes)) / n,
        "macro_f1": _mean_of_defined([c["f1"] for c in per_class.values()]),
        "macro_recall": balanced_accuracy,
        "balanced_accuracy": balanced_accuracy,
        "auroc": _mean_of_defined([c["auroc"] for c in per_class.values()]),
        "average_precision": _mean_of_defined([c["average_precision"] for c in per_class.values()]),
        "majority_share": max(c["support"] for c in per_class.values()) / n,
        "ece": float(ece),
        "per_class": per_class,
        "confusion_matrix": matrix,
    }


def probabilities_of(logits: Tensor) -> Tensor:
    """Compute the probabilities of logits `(N, C)`, float64 on the CPU; InputError for logits that are not finite."""
    values = logits.detach().double().cpu()
    broken = int((~values.isfinite()).any(dim=1).sum())
    if broken:
        raise InputError(
            f"the network's output is not finite for {broken} of {len(values)} images: expected numbers; train it anew "
            "with a lower learning rate, or take another checkpoint"
        )
    return values.softmax(dim=1)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature in [0.05, 20] that logits `(N, C)` are divided by for the largest likelihood of labels `(N,)`.

    Guo et al. 2017, section 4.2; the lower bound where no label is missed.
    """
    from scipy.optimize import minimize_scalar
    from torch.nn.functional import cross_entropy

    values, truth = logits.detach().double().cpu(), labels.cpu()

    def loss(power: float) -> float:
        return float(cross_entropy(values / math.exp(power), truth))

    best = minimize_scalar(loss, bounds=(math.log(0.05), math.log(20)), method="bounded")
    return math.exp(float(best.x))


def confident_mistakes(
    confidence: npt.NDArray[np.floating[Any]], predicted: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return the indices of the wrong predictions, the most confident first; all arguments are `(N,)`."""
    wrong = np.flatnonzero(predicted != labels)
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


def _ranking(scores: Tensor, positive: Tensor) -> tuple[float, float, float]:
    """Compute AUROC, average precision and recall at 1 % false alarms; NaN where all images are positive or none is."""
    if not positive.any() or positive.all():
        return math.nan, math.nan, math.nan
    found = curve(scores.numpy(), positive.numpy())
    return found.auroc, found.average_precision, found.recall_at(0.01)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _mean_of_defined(values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def _check(logits: Tensor, labels: Tensor, class_names: Sequence[str]) -> None:
    classes = len(class_names)
    if classes < 2 or len(set(class_names)) != classes:
        raise InputError(f"class_names = {list(class_names)}: expected at least two different names")
    if logits.ndim != 2 or logits.shape[1] != classes or labels.shape != logits.shape[:1]:
        raise InputError(
            f"logits of shape {tuple(logits.shape)} and labels of shape {tuple(labels.shape)}: "
            f"expected (N, {classes}) and (N,), as there are {classes} class names"
        )
    if len(labels) == 0:
        raise InputError("the split holds no images, so there is nothing to evaluate; check the data folder")
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= classes:
        raise InputError(f"labels run from {lowest} to {highest}: expected 0 to {classes - 1}")
    broken = int((~logits.isfinite()).any(dim=1).sum())
    if broken:
        raise InputError(
            f"the network's output is not finite for {broken} of {len(labels)} images: "
            "training diverged; lower the learning rate"
        )
