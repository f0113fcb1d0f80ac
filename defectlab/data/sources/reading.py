"""Read many image files as one uint8 tensor, in memory or memory-mapped."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from defectlab.data.sources.cache import alone, build_cache, fingerprint, map_cache, skipped_in_cache
from defectlab.data.sources.decode import decode
from defectlab.data.sources.depth import tell_beyond
from defectlab.data.sources.levels import BadImage, Pixels
from defectlab.data.sources.opening import pillow_hushed
from defectlab.data.sources.skipped import Skipped, check_on_bad_image
from defectlab.errors import InputError
from defectlab.utils.image_format import ImageFormat
from defectlab.utils.progress import progress_bar
from defectlab.utils.text import listed

_BLOCK_BYTES = 64 * 2**20  # pixels held beside the result while a set is read


class ColourFound(Exception):
    """An image whose channels are not all equal, where they were expected to be."""


class NothingReadable(InputError):
    """None of the images can be read; `skipped` has the reason for each."""

    def __init__(self, files: Sequence[Path], skipped: Sequence[Skipped]) -> None:
        super().__init__(f"none of {len(files)} images can be read, the first is {files[0]}: {skipped[0].reason}")
        self.skipped = skipped


def refused(file: Path, reason: str) -> InputError:
    """Return the error of a set with a file that cannot be read."""
    return InputError(f"{file}: {reason}; replace or remove it, or leave bad images out with on_bad_image: skip")


def read_images(
    files: Sequence[Path],
    wanted: ImageFormat,
    on_bad_image: Literal["error", "skip"] = "error",
    cache: Path | None = None,
    root: Path | None = None,
    beyond: list[Path] | None = None,
    grey: bool = False,
) -> tuple[Tensor, list[int], list[Skipped]]:
    """Read images in the order of `files`.

    Args:
        files: image files.
        wanted: what images are decoded to; a `white_level` of None tells it for each image, or refuses it.
        on_bad_image: `error` stops at a file that cannot be read, `skip` leaves it out.
        cache: file to map in place of memory, with `<cache>.json` beside it; built anew when a file or the shape has
            changed, or the pixels are not those that were written. Writing into the tensor writes into the file, which
            makes it out of date.
        root: folder that names of images left out are relative to.
        beyond: gets the files whose pixels were cut off; None warns of them.
        grey: keep the first channel alone of images whose channels are all equal.

    Returns:
        The images that can be read (M, *wanted.shape) uint8, their indices, and those left out.

    Raises:
        ColourFound: with `grey`, an image that is not.
        InputError: the first bad image, or with "skip" if none is left (`NothingReadable`); a full disk, or an error of
            the machine.
    """
    check_on_bad_image(on_bad_image)
    if not files:
        raise InputError("no image to read: the list of files is empty")
    strict = on_bad_image == "error"
    shape = (1 if grey else wanted.channels, *wanted.shape[1:])
    cut_off: list[Path] = [] if beyond is None else beyond

    def left_out(bad: Mapping[int, str]) -> list[Skipped]:
        names = (files[index] if root is None else Path(os.path.relpath(files[index], root)) for index in bad)
        return [Skipped(name.as_posix(), reason) for name, reason in zip(names, bad.values(), strict=True)]

    def fill(keep: Callable[[Pixels], None]) -> dict[int, str]:
        bad = _decode_all(files, wanted, shape, strict, keep, cut_off)
        if len(bad) == len(files):
            raise NothingReadable(files, left_out(bad))
        return bad

    if cache is None:
        images = torch.empty((len(files), *shape), dtype=torch.uint8)
        filled = 0

        def keep(block: Pixels) -> None:
            nonlocal filled
            images[filled : filled + len(block)] = torch.from_numpy(block)
            filled += len(block)

        bad = fill(keep)
        images = images[:filled]
    else:
        mark = fingerprint(files, root, wanted.image_format, *(["grey"] if grey else []))
        with alone(cache):
            known = skipped_in_cache(cache, mark)
            # A file may have been out of reach for a while only: those left out are tried again.
            if known is None or any(strict or _is_readable(files[index]) for index in known):
                known = build_cache(cache, mark, len(files) * math.prod(shape), fill)
        bad = known
        images = map_cache(cache, (len(files) - len(bad), *shape))
    if beyond is None:
        tell_beyond(cut_off, wanted)
    good = [index for index in range(len(files)) if index not in bad]
    return images, good, left_out(bad)


def _decode_all(
    files: Sequence[Path],
    wanted: ImageFormat,
    shape: tuple[int, ...],
    strict: bool,
    keep: Callable[[Pixels], None],
    beyond: list[Path],
) -> dict[int, str]:
    """Pass the good images to `keep` in order, block by block; return the reason for each index left out.

    In threads, since Pillow decodes outside the interpreter lock, but for a single one, which takes less time than their
    start; in blocks, to bound memory before a slow disk.
    """
    per_block = max(1, min(len(files), 512, _BLOCK_BYTES // math.prod(shape)))
    buffer = np.empty((per_block, *shape), dtype=np.uint8)
    bad: dict[int, str] = {}

    def fill(slot: int, path: Path) -> str | None:
        try:
            pixels = decode(path, wanted, beyond)
            if len(pixels) > len(buffer[slot]) and (pixels[1:] != pixels[:1]).any():
                raise ColourFound
            buffer[slot] = pixels[: len(buffer[slot])]
        except BadImage as error:
            return str(error)
        return None

    pool = nullcontext() if len(files) == 1 else ThreadPoolExecutor()
    with progress_bar("reading images", len(files)) as advance, pillow_hushed(), pool as threads:
        for start in range(0, len(files), per_block):
            block = files[start : start + per_block]
            good = []
            for slot, reason in enumerate((threads.map if threads else map)(fill, range(len(block)), block)):
                advance(1)
                if reason is None:
                    good.append(slot)
                else:
                    bad[start + slot] = reason
            if strict and bad:
                first, *others = bad
                also = f" ({len(bad)} of the first {start + len(block)} are bad, also {listed([files[i] for i in others])})"
                raise refused(files[first], f"{bad[first]}{also if others else ''}")
            keep(buffer[good])
    return bad


def _is_readable(path: Path) -> bool:
    try:
        decode(path, ImageFormat(image_size=1, channels=1))
    except BadImage:
        return False
    return True
