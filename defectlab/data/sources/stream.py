"""A set whose images are decoded anew for every batch: its files are indexed once, and watched from then on."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from defectlab.data.sources.cache import facts_of
from defectlab.data.sources.decode import decode
from defectlab.data.sources.index import ImageIndex, build_index
from defectlab.data.sources.lazy import LazyImages
from defectlab.data.sources.levels import BadImage, Pixels
from defectlab.data.sources.opening import pillow_hushed
from defectlab.data.sources.reading import NothingReadable, Skipped
from defectlab.errors import InputError
from defectlab.utils.image_format import ImageFormat


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
