"""Check whether an attribution depends on the weights, by shuffling them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from defectlab.errors import InputError
from defectlab.utils.progress import progress_bar

Explainer = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""Maps (N, H, W) of a task, images (N, C, H, W) and classes (N,)."""

FLAG = 0.7
"""Likeness from which a method is flagged: half of the variance of a map's ranks (0.7² ≈ 0.5) is then there without
anything learned. Measured on five networks trained on NEU-CLS and MNIST: an edge detector comes to 1, Integrated
Gradients, which has the image itself as a factor, to between 0.3 and 0.5, every other method to 0.3 at most."""

SEEDS = (0, 1, 2)


@dataclass(frozen=True, kw_only=True)
class Sanity:
    """Similarity of the maps with shuffled weights: mean Spearman correlation over images and seeds.

    `low` and `high` are the smallest and the largest mean of a seed; `flagged` is whether the method shows what is in
    the image rather than what the network makes of it.
    """

    method: str
    similarity: float
    low: float
    high: float
    images: int
    seeds: int
    flagged: bool


def sanity_check(
    method: str,
    explain: Explainer,
    task: nn.Module,
    images: Tensor,
    targets: Tensor,
    seeds: Sequence[int] = SEEDS,
    progress: bool = False,
) -> Sanity:
    """Run the model parameter randomisation test of Adebayo et al. 2018, "Sanity checks for saliency maps", section 3.

    All layers at once, which is where the paper's cascade ends: the values of each weight tensor change places at
    random, so that their distribution stays and what was learned is gone. Two empty maps are alike, an empty one is
    unlike any other. The weights are restored, whatever happens.

    `explain` computes the maps of normalised `images` (N, C, H, W) for the classes `targets` (N,); each of the `seeds` is
    one shuffling. `progress` draws a bar.
    """
    if len(images) == 0 or len(seeds) == 0:
        raise InputError(f"{len(images)} images and {len(seeds)} seeds: expected at least one of each")
    before = explain(task, images, targets).numpy()
    means = []
    with progress_bar("shuffling weights", len(seeds), shown=progress) as advance:
        for seed in seeds:
            with shuffled_weights(task, seed):
                after = explain(task, images, targets).numpy()
            means.append(float(_likeness(before, after).mean()))
            advance(1)
    similarity = float(np.mean(means))
    return Sanity(
        method=method, similarity=similarity, low=min(means), high=max(means), images=len(images), seeds=len(seeds),
        flagged=similarity >= FLAG,
    )  # fmt: skip


@contextmanager
def shuffled_weights(task: nn.Module, seed: int) -> Iterator[None]:
    """Shuffle the values within each parameter, and restore them afterwards."""
    generator = torch.Generator().manual_seed(seed)
    kept = [(parameter, parameter.detach().clone()) for parameter in task.parameters()]
    try:
        with torch.no_grad():
            for parameter, values in kept:
                order = torch.randperm(values.numel(), generator=generator).to(values.device)
                parameter.copy_(values.flatten()[order].view_as(values))
        yield
    finally:
        with torch.no_grad():
            for parameter, values in kept:
                parameter.copy_(values)


def _likeness(first: npt.NDArray[np.floating], second: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Compute Spearman's rank correlation of the maps (N, H, W) of each image, (N,)."""

    def likeness(one: npt.NDArray[np.floating], two: npt.NDArray[np.floating]) -> float:
        if np.ptp(one) == 0 or np.ptp(two) == 0:  # no ranks to correlate
            return float(np.array_equal(one, two))
        return float(spearmanr(one, two, axis=None).statistic)

    return np.array([likeness(one, two) for one, two in zip(first, second, strict=True)])
