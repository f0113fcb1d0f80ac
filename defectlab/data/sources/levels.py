"""Which value is white in images of more than 8 bits: one for a whole set, so that a dark image stays dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

_WHITES = (255, 1023, 4095, 16383, 65535)  # of cameras with 8, 10, 12, 14 and 16 bits
_TOLERANCE = 1 / 510  # of white, half a grey level: what rounding adds to floats, which is cut off
_HOT = 0.001  # of the pixels of an image, which may be brighter than white: hot pixels and reflections
_DARKEST = 20  # a brightest value below it is none of floats in [0, 255]


class BadImage(Exception):
    """An image cannot be used; the text is the reason, without its name."""


class Levels(NamedTuple):
    """The values of one image: whether they are whole numbers by type, the lowest and the highest."""

    whole: bool
    low: float
    high: float

    @property
    def text(self) -> str:
        """Return the range for messages."""
        return f"pixels are {'integers' if self.whole else 'floats'} from {self.low:g} to {self.high:g}"


def levels_of(values: npt.NDArray[Any]) -> Levels:
    """Return the levels of an image (H, W) or (H, W, C)."""
    return Levels(values.dtype.kind in "ui", float(values.min()), float(values.max()))


def white_of_set(found: Sequence[Levels]) -> float | None:
    """Return what is white in all images of a set with more than 8 bits; None for none that is all of numbers.

    Integers: the largest value that a camera of 8, 10, 12, 14 or 16 bits gives, by the brightest pixel of all. Floats: 1
    or 255, by the brightest pixel of the usual image.

    Raises:
        BadImage: the values do not tell.
    """
    found = [levels for levels in found if math.isfinite(levels.low) and math.isfinite(levels.high)]
    if not found:
        return None
    if len({levels.whole for levels in found}) > 1:
        raise BadImage("some images hold integers of more than 8 bits and others floats: expected one kind in a set")
    highest = max(found, key=lambda levels: levels.high)
    if highest.whole:
        return next((float(white) for white in _WHITES if highest.high <= white), 65535.0)
    within = np.array([levels.high <= 1 + _TOLERANCE for levels in found])
    if within.all():
        return 1.0
    usual = float(np.median([levels.high for levels in found]))
    if usual < _DARKEST:
        raise BadImage(
            f"{highest.text}, the usual image's highest is {usual:g}: expected 0 to 1 or 0 to 255; scale the images, or "
            "say by data.white_level what is white"
        )
    return 255.0


def scaled(values: npt.NDArray[Any], white: float | None) -> Pixels:
    """Return an image of more than 8 bits as uint8, `white` as 255, and so a thousandth of the pixels beyond it.

    Without `white`, floats are told by their range, and integers are taken only if they need all 16 bits.

    Raises:
        BadImage: values below 0 or above white, or none that tells what is white.
    """
    found = levels_of(values)
    if white is None:
        white = white_of_set([found]) or 1.0
        if found.whole and white < _WHITES[-1]:
            raise BadImage(
                f"{found.text} in more than 8 bits, and nothing says what is white: a network that was trained on 8 bits "
                "takes images of 8 bits"
            )
    slack = 0 if found.whole else white * _TOLERANCE
    within = found.high <= white + slack or (values > white + slack).mean() <= _HOT
    if not (found.low >= -slack and within and math.isfinite(found.high)):  # a NaN fails this too
        raise BadImage(f"{found.text}, expected 0 to {white:g}")
    pixels: Pixels = np.rint(values.astype(np.float32) * np.float32(255 / white)).clip(0, 255).astype(np.uint8)
    return pixels
