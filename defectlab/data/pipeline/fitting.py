"""Which canvas and fit suit a set of images: what `auto` comes to, by the shapes of the set."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from defectlab.errors import InputError
from defectlab.utils.image_format import ImageFormat, Size, Tiles, sides

FitChoice = Literal["auto", "stretch", "pad", "crop", "tiles"]
Shapes = npt.NDArray[np.int64]  # (N, 2): height and width

# Rules of thumb, in one place.
_SQUARE = 128  # the side that a set of squares is stretched to
_CHANGE = 1.25  # by which a stretch may change an aspect ratio
_ALIKE = 1.5  # by which the larger images of a set of one size may exceed the smaller ones
_USUAL = 0.95  # share of the images that the canvas is as large as, and that the rules speak of
_PIXELS = 256 * 1600  # of the largest canvas that is chosen
_MANY = 3  # times that side, beyond which squares are no longer stretched
_TILE = 64  # px; narrower images are seen as a whole


class Fitting(NamedTuple):
    """How the images of a set are fitted, into which tiles a network divides them if it does, and their usual shape."""

    image_format: ImageFormat
    tiles: Tiles | None
    reason: str

    @property
    def text(self) -> str:
        """Return all in words."""
        tiles = "" if self.tiles is None else f", in tiles of {self.tiles.size} px that share {self.tiles.overlap}"
        return f"{self.reason}: {self.image_format.geometry}{tiles}"


def check_fit(fit: FitChoice, scale: float | None, pad_value: int | None, tiles: Tiles | None) -> None:
    """Raise InputError for an unknown fit, or for arguments of another."""
    if fit not in get_args(FitChoice):
        raise InputError(f"data.fit is {fit!r}: expected one of {', '.join(get_args(FitChoice))}")
    for name, value, users in (("scale", scale, "pad"), ("pad_value", pad_value, "pad"), ("tiles", tiles, "auto")):
        if value is not None and fit not in ("tiles", users):
            raise InputError(
                f"data.{name} is given, and data.fit is {fit}: expected {users} or tiles; change one of them"
            )


def choose_fitting(
    shapes: Shapes, image_size: Size | Literal["auto"], fit: FitChoice, wanted: ImageFormat, tiles: Tiles | None = None
) -> Fitting:
    """Resolve `auto` by the shapes (N, 2) of a set, or of a sample of it; none is a set of squares.

    A set of small squares of about one size is stretched to a square. Otherwise a pixel is as long in every image, and the
    canvas, as large as the usual image, is divided into tiles, in which small defects are not averaged away. A number is the side of a square; of tiles,
    and with a fit of `auto` of images that are no squares, the shorter side of the canvas. The channels, `pad_value` and
    `scale` of `wanted` stay, and so do `tiles`.

    Raises:
        InputError: tiles that are larger than the canvas.
    """
    shapes = shapes if len(shapes) else np.full((1, 2), _SQUARE)
    large = np.quantile(shapes, _USUAL, axis=0, method="higher")
    small = np.quantile(shapes, 1 - _USUAL, axis=0, method="lower")
    usual = int(large[0]), int(large[1])
    canvas = (_SQUARE, _SQUARE) if image_size == "auto" else sides(image_size)
    most, scale = math.sqrt(_PIXELS / math.prod(usual)), wanted.scale
    shorter = image_size if isinstance(image_size, int) else None
    if fit == "auto":
        alike = image_size != "auto" or (large <= _ALIKE * small).all()
        large_squares = image_size == "auto" and min(usual) > _MANY * _SQUARE
        stretches = (
            tiles is None and alike and not large_squares and np.mean(_changes(shapes, canvas) <= _CHANGE) >= _USUAL
        )
        tiled = tiles is not None or min(usual) >= _TILE
        fit = "stretch" if stretches else "tiles" if tiled else "pad"
    elif fit == "tiles":
        most = 1.0
    else:
        shorter = None
    if fit != "stretch" and scale is None and (image_size == "auto" or shorter is not None):
        scale = min(1.0, most) if shorter is None else shorter / min(usual)
        canvas = max(1, round(usual[0] * scale)), max(1, round(usual[1] * scale))
    pads = fit in ("pad", "tiles")
    image_format = replace(
        wanted, image_size=canvas, fit="pad" if fit == "tiles" else fit,
        scale=(scale or min(canvas[0] / usual[0], canvas[1] / usual[1])) if pads else None,
    )  # fmt: skip
    extent = " × ".join(f"{low}" if low == high else f"{low} to {high}" for low, high in zip(small, large, strict=True))
    return Fitting(image_format, _tiles(canvas, tiles) if fit == "tiles" else None, f"images of {extent} px")


def stretch_warning(shapes: Shapes, size: Size) -> str | None:
    """Return by how much a stretch to `size` changes the aspect ratios of a set; None if it is hardly at all."""
    height, width = sides(size)
    changes = _changes(shapes, (height, width))
    share = np.mean(changes > _CHANGE) if len(changes) else 0.0
    if share <= 1 - _USUAL:
        return None
    return (
        f"stretching to {height} × {width} px changes the aspect ratio of {share:.0%} of the images by more than a quarter, of "
        f"the usual one {np.median(changes):.1f} times: set data.fit to auto or pad to keep it"
    )


def camera_aspects(shapes: Shapes, count: int, wanted: ImageFormat) -> Tensor | None:
    """Return width by height of `count` images as the camera saw them, where a stretch has changed that; else None.

    `shapes` are of each of them (count, 2), or some of one ratio.
    """
    height, width = wanted.shape[1:]
    aspects = np.divide(shapes[:, 1], shapes[:, 0], out=np.ones(len(shapes)), where=shapes[:, 0] > 0)
    if wanted.fit != "stretch" or (aspects == width / height).all():
        return None
    return torch.from_numpy(aspects if len(aspects) == count else aspects[:1]).float().expand(count)


def _changes(shapes: Shapes, canvas: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Return how many times wider or narrower than the shapes a canvas is, at least 1."""
    ratios = shapes[:, 1] / shapes[:, 0] / (canvas[1] / canvas[0])
    return np.asarray(np.maximum(ratios, 1 / ratios))


def _tiles(canvas: tuple[int, int], given: Tiles | None) -> Tiles:
    if given is None:
        size = min(*canvas, _TILE)
        return Tiles(size, size // 2)
    if given.size > min(canvas):
        raise InputError(
            f"data.tiles.size is {given.size}, and the images are {canvas[0]} × {canvas[1]} px as the network takes them: "
            f"expected at most {min(canvas)}; make the tiles smaller, or data.image_size larger"
        )
    return given
