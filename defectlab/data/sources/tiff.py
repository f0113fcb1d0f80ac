"""TIFF beyond what Pillow reads rightly, and what libtiff says of a damaged file, which Pillow passes over."""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, _imaging  # the second is the library that libtiff is linked to

from defectlab.data.sources.levels import Array, BadImage

_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
_heard = threading.local()

_BITS, _ORIENTATION, _SAMPLES, _PLANAR, _FORMAT = 258, 274, 277, 284, 339  # tags
_FLIPS = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}  # of an orientation, after rows and columns change


def is_tiff(prefix: bytes) -> bool:
    """Return whether a file that begins so is a TIFF."""
    return prefix.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"))


def is_misread(image: Image.Image) -> bool:
    """Return whether Pillow would take a TIFF for another image than it is: planes of more than 8 bits."""
    tags = getattr(image, "tag_v2", {})
    return tags.get(_SAMPLES, 1) > 1 and tags.get(_PLANAR, 1) == 2 and set(tags.get(_BITS, (1,))) != {8}


def stored_type(image: Image.Image) -> np.dtype[np.generic]:
    """Return the type of integers that Pillow keeps in 32 bits; call it before the image is decoded."""
    tags = getattr(image, "tag_v2", {})
    signed, wide = tags.get(_FORMAT, (1,))[0] == 2, tags.get(_BITS, (16,))[0] == 32
    return np.dtype(f"{'i' if signed else 'u'}{4 if wide else 2}")


def open_tifffile(path: Path) -> Any:
    """Open a TIFF by tifffile; `BadImage` where that is not installed."""
    try:
        import tifffile
    except ImportError:
        raise BadImage("a TIFF of a kind that takes tifffile to read: pip install 'defectlab[tiff]'") from None
    return tifffile.TiffFile(path)


def read_page(path: Path, number: int, stack: int) -> Array:
    """Read a page by tifffile, (H, W) or (H, W, C), upright; of a file of `stack` grey pages all as its channels.

    Raises:
        BadImage: tifffile is not installed, or there is no such page, or one that is neither grey nor RGB.
        ValueError: a compression that needs the package imagecodecs.
    """
    with open_tifffile(path) as file:
        check_page(number, len(file.pages))
        page = file.pages[number].aspage()
        values: Array = page.asarray()
        if values.ndim == 2 and len(file.pages) == stack:
            values = np.stack([each.asarray() for each in file.pages], axis=-1)
        turned = page.tags.valueof(_ORIENTATION, 1)
    if page.photometric not in (0, 1, 2) or values.ndim > 3 or values.dtype.kind not in "uif":
        raise BadImage(f"a TIFF of {page.photometric.name} as {page.axes}, {values.dtype}: expected grey or RGB")
    if page.photometric == 0:  # white is 0
        values = (1 if values.dtype.kind == "f" else np.iinfo(values.dtype).max) - values
    if page.axes == "SYX":
        values = np.moveaxis(values, 0, 2)
    return np.flip(values.swapaxes(0, 1) if turned > 4 else values, _FLIPS.get(turned, ()))


def check_page(number: int, pages: int) -> None:
    """Raise BadImage for a page that a file of so many does not have."""
    if number >= pages:
        raise BadImage(f"{pages} pages that can be read, expected data.page {number}, counted from 0")


@contextmanager
def libtiff_errors() -> Iterator[list[str]]:
    """Yield a list of the functions that report an error in this thread, in place of their lines on standard error."""
    _listen()
    names: list[str] = []
    _heard.names = names
    yield names


@cache
def _listen() -> object:
    """Set libtiff's error handler, once; return it, as it has to live on. Nothing happens where libtiff is hidden."""

    def handle(module: bytes | None, _format: bytes | None, _arguments: int | None) -> None:
        getattr(_heard, "names", []).append((module or b"libtiff").decode("ascii", "replace"))

    handler = _HANDLER(handle)
    try:
        setter = ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler
    except (OSError, AttributeError, TypeError):
        return None
    setter.argtypes, setter.restype = [_HANDLER], ctypes.c_void_p
    setter(handler)
    return handler
