"""Cross-entropy with class weights and label smoothing that do not disturb each other."""

from torch import Tensor
from torch.nn import functional


def weighted_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None, label_smoothing: float) -> Tensor:
    """Compute the mean cross-entropy over a batch, each image's smoothed loss times the weight of its class.

    `torch.nn.functional.cross_entropy` multiplies the part of the target that smoothing gives to class k by the weight
    of k, so that above a ratio of (2 - s) / s : 1 between two balanced classes, 39 : 1 for s = 0.05, its minimum
    calls every image the rare class; and it divides by the weights of the batch, which takes from a rare class the
    weight that it was given wherever a batch holds few of it. Here the weight multiplies the whole term of an image, and
    the sum is divided by the number of images. Without weights both are the same.

    Args:
        logits: `(N, C)`.
        targets: class indices `(N,)`, or probabilities `(N, C)` as MixUp and CutMix give them.
        weights: `(C,)`, of mean 1 over the training images; None for 1 each.
        label_smoothing: share of the target spread evenly over all classes (Szegedy et al. 2016), in [0, 1).
    """
    if weights is None:
        return functional.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    if targets.ndim == 1:
        losses = functional.cross_entropy(logits, targets, reduction="none", label_smoothing=label_smoothing)
        return (weights[targets] * losses).mean()
    hard = functional.cross_entropy(logits, targets * weights, reduction="none")
    uniform = -logits.log_softmax(dim=1).mean(dim=1)
    return ((1 - label_smoothing) * hard + label_smoothing * (targets @ weights) * uniform).mean()
