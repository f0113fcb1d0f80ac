"""The image format: what decides how a file becomes the pixels that a network takes."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias

from defectlab.errors import InputError

PixelType: TypeAlias = Literal["uint8", "integers", "floats"]
"""Kind of the numbers of an image: of 8 bits, of more, or floats."""

LEVELS = ("white_level", "black_level", "pixel_type")
READING = (*LEVELS, "page", "alpha")
_MOST_CHANNELS = 64
_LARGEST = 2**14  # pixels of a side: a card from elsewhere must not ask for all memory


@dataclass(frozen=True, kw_only=True)
class ImageFormat:
    """Size, channels and grey levels of decoded images: uint8 `(channels, height, width)`.

    Args:
        image_size: side in pixels of the square that the network sees.
        channels: 1 (grey), 3 (RGB), or those of images that have exactly so many, up to 64.
        resize_size: of the shorter side before a centre crop; None stretches the image to the square.
        white_level: what is white, such as 4095; None where nothing is known.
        black_level: what is black.
        pixel_type: of the images that the levels are of; None for images of more than 8 bits of any kind.
        page: which image of a file that holds several, from 0; `all` takes each as an image named `file[page]`.
        alpha: transparency is put on black (`compose`), left out (`ignore`) or the last of 2 or 4 channels (`channel`).

    Raises:
        InputError: a value out of range.
    """

    image_size: int
    channels: int
    resize_size: int | None = None
    white_level: float | None = None
    black_level: float = 0.0
    pixel_type: PixelType | None = None
    page: int | Literal["all"] = 0
    alpha: Literal["compose", "ignore", "channel"] = "compose"

    def __post_init__(self) -> None:
        for name, low in (("image_size", 1), ("channels", 1), ("resize_size", self.image_size)):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not (whole and low <= value <= _LARGEST) and not (name == "resize_size" and value is None):
                raise InputError(f"{name} is {value!r}, expected a whole number of at least {low}, at most {_LARGEST}")
        check_channels(self.channels, self.alpha)
        check_page(self.page)
        white, black = self.white_level, self.black_level
        for name, level in (("white_level", white), ("black_level", black)):
            number = isinstance(level, int | float) and not isinstance(level, bool) and math.isfinite(level)
            if not number and not (name == "white_level" and level is None):
                raise InputError(f"{name} is {level!r}, expected a finite number, such as 4095")
        if white is not None and white <= black:
            raise InputError(f"white_level is {white:g}, expected a number above black_level, {black:g}, such as 4095")
        if self.pixel_type not in (None, "uint8", "integers", "floats"):
            raise InputError(f"pixel_type is {self.pixel_type!r}, expected uint8, integers or floats")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return channels, height and width of a decoded image."""
        return self.channels, self.image_size, self.image_size

    @property
    def reading(self) -> dict[str, Any]:
        """Return what says how a file is read: its levels, the page and what becomes of transparency."""
        return {name: getattr(self, name) for name in READING}

    @property
    def image_format(self) -> ImageFormat:
        """Return the fields of this class alone, to compare two by."""
        return ImageFormat(**{field.name: getattr(self, field.name) for field in fields(ImageFormat)})


def check_channels(channels: int, alpha: str = "compose") -> None:
    """Raise InputError for another number of channels than 1 to 64, or one that transparency does not fit."""
    if not 1 <= channels <= _MOST_CHANNELS:
        raise InputError(f"data.channels is {channels}: expected 1 (grey), 3 (RGB), or up to {_MOST_CHANNELS}")
    if alpha not in ("compose", "ignore", "channel"):
        raise InputError(f"data.alpha is {alpha!r}: expected compose, ignore or channel")
    if alpha == "channel" and channels not in (2, 4):
        raise InputError(
            f"data.alpha is channel, and data.channels is {channels}: expected 2 (grey and alpha) or 4 (RGB and alpha)"
        )


def check_page(page: int | str) -> None:
    """Raise InputError for a page that is neither `all` nor a number from 0."""
    if page != "all" and (isinstance(page, bool) or not isinstance(page, int) or page < 0):
        raise InputError(f"data.page is {page!r}: expected a number from 0, or all")
