"""Record the output of a network's layers, of any network, by hooks."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from defectlab.errors import InputError

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_NOTHING_TO_SEE = (nn.Dropout, nn.Dropout2d, nn.Identity)
_LISTED = 12


@dataclass(frozen=True)
class LayerMaps:
    """Output of a layer for one image: `maps` float32 (C, h, w); `mixes` is whether it has convolutions in it."""

    name: str
    kind: str
    mixes: bool
    maps: npt.NDArray[np.float32]


def feature_maps(network: nn.Module, image: Tensor) -> list[LayerMaps]:
    """Compute the maps of every layer that `image` (1, C, H, W), normalised, goes through, in order.

    A layer is a module that is no container: a convolution, a pool, or as a whole a block that is a class of its own,
    such as a residual one. Maps of one pixel and copies (dropout, identity) are left out, and so is what a forward method
    does besides calling modules. A network without convolutions gives none.
    """
    modules = {name: module for name, module in network.named_modules() if name}
    calls: list[tuple[str, Tensor]] = []

    def keep(name: str, _: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2:].numel() > 1:
            # A copy, as an in-place ReLU writes over the output of the layer before it.
            calls.append((name, output[0].detach().float().cpu().clone()))

    with ExitStack() as hooks, torch.inference_mode():
        for name, module in modules.items():
            hooks.enter_context(module.register_forward_hook(partial(keep, name)))
        network(image)
    seen = {name for name, _ in calls}
    chosen = set(_units(network, "", seen))
    return [
        LayerMaps(
            name, type(module).__name__, any(isinstance(part, nn.Conv2d) for part in module.modules()), maps.numpy()
        )
        for name, maps in calls
        if name in chosen and (module := modules[name])
    ]


def convolution(network: nn.Module, name: str | None = None) -> tuple[str, nn.Conv2d]:
    """Return the convolution called `name` in `network.named_modules()`, or the first one, with its name."""
    found = {key: module for key, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    if not found:
        raise InputError(f"network {type(network).__name__} has no convolution (Conv2d), so no filters to show")
    if name is None:
        return next(iter(found.items()))
    if name not in found:
        near = get_close_matches(name, found, n=1) if len(found) > _LISTED else []
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(list(found)[:_LISTED])}"
        hint += ", …" if not near and len(found) > _LISTED else ""
        raise InputError(f"--layer {name} is no convolution of the network: {hint}")
    return name, found[name]


def _units(module: nn.Module, prefix: str, seen: set[str]) -> Iterator[str]:
    """Return the names of the outermost modules that give maps and are no containers."""
    for name, child in module.named_children():
        full = f"{prefix}{name}"
        if isinstance(child, _NOTHING_TO_SEE):
            continue
        if isinstance(child, _CONTAINERS) or full not in seen:
            yield from _units(child, f"{full}.", seen)
        else:
            yield full
