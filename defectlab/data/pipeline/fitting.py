"""Which canvas and fit suit a set of images: what `auto` comes to, by the shapes of the set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from defectlab.errors import InputError
from defectlab.utils.image_format import Fit, ImageFormat, Size, Tiles, checked_size, sides

FitChoice = Literal["auto", "stretch", "pad", "crop", "tiles"]

# Rules of thumb, in one place.
_SQUARE = 128  # the side that a set of squares is stretched to
_MANY = 3  # times that side, beyond which a stretch loses small defects
_CHANGE = 1.25  # by which a stretch may change an aspect ratio
_ALIKE = 1.5  # by which the larger images of a set of one size may exceed the smaller ones
_USUAL = 0.95  # share of the images that the canvas is as large as, and that the rules speak of
_PIXELS = 256 * 1600  # of the largest canvas that is chosen
_TILE = 64  # px; chosen on drawn strips and on magnetic tiles, see docs; narrower images are seen as a whole


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """How the images of a set are fitted: `tiles` for a network that looks at parts of the canvas, and why in words."""

    image_size: Size
    fit: FitChoice
    scale: float | None = None
    pad_value: int | None = None
    tiles: Tiles | None = None
    reason: str = ""

    def image_format(self, channels: int) -> ImageFormat:
        """Return the format of the images; tiles are cut of what `pad` makes."""
        fit: Fit = "pad" if self.fit == "tiles" else self.fit  # type: ignore[assignment]  # `auto` is resolved
        return ImageFormat(
            image_size=self.image_size, channels=channels, fit=fit, scale=self.scale, pad_value=self.pad_value
        )

    def __str__(self) -> str:
        height, width = sides(self.image_size)
        tiles = "" if self.tiles is None else f", of {self.tiles.size} px with {self.tiles.overlap} in common"
        scale = "" if self.scale is None else f" at a scale of {self.scale:.3g}"
        return f"fit is {self.fit}{tiles}, image_size {height} × {width}{scale}"


def check_fit(fit: FitChoice, scale: float | None, pad_value: int | None, tiles: Tiles | None) -> None:
    """Raise InputError for an unknown fit, or for arguments of another."""
    if fit not in get_args(FitChoice):
        raise InputError(f"data.fit is {fit!r}: expected one of {', '.join(get_args(FitChoice))}")
    if tiles is not None and fit not in ("auto", "tiles"):
        raise InputError(f"data.tiles is given, and data.fit is {fit}: expected tiles; change one of them")
    if (scale, pad_value) != (None, None) and fit not in ("pad", "tiles"):
        raise InputError(f"data.fit is {fit}: data.scale and data.pad_value are for pad and tiles; change one of them")
    # The values themselves.
    ImageFormat(image_size=1, channels=1, fit="pad", scale=scale, pad_value=pad_value)


def choose_fitting(shapes: npt.NDArray[np.int64], asked: Fitting, image_size: Size | Literal["auto"]) -> Fitting:
    """Resolve `auto` by the shapes (N, 2) of a set, or of a sample of it.

    A set of small squares of about one size is stretched to a square. Otherwise a pixel is as long in every image, the
    canvas as large as the usual image, and looked at tile by tile: small defects keep their size and are not averaged away. A number is the side of a square;
    of tiles, and with a fit of `auto` of images that are no squares, the shorter side of the canvas.

    Args:
        shapes: height and width; none is a set of squares.
        asked: its `fit` may be `auto`; `scale` and `tiles` that are given stay. Its `image_size` is not read.
        image_size: as asked for.

    Raises:
        InputError: tiles that are larger than the canvas.
    """
    if not len(shapes):
        shapes = np.full((1, 2), _SQUARE)
    large = np.quantile(shapes, _USUAL, axis=0, method="higher")
    small = np.quantile(shapes, 1 - _USUAL, axis=0, method="lower")
    tall, wide = int(large[0]), int(large[1])
    canvas = None if image_size == "auto" else sides(image_size)
    target = 1.0 if canvas is None else canvas[1] / canvas[0]
    alike = image_size != "auto" or bool((large <= _ALIKE * small).all())
    stretched = alike and np.mean(_changes(shapes, target) <= _CHANGE) >= _USUAL
    fit = asked.fit
    if fit == "auto":
        large_squares = image_size == "auto" and min(tall, wide) > _MANY * _SQUARE
        fit = "stretch" if stretched and not large_squares and asked.tiles is None else "pad"
        if asked.tiles is not None or (fit == "pad" and min(tall, wide) >= _TILE):
            fit = "tiles"
    scale = asked.scale
    if canvas is None and fit == "stretch":
        canvas = _SQUARE, _SQUARE
    elif canvas is None:
        most = math.inf if asked.fit == "tiles" else math.sqrt(_PIXELS / (tall * wide))
        scale = scale or min(1.0, most)
        canvas = _scaled(tall, scale), _scaled(wide, scale)
    elif isinstance(image_size, int) and (fit == "tiles" or (fit == "pad" and asked.fit == "auto")):
        scale = scale or image_size / min(tall, wide)
        canvas = _scaled(tall, scale), _scaled(wide, scale)
    elif fit in ("pad", "tiles"):
        scale = scale or min(canvas[0] / tall, canvas[1] / wide)
    if fit not in ("pad", "tiles"):
        scale = None
    size = checked_size(canvas, "data.image_size")
    tiles = _tiles(sides(size), asked.tiles) if fit == "tiles" else None
    extent = " × ".join(f"{low}" if low == high else f"{low} to {high}" for low, high in zip(small, large, strict=True))
    return Fitting(
        image_size=size, fit=fit, scale=scale, pad_value=asked.pad_value, tiles=tiles,
        reason=f"images of {extent} px",
    )  # fmt: skip


def stretch_warning(shapes: npt.NDArray[np.int64], size: Size) -> str | None:
    """Return by how much a stretch to `size` changes the aspect ratios of a set; None if it is hardly at all."""
    height, width = sides(size)
    changes = _changes(shapes, width / height)
    share = np.mean(changes > _CHANGE) if len(changes) else 0.0
    if share <= 1 - _USUAL:
        return None
    usual = np.median(changes)
    return (
        f"stretching to {height} × {width} px changes the aspect ratio of {share:.0%} of the images by more than a quarter, of "
        f"the usual one {usual:.1f} times: set data.fit to auto or pad to keep it"
    )


def camera_aspects(shapes: npt.NDArray[np.int64], count: int, wanted: ImageFormat) -> Tensor | None:
    """Return width by height of `count` images as the camera saw them, where a stretch has changed that; else None.

    `shapes` are of each of them (count, 2), or one for all (1, 2).
    """
    height, width = wanted.shape[1:]
    aspects = np.divide(shapes[:, 1], shapes[:, 0], out=np.ones(len(shapes)), where=shapes[:, 0] > 0)
    if wanted.fit != "stretch" or (aspects == width / height).all():
        return None
    return torch.from_numpy(aspects).float().expand(count)


def _changes(shapes: npt.NDArray[np.int64], target: float) -> npt.NDArray[np.float64]:
    """Return how many times wider or narrower than the shapes a canvas is, at least 1."""
    ratios = shapes[:, 1] / shapes[:, 0] / target
    return np.asarray(np.maximum(ratios, 1 / ratios))


def _scaled(side: int, scale: float) -> int:
    return max(1, round(side * scale))


def _tiles(canvas: tuple[int, int], given: Tiles | None) -> Tiles:
    shorter = min(canvas)
    if given is None:
        size = min(shorter, _TILE)
        return Tiles(size, size // 2)
    if given.size > shorter:
        raise InputError(
            f"data.tiles.size is {given.size}, and the images are {canvas[0]} × {canvas[1]} px as the network takes them: "
            f"expected at most {shorter}; make the tiles smaller, or data.image_size larger"
        )
    return given
