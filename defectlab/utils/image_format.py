"""The image format: what decides how a file becomes the pixels that a network takes."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, get_args

from defectlab.errors import InputError

_BLOCK_PIXELS = 2**21  # of a batch whose activations a CPU's caches still serve
Size = int | tuple[int, int]  # the side of a square, or height and width
Fit = Literal["stretch", "pad", "crop"]
PixelType = Literal["uint8", "integers", "floats"]  # kinds of numbers: of 8 bits, of more, floats
Box = tuple[int, int, int, int]  # left, top, width and height
Alpha = Literal["compose", "ignore", "channel"]

LEVELS = ("white_level", "black_level", "pixel_type")
READING = (*LEVELS, "page", "alpha")  # how a file is read

_LARGEST = 2**14  # pixels of a side: a card from elsewhere must not ask for all memory


def checked_size(value: object, name: str = "image_size") -> Size:
    """Return a side, or height and width where they differ; InputError for anything else."""
    pair = tuple(value) if isinstance(value, list | tuple) else (value, value)
    if len(pair) != 2 or not all(_is_whole(side, 1, _LARGEST) for side in pair):
        raise InputError(
            f"{name} is {value!r}: expected a whole number of at least 1, at most {_LARGEST}, or two: [height, width]"
        )
    height, width = pair
    return height if height == width else (height, width)


def images_at_once(size: Size, most: int) -> int:
    """Return how many images of a size, 1 to `most`, a CPU computes at a time: more pixels only wait for memory."""
    height, width = sides(size)
    return max(1, min(most, _BLOCK_PIXELS // (height * width)))


def sides(size: Size) -> tuple[int, int]:
    """Return height and width, also of the list that a checkpoint has."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


class Placement(NamedTuple):
    """Where an image lies on its canvas, in pixels; top and left are below 0 where it is cut."""

    height: int
    width: int
    top: int
    left: int


@dataclass(frozen=True)
class Tiles:
    """Squares of an image that a network looks at one by one.

    Args:
        size: side in pixels of the image as the network takes it.
        overlap: pixels that neighbours share at least.

    Raises:
        InputError: a size below 1, or an overlap that is negative or not below the size.
    """

    size: int
    overlap: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (("size", 1, _LARGEST), ("overlap", 0, self.size - 1)):
            if not _is_whole(getattr(self, name), low, high):
                raise InputError(f"tiles.{name} is {getattr(self, name)!r}: expected a whole number, {low} to {high}")


