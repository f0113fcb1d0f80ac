"""The figures of one split, and how single ones are computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from defectlab.metrics.decisions import Labels, membership

ECE_BINS = 15


class _OfMultilabelClass(TypedDict, total=False):
    threshold: float


class _OfMultilabel(TypedDict, total=False):
    micro_f1: float


class ClassMetrics(_OfMultilabelClass):
    """Metrics of one class in [0, 1]; NaN (null in JSON) where the denominator is zero. `accuracy` is the recall.

    `auroc` and the two after it are of the ranking by the class's probability against all other classes;
    `recall_at_1_percent` is the largest recall with at most 1 % false alarms on these images. `threshold` is the
    probability from which a multi-label task decides for the class.
    """

    accuracy: float
    precision: float
    recall: float
    f1: float
    support: int
    auroc: float
    average_precision: float
    recall_at_1_percent: float


class SplitMetrics(_OfMultilabel):
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

    Of a multi-label task an image is right where all its classes are decided for, and no other (exact match); the
    `majority_share` is of the most frequent set of classes, `loss` the mean binary cross-entropy over images and classes,
    `balanced_accuracy` the mean over classes of recall and specificity, and the `confusion_matrix` counts on its diagonal
    the images of a class that is found, elsewhere those of a class (row) on which an absent one (column) is. `micro_f1` is
    over all images and classes.
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


def ratio(part: int, whole: int) -> float:
    """Return a share; NaN of nothing."""
    return part / whole if whole else math.nan


def mean_of_defined(values: Sequence[float]) -> float:
    """Return the mean of the values that are numbers; NaN of none."""
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def balanced_accuracy(predicted: Labels, labels: Labels, classes: int) -> float:
    """Compute the balanced accuracy of decisions, see `SplitMetrics`; NaN where no class can be judged."""
    truth, called = membership(labels, classes), membership(predicted, classes)
    found = [ratio(int((a & b).sum()), int(a.sum())) for a, b in zip(truth.T, called.T, strict=True)]
    if labels.ndim == 2:
        passed = [ratio(int((~a & ~b).sum()), int((~a).sum())) for a, b in zip(truth.T, called.T, strict=True)]
        found = [(recall + specificity) / 2 for recall, specificity in zip(found, passed, strict=True)]
    return mean_of_defined(found)


def expected_calibration_error(confidence: npt.NDArray[np.float64], right: npt.NDArray[np.bool_]) -> float:
    """Compute the expected calibration error of decisions `(N,)`, see `SplitMetrics`."""
    import torch
    from torchmetrics.functional.classification import binary_calibration_error

    # torchmetrics bins in float32 and gives a confidence of exactly 1 a sixteenth bin of its own.
    values = torch.from_numpy(confidence).clamp(max=1 - 2**-24).float()
    return float(binary_calibration_error(values, torch.from_numpy(right).long(), n_bins=ECE_BINS, norm="l1"))
