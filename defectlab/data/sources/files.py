"""Image files in folders and behind patterns, in natural order; new folders that appear as a whole."""

from __future__ import annotations

import glob
import logging
import os
import re
import shutil
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

from defectlab.errors import InputError
from defectlab.utils.files import temporary_folder
from defectlab.utils.progress import progress_bar

log = logging.getLogger(__name__)

# Pillow's formats that need no other program, nor a handler of their own, with the names of their files.
FORMATS = {
    "JPEG": ".jpg .jpeg .jfif .jpe", "PNG": ".png .apng", "BMP": ".bmp", "TIFF": ".tif .tiff", "WEBP": ".webp",
    "PPM": ".pgm .ppm .pbm .pnm .pfm", "GIF": ".gif", "JPEG2000": ".jp2 .j2k .jpc .jpf .jpx .j2c", "AVIF": ".avif .avifs",
    "DIB": ".dib", "MPO": ".mpo", "QOI": ".qoi", "PCX": ".pcx", "DCX": ".dcx", "SGI": ".sgi .bw .rgb .rgba", "SUN": ".ras",
    "PSD": ".psd", "DDS": ".dds", "ICO": ".ico", "IM": ".im", "MSP": ".msp", "XBM": ".xbm", "XPM": ".xpm",
    "NPY": ".npy",  # by NumPy
    "TGA": ".tga .icb .vda .vst",  # the last, as it begins with nothing that tells it
}  # fmt: skip
SUFFIXES = tuple(" ".join(FORMATS.values()).split())

_IGNORED = ("__macosx", "thumbs.db", "desktop.ini")  # what macOS and Windows leave in folders and archives
_BESIDE = re.compile(  # what lies beside images and is none
    r"\.(txt|md|rst|csv|tsv|json|xml|ya?ml|toml|html?|pdf|docx?|xlsx?|zip|gz|tar|7z|rar|py|ipynb|m|mat|npz|h5|pkl|log|db|ini)"
)
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}  # on Windows
_DOCUMENTS = ("readme", "license", "licence", "copying", "notice", "changelog", "makefile")


def image_files(folder: Path, tell: bool = True) -> list[Path]:
    """Return every image in and below a folder in natural order, hidden and system files left out.

    Links are followed, but every file counts once, at its own place if that is below the folder. With `tell`, a warning
    counts and names what is passed over, but for documents, tables and archives.

    Raises:
        InputError: the folder, or one below it, is missing or cannot be read; or two linked folders hold one image.
    """

    def refuse(error: OSError) -> None:
        if isinstance(error, NotADirectoryError):
            raise InputError(f"{error.filename}: a file was found, expected a folder of images") from None
        raise InputError(f"{error.filename}: {error.strerror}; expected a folder that can be read") from None

    found: dict[str, Path] = {}  # by the real path
    linked: set[str] = set()
    visited: set[str] = set()
    again, unknown = [], []
    tops = [Path(folder)]
    with progress_bar("listing images", None) as advance:
        for top in tops:  # links come after all that is there itself
            real = os.path.realpath(top)
            if top is not tops[0] and not os.path.isdir(real):
                if real not in found:
                    found[real] = top
                    linked.add(real)
                elif real in linked and found[real].parent != top.parent:
                    raise InputError(
                        f"{found[real]} and {top} are links to one image: expected it in one class; remove a link"
                    )
                else:
                    again.append(top)
            elif real in visited:
                again.append(top)
            else:
                for parent, folders, names in os.walk(top, onerror=refuse):
                    real = os.path.realpath(parent)
                    inside = set() if real in visited else {name for name in folders if not is_ignored(name)}
                    folders[:] = sorted(inside)
                    if real in visited:
                        continue
                    visited.add(real)
                    with os.scandir(parent) as entries:
                        links = {entry.name for entry in entries if entry.is_symlink()}
                    for name in sorted(inside.union(names)):
                        is_image = name not in inside and _is_image_name(name)
                        if name in links and (name in inside or is_image):
                            tops.append(Path(parent, name))
                        elif is_image:
                            found.setdefault(os.path.join(real, name), Path(parent, name))
                        elif name not in inside and not _is_document(name):
                            unknown.append(Path(parent, name))
                    advance(len(names))
    if tell and again:
        log.warning("%s: %d links to what is there already are passed over, such as %s", folder, len(again), again[0])
    if tell and found and unknown:  # without any image the caller refuses the folder
        kinds = Counter(path.suffix.lower() or "no suffix" for path in unknown).most_common()
        counted = ", ".join(f"{count} of {kind}" for kind, count in kinds)
        log.warning("%s: files of no kind that is read are left out: %s, such as %s", folder, counted, unknown[0])
    return sorted(found.values(), key=_path_key)


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
        matches = [text] if os.path.lexists(page_of(Path(text))[0]) else glob.glob(text, recursive=True)
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


def is_address(root: object) -> bool:
    """Return whether a data root is an address such as s3://bucket/folder, not a path."""
    return isinstance(root, str) and "://" in root


def page_of(path: Path) -> tuple[Path, int | None]:
    """Return the file and the page that a path such as `a.tif[2]` names; no page for a file of that very name."""
    found = re.fullmatch(r"(.+)\[(\d+)\]", path.name)
    if found is None or os.path.lexists(path):
        return path, None
    return path.with_name(found[1]), int(found[2])


def natural_key(text: str) -> tuple[list[str | int], str]:
    """Return a key that sorts img_2 before img_10, and by case only where all else is equal."""
    pieces = re.split(r"([0-9]+)", text.lower())  # text and digits take turns
    return [int(piece) if index % 2 else piece for index, piece in enumerate(pieces)], text


def safe_name(text: str) -> str:
    """Return text as the name of a file or folder on any system, that leads nowhere else: of 1 to 120 bytes."""
    name = (
        re.sub(r'[\x00-\x1f/\\:*?"<>|]', "_", text).encode(errors="replace")[:120].decode(errors="ignore").strip(" .")
    )
    return f"{name}_" if not name or name.split(".")[0].lower() in _RESERVED else name


def safe_names(names: Sequence[str]) -> list[str]:
    """Return `safe_name` of each text, all different, also on disks that do not tell case."""
    found: list[str] = []
    for number, name in enumerate(map(safe_name, names)):
        taken = {other.lower() for other in found}
        found.append(name if name.lower() not in taken else f"{name}_{number}")
    return found


def check_names(place: object, names: Iterable[str]) -> None:
    """Raise InputError for a class name that is empty, no UTF-8 in the file system, or has control characters."""
    for name in names:
        if not name.strip() or any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
            raise InputError(
                f"{place}: a class is called {name!a}: expected a name of letters that can be written; rename it"
            )


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
        with temporary_folder(directory.parent) as parts:
            whole = parts / directory.name
            whole.mkdir()
            yield whole
            if directory.is_dir():  # it may be a mount point, which cannot be replaced
                for path in sorted(whole.iterdir()):
                    shutil.move(path, directory)
            else:
                whole.rename(directory)
    except OSError as error:
        raise InputError(f"{directory} cannot be written ({error.strerror or error}): choose another folder") from None


def _is_document(name: str) -> bool:
    stem, suffix = os.path.splitext(name.lower())
    return is_ignored(name) or _BESIDE.fullmatch(suffix) is not None or (not suffix and stem in _DOCUMENTS)


def _is_image_name(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not is_ignored(name)


def _path_key(path: Path) -> tuple[list[str | int], str]:
    # A separator that sorts before any letter keeps what is in one folder together.
    return natural_key(path.as_posix().replace("/", "\0"))
