"""Collect probabilities, embedding and the strongest activations in one pass over many images."""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from defectlab.errors import InputError
from defectlab.metrics.classification import confident_mistakes, probabilities_of
from defectlab.utils.progress import progress_bar

_POINTS = 2000  # of an embedding: more than that cannot be told apart in a projector
_NUMBERS = 2**26  # 256 MiB of float32


@dataclass(frozen=True, kw_only=True)
class TestSetActivations:
    """Activations of N images.

    `probabilities` (N, K). `embedding` (M, E) is the input of the last linear layer (the logits without one) for the
    images `embedded` (M,). Of the layer called `layer`, if any, `peaks` (N, C) are the largest values of its channels,
    `places` (N, C, 2) where: fractions of width and height from the upper left.
    """

    probabilities: npt.NDArray[np.float64]
    embedding: npt.NDArray[np.float32]
    embedded: npt.NDArray[np.int64]
    layer: str | None
    peaks: npt.NDArray[np.float32]
    places: npt.NDArray[np.float32]


def collect_activations(
    network: nn.Module, batches: Iterable[Tensor], count: int, layer: str | None, progress: bool = False,
    multilabel: bool = False,
) -> TestSetActivations:  # fmt: skip
    """Run `count` images through `network`, batches (n, C, H, W), normalised and on its device.

    Of more than 2,000 images, or wide embeddings, evenly chosen ones are embedded, as many as fit in 256 MiB. `progress`
    draws a bar.
    """
    caught: dict[str, Any] = {}

    def before_linear(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        caught["embedding"] = inputs[0]  # of several, the last one stays

    def after_layer(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        caught["peaks"], caught["places"] = _peaks(output)

    logits: list[Tensor] = []
    features: list[Tensor] = []
    peaks: list[Tensor] = []
    places: list[Tensor] = []
    embedded: npt.NDArray[np.int64] | None = None
    done = 0
    with ExitStack() as hooks, torch.inference_mode():
        advance = hooks.enter_context(progress_bar("running the test set", count, shown=progress))
        for module in network.modules():
            if isinstance(module, nn.Linear):
                hooks.enter_context(module.register_forward_pre_hook(before_linear))
        if layer is not None:
            hooks.enter_context(network.get_submodule(layer).register_forward_hook(after_layer))
        for batch in batches:
            output = network(batch).float()
            taken = caught.get("embedding", output).float().flatten(1)
            if embedded is None:
                points = min(count, _POINTS, max(2, _NUMBERS // taken.shape[1]))
                embedded = np.unique(np.linspace(0, count - 1, points).round().astype(np.int64))
            mine = embedded[(embedded >= done) & (embedded < done + len(batch))] - done
            logits.append(output.cpu())
            features.append(taken[torch.from_numpy(mine).to(taken.device)].cpu())
            peaks.append(caught["peaks"].cpu() if layer is not None else torch.empty(len(batch), 0))
            places.append(caught["places"].cpu() if layer is not None else torch.empty(len(batch), 0, 2))
            done += len(batch)
            advance(len(batch))
    if embedded is None or done != count:
        raise InputError(f"count is {count}: found {done} images; expected as many")
    return TestSetActivations(
        probabilities=probabilities_of(torch.cat(logits), multilabel).numpy(),
        embedding=torch.cat(features).numpy(),
        embedded=embedded,
        layer=layer,
        peaks=torch.cat(peaks).numpy(),
        places=torch.cat(places).numpy(),
    )


def choose_images(
    strata: npt.NDArray[np.int64], right_ones: npt.NDArray[np.bool_], confidence: npt.NDArray[np.float64],
    most_right: int = 8, most_wrong: int = 4,
) -> list[int]:  # fmt: skip
    """Choose images to show: for each class the correct one of median confidence, then the most confident mistakes.

    Of more than `most_right` classes evenly chosen ones are taken. `strata` (N,) are classes, see `ImageSet.strata`.
    """
    right: list[int] = []
    for label in np.unique(strata):
        own = np.flatnonzero((strata == label) & right_ones)
        if len(own):
            right.append(int(own[np.argsort(confidence[own], kind="stable")[len(own) // 2]]))
    if len(right) > most_right:
        right = [right[i] for i in np.linspace(0, len(right) - 1, most_right).round().astype(int)]
    return right + [int(i) for i in confident_mistakes(confidence, right_ones, np.ones_like(right_ones))[:most_wrong]]


def _peaks(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest values (n, C) of maps (n, C, h, w), and their places (n, C, 2)."""
    if maps.ndim != 4:
        raise InputError(f"layer gives {tuple(maps.shape)}: expected maps (N, C, h, w)")
    height, width = maps.shape[2:]
    values, indices = maps.float().flatten(2).max(dim=2)
    across, down = (indices % width + 0.5) / width, (indices // width + 0.5) / height
    return values, torch.stack((across, down), dim=2)
