"""A file of raw pixels with a JSON file beside it that names the images."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from defectlab.data.sources.decode import Pixels
from defectlab.utils.files import atomic

_VERSION = 1  # part of the fingerprint: raise it when decoding gives other pixels


def fingerprint(files: Sequence[Path], size: int, channels: int, root: Path | None) -> str:
    """Return a hash of the name (below `root`), size and time of every file, and of the shape."""
    digest = hashlib.sha256(f"{_VERSION} {size} {channels}".encode())
    for path in files:
        try:
            stat = path.stat()
            facts = f"{stat.st_size} {stat.st_mtime_ns}"
        except OSError:
            facts = "missing"
        name = os.path.abspath(path) if root is None else os.path.relpath(path, root)
        digest.update(os.fsencode(f"\n{name}\0{facts}"))
    return digest.hexdigest()


def skipped_in_cache(cache: Path, wanted: str) -> dict[int, str] | None:
    """Return the reason for each index left out of the cache, or None if the cache is not the one wanted."""
    try:
        note = json.loads(_note_path(cache).read_text(encoding="utf-8"))
        stat = cache.stat()
        # Two processes may build at once and one's note end up beside the other's pixels: the time tells.
        if (note["fingerprint"], note["bytes"], note["mtime_ns"]) != (wanted, stat.st_size, stat.st_mtime_ns):
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
    room = f"expected room for {max_bytes / 2**20:,.1f} MiB, make some or choose another folder"
    with atomic(_note_path(cache), room) as note, atomic(cache, room) as pixels:  # the pixels are put there first
        free = shutil.disk_usage(cache.parent).free
        if free < max_bytes:
            raise OSError(f"only {free / 2**20:,.1f} MiB are free")
        # Written, not mapped: on a full disk a write fails, where a mapping kills the process.
        with open(pixels, "xb") as file:

            def write(block: Pixels) -> None:
                file.write(block.data)

            skipped = fill(write)
        stat = pixels.stat()
        facts = {"fingerprint": wanted, "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        note.write_text(json.dumps({**facts, "skipped": skipped}), encoding="utf-8")
    return skipped


def map_cache(cache: Path, shape: tuple[int, ...]) -> Tensor:
    """Map the file as a uint8 tensor, shared with the file; privately if the file may not be written."""
    size = torch.Size(shape).numel()
    shared = os.access(cache, os.W_OK)
    return torch.from_file(str(cache), shared=shared, size=size, dtype=torch.uint8).view(shape)


def _note_path(cache: Path) -> Path:
    return cache.with_name(f"{cache.name}.json")
