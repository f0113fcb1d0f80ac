"""Image files in folders and behind patterns, in natural order; new folders that appear as a whole."""

from __future__ import annotations

import glob
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from tempfile import mkdtemp

from defectlab.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".pgm")

_IGNORED = ("__macosx", "thumbs.db")  # what macOS and Windows leave in folders and archives


def image_files(folder: Path) -> list[Path]:
    """Return every image in and below a folder, linked folders included, hidden and system files left out.

    Raises:
        InputError: the folder, or one below it, is missing or cannot be read.
    """

    def refuse(error: OSError) -> None:
        if isinstance(error, NotADirectoryError):
            raise InputError(f"{error.filename}: a file was found, expected a folder of images") from None
        raise InputError(f"{error.filename}: {error.strerror}; expected a folder that can be read") from None

    found: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = [name for name in folders if not is_ignored(name) and not _leads_up(parent, name)]
        found += [Path(parent, name) for name in names if _is_image_name(name)]
    return sorted(found, key=_path_key)


def expand_images(patterns: str | PathLike[str] | Sequence[str | PathLike[str]]) -> list[Path]:
    """Return files, folders (with all below them) and globs as one list in natural order, without duplicates.

    A file that is named itself may have any suffix.

    Raises:
        InputError: a pattern finds nothing.
    """
    if isinstance(patterns, str | PathLike):
        patterns = [patterns]
    if not patterns:
        raise InputError("no image named; expected files, folders or glob patterns")
    found: dict[str, Path] = {}
    for pattern in patterns:
        try:
            text = os.path.expanduser(pattern)
        except TypeError:
            raise InputError(f"an image is given as {type(pattern).__name__}: expected a path") from None
        matches = [text] if os.path.lexists(text) else glob.glob(text, recursive=True)
        paths: list[Path] = []
        for match in matches:
            if os.path.isdir(match):
                paths += image_files(Path(match))
            elif match == text or _is_image_name(os.path.basename(match)):
                paths.append(Path(match))
        if not paths:
            what = "no image found" if matches or glob.has_magic(text) else "no such file or folder"
            raise InputError(f"{pattern}: {what}; expected an image, a folder of images, or a glob pattern")
        for path in paths:
            found.setdefault(os.path.abspath(path), path)
    return sorted(found.values(), key=_path_key)


def natural_key(text: str) -> tuple[list[str | int], str]:
    """Return a key that sorts img_2 before img_10, and by case only where all else is equal."""
    pieces = re.split(r"([0-9]+)", text.lower())  # text and digits take turns
    return [int(piece) if index % 2 else piece for index, piece in enumerate(pieces)], text


def is_ignored(name: str) -> bool:
    """Return whether a file or folder is hidden, or left there by an operating system."""
    return name.startswith(".") or name.lower() in _IGNORED


@contextmanager
def new_folder(directory: Path) -> Iterator[Path]:
    """Yield a folder to fill, which becomes `directory` when the block ends well and is removed otherwise.

    Raises:
        InputError: `directory` is a file or not empty, or cannot be written.
    """
    directory = directory.expanduser().resolve()
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory} is a file: expected a new or empty folder, name another one")
    if directory.is_dir() and any(directory.iterdir()):
        raise InputError(f"{directory} is not empty: expected a new or empty folder, name another one")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        parts = Path(mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    except OSError as error:
        raise InputError(f"{directory.parent} cannot be written ({error.strerror}): choose another folder") from error
    try:
        whole = parts / "whole"
        whole.mkdir()
        yield whole
        if directory.is_dir():  # it may be a mount point, which cannot be replaced
            for path in sorted(whole.iterdir()):
                shutil.move(path, directory)
        else:
            whole.rename(directory)
    finally:
        shutil.rmtree(parts, ignore_errors=True)


def _is_image_name(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not is_ignored(name)


def _path_key(path: Path) -> tuple[list[str | int], str]:
    # A separator that sorts before any letter keeps what is in one folder together.
    return natural_key(path.as_posix().replace("/", "\0"))


def _leads_up(parent: str, name: str) -> bool:
    """Return whether a folder is a link to one that it lies in, which would be followed without end."""
    path = os.path.join(parent, name)
    if not os.path.islink(path):
        return False
    real, inside = os.path.realpath(path), os.path.realpath(parent)
    return inside == real or inside.startswith(real.rstrip(os.sep) + os.sep)
