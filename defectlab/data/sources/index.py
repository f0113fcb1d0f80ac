"""The index of a large set: what one pass over its files has found, kept in the cache for all that come after.

And the stream that it allows: images that are decoded anew for every batch, from files that are watched.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from defectlab.data.pipeline.split_table import content_hash
from defectlab.data.sources.cache import facts_of, read_note, write_note
from defectlab.data.sources.decode import decode
from defectlab.data.sources.lazy import LazyImages
from defectlab.data.sources.levels import BadImage, Pixels
from defectlab.data.sources.opening import bytes_of, pillow_hushed
from defectlab.data.sources.reading import NothingReadable, refused
from defectlab.data.sources.skipped import Skipped
from defectlab.errors import InputError
from defectlab.utils.files import atomic
from defectlab.utils.image_format import ImageFormat
from defectlab.utils.progress import progress_bar

log = logging.getLogger(__name__)

_PER_TASK = 64
_Whole = npt.NDArray[np.int64]
_ARRAYS = ("facts", "hashes", "sums", "squares", "grey")


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageIndex:
    """What is known of N image files, row by row.

    Args:
        facts: (N, 4) size, times of the content and of the file's change in ns, inode.
        hashes: (N, 16) uint8, `content_hash` of each file.
        sums: (N, C) of the pixels of each channel.
        squares: (N, C) of the squares of the pixels.
        grey: (N,) whether all channels are equal.
        reasons: why a file cannot be read, by row.
    """

    facts: _Whole
    hashes: npt.NDArray[np.uint8]
    sums: _Whole
    squares: _Whole
    grey: npt.NDArray[np.bool_]
    reasons: dict[int, str]

    def select(self, rows: npt.NDArray[np.int64]) -> ImageIndex:
        """Return the rows, none of which is of a file that cannot be read."""
        return ImageIndex(**{name: getattr(self, name)[rows] for name in _ARRAYS}, reasons={})

    def told(self, row: int) -> tuple[int, str]:
        """Return size and `content_hash` of a file."""
        return int(self.facts[row, 0]), self.hashes[row].tobytes().hex()


def open_stream(
    files: Sequence[Path], names: Sequence[str], wanted: ImageFormat, strict: bool, place: Path
) -> tuple[Tensor, list[int], list[Skipped], ImageIndex]:
    """Index the files at `place`; return the images that can be decoded, their rows, those left out, and their index.

    They have one channel where all channels of all images are equal. A file that is gone or changed afterwards ends what
    reads it with an InputError.

    Raises:
        InputError: the first bad image, if `strict`, or if none is left.
    """
    if not files:
        raise InputError("no image to read: the list of files is empty")
    with pillow_hushed():
        whole = build_index(
            files, names, place, wanted, wanted.channels, lambda row: decode(files[row], wanted), strict
        )
    warnings.filterwarnings("ignore", module=r"PIL\.")  # from here on threads decode at any time
    good = [row for row in range(len(files)) if row not in whole.reasons]
    skipped = [Skipped(names[row], whole.reasons[row]) for row in sorted(whole.reasons)]
    if not good:
        raise NothingReadable(files, skipped)
    index = whole.select(np.array(good))
    if index.grey.all():
        index = replace(index, sums=index.sums[:, :1], squares=index.squares[:, :1])

    def read(row: int, out: Pixels) -> None:
        file, facts = files[row], tuple(whole.facts[row].tolist())
        if facts_of(file) != facts:
            raise InputError(f"{file} is gone or has changed since it was indexed: put it back, then go on by resume")
        try:
            out[...] = decode(file, wanted)[: len(out)]
        except BadImage as error:
            raise InputError(
                f"{file}: {error}, and it could be read before: put it back, then go on by resume"
            ) from None

    shape = (index.sums.shape[1], *wanted.shape[1:])
    return LazyImages(shape, read, torch.tensor(good)).as_tensor(), good, skipped, index


def build_index(
    files: Sequence[Path],
    names: Sequence[str],
    place: Path,
    wanted: ImageFormat,
    channels: int,
    pixels: Callable[[int], Pixels],
    strict: bool,
) -> ImageIndex:
    """Return the index of the files, kept at `place`: rows of an earlier one whose files are as they were, others anew.

    Of those `pixels(row)` gives the channels as `wanted` decides about them, or `BadImage`; several threads call it.

    Raises:
        InputError: a file that cannot be read, if `strict`.
    """
    count = len(files)
    facts = np.array([facts_of(file) for file in files], dtype=np.int64).reshape(count, 4)
    index = ImageIndex(
        facts=facts, hashes=np.zeros((count, 16), np.uint8), sums=np.zeros((count, channels), np.int64),
        squares=np.zeros((count, channels), np.int64), grey=np.ones(count, bool), reasons={},
    )  # fmt: skip
    key = f"{wanted.image_format!r} {channels}"
    todo = _take_over(index, names, place, key)

    def measure(rows: Sequence[int]) -> None:
        for row in rows:
            try:
                values = pixels(row).reshape(channels, -1)
            except BadImage as error:
                index.reasons[row] = str(error)
                continue
            index.hashes[row] = np.frombuffer(bytes.fromhex(content_hash(bytes_of(files[row]))), np.uint8)
            index.sums[row] = values.sum(axis=1, dtype=np.int64)
            index.squares[row] = np.square(values, dtype=np.uint32).sum(axis=1, dtype=np.int64)
            index.grey[row] = channels == 1 or bool((values[1:] == values[:1]).all())

    tasks = [todo[start : start + _PER_TASK].tolist() for start in range(0, len(todo), _PER_TASK)]
    pool = ThreadPoolExecutor()
    try:
        with progress_bar("indexing images", len(todo)) as advance:
            for task, _ in zip(tasks, pool.map(measure, tasks), strict=True):
                advance(len(task))
                if strict and (bad := [row for row in task if row in index.reasons]):
                    raise refused(files[bad[0]], index.reasons[bad[0]])
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for a million files
    if tasks:
        _keep(index, names, place, key)
    return index


def _take_over(index: ImageIndex, names: Sequence[str], place: Path, key: str) -> _Whole:
    """Fill in what an earlier index has of files that are as they were; return the rows of the others."""
    everything = np.arange(len(names))
    if read_note(place).get("key") != key:
        return everything
    try:
        with np.load(place) as saved:
            old = ImageIndex(
                **{name: saved[name] for name in _ARRAYS},
                reasons={int(k): v for k, v in json.loads(saved["reasons"].tobytes()).items()},
            )
            known = os.fsdecode(saved["names"].tobytes()).split("\0")
    except (OSError, ValueError, KeyError, EOFError):
        return everything
    if len(known) != len(old.facts):
        return everything
    row_of = {name: row for row, name in enumerate(known)}
    rows = np.array([row_of.get(name, -1) for name in names], dtype=np.int64)
    same = (rows >= 0) & (old.facts[rows] == index.facts).all(axis=1)
    for name in _ARRAYS[1:]:
        getattr(index, name)[same] = getattr(old, name)[rows[same]]
    bad = np.isin(rows, list(old.reasons))  # what was out of reach for a while is tried again
    return np.flatnonzero(~same | bad)


def _keep(index: ImageIndex, names: Sequence[str], place: Path, key: str) -> None:
    arrays = {name: getattr(index, name) for name in _ARRAYS}
    texts = {"names": os.fsencode("\0".join(names)), "reasons": json.dumps(index.reasons).encode()}
    arrays |= {name: np.frombuffer(text, np.uint8) for name, text in texts.items()}
    try:
        with atomic(place) as part:
            with open(part, "wb") as file:
                np.savez(file, **arrays)
            size = part.stat().st_size
        write_note(place, {"key": key}, size)
    except InputError as error:
        log.warning("%s: the images are indexed anew at every start", error)
