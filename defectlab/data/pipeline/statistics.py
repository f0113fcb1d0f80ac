"""Mean and sd of the pixels of a set, a slice at a time, as a mapped file may exceed memory."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from defectlab.errors import InputError

_SLICE_BYTES = 64 * 2**20


def channel_statistics(images: Tensor, indices: Tensor) -> tuple[list[float], list[float]]:
    """Compute the exact mean and sd of each channel, on [0, 1], of images `(N, C, H, W)` uint8 at `indices` `(n,)`.

    The sd of a constant channel is 1.
    """
    total, squares = _sums(images, indices, (0, 2, 3))
    return mean_and_sd(total.tolist(), squares.tolist(), len(indices) * images[0, 0].numel())


def mean_and_sd(totals: Sequence[int], squares: Sequence[int], count: int) -> tuple[list[float], list[float]]:
    """Return mean and sd of each channel, on [0, 1], from its sum and its sum of squares of `count` pixels in [0, 255].

    In whole numbers, so that they are the same by whatever way the sums were come by.
    """
    spreads = [count * square - total**2 for total, square in zip(totals, squares, strict=True)]
    sd = [math.sqrt(spread) / (255 * count) if spread else 1.0 for spread in spreads]
    return [total / (255 * count) for total in totals], sd


def pixel_statistics(images: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the exact mean and sd of each pixel, `(C, H, W)` float64 on [0, 1], of images uint8 at `indices`.

    The sd of a constant pixel is 1, as in scikit-learn's StandardScaler.
    """
    count, (total, squares) = len(indices), _sums(images, indices, (0,))
    spread = count * squares - total**2  # in whole numbers: rounding cannot look like variance
    sd = spread.double().sqrt() / (255 * count)
    return total.double() / (255 * count), sd.where(spread > 0, 1.0)


def given_statistics(
    mean: Sequence[float] | float | None, std: Sequence[float] | float | None, channels: int
) -> tuple[Sequence[float], Sequence[float]] | None:
    """Return mean and sd of each channel, a single number for all of them; None if both are to be measured.

    Raises:
        InputError: one of both alone, or no usable value for each channel.
    """
    if mean is None or std is None:
        if mean is not std:
            raise InputError("data.mean and data.std go together: give both, or neither to measure them")
        return None
    means, sds = ([value] * channels if isinstance(value, int | float) else list(value) for value in (mean, std))
    for name, values in (("mean", means), ("std", sds)):
        if len(values) != channels:
            raise InputError(f"data.{name} has {len(values)} values: expected one for each of {channels} channels")
        if not all(math.isfinite(value) for value in values):
            raise InputError(f"data.{name} is {values}: expected numbers, for pixels in [0, 1]")
    if min(sds) <= 0:
        raise InputError(f"data.std is {sds}: expected numbers above 0")
    return means, sds


def flat_images(images: Tensor) -> list[int]:
    """Return which of the images `(N, C, H, W)` have one value in each channel."""
    pieces = _slices(images, torch.arange(len(images)))
    return torch.cat([(p.amax((2, 3)) == p.amin((2, 3))).all(dim=1) for p in pieces]).nonzero()[:, 0].tolist()


def is_grey(images: Tensor) -> bool:
    """Return whether all channels of `(N, C, H, W)` are the same, image by image."""
    pieces = _slices(images, torch.arange(len(images)))
    return all(bool((piece[:, 1:] == piece[:, :1]).all()) for piece in pieces)


def _sums(images: Tensor, indices: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return the sum of pixels and of their squares over dimensions, int64."""
    total = squares = torch.zeros((), dtype=torch.int64)
    for piece in _slices(images, indices):
        total = total + piece.sum(dim=dims, dtype=torch.int64)
        squares = squares + piece.to(torch.int32).square().sum(dim=dims, dtype=torch.int64)
    return total, squares


def _slices(images: Tensor, indices: Tensor) -> Iterator[Tensor]:
    size = max(1, _SLICE_BYTES // max(1, math.prod(images.shape[1:])))
    for chosen in torch.split(indices, size):
        yield images.index_select(0, chosen)
