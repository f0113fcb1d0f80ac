"""Which values are black and white: one pair for a whole set, so that a dark image stays dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from defectlab.errors import InputError
from defectlab.utils.image_format import ImageFormat, PixelType

Array: TypeAlias = npt.NDArray[Any]
Pixels: TypeAlias = npt.NDArray[np.uint8]
Level: TypeAlias = float | Literal["file", "auto"]

_SCALES: dict[PixelType, tuple[float, ...]] = {
    "uint8": (255.0,),
    "integers": (255.0, 1023.0, 4095.0, 16383.0, 65535.0),  # of cameras with 8, 10, 12, 14 and 16 bits
    "floats": (1.0, 255.0),
}
_TOLERANCE = 1 / 510  # of white, half a grey level: what rounding adds to floats, which is cut off
_HOT = 0.001  # of the pixels of an image, which may be out of range: hot pixels and reflections
_FAR_OUT = 0.5  # of the pixels out of range: the image is of another depth
_ODD = 0.01  # of the images of a set, whose range does not count
_FEW = 20  # images, of which each counts
_HEADROOM = 0.25  # of the usual range, which the levels may go beyond it, up to the very extremes
_DARKEST = 20  # a brightest value between 1 and it is none of floats in [0, 255]


class BadImage(Exception):
    """An image cannot be used; the text is the reason, without its name."""


class Levels(NamedTuple):
    """The finite values of one image: type, the extremes without a thousandth of the pixels, the very extremes, the most
    that its format can hold (1 for floats)."""

    pixel_type: PixelType
    low: float
    high: float
    least: float
    most: float
    full: float


def pixel_type_of(values: Array) -> PixelType:
    """Return the kind of an array of numbers."""
    return "uint8" if values.dtype == np.uint8 else "floats" if values.dtype.kind == "f" else "integers"


def levels_of(values: Array) -> Levels | None:
    """Return the levels of an image (H, W) or (H, W, C); None for one without a finite value."""
    flat = values.ravel()
    flat = flat if values.dtype.kind != "f" else flat[np.isfinite(flat)]
    if not flat.size:
        return None
    cut = int(_HOT * flat.size)
    ordered = np.partition(flat, sorted({0, cut, flat.size - 1 - cut, flat.size - 1}))
    full = 1.0 if values.dtype.kind == "f" else float(np.iinfo(values.dtype).max)
    found = [float(ordered[index]) for index in (cut, flat.size - 1 - cut, 0, -1)]
    return Levels(pixel_type_of(values), found[0], found[1], found[2], found[3], full)


def settle(found: Sequence[Levels], white: Level | None, black: Level | None) -> tuple[float | None, float]:
    """Return white and black of a set from the levels of images of one pixel type; white of None leaves 8 bits as they are.

    `auto` is the range of the images without its outliers: of a hundredth of the images, and of a thousandth of the pixels
    of each, but for those within a quarter of the range. Without a white level, it is that of the camera (10, 12, 14 or 16
    bits; 1 or 255 for floats) where half of its range is used, else `auto`; 8 bits stay. Without a black level, it is 0,
    or with a measured white `auto`, where values are negative or lie in the upper half.

    Raises:
        InputError: white that is not above black.
    """
    kind, full = found[0].pixel_type, max(levels.full for levels in found)
    lows, highs = sorted(levels.low for levels in found), sorted(levels.high for levels in found)
    odd = math.ceil(_ODD * len(found)) if len(found) >= _FEW else 0
    low, high = lows[odd], max(highs[len(found) - 1 - odd], lows[odd])
    least, most, room = min(x.least for x in found), max(x.most for x in found), _HEADROOM * (high - low)
    if white is None:
        scale = _scale(kind, most if most <= high + room else high)
        fits = scale is not None and low >= -scale * _TOLERANCE and (2 * (high - low) >= scale or low == high)
        white = scale if scale is not None and (fits or kind == "uint8") else "auto"
    low, high = max(least, low - room), min(most, high + room)
    if black is None:
        black = "auto" if white == "auto" and (low < 0 or 2 * low > high) else 0.0
    bright = high if white == "auto" else full if white == "file" else float(white)
    dark = low if black == "auto" else 0.0 if black == "file" else float(black)
    if not bright > dark:
        raise InputError(
            f"data.white_level comes to {bright:g}, data.black_level to {dark:g}, of values from {low:g} to {high:g}: "
            "expected white above black; give numbers"
        )
    return (None, 0.0) if kind == "uint8" and (bright, dark) == (255, 0) else (bright, dark)


def scaled(values: Array, wanted: ImageFormat) -> tuple[Pixels, bool]:
    """Return an image as uint8, `black_level` as 0 and `white_level` as 255; and whether more than hot pixels are beyond.

    Images of 8 bits stay as they are, but where the levels are of such. Without a white level, floats are told by their
    range, and integers of more bits are taken only if they need all 16.

    Raises:
        BadImage: values most of which are beyond, that are not finite, or that nothing tells the meaning of.
    """
    kind, known = pixel_type_of(values), wanted.pixel_type
    white, black = wanted.white_level, wanted.black_level
    if kind == "uint8" and known != "uint8":
        check_eight_bits(wanted)
        return values, False
    if kind == "floats" and not np.isfinite(values).all():
        raise BadImage(f"{_text(values)}, expected finite numbers")
    if known not in (None, kind) and white is not None:
        raise BadImage(f"{_text(values)}, expected {known} of which {white:g} is white, as all of the set")
    if white is None:
        if kind == "uint8":
            return values, False
        white = _own_white(values)
    slack = (white - black) * _TOLERANCE if kind == "floats" else 0.0
    beyond = float(((values > white + slack) | (values < black - slack)).mean())
    if beyond >= _FAR_OUT:
        raise BadImage(f"{_text(values)}, expected {black:g} to {white:g}: {beyond:.0%} are beyond")
    exact = values.astype(np.float64 if values.dtype.itemsize > 2 and values.dtype != np.float32 else np.float32)
    pixels: Pixels = np.rint((exact - black) * exact.dtype.type(255 / (white - black))).clip(0, 255).astype(np.uint8)
    return pixels, beyond > _HOT


def check_eight_bits(wanted: ImageFormat) -> None:
    """Raise BadImage where an image of 8 bits cannot be taken as it is, as levels were measured on images of more."""
    kind, white, black = wanted.pixel_type, wanted.white_level, wanted.black_level
    if kind is not None and white is not None and not is_full_scale(kind, white, black):
        raise BadImage(f"8 bits, expected {kind} of which {black:g} is black and {white:g} white, as all of the set")


def is_full_scale(kind: PixelType, white: float, black: float) -> bool:
    """Return whether levels are a camera's whole range, and so those of its images of 8 bits."""
    return black == 0 and white in _SCALES[kind]


def _own_white(values: Array) -> float:
    """Return what is white in an image alone; `BadImage` if it does not tell."""
    found = levels_of(values)
    scale = None if found is None else _scale(found.pixel_type, found.high)
    if found is None or scale is None or found.low < -_TOLERANCE * scale or (1 < scale < _SCALES["integers"][-1] and not (
        found.pixel_type == "floats" and found.high >= _DARKEST
    )):  # fmt: skip
        raise BadImage(
            f"{_text(values)}, and nothing says what is white: a network that was trained on 8 bits takes images of 8 bits, "
            "integers that need all 16, or floats up to 1 or 255"
        )
    return scale


def _scale(kind: PixelType, high: float) -> float | None:
    return next((scale for scale in _SCALES[kind] if high <= scale * (1 + _TOLERANCE)), None)


def _text(values: Array) -> str:
    return (
        f"pixels are {'floats' if values.dtype.kind == 'f' else 'integers'} from {values.min():g} to {values.max():g}"
    )
