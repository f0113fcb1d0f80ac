"""A labelled set of images, and how it is read from the files of a listing."""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from defectlab.data.sources.cache import default_cache
from defectlab.data.sources.decode import peek, pillow_hushed
from defectlab.data.sources.files import FORMATS
from defectlab.data.sources.layouts import Listing
from defectlab.data.sources.levels import BadImage, Levels, white_of_set
from defectlab.data.sources.reading import Skipped, read_images
from defectlab.errors import InputError
from defectlab.utils.image_format import ImageFormat
from defectlab.utils.progress import progress_bar

log = logging.getLogger(__name__)

_PLAIN = (
    f"{FORMATS['JPEG']} .mpo .webp .gif .bmp".split()
)  # these never have more than 8 bits, nor say that they are generated
_DARK = 8  # times brighter than the usual image white may be without a warning
_IN_MEMORY_BYTES = 4 * 2**30  # a larger set lives in a memory-mapped file


@dataclass(kw_only=True)
class ImageSet:
    """A labelled set of N images of one size.

    Args:
        images: (N, C, H, W) uint8.
        labels: (N,) int64, indices into `class_names`.
        class_names: in the order of the labels.
        files: relative to the root, posix style, `images.npy[12]` for row 12 of an array.
        splits: "train", "val" or "test" for each image where the source gives a split.
        skipped: images that were left out.
        white_level: what is white in images of more than 8 bits; None where there are none.
        synthetic: how many of the images are generated.
        content: the bytes by which image `index` is told from another: of its file, or as its source holds it. None
            takes those of `images`.
        aspects: width by height of each image as the camera saw it (N,) where a stretch has changed that; else None.
    """

    images: Tensor
    labels: Tensor
    class_names: list[str]
    files: list[str]
    splits: list[str] | None = None
    skipped: Sequence[Skipped] = ()
    white_level: float | None = None
    synthetic: int = 0
    content: Callable[[int], bytes] | None = None
    aspects: Tensor | None = None

    def select(self, indices: npt.NDArray[np.int64]) -> ImageSet:
        """Return the images at `indices` (n,), in that order; pixels of a mapped file are copied to memory."""
        chosen, content = indices.tolist(), self.content
        return replace(
            self, images=self.images[torch.from_numpy(indices)], labels=self.labels[torch.from_numpy(indices)],
            files=[self.files[index] for index in chosen],
            splits=None if self.splits is None else [self.splits[index] for index in chosen],
            content=None if content is None else lambda index: content(chosen[index]),
            aspects=None if self.aspects is None else self.aspects[torch.from_numpy(indices)],
        )  # fmt: skip

    def contents(self) -> Iterator[bytes]:
        """Yield the bytes of each image by which it is told from others."""
        for index in range(len(self.files)):
            yield self.images[index].numpy().tobytes() if self.content is None else self.content(index)

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


def read_listing(
    listing: Listing,
    wanted: ImageFormat,
    on_bad_image: Literal["error", "skip"] = "error",
    cache_folder: Path | None = None,
    in_memory_bytes: int = _IN_MEMORY_BYTES,
    complete: bool = True,
) -> ImageSet:
    """Read all images of a listing; a set of more than `in_memory_bytes` is mapped from `cache_folder`, else the cache.

    `wanted.white_level` is that of all images of more than 8 bits; None measures it. With `complete`, each class has images.

    Raises:
        InputError: as `read_images`, if skipping leaves a class without an image, or if nothing tells what is white.
    """
    root = listing.root
    cache = None
    channels, height, width = wanted.shape
    if len(listing.files) * math.prod(wanted.shape) > in_memory_bytes:
        digest = hashlib.sha256(os.fsencode(os.path.abspath(root))).hexdigest()[:12]
        cache = (cache_folder or default_cache()) / f"{root.name[:100]}-{digest}-{channels}x{height}x{width}.uint8"
    white, synthetic = _measured(listing.files, wanted.white_level)
    images, good, skipped = read_images(
        listing.files, replace(wanted, white_level=white), on_bad_image, cache, root=root
    )
    labels, names = [listing.labels[index] for index in good], listing.names
    left = set(labels)
    empty = [name for label, name in enumerate(listing.class_names) if label not in left]
    if empty and complete:
        raise InputError(f"{root}: no image of {', '.join(empty)} can be read; replace them, such as {skipped[0]}")
    return ImageSet(
        images=images,
        labels=torch.tensor(labels, dtype=torch.int64),
        class_names=list(listing.class_names),
        files=[names[index] for index in good],
        splits=None if listing.splits is None else [listing.splits[index] for index in good],
        skipped=skipped,
        white_level=white,
        synthetic=sum(synthetic[index] for index in good),
        content=lambda index: _bytes_of(listing.files[good[index]]),
    )


def _bytes_of(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: {error.strerror} while it was read; put it back") from None


def _measured(files: Sequence[Path], white_level: float | None) -> tuple[float | None, list[bool]]:
    """Return what is white in a set's images of more than 8 bits, and which images are generated."""
    opened = [index for index, path in enumerate(files) if path.suffix.lower() not in _PLAIN]
    synthetic = [False] * len(files)
    deep = []
    with progress_bar("opening images", len(opened)) as advance, pillow_hushed(), ThreadPoolExecutor() as pool:
        for index, (levels, generated) in zip(opened, pool.map(peek, [files[i] for i in opened]), strict=True):
            synthetic[index] = generated
            deep += [] if levels is None else [levels]
            advance(1)
    try:
        white = white_of_set(deep) if white_level is None else white_level
    except BadImage as error:
        raise InputError(f"{files[0].parent}: {error}") from None
    if deep and white is not None:
        log_white(deep, white, len(files))
    return white if deep else None, synthetic


def log_white(deep: Sequence[Levels], white: float, total: int) -> None:
    """Tell what is white in images of more than 8 bits, and whether that leaves few grey levels."""
    low, high = min(levels.low for levels in deep), max(levels.high for levels in deep)
    log.info(
        "%d of %d images have more than 8 bits, with values from %g to %g: %g is white (data.white_level)",
        len(deep), total, low, high, white,
    )  # fmt: skip
    usual = float(np.median([levels.high for levels in deep]))
    if usual * _DARK < white:
        log.warning(
            "in most images no value is above %g, and %g is white: they keep %d of 256 grey levels; say by data.white_level "
            "what is white", usual, white, int(255 * usual / white) + 1,
        )  # fmt: skip