@dataclass(frozen=True, kw_only=True)
class ImageFormat:
    """Size, channels and grey levels of decoded images: uint8 `(channels, height, width)`.

    Args:
        image_size: of the canvas that the network sees: the side of a square, or `(height, width)`.
        channels: 1 (grey), 3 (RGB), or those of images that have exactly so many, up to 64.
        fit: `stretch` brings the image to the canvas whatever that does to its aspect ratio; `pad` keeps that, puts the
            image into the middle and fills the border; `crop` keeps it, covers the canvas and cuts what sticks out.
        scale: by which `pad` resizes every image, so that a pixel is as long in all; what sticks out of the canvas even so is
            made to fit. None makes each image as large as the canvas.
        pad_value: grey level of the border, from 0 to 255; None mirrors the image.
        resize_size: of the shorter side before `crop` cuts, which it implies; None just covers the canvas.
        white_level: what is white, such as 4095; None where nothing is known.
        black_level: what is black.
        pixel_type: of the images that the levels are of; None for all of more than 8 bits.
        page: which image of a file that holds several, from 0; `all` takes each as an image named `file[page]`.
        alpha: transparency is put on black (`compose`), left out (`ignore`) or the last of 2 or 4 channels (`channel`).

    Raises:
        InputError: a value out of range.
    """

    image_size: Size
    channels: int
    fit: Fit = "stretch"
    scale: float | None = None
    pad_value: int | None = None
    resize_size: int | None = None
    white_level: float | None = None
    black_level: float = 0.0
    pixel_type: PixelType | None = None
    page: int | Literal["all"] = 0
    alpha: Alpha = "compose"

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", checked_size(self.image_size))
        shorter = min(self.shape[1:])
        if not _is_whole(self.channels, 1, 64):
            raise InputError(f"channels is {self.channels!r}, expected 1 (grey), 3 (RGB), or up to 64")
        if self.resize_size is not None:
            if not _is_whole(self.resize_size, shorter, _LARGEST):
                raise InputError(f"resize_size is {self.resize_size!r}, expected a whole number of at least {shorter}")
            object.__setattr__(self, "fit", "crop")
        choices = {"fit": get_args(Fit), "alpha": get_args(Alpha), "pixel_type": (None, *get_args(PixelType))}
        for name, words in choices.items():
            if getattr(self, name) not in words:
                raise InputError(f"{name} is {getattr(self, name)!r}, expected {', '.join(map(str, words))}")
        if self.fit != "pad" and (self.scale, self.pad_value) != (None, None):
            raise InputError(f"fit is {self.fit}, expected pad, which alone has a scale and a pad_value")
        if self.scale is not None and not (_is_number(self.scale) and 1e-4 <= self.scale <= 1e4):
            raise InputError(f"scale is {self.scale!r}, expected a factor above 0, such as 0.5")
        if self.pad_value is not None and not _is_whole(self.pad_value, 0, 255):
            raise InputError(f"pad_value is {self.pad_value!r}, expected a grey level from 0 to 255")
        for name in ("white_level", "black_level"):
            level = getattr(self, name)
            if not (_is_number(level) and math.isfinite(level)) and (name, level) != ("white_level", None):
                raise InputError(
                    f"{name} is {level!r}, expected a finite number such as 4095; of data also file or auto"
                )
        if self.white_level is not None and self.white_level <= self.black_level:
            raise InputError(
                f"white_level is {self.white_level:g}, expected a number above black_level, {self.black_level:g}"
            )
        if self.page != "all" and not _is_whole(self.page, 0, 2**31):
            raise InputError(f"page is {self.page!r}, expected a whole number from 0, or all")
        if self.alpha == "channel" and self.channels not in (2, 4):
            raise InputError(
                f"alpha is channel, and channels {self.channels}: expected 2 or 4, of which it is the last"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return channels, height and width of a decoded image."""
        return self.channels, *sides(self.image_size)

    @property
    def geometry(self) -> str:
        """Return size and fit in words."""
        _, height, width = self.shape
        scale = "" if self.scale is None else f" at a scale of {self.scale:.4g}"
        return f"{height} × {width} px by {self.fit}{scale}"

    @property
    def reading(self) -> dict[str, Any]:
        """Return what says how a file is read, beside its geometry."""
        return {name: getattr(self, name) for name in READING}

    @property
    def image_format(self) -> ImageFormat:
        """Return the fields of this class alone, to compare two by."""
        return ImageFormat(**{field.name: getattr(self, field.name) for field in fields(ImageFormat)})

    def placement(self, height: int, width: int) -> Placement:
        """Return where an upright image of `height` and `width` pixels comes to lie."""
        _, tall, wide = self.shape
        if self.fit == "stretch":
            return Placement(tall, wide, 0, 0)
        if self.fit == "pad":
            factor = min(self.scale or float("inf"), tall / height, wide / width)
            high, broad = (max(1, round(side * factor)) for side in (height, width))
        else:  # of a square exactly as torchvision does
            margin = self.resize_size or min(tall, wide)
            if tall * width >= wide * height:
                high = round(tall * margin / min(tall, wide))
                broad = int(high * width / height)
            else:
                broad = round(wide * margin / min(tall, wide))
                high = int(broad * height / width)
        return Placement(high, broad, -round((high - tall) / 2), -round((broad - wide) / 2))

    def box_on_image(self, box: Box, height: int, width: int) -> Box:
        """Return a box of the canvas in the pixels of an image of `height` and `width`, cut at its border."""
        place, (left, top, wide, tall) = self.placement(height, width), box
        x, y = (
            [min(max(round((edge - start) / length * whole), 0), whole) for edge in edges]
            for edges, start, length, whole in (
                ((left, left + wide), place.left, place.width, width),
                ((top, top + tall), place.top, place.height, height),
            )
        )
        return x[0], y[0], x[1] - x[0], y[1] - y[0]


def _is_whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
