"""Check whether an attribution depends on the weights, by shuffling them."""

import math
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
_DEPTHS = 6  # of a cascade; networks of more layers skip some, evenly
_MEASURED = 0.5  # less than this share of maps tells nothing


@dataclass(frozen=True, kw_only=True)
class Sanity:
    """Similarity of the maps with shuffled weights: mean Spearman correlation over images and seeds.

    `low` and `high` are the smallest and the largest mean of a seed; `flagged` is whether the method shows what is in
    the image rather than what the network makes of it. `empty` is the share of the maps with shuffled weights that are
    empty, which says nothing: shuffling has silenced the network. The others are compared; where fewer than half are
    left the three figures are None, as the check cannot be made.
    """

    method: str
    similarity: float | None
    low: float | None
    high: float | None
    images: int
    seeds: int
    empty: float
    flagged: bool

    @property
    def verdict(self) -> str:
        """Return the result in words."""
        if self.similarity is None:
            return f"not measurable: {self.empty:.0%} of the maps with shuffled weights are empty"
        found = "FLAGGED: shows the image, not the network" if self.flagged else "depends on the weights"
        return found + (f"; {self.empty:.0%} of the maps with shuffled weights are empty" if self.empty else "")


@dataclass(frozen=True, kw_only=True)
class CascadeStep:
    """Similarity and share of empty maps, as of `Sanity`, with the weights of the last `layers` shuffled, down to `layer`."""

    method: str
    layers: int
    layer: str
    similarity: float | None
    empty: float


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
    random, so that their distribution stays and what was learned is gone. Two empty maps are alike; one that only the
    shuffled network gives is left out and counted. The weights are restored, whatever happens.

    `explain` computes the maps of normalised `images` (N, C, H, W) for the classes `targets` (N,); each of the `seeds` is
    one shuffling. `progress` draws a bar.
    """
    if len(images) == 0 or len(seeds) == 0:
        raise InputError(f"{len(images)} images and {len(seeds)} seeds: expected at least one of each")
    before = explain(task, images, targets).numpy()
    found = []
    with progress_bar("shuffling weights", len(seeds), shown=progress) as advance:
        for seed in seeds:
            with shuffled_weights(task, seed):
                found.append(_likeness(before, explain(task, images, targets).numpy()))
            advance(1)
    similarity, empty = _summary(np.concatenate(found))
    means = [float(np.nanmean(one)) for one in found if not np.isnan(one).all()] if similarity is not None else []
    return Sanity(
        method=method, similarity=similarity, low=min(means, default=None), high=max(means, default=None),
        images=len(images), seeds=len(seeds), empty=empty, flagged=similarity is not None and similarity >= FLAG,
    )  # fmt: skip


def cascade(
    method: str, explain: Explainer, task: nn.Module, images: Tensor, targets: Tensor, seed: int = 0
) -> list[CascadeStep]:
    """Shuffle the weights layer by layer, from the logits down, and compare the maps at up to six depths.

    The cascading randomisation of Adebayo et al. 2018, section 3.1; arguments as `sanity_check`.
    """
    layers = [(n, m) for n, m in task.named_modules() if any(True for _ in m.parameters(recurse=False))][::-1]
    before = explain(task, images, targets).numpy()
    steps = []
    for depth in np.unique(np.linspace(1, len(layers), _DEPTHS).round().astype(int)).tolist():
        with shuffled_weights(task, seed, [module for _, module in layers[:depth]]):
            similarity, empty = _summary(_likeness(before, explain(task, images, targets).numpy()))
        steps.append(
            CascadeStep(method=method, layers=depth, layer=layers[depth - 1][0], similarity=similarity, empty=empty)
        )
    return steps


@contextmanager
def shuffled_weights(task: nn.Module, seed: int, layers: Sequence[nn.Module] | None = None) -> Iterator[None]:
    """Shuffle the values within each parameter, of all modules or of some `layers`, and restore them afterwards."""
    generator = torch.Generator().manual_seed(seed)
    chosen = task.parameters() if layers is None else [p for m in layers for p in m.parameters(recurse=False)]
    kept = [(parameter, parameter.detach().clone()) for parameter in chosen]
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


def _summary(likeness: npt.NDArray[np.float64]) -> tuple[float | None, float]:
    """Return the mean of what is known, None for less than half, and the share that is not."""
    unknown = float(np.isnan(likeness).mean())
    return (float(np.nanmean(likeness)) if 1 - unknown >= _MEASURED else None), unknown


def _likeness(before: npt.NDArray[np.floating], after: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Compute Spearman's rank correlation of the maps (N, H, W) of each image, (N,); NaN where only the later is empty."""

    def likeness(one: npt.NDArray[np.floating], two: npt.NDArray[np.floating]) -> float:
        if np.ptp(one) == 0 or np.ptp(two) == 0:  # no ranks to correlate
            return 1.0 if np.array_equal(one, two) else 0.0 if np.ptp(two) else math.nan
        return float(spearmanr(one, two, axis=None).statistic)

    return np.array([likeness(one, two) for one, two in zip(before, after, strict=True)])
