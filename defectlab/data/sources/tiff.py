"""What libtiff says of a damaged file, which Pillow passes over: the pixels it could not decode stay as they were."""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from PIL import _imaging  # the library that libtiff is linked to

_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
_heard = threading.local()


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
