"""A labelled set of images, and how it is read from the files of a listing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from defectlab.data.pipeline.statistics import channel_statistics, flat_images, mean_and_sd
from defectlab.data.sources.backing import IN_MEMORY_BYTES, Backing, choose_backing
from defectlab.data.sources.cache import default_cache
from defectlab.data.sources.decode import decode, measure
from defectlab.data.sources.depth import MEASURED, LevelRule, headers_of, tell_pages
from defectlab.data.sources.index import ImageIndex, build_index, open_stream
from defectlab.data.sources.layouts import Listing
from defectlab.data.sources.lazy import select_images
from defectlab.data.sources.levels import BadImage
from defectlab.data.sources.opening import bytes_of, pillow_hushed
from defectlab.data.sources.reading import ColourFound, read_images
from defectlab.data.sources.records import ImageRecords, rarest_class
from defectlab.data.sources.skipped import Skipped
from defectlab.errors import InputError
from defectlab.metrics.decisions import NO_CLASS, label_texts
from defectlab.utils.image_format import ImageFormat

_SAMPLE = 128  # images by which a set is taken for grey, until all are read


@dataclass(kw_only=True)
class ImageSet:
    """A labelled set of N images of one size.

    Args:
        images: (N, C, H, W) uint8; of a streamed set `LazyImages`, which are decoded when they are asked for.
        labels: (N,) int64, indices into `class_names`; of a multi-label set (N, C) float32, 1 for each class of an image.
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
        index: what one pass over the files has found, of a set that is mapped or streamed.
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
    index: ImageIndex | None = None

    @property
    def strata_names(self) -> list[str]:
        """Names of the `strata`: the classes, and of a multi-label set that of having none."""
        return [*self.class_names, *([NO_CLASS] if self.labels.ndim == 2 else [])]

    @property
    def label_texts(self) -> list[str]:
        """Class of each image, or its classes joined by `|`."""
        return label_texts(self.labels.numpy(), self.class_names)

    def class_counts(self, indices: npt.NDArray[np.int64]) -> list[int]:
        """Return how many of the images at `indices` are of each class."""
        labels = self.labels.numpy()[indices]
        counts = labels.sum(axis=0) if labels.ndim == 2 else np.bincount(labels, minlength=len(self.class_names))
        return [int(count) for count in counts]

    @property
    def strata(self) -> npt.NDArray[np.int64]:
        """Index (N,) by which a split keeps proportions: the label, of several the rarest class, C for none."""
        if self.labels.ndim == 1:
            strata: npt.NDArray[np.int64] = self.labels.numpy()
            return strata
        return rarest_class(self.labels.numpy().astype(bool))

    def select(self, indices: npt.NDArray[np.int64]) -> ImageSet:
        """Return the images at `indices` (n,), in that order; pixels of more than 4 GiB are not copied."""
        chosen, content = indices.tolist(), self.content
        return replace(
            self, images=select_images(self.images, indices, IN_MEMORY_BYTES), labels=self.labels[torch.from_numpy(indices)],
            files=[self.files[index] for index in chosen],
            splits=None if self.splits is None else [self.splits[index] for index in chosen],
            content=None if content is None else lambda index: content(chosen[index]),
            aspects=None if self.aspects is None else self.aspects[torch.from_numpy(indices)],
            records=self.records.select(chosen),
            index=None if self.index is None else self.index.select(indices),
        )  # fmt: skip

    def statistics(self, indices: npt.NDArray[np.int64]) -> tuple[list[float], list[float]]:
        """Return mean and sd of each channel, on [0, 1], of the images at `indices`."""
        if self.index is None:
            return channel_statistics(self.images, torch.from_numpy(indices))
        totals, squares = (part[indices].sum(axis=0).tolist() for part in (self.index.sums, self.index.squares))
        return mean_and_sd(totals, squares, len(indices) * prod(self.images.shape[2:]))

    def flat(self) -> list[int]:
        """Return which images have one value in each channel."""
        if self.index is not None:
            spreads = self.index.squares * prod(self.images.shape[2:]) - self.index.sums**2
            return [int(row) for row in np.flatnonzero((spreads == 0).all(axis=1))]
        return flat_images(self.images)

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
        columns = [self.class_names.index(name) for name in class_names]
        labels = order[self.labels] if self.labels.ndim == 1 else self.labels[:, columns]
        records = self.records.with_classes(columns)
        return replace(self, labels=labels, class_names=list(class_names), records=records)


