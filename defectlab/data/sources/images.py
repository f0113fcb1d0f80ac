"""A labelled set of images, and how it is read from the files of a listing."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from defectlab.data.sources.cache import default_cache
from defectlab.data.sources.decode import measure
from defectlab.data.sources.depth import headers_of, tell_pages, with_levels
from defectlab.data.sources.files import page_of
from defectlab.data.sources.layouts import Listing
from defectlab.data.sources.levels import Level, Levels
from defectlab.data.sources.opening import opened
from defectlab.data.sources.reading import Skipped, read_images
from defectlab.data.sources.records import ImageRecords
from defectlab.errors import InputError
from defectlab.utils.image_format import ImageFormat, PixelType

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
        reading: how the files were read, see `ImageFormat.reading`; empty for what was not in files.
        synthetic: how many of the images are generated.
        content: the bytes by which image `index` is told from another: of its file, or as its source holds it. None
            takes those of `images`.
        aspects: width by height of each image as the camera saw it (N,) where a stretch has changed that; else None.
        records: what a table says of each image beside its class.
    """

    images: Tensor
    labels: Tensor
    class_names: list[str]
    files: list[str]
    splits: list[str] | None = None
    skipped: Sequence[Skipped] = ()
    reading: Mapping[str, Any] = field(default_factory=dict)
    synthetic: int = 0
    content: Callable[[int], bytes] | None = None
    aspects: Tensor | None = None
    records: ImageRecords = field(default_factory=ImageRecords)

    def select(self, indices: npt.NDArray[np.int64]) -> ImageSet:
        """Return the images at `indices` (n,), in that order; pixels of a mapped file are copied to memory."""
        chosen, content = indices.tolist(), self.content
        return replace(
            self, images=self.images[torch.from_numpy(indices)], labels=self.labels[torch.from_numpy(indices)],
            files=[self.files[index] for index in chosen],
            splits=None if self.splits is None else [self.splits[index] for index in chosen],
            content=None if content is None else lambda index: content(chosen[index]),
            aspects=None if self.aspects is None else self.aspects[torch.from_numpy(indices)],
            records=self.records.select(chosen),
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
        records = self.records.with_classes([self.class_names.index(name) for name in class_names])
        return replace(self, labels=order[self.labels], class_names=list(class_names), records=records)


@dataclass(frozen=True)
class LevelRule:
    """Levels to be measured: what is asked for, see `settle`, and which images of a set are to train on; None for all."""

    white: Level | None = None
    black: Level | None = None
    train: Callable[[ImageSet], Sequence[int]] | None = None

    def apply(
        self, place: Path, wanted: ImageFormat, kinds: Sequence[PixelType | None], planned: ImageSet,
        measure: Callable[[int], Levels | None],
    ) -> ImageFormat:  # fmt: skip
        """Return `wanted` with the levels of a set whose pixels are not read yet, see `with_levels`."""

        def train() -> Sequence[int]:
            return range(len(planned.files)) if self.train is None else self.train(planned)

        return with_levels(place, wanted, self.white, self.black, kinds, planned.files, train, measure)


MEASURED = LevelRule()


def read_listing(
    listing: Listing,
    wanted: ImageFormat,
    on_bad_image: Literal["error", "skip"] = "error",
    cache_folder: Path | None = None,
    in_memory_bytes: int = _IN_MEMORY_BYTES,
    complete: bool = True,
    rule: LevelRule | None = MEASURED,
) -> ImageSet:
    """Read all images of a listing; a set of more than `in_memory_bytes` is mapped from `cache_folder`, else the cache.

    Levels are measured as `rule` says; None takes those of `wanted`. With `complete`, each class has images.

    Raises:
        InputError: as `read_images`, if skipping leaves a class without an image, or if nothing tells what is white.
    """
    root = listing.root
    cache = None
    channels, height, width = wanted.shape
    if len(listing.files) * math.prod(wanted.shape) > in_memory_bytes:
        digest = hashlib.sha256(os.fsencode(os.path.abspath(root))).hexdigest()[:12]
        cache = (cache_folder or default_cache()) / f"{root.name[:100]}-{digest}-{channels}x{height}x{width}.uint8"
    headers, names = headers_of(listing.files), listing.names
    tell_pages(root, listing.files, headers, wanted.page)
    if rule is not None:
        planned = ImageSet(
            images=torch.empty(0), labels=torch.tensor(listing.labels), class_names=list(listing.class_names), files=names,
            splits=listing.splits,
        )  # fmt: skip
        kinds, own = [header.pixel_type for header in headers], wanted
        wanted = rule.apply(root, own, kinds, planned, lambda index: measure(listing.files[index], own))
    images, good, skipped = read_images(listing.files, wanted, on_bad_image, cache, root=root)
    labels = [listing.labels[index] for index in good]
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
        reading=wanted.reading,
        synthetic=sum(headers[index].generated for index in good),
        content=lambda index: _bytes_of(listing.files[good[index]]),
        records=listing.records.select(good),
    )


def _bytes_of(file: Path) -> bytes:
    try:
        if page_of(file)[1] is None:
            return file.read_bytes()
        with opened(file) as page:
            return np.asarray(page).tobytes()
    except OSError as error:
        raise InputError(f"{file}: {error.strerror} while it was read; put it back") from None
