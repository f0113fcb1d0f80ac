"""Receptive fields, computed through every operation of a forward pass."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from defectlab.utils._compat import TorchDispatchMode, operator_name

# Operations that read the same position. Statistics of a normalisation are not counted: they are constants in BatchNorm.
_PLACED = ("batch_norm", "layer_norm", "group_norm", "rms_norm", "pad", "dropout", "channel_shuffle", "prelu", "rrelu")
# Pointwise, views or joins, without torch's own tag of it.
_UNTAGGED = ("cat", "stack", "copy", "_to_copy", "_unsafe_view", "hardswish", "hardtanh", "mish", "threshold")
_REDUCTIONS = ("mean", "sum", "amax", "amin", "var", "std")
_TAPS = {"nearest": 1, "bilinear": 2, "bicubic": 4}  # neighbours that each kind of interpolation reads


@dataclass(frozen=True)
class ReceptiveField:
    """The receptive field of one position of a feature map, by the arithmetic of kernels and strides.

    Padding is counted as if it were image, so a field may be larger than the image.

    Args:
        field: height and width in pixels of the image, along the path where they are largest, of the paths
            without an operation over all positions; None if every path has one.
        jump: pixels of the image from one position to the next, down and across: the product of the strides.
        whole: whether some path runs through an operation over all positions, such as a global pool, the gate of
            a squeeze-and-excitation block, or a linear layer after a flattened map.
    """

    field: tuple[int, int] | None
    jump: tuple[float, float]
    whole: bool = False


class ReceptiveFieldTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Context that computes the receptive field of every tensor that depends on `image` `(N, C, H, W)`.

    Where branches meet, the larger field is kept. An unknown operation counts as one over all positions.
    """

    def __init__(self, image: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._fields: Any = WeakTensorKeyDictionary()
        self._fields[image] = ReceptiveField((1, 1), (1.0, 1.0))

    def field_of(self, tensor: Tensor) -> ReceptiveField | None:
        """Return the receptive field of a tensor; None if it does not depend on the image."""
        found: ReceptiveField | None = self._fields.get(tensor)
        return found

    def set_field(self, tensor: Tensor, known: ReceptiveField) -> None:
        """Set a field that the operations do not tell."""
        self._fields[tensor] = known

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operation, and note the receptive field of its results."""
        result = func(*args, **(kwargs or {}))
        sources = self.sources(args)
        if sources:
            known = _after(func, args, result, _join([found for _, found in sources]))
            for tensor in _tensors(result):
                self._fields[tensor] = known
        self.note(func, [tensor for tensor, _ in sources], result)
        return result

    def sources(self, args: Any) -> list[tuple[Tensor, ReceptiveField]]:
        """Return the tensors among the arguments that depend on the image, each once, with their fields."""
        unique = {id(tensor): tensor for tensor in _tensors(args)}
        pairs = [(tensor, self.field_of(tensor)) for tensor in unique.values()]
        return [(tensor, found) for tensor, found in pairs if found is not None]

    def note(self, func: Any, sources: list[Tensor], result: Any) -> None:
        """Handle an operation in a subclass; does nothing here."""


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, list | tuple):
        return [tensor for value in values for tensor in _tensors(value)]
    return []


def _join(fields: list[ReceptiveField]) -> ReceptiveField:
    """Return the largest field of several maps that are added, multiplied or joined."""
    local = [known for known in fields if known.field is not None]
    widest = max(local or fields, key=lambda known: (known.field or (0, 0), known.jump))
    return ReceptiveField(widest.field, widest.jump, any(known.whole for known in fields))


def _window(
    known: ReceptiveField, kernel: Sequence[int], stride: Sequence[float], dilation: Sequence[int]
) -> ReceptiveField:
    """Return the field after a window: it grows by (K - 1) · dilation jumps."""
    field = None
    if known.field is not None:
        grown = [
            f + round((k - 1) * d * j) for f, k, d, j in zip(known.field, kernel, dilation, known.jump, strict=True)
        ]
        field = (grown[0], grown[1])
    jump = [j * s for j, s in zip(known.jump, stride, strict=True)]
    return ReceptiveField(field, (jump[0], jump[1]), known.whole)


def _after(func: Any, args: Sequence[Any], result: Any, before: ReceptiveField) -> ReceptiveField:
    """Return the field after one operation of ATen, from the joined field of its arguments."""
    name = operator_name(func)
    source = next(iter(_tensors(args)))
    kernel: Sequence[int]
    if name == "convolution" and not args[6] and source.ndim == 4:
        return _window(before, args[1].shape[2:], args[3], args[5])
    if name in ("max_pool2d_with_indices", "max_pool2d", "avg_pool2d"):
        kernel = as_pair(args[1])
        stride = as_pair(args[2]) if len(args) > 2 and args[2] else kernel
        dilation = as_pair(args[4]) if name != "avg_pool2d" and len(args) > 4 else (1, 1)
        return _window(before, kernel, stride, dilation)
    if "adaptive" in name or "upsample" in name:
        given, made = source.shape[-2:], _tensors(result)[0].shape[-2:]
        scale = [g / m for g, m in zip(given, made, strict=True)]
        if "upsample" in name:
            taps = next((count for kind, count in _TAPS.items() if kind in name), 4)
            return _window(before, (taps, taps), scale, (1, 1))
        if tuple(made) != (1, 1):  # windows of which the sizes differ by one where they do not fit
            kernel = [math.ceil(s) + (s % 1 > 0) for s in scale]
            return _window(before, kernel, scale, (1, 1))
    elif name in _REDUCTIONS and len(args) > 1 and source.ndim == 4 and args[1]:
        if {dim % 4 for dim in args[1]} <= {0, 1}:
            return before
    elif name == "slice" and source.ndim == 4 and len(args) > 4 and args[1] % 4 >= 2:
        return _window(before, (1, 1), (args[4], 1) if args[1] % 4 == 2 else (1, args[4]), (1, 1))
    elif (
        func.is_view
        or torch.Tag.pointwise in func.tags
        or name.rstrip("_") in _UNTAGGED
        or any(part in name for part in _PLACED)
    ):
        return before
    return ReceptiveField(None, before.jump, whole=True)


def as_pair(value: int | Sequence[int]) -> tuple[int, int]:
    """Return a size for both axes as (down, across)."""
    return (value, value) if isinstance(value, int) else (value[0], value[-1])
