"""Class weights, and losses of one class or several an image, whose weights and label smoothing do not distort each other."""

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from defectlab.errors import InputError

Loss: TypeAlias = Literal["auto", "cross_entropy", "binary_cross_entropy", "focal", "asymmetric"]
ClassWeights: TypeAlias = Sequence[float] | Literal["balanced", "sqrt_balanced"] | None

_MARGIN, _FOCUS = 0.05, 4  # of the asymmetric loss
_FOCAL = 2


def weighted_cross_entropy(
    logits: Tensor, targets: Tensor, weights: Tensor | None, label_smoothing: float, focal: bool = False
) -> Tensor:
    """Compute the mean cross-entropy over a batch, each image's smoothed loss times the weight of its class.

    `torch.nn.functional.cross_entropy` multiplies the part of the target that smoothing gives to class k by the weight
    of k, so that above a ratio of (2 - s) / s : 1 between two balanced classes, 39 : 1 for s = 0.05, its minimum
    calls every image the rare class; and it divides by the weights of the batch, which takes from a rare class the
    weight that it was given wherever a batch holds few of it. Here the weight multiplies the whole term of an image, and
    the sum is divided by the number of images. Without weights both are the same.

    Args:
        logits: `(N, C)`.
        targets: class indices `(N,)`, or probabilities `(N, C)` as MixUp and CutMix give them, times a weight of the image.
        weights: `(C,)`, of mean 1 over the training images; None for 1 each.
        label_smoothing: fraction of the target spread evenly over all classes (Szegedy et al. 2016), in [0, 1).
        focal: multiply the whole term of an image by the square of half the sum of the differences between probabilities and
            target, so that easy images count little: for a hard label 1 - p (Lin et al., "Focal loss for dense object
            detection", ICCV 2017, eq. 4 with a focus of 2); for a smoothed or mixed one 0 at the target, as in Li et al.,
            "Generalized focal loss" (NeurIPS 2020), eq. 2, where 1 - p would move the minimum to certainty.
    """
    if weights is None and targets.ndim == 1 and not focal:
        return functional.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    weights = logits.new_ones(logits.shape[1]) if weights is None else weights
    if targets.ndim == 1:
        losses = functional.cross_entropy(logits, targets, reduction="none", label_smoothing=label_smoothing)
        losses = weights[targets] * losses
    else:
        hard = functional.cross_entropy(logits, targets * weights, reduction="none")
        uniform = -logits.log_softmax(dim=1).mean(dim=1)
        losses = (1 - label_smoothing) * hard + label_smoothing * (targets @ weights) * uniform
    if focal:
        hot = functional.one_hot(targets, logits.shape[1]) if targets.ndim == 1 else targets * weights
        aims = functional.normalize(hot.float(), p=1, dim=1) * (1 - label_smoothing) + label_smoothing / logits.shape[1]
        losses = losses * ((logits.softmax(dim=1) - aims).abs().sum(dim=1) / 2) ** _FOCAL
    return losses.mean()


def binary_loss(
    logits: Tensor, targets: Tensor, weights: Tensor | None, label_smoothing: float, kind: Loss = "auto"
) -> Tensor:
    """Compute the mean over images and classes of the binary cross-entropy of a multi-label task.

    Args:
        logits: `(N, C)`, of the logistic function.
        targets: `(N, C)` in [0, 1].
        weights: `(C,)`, of the term of the images that are of a class; None for 1 each.
        label_smoothing: fraction of the target of each class that is spread evenly over yes and no, in [0, 1).
        kind: with `asymmetric` easy negatives count less: their term is of the probability less 0.05, times its fourth power.
            Ridnik et al., "Asymmetric loss for multi-label classification" (ICCV 2021), eq. 5 to 7, with a positive focus of 0.
            `focal` multiplies each term by the square of its distance from the truth, as `weighted_cross_entropy` does.
    """
    targets = targets * (1 - label_smoothing) + label_smoothing / 2
    positive = targets * functional.logsigmoid(logits)
    if weights is not None:
        positive = positive * weights
    if kind == "asymmetric":
        shifted = (logits.sigmoid() - _MARGIN).clamp(min=0)
        negative = (1 - targets) * shifted**_FOCUS * torch.log1p(-shifted)
    else:
        negative = (1 - targets) * functional.logsigmoid(-logits)
    if kind == "focal":
        easy = (logits.sigmoid() - targets).abs() ** _FOCAL
        positive, negative = positive * easy, negative * easy
    return -(positive + negative).mean()


def check_loss(loss: Loss, multilabel: bool) -> None:
    """Raise InputError unless there is such a loss for tasks of this kind."""
    for_these = (
        ("auto", "binary_cross_entropy", "focal", "asymmetric") if multilabel else ("auto", "cross_entropy", "focal")
    )
    if loss not in for_these:
        kind = "several classes" if multilabel else "one class"
        raise InputError(
            f"model.loss is {loss}: expected {', '.join(for_these[:-1])} or {for_these[-1]} for data with {kind} an image"
        )


def check_class_weights(weights: ClassWeights, num_classes: int) -> None:
    """Raise InputError unless these are None, a known rule, or a usable weight for each class."""
    if weights is None or weights in ("balanced", "sqrt_balanced"):
        return
    if isinstance(weights, str) or len(weights) != num_classes:
        raise InputError(
            f"model.class_weights is {weights}: expected balanced, sqrt_balanced, or a number for each of {num_classes} classes"
        )
    if min(weights) < 0 or not 0 < max(weights) < math.inf:
        raise InputError(f"model.class_weights is {weights}: expected numbers of at least 0, one of them above 0")


def class_weight_tensor(
    weights: Sequence[float] | Literal["balanced", "sqrt_balanced"], counts: Sequence[int] | None, device: torch.device
) -> Tensor | None:
    """Return weights `(C,)` of mean 1 over the training images, or over the classes if there are no counts.

    Args:
        weights: a rule, which needs counts (else the result is None), or one weight per class.
        counts: training images of each class, None if they are not known.
        device: of the result.
    """
    sizes = None if counts is None else torch.tensor(counts, dtype=torch.float32, device=device)
    if isinstance(weights, str):
        if sizes is None:
            return None
        values = sizes.clamp(min=1) ** (-1.0 if weights == "balanced" else -0.5)
    else:
        values = torch.tensor(list(weights), dtype=torch.float32, device=device)
    return values / (values.mean() if sizes is None else (values * sizes).sum() / sizes.sum())


def positive_weight_tensor(
    weights: Sequence[float] | Literal["balanced", "sqrt_balanced"], counts: Sequence[int], images: int, device: torch.device
) -> Tensor:  # fmt: skip
    """Return weights `(C,)` of the images that are of a class, for a multi-label task of so many training `images`.

    A rule takes those that are not of a class over the `counts` that are, or its square root; numbers stay as they are.
    """
    if not isinstance(weights, str):
        return torch.tensor(list(weights), dtype=torch.float32, device=device)
    sizes = torch.tensor(counts, dtype=torch.float32, device=device)
    ratio = (images - sizes).clamp(min=1) / sizes.clamp(min=1)
    return ratio ** (1.0 if weights == "balanced" else 0.5)
