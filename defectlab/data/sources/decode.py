"""Decode one image file to uint8 pixels: every bit depth, palette, transparency and orientation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

Pixels = npt.NDArray[np.uint8]

_ORIENTATION = 0x0112  # the EXIF tag; 1 is upright
_MOST_PIXELS = 2**26  # of an image resized for a crop: 200 MB
_ALPHA_MODES = ("LA", "PA", "RGBA", "La", "RGBa")


class BadImage(Exception):
    """A file cannot be used as an image; the text is the reason, without the name."""


def decode(path: Path, size: int, channels: int, resize_size: int | None = None) -> Pixels:
    """Decode the file's first image, upright, to `(channels, size, size)`; `BadImage` if there is none.

    Stretched by `to_square`, or with `resize_size` cropped by `to_centre_crop`.
    """
    with _opened(path) as image:
        if resize_size is None:  # else the pixels have to equal torchvision's
            # Decodes a JPEG as grey, and a large one at 1/2, 1/4 or 1/8: faster. At three times the final size or more
            # pixels stay within 3 of 255 of a full decode.
            image.draft("L" if channels == 1 else "RGB", (3 * size, 3 * size))
        return _fitted(_upright(image), size, channels, resize_size)


def decode_array(pixels: Pixels, size: int, channels: int, resize_size: int | None = None) -> Pixels:
    """Turn a decoded image (H, W) or (H, W, 1 or 3) into what `decode` returns: `(channels, size, size)`."""
    grey = pixels.ndim == 3 and pixels.shape[2] == 1
    return _fitted(Image.fromarray(pixels[:, :, 0] if grey else pixels), size, channels, resize_size)


def decode_grey(path: Path, longest: int) -> Pixels:
    """Decode the file's first image, upright and grey, to `(H, W)` of at most `longest` pixels; else `BadImage`."""
    with _opened(path) as image:
        grey = _eight_bit(_upright(image)).convert("L")
        grey.thumbnail((longest, longest), Image.Resampling.BILINEAR)
        return np.array(grey)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open the file as an image; any error is a `BadImage`."""
    try:
        with Image.open(path) as image:
            yield image
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # a damaged file makes Pillow raise nearly anything, SyntaxError included
        raise BadImage(_reason(path, error)) from error


def _fitted(image: Image.Image, size: int, channels: int, resize_size: int | None) -> Pixels:
    if resize_size is None:
        return to_square(image, size, channels)
    return to_centre_crop(image, size, channels, resize_size)


def to_square(image: Image.Image, size: int, channels: int) -> Pixels:
    """Stretch the whole image to `(channels, size, size)`: no crop, as defects occur at borders too.

    Grey is ITU-R 601 luma. 16-bit pixels are divided by 257 whatever their range; transparent pixels become black.
    """
    image = _eight_bit(image).convert("L" if channels == 1 else "RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)  # Pillow antialiases when it shrinks
    return _planes(image)


def to_centre_crop(image: Image.Image, size: int, channels: int, resize_size: int) -> Pixels:
    """Resize the shorter side to `resize_size` pixels and crop the centre to `(channels, size, size)`.

    Bit-equal to torchvision's `ImageClassification(crop_size=size, resize_size=resize_size)` before it normalises.
    Grey, 16-bit and transparent pixels as in `to_square`; `BadImage` if the sides are too unequal.
    """
    shorter = min(image.size)
    wide, high = (int(resize_size * side / shorter) for side in image.size)
    if wide * high > _MOST_PIXELS:
        raise BadImage(
            f"{image.width} × {image.height} px, sides too unequal to resize the shorter to {resize_size} px"
        )
    image = _eight_bit(image).convert("L" if channels == 1 else "RGB")
    if image.size != (wide, high):
        image = image.resize((wide, high), Image.Resampling.BILINEAR)
    left, top = round((wide - size) / 2), round((high - size) / 2)
    return _planes(image.crop((left, top, left + size, top + size)))


def _planes(image: Image.Image) -> Pixels:
    pixels = np.array(image)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _upright(image: Image.Image) -> Image.Image:
    try:
        turned = image.getexif().get(_ORIENTATION, 1) != 1
    except Exception:  # a broken EXIF block says nothing about the pixels
        return image
    return ImageOps.exif_transpose(image) if turned else image


def _eight_bit(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_scaled(np.asarray(image)))
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return image


def _scaled(values: npt.NDArray[np.generic]) -> Pixels:
    """Turn 16-bit integers, or floats in [0, 1] or [0, 255], into uint8."""
    numbers = values.astype(np.float32)
    low, high = float(numbers.min()), float(numbers.max())
    whole = np.issubdtype(values.dtype, np.integer)
    limit = 65535 if whole else 255
    if not (low >= 0 and high <= limit):  # a NaN fails this too
        kind = "integers" if whole else "floats"
        raise BadImage(f"pixels are {kind} from {low:g} to {high:g}, expected 0 to {limit}")
    factor = 1 / 257 if whole else 255 if high <= 1 else 1
    pixels: Pixels = np.rint(numbers * factor).astype(np.uint8)
    return pixels


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError):
        return "permission denied, the file cannot be read"
    if isinstance(error, IsADirectoryError):
        return "a folder, not an image"
    if isinstance(error, UnidentifiedImageError):
        return "an empty file" if path.stat().st_size == 0 else "not an image, whatever its name says"
    return f"damaged, truncated or of an unknown kind ({' '.join(str(error).split())})"
