"""One writer at a time in a run folder: run.lock, with the process that holds it."""

import errno
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from defectlab.errors import InputError
from defectlab.utils.progress import is_first_process

LOCK_FILE = "run.lock"


class RunLocked(InputError):
    """Another process writes into the run folder."""


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold a run folder, which is there, for writing; the later processes of a run rely on the first.

    The system frees the lock of a process that has ended, however it ended.

    Raises:
        RunLocked: another process holds it, which is named.
        InputError: the folder cannot be written to.
    """
    if not is_first_process():
        yield
        return
    path = run / LOCK_FILE
    file = _hold(path)
    try:
        owner = {"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.ftruncate(file, 0)
        os.write(file, json.dumps(owner).encode())
        yield
    finally:
        with suppress(OSError):
            if os.stat(path).st_ino == os.fstat(file).st_ino:  # not that of a run folder in the place of a moved one
                path.unlink()
        os.close(file)


def _hold(path: Path) -> int:
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        except OSError as error:
            raise InputError(f"{path} cannot be written ({error.strerror}): give a folder you can write to") from None
        try:
            _lock(file)
        except OSError as error:
            owner = _owner(path)
            # Some network drives have no locks: there the owner's process is looked for.
            if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK) or _lives(owner):
                os.close(file)
                who = "process {pid} on {host} since {since}".format(**owner) if owner else "another process"
                raise RunLocked(
                    f"{path.parent} is being written by {who}: wait until it has ended, or end it"
                ) from None
        with suppress(OSError):
            if os.stat(path).st_ino == os.fstat(file).st_ino:
                return file
        os.close(file)  # its holder removed it in between


def _lock(file: int) -> None:
    """Lock an open file, or raise OSError at once."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(file, 1 << 20, os.SEEK_SET)  # beyond the text, which stays readable
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        os.lseek(file, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _owner(path: Path) -> dict[str, Any]:
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        return {key: owner[key] for key in ("pid", "host", "since")}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _lives(owner: dict[str, Any]) -> bool:
    """Return whether the owner may be at work: on another machine, or as a process of this one."""
    if not owner or owner["host"] != platform.node():
        return bool(owner)
    return Path("/proc", str(owner["pid"])).exists() or not Path("/proc/self").exists()
