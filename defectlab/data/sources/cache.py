"""The cache: unpacked archives and files of raw pixels, each with a JSON note beside it; the oldest make room."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from defectlab.data.sources.files import page_of
from defectlab.data.sources.levels import Pixels
from defectlab.errors import InputError
from defectlab.utils.files import atomic, release, try_lock

MAX_BYTES = 100 * 2**30
_VERSION = 2  # part of every fingerprint: raise it when decoding gives other pixels
_IN_USE_SECONDS = 24 * 3600  # an entry that was used since then stays


def default_cache() -> Path:
    """Return the folder of the cache: `$XDG_CACHE_HOME/defectlab`, or `~/.cache/defectlab`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "defectlab"


def read_note(entry: Path) -> dict[str, Any]:
    """Return what `write_note` wrote for an entry, and mark it as used; nothing where there is no whole note."""
    try:
        note = json.loads(_note_path(entry).read_text(encoding="utf-8"))
        os.utime(_note_path(entry))
        return note if isinstance(note, dict) else {}
    except (OSError, ValueError):
        return {}


def write_note(entry: Path, facts: Mapping[str, Any], size: int, max_bytes: int = MAX_BYTES) -> None:
    """Write the note of an entry of `size` bytes; remove others, the longest unused first, beyond `max_bytes` in all."""
    with atomic(_note_path(entry)) as note:
        note.write_text(json.dumps({**facts, "bytes": size}), encoding="utf-8")
    others = []
    for path in entry.parent.glob("*.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):  # else it is none of ours
            others.append((path.stat().st_mtime, int(json.loads(path.read_text(encoding="utf-8"))["bytes"]), path))
    total = sum(size for _, size, _ in others)
    for used, size, path in sorted(others):
        old = path.with_suffix("")
        if total > max_bytes and old != entry and time.time() - used > _IN_USE_SECONDS:
            total -= size
            with suppress(OSError):  # it is another user's, or just now removed
                path.unlink()
                shutil.rmtree(old) if old.is_dir() else old.unlink()


@contextmanager
def alone(entry: Path) -> Iterator[None]:
    """Wait until no other process builds the entry, which is then there for this one; without locks each builds it."""
    lock = entry.with_name(f".{entry.name}.lock")
    held: list[int] = []
    made: list[Path] = []
    with suppress(OSError):  # a folder that cannot be written is told by what is to be written
        made += [folder for folder in lock.parents if not folder.exists()]
        while not held:
            lock.parent.mkdir(parents=True, exist_ok=True)
            lock.touch()  # whoever had it has removed it
            if (descriptor := try_lock(lock)) is None:
                time.sleep(0.1)
            else:
                held.append(descriptor)
    try:
        yield
    finally:
        if held:
            lock.unlink(missing_ok=True)  # whoever waits for it looks at the entry first
        release(held)
        with suppress(OSError):  # something is in it
            for folder in made:
                folder.rmdir()


def facts_of(file: Path) -> tuple[int, int, int, int]:
    """Return what changes with a file's content: size, both times in ns and inode; zeros for one that is not there.

    A file that takes another's place may have its size and its time, but not its inode and change time, too.
    """
    try:
        stat = os.stat(page_of(file)[0])
    except OSError:
        return 0, 0, 0, 0
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino % 2**63


def fingerprint(files: Sequence[Path], root: Path | None, *shape: object) -> str:
    """Return a hash of the name (below `root`), size, times and place of every file, and of the shape."""
    digest = hashlib.sha256(" ".join(map(str, (_VERSION, *shape))).encode())
    for path in files:
        facts = " ".join(map(str, facts_of(path)))
        name = os.path.abspath(path) if root is None else os.path.relpath(path, root)
        digest.update(os.fsencode(f"\n{name}\0{facts}"))
    return digest.hexdigest()


def skipped_in_cache(cache: Path, wanted: str) -> dict[int, str] | None:
    """Return the reason for each index left out of the cached pixels, or None if they are not those wanted, or damaged."""
    note = read_note(cache)
    try:
        if (note["fingerprint"], note["crc"]) != (wanted, _crc_of(cache)):
            return None
        return {int(index): str(reason) for index, reason in note["skipped"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def build_cache(
    cache: Path, wanted: str, max_bytes: int, fill: Callable[[Callable[[Pixels], None]], dict[int, str]]
) -> dict[int, str]:
    """Write the pixels by `fill(write)`, all or nothing; return what `fill` left out.

    Raises:
        InputError: the disk has no room for `max_bytes`, or the file cannot be written.
    """
    crc = size = 0
    with atomic(cache, f"expected room for {max_bytes / 2**20:,.1f} MiB, make some or choose another folder") as pixels:
        free = shutil.disk_usage(cache.parent).free
        if free < max_bytes:
            raise OSError(f"only {free / 2**20:,.1f} MiB are free")
        # Written, not mapped: on a full disk a write fails, where a mapping kills the process.
        with open(pixels, "xb") as file:

            def write(block: Pixels) -> None:
                nonlocal crc, size
                crc, size = zlib.crc32(block.data, crc), size + block.nbytes
                file.write(block.data)

            skipped = fill(write)
    # Two processes may build at once and one's note end up beside the other's pixels: the checksum tells.
    write_note(cache, {"fingerprint": wanted, "crc": crc, "skipped": skipped}, size)
    return skipped


def map_cache(cache: Path, shape: tuple[int, ...]) -> Tensor:
    """Map the file as a uint8 tensor, shared with the file; privately if the file may not be written.

    Raises:
        InputError: the file is gone, or shorter than that.
    """
    size = torch.Size(shape).numel()
    try:
        return torch.from_file(str(cache), shared=os.access(cache, os.W_OK), size=size, dtype=torch.uint8).view(shape)
    except RuntimeError as error:
        raise InputError(f"{cache}: {str(error).splitlines()[0]}; another process has changed it, try again") from None


def _crc_of(path: Path) -> int:
    with open(path, "rb") as file:
        return functools.reduce(lambda crc, chunk: zlib.crc32(chunk, crc), iter(lambda: file.read(2**24), b""), 0)


def _note_path(entry: Path) -> Path:
    return entry.with_name(f"{entry.name}.json")
