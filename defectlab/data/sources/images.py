"""Read many image files as one uint8 tensor, in memory or memory-mapped."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from defectlab.data.sources.decode import BadImage, Pixels, decode, decode_grey
from defectlab.data.sources.layouts import Listing
from defectlab.data.sources.pixel_cache import build_cache, fingerprint, map_cache, skipped_in_cache
from defectlab.errors import InputError
from defectlab.utils.progress import progress_bar

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "defectlab"

_IN_MEMORY_BYTES = 4 * 2**30  # a larger set lives in a memory-mapped file
_BLOCK_BYTES = 64 * 2**20  # pixels held beside the result while a set is read


@dataclass(frozen=True)
class Skipped:
    """An image that was left out, and why."""

    file: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}"


@dataclass
class ImageSet:
    """A labelled set of N images of one size.

    Args:
        images: (N, C, H, W) uint8.
        labels: (N,) int64, indices into `class_names`.
        class_names: in the order of the labels.
        files: relative to the root, posix style, `images.npy[12]` for row 12 of an array.
        splits: "train", "val" or "test" for each image where the source gives a split.
        skipped: images that were left out.
        content: the bytes by which image `index` is told from another: of its file, or as its source holds it. None
            takes those of `images`.
    """

    images: Tensor
    labels: Tensor
    class_names: list[str]
    files: list[str]
    splits: list[str] | None
    skipped: list[Skipped]
    content: Callable[[int], bytes] | None = None

    def select(self, indices: npt.NDArray[np.int64]) -> ImageSet:
        """Return the images at `indices` (n,), in that order; pixels of a mapped file are copied to memory."""
        chosen, content = indices.tolist(), self.content
        return replace(
            self, images=self.images[torch.from_numpy(indices)], labels=self.labels[torch.from_numpy(indices)],
            files=[self.files[index] for index in chosen],
            splits=None if self.splits is None else [self.splits[index] for index in chosen],
            content=None if content is None else lambda index: content(chosen[index]),
        )  # fmt: skip

    def reordered(self, class_names: Sequence[str]) -> ImageSet:
        """Return the same images with labels that are indices into `class_names`.

        Raises:
            InputError: other classes, or one given twice.
        """
        if self.class_names == list(class_names):
            return self
        if sorted(self.class_names) != sorted(class_names):
            raise InputError(
                f"data.class_names is {', '.join(class_names)}: expected the classes of the data, "
                f"{', '.join(self.class_names)}, each once and in any order"
            )
        order = torch.tensor([list(class_names).index(name) for name in self.class_names])
        return replace(self, labels=order[self.labels], class_names=list(class_names))


def read_grey(path: Path, longest: int) -> Pixels:
    """Read one image as (H, W) uint8, at most `longest` pixels a side; InputError if it cannot be read."""
    try:
        return decode_grey(path, longest)
    except BadImage as error:
        raise InputError(f"{path}: {error}; expected an image") from None


def read_images(
    files: Sequence[Path],
    size: int,
    channels: int,
    on_bad_image: Literal["error", "skip"] = "error",
    cache: Path | None = None,
    description: str = "reading images",
    root: Path | None = None,
    resize_size: int | None = None,
) -> tuple[Tensor, list[int], list[Skipped]]:
    """Read images in the order of `files`.

    Args:
        files: image files.
        size: side of the square that images are stretched to, or cropped to with `resize_size`.
        channels: 1 or 3.
        on_bad_image: `error` stops at a file that cannot be read, `skip` leaves it out.
        cache: file to map in place of memory, with `<cache>.json` beside it; built anew when a file's name, size or
            time, or the shape has changed. Writing into the tensor writes into the file, which makes it out of date.
        description: beside the progress bar.
        root: folder that names of images left out are relative to.
        resize_size: of the shorter side before a centre crop; None stretches.

    Returns:
        The images that can be read (M, channels, size, size) uint8, their indices, and those left out.

    Raises:
        InputError: the first bad image, or with "skip" if none is left; or a full disk.
    """
    check_shape(size, channels)
    if on_bad_image not in ("error", "skip"):
        raise InputError(f"on_bad_image: found {on_bad_image!r}, expected 'error' or 'skip'")
    if not files:
        raise InputError("no image to read: the list of files is empty")
    strict = on_bad_image == "error"

    def fill(keep: Callable[[Pixels], None]) -> dict[int, str]:
        return _decode_all(files, size, channels, strict, description, keep, resize_size)

    if cache is None:
        images = torch.empty((len(files), channels, size, size), dtype=torch.uint8)
        filled = 0

        def keep(block: Pixels) -> None:
            nonlocal filled
            images[filled : filled + len(block)] = torch.from_numpy(block)
            filled += len(block)

        bad = fill(keep)
        images = images[:filled]
    else:
        wanted = fingerprint(files, size, channels, root) + ("" if resize_size is None else f" {resize_size}")
        known = skipped_in_cache(cache, wanted)
        # A file may have been out of reach for a while only: those left out are tried again.
        if known is None or any(strict or _is_readable(files[index]) for index in known):
            known = build_cache(cache, wanted, len(files) * channels * size * size, fill)
        bad = known
        images = map_cache(cache, (len(files) - len(bad), channels, size, size))
    good = [index for index in range(len(files)) if index not in bad]
    return images, good, [Skipped(_name(files[index], root), reason) for index, reason in bad.items()]


def read_listing(
    listing: Listing,
    size: int,
    channels: int,
    on_bad_image: Literal["error", "skip"] = "error",
    cache_folder: Path = CACHE,
    in_memory_bytes: int = _IN_MEMORY_BYTES,
) -> ImageSet:
    """Read all images of a listing; a set of more than `in_memory_bytes` is mapped from `cache_folder`.

    Raises:
        InputError: as `read_images`, and if skipping leaves a class without an image.
    """
    root = listing.root
    cache = None
    if len(listing.files) * channels * size * size > in_memory_bytes:
        digest = hashlib.sha256(os.fsencode(os.path.abspath(root))).hexdigest()[:12]
        cache = cache_folder / f"{root.name}-{digest}-{channels}x{size}x{size}.uint8"
    images, good, skipped = read_images(listing.files, size, channels, on_bad_image, cache, root=root)
    labels = [listing.labels[index] for index in good]
    left = set(labels)
    empty = [name for label, name in enumerate(listing.class_names) if label not in left]
    if empty:
        raise InputError(f"{root}: no image of {', '.join(empty)} can be read; replace them, such as {skipped[0]}")
    return ImageSet(
        images=images,
        labels=torch.tensor(labels, dtype=torch.int64),
        class_names=list(listing.class_names),
        files=[_name(listing.files[index], root) for index in good],
        splits=None if listing.splits is None else [listing.splits[index] for index in good],
        skipped=skipped,
        content=lambda index: _bytes_of(listing.files[good[index]]),
    )


def _bytes_of(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: {error.strerror} while it was read; put it back") from None


def check_shape(size: int, channels: int) -> None:
    """Raise InputError unless images can have this size and this many channels."""
    if size < 1:
        raise InputError(f"size: found {size}, expected the side of a square in pixels, at least 1")
    if channels not in (1, 3):
        raise InputError(f"channels: found {channels}, expected 1 (grey) or 3 (RGB)")


def _decode_all(
    files: Sequence[Path],
    size: int,
    channels: int,
    strict: bool,
    description: str,
    keep: Callable[[Pixels], None],
    resize_size: int | None,
) -> dict[int, str]:
    """Pass the good images to `keep` in order, block by block; return the reason for each index left out.

    In threads, since Pillow decodes outside the interpreter lock; in blocks, to bound memory before a slow disk.
    """
    per_block = max(1, min(len(files), 512, _BLOCK_BYTES // (channels * size * size)))
    buffer = np.empty((per_block, channels, size, size), dtype=np.uint8)
    bad: dict[int, str] = {}

    def fill(slot: int, path: Path) -> str | None:
        try:
            buffer[slot] = decode(path, size, channels, resize_size)
        except BadImage as error:
            return str(error)
        return None

    with progress_bar(description, len(files)) as advance, ThreadPoolExecutor() as pool:
        for start in range(0, len(files), per_block):
            block = files[start : start + per_block]
            good = []
            for slot, reason in enumerate(pool.map(fill, range(len(block)), block)):
                advance(1)
                if reason is None:
                    good.append(slot)
                    continue
                if strict:
                    hint = "replace or remove it, or leave bad images out with on_bad_image: skip"
                    raise InputError(f"{block[slot]}: {reason}; {hint}")
                bad[start + slot] = reason
            keep(buffer[good])
    if len(bad) == len(files):
        raise InputError(f"none of {len(files)} images can be read, the first is {files[0]}: {bad[0]}")
    return bad


def _is_readable(path: Path) -> bool:
    try:
        decode(path, 1, 1)
    except BadImage:
        return False
    return True


def _name(path: Path, root: Path | None) -> str:
    return path.as_posix() if root is None else Path(os.path.relpath(path, root)).as_posix()
