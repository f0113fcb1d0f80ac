"""Atomic replacement of files, and temporary folders that a killed process does not leave for ever."""

import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from defectlab.errors import InputError

_PREFIX, _SUFFIX = ".defectlab-", ".tmp"
_STALE_SECONDS = 24 * 3600  # of folders whose owner cannot be asked for


@contextmanager
def atomic(path: Path, advice: str = "choose another place", sync: bool = False) -> Iterator[Path]:
    """Yield a path of the same name to write to: it replaces `path` if the block ends well, and is removed otherwise.

    A reader finds the old file or the new one, never a part. Missing folders are made.

    Args:
        path: The file to replace.
        advice: What to do about a file that cannot be written, for the end of the error.
        sync: Flush to the disk before the replacement, against a power cut.

    Raises:
        InputError: The place cannot be written to, the disk is full, or the block raised OSError.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError(f"it is a {'folder' if path.is_dir() else 'device or a pipe'}")
        with temporary_folder(path.parent) as folder:
            draft = folder / path.name
            yield draft
            if sync:
                with draft.open("rb+") as file:
                    os.fsync(file.fileno())
            os.replace(draft, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error}); {advice}") from None


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Yield a new hidden folder in `parent`, removed at the end, with those that killed processes have left there.

    Missing folders are made. It is on the same disk as its neighbours, so that renaming is atomic.

    Raises:
        OSError: `parent` cannot be written.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(f"{_PREFIX}*{_SUFFIX}"):
        _remove_abandoned(left)
    held = None
    while held is None:  # else another process took it for one of a dead one
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, suffix=_SUFFIX, dir=parent))
        with suppress(FileNotFoundError):
            held = try_lock(folder)
        if held is not None and not folder.exists():
            release([held])
            held = None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        release([held])


def check_output_folder(folder: Path) -> None:
    """Raise InputError before the work where results could not be written; nothing is made yet."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise InputError(f"output {folder} is a file or in one: expected a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"output {folder} cannot be written: choose another folder")


def hash_file(path: Path) -> str:
    """Compute the SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def try_lock(path: Path) -> int | None:
    """Lock a file or folder until the process ends; return what `os.close` frees, -1 without locks, None if it is held."""
    if sys.platform == "win32":
        return -1
    import fcntl

    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:  # a file system without locks
        os.close(descriptor)
        return -1
    return descriptor


def release(held: list[int]) -> None:
    """Free what `try_lock` has returned, and empty the list."""
    while held:
        descriptor = held.pop()
        if descriptor >= 0:
            os.close(descriptor)


def _remove_abandoned(folder: Path) -> None:
    """Remove a temporary folder whose process is gone: nobody holds its lock, or, without locks, it is of yesterday."""
    with suppress(OSError):  # another process removes it, or it is of another user
        held = try_lock(folder)
        if held is None:
            return
        if held >= 0 or time.time() - folder.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)
        release([held])