def labels_of(listing: Listing, rows: Sequence[int]) -> Tensor:
    """Return the labels of a listing's files at `rows`, as `ImageSet` has them."""
    if listing.records.multilabel and listing.records.targets is not None:
        return torch.from_numpy(listing.records.targets)[torch.tensor(rows, dtype=torch.int64)]
    return torch.tensor([listing.labels[row] for row in rows], dtype=torch.int64)


def read_listing(
    listing: Listing,
    wanted: ImageFormat,
    on_bad_image: Literal["error", "skip"] = "error",
    cache_folder: Path | None = None,
    complete: bool = True,
    rule: LevelRule | None = MEASURED,
    backing: Backing = "auto",
) -> ImageSet:
    """Read all images of a listing, or prepare to; what is not held in memory has files in `cache_folder`, else the cache.

    Levels are measured as `rule` says; None takes those of `wanted`. With `complete`, each class has images. Images of three
    channels that are all equal are kept with one. For `backing` see `choose_backing`.

    Raises:
        InputError: as `read_images` and `choose_backing`, if skipping leaves a class without an image, or if nothing tells what is white.
    """
    root, files, names = listing.root, listing.files, listing.names
    stem = f"{root.name[:100]}-{hashlib.sha256(os.fsencode(os.path.abspath(root))).hexdigest()[:12]}"
    cache = (cache_folder or default_cache()) / f"{stem}-{'x'.join(map(str, wanted.shape))}.uint8"
    place = cache.with_suffix(".index")
    chosen = choose_backing(backing, root, len(files), wanted.shape, cache)
    headers = headers_of(listing.files)
    tell_pages(root, listing.files, headers, wanted.page)
    if rule is not None:
        planned = ImageSet(
            images=torch.empty(0), labels=labels_of(listing, range(len(files))), class_names=list(listing.class_names),
            files=names, splits=listing.splits,
        )  # fmt: skip
        kinds, own = [header.pixel_type for header in headers], wanted
        wanted = rule.apply(root, own, kinds, planned, lambda index: measure(listing.files[index], own))
    index: ImageIndex | None = None
    if chosen == "streamed":
        images, good, skipped, index = open_stream(files, names, wanted, on_bad_image == "error", place)
    else:
        images, good, skipped = _held(files, root, wanted, on_bad_image, cache if chosen == "mapped" else None)
        if chosen == "mapped":
            kept, pixels = ([files[row] for row in good], [names[row] for row in good]), images.numpy()
            index = build_index(*kept, place, wanted, images.shape[1], lambda row: pixels[row], strict=True)
    labels = labels_of(listing, good)
    data = ImageSet(
        images=images,
        labels=labels,
        class_names=list(listing.class_names),
        files=[names[index] for index in good],
        splits=None if listing.splits is None else [listing.splits[index] for index in good],
        skipped=skipped,
        reading=wanted.reading,
        synthetic=sum(headers[index].generated for index in good),
        content=lambda index: bytes_of(listing.files[good[index]]),
        records=listing.records.select(good)
        if labels.ndim == 1
        else replace(listing.records.select(good), targets=None),
        index=index,
    )
    counts = data.class_counts(np.arange(len(good)))
    empty = [name for name, count in zip(data.class_names, counts, strict=True) if not count]
    if empty and complete:
        raise InputError(f"{root}: no image of {', '.join(empty)} can be read; replace them, such as {skipped[0]}")
    return data


def _held(
    files: Sequence[Path], root: Path, wanted: ImageFormat, on_bad_image: Literal["error", "skip"], cache: Path | None
) -> tuple[Tensor, list[int], list[Skipped]]:
    """Read the images to memory or to the mapped file, with one channel if all channels are equal.

    A sample tells whether that may be so; an image in colour that it has missed costs a second reading, once.
    """
    if wanted.channels == 3 and not (cache is not None and cache.is_file()) and _looks_grey(files, wanted):
        grey = None if cache is None else cache.with_stem(f"{cache.stem}-grey")
        with suppress(ColourFound):
            return read_images(files, wanted, on_bad_image, grey, root=root, grey=True)
    return read_images(files, wanted, on_bad_image, cache, root=root)


def _looks_grey(files: Sequence[Path], wanted: ImageFormat) -> bool:
    """Return whether every eighth image at most, and 128 in all, has channels that are all equal."""
    step = max(8, -(-len(files) // _SAMPLE))
    with pillow_hushed():
        for file in files[::step]:
            with suppress(BadImage):  # it is told when all are read
                pixels = decode(file, wanted)
                if (pixels[1:] != pixels[:1]).any():
                    return False
    return True
