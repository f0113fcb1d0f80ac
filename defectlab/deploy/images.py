"""The images that a run and its export are both asked about."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from defectlab.data.datamodules.loaders import Part
from defectlab.data.sources.reading import read_images
from defectlab.deploy.certificate import Asked
from defectlab.engine.restore import Restored, restore
from defectlab.errors import InputError
from defectlab.inference.images import list_files
from defectlab.runs import RunFolder
from defectlab.utils.image_format import ImageFormat, images_at_once

_MOST = 64  # images at a time
_CALIBRATION = 256  # training images that ranges of activations are taken from


class _Row(NamedTuple):
    part: Part
    place: int


@dataclass(frozen=True, kw_only=True)
class AskedImages(Asked):
    """N images in the formats of an export.

    Args:
        formats: of each tensor of a block.
        block: returns the images of some rows, ascending, as uint8 (n, C, H, W), a tensor for each format.
        training: the same of rows of the training part.
        trained: how many training images there are.
        content: returns the bytes of the file of a row, None where it has none.
    """

    formats: Sequence[ImageFormat]
    block: Callable[[Sequence[int]], list[Tensor]]
    training: Callable[[Sequence[int]], list[Tensor]]
    trained: int
    content: Callable[[int], bytes | None]

    def blocks(self) -> Iterator[list[Tensor]]:
        """Return all images, a block after the other."""
        yield from map(self.block, self._ranges(len(self.names)))

    def training_blocks(self) -> Iterator[list[Tensor]]:
        """Return up to 256 training images, spread over all.

        Raises:
            InputError: there are none.
        """
        if not self.trained:
            raise InputError("int8 takes its ranges from a run's training images: give a run folder, and no images")
        rows = np.unique(np.linspace(0, self.trained - 1, _CALIBRATION).round().astype(int)).tolist()
        for part in self._ranges(len(rows)):
            yield self.training([rows[i] for i in part])

    def _ranges(self, n: int) -> Iterator[range]:
        size = min(images_at_once(wanted.image_size, _MOST) for wanted in self.formats)
        return (range(start, min(start + size, n)) for start in range(0, n, size))


def images_of_runs(
    runs: Sequence[RunFolder], formats: Sequence[ImageFormat], overrides: Sequence[str] = ()
) -> AskedImages:
    """Return the validation and test images of a run, or of runs on the same images, such as an ensemble's members."""
    by_format: dict[ImageFormat, Restored] = {}
    for run in runs:
        restored = restore(run, overrides)
        by_format.setdefault(restored.card.image_format, restored)
    data = [by_format[wanted].data for wanted in formats]
    parts: list[Part] = [part for part in ("val", "test") if len(getattr(data[0].parts, part))]
    for other in data[1:]:
        if any(other.files(part) != data[0].files(part) for part in parts):
            raise InputError(
                f"{runs[0].path} and others of the ensemble have other validation or test images: export one"
            )
    names = [name for part in parts for name in data[0].files(part)]
    rows = [_Row(part, place) for part in parts for place in range(len(getattr(data[0].parts, part)))]

    def pixels(part: Part, indices: Sequence[int]) -> list[Tensor]:
        found = (one.pixels(part, indices) for one in data)
        return [each.expand(-1, wanted.channels, -1, -1) for each, wanted in zip(found, formats, strict=True)]

    def block(chosen: Sequence[int]) -> list[Tensor]:
        asked = [rows[i] for i in chosen]
        present = [part for part in parts if any(row.part == part for row in asked)]
        by_part = [pixels(part, [row.place for row in asked if row.part == part]) for part in present]
        return [torch.cat(each) for each in zip(*by_part, strict=True)]  # the order of rows is that of parts

    def content(row: int) -> bytes | None:
        part, place = rows[row]
        found, file = data[0].data.content, Path(data[0].location) / names[row]
        if file.is_file():
            return file.read_bytes()
        return None if found is None else found(int(getattr(data[0].parts, part)[place]))

    return AskedImages(
        names=names, parts=[row.part for row in rows],
        labels=np.concatenate([data[0].labels(part).numpy() for part in parts]), formats=formats, block=block,
        training=lambda indices: pixels("train", indices), trained=len(data[0].parts.train), content=content,
    )  # fmt: skip


def images_of_files(
    images: str | PathLike[str] | Sequence[str | PathLike[str]], formats: Sequence[ImageFormat]
) -> AskedImages:
    """Return image files without labels; InputError for one that cannot be read."""
    files = list_files(images, formats[0].page)

    def block(chosen: Sequence[int]) -> list[Tensor]:
        return [read_images([files[i] for i in chosen], wanted)[0] for wanted in formats]

    def content(row: int) -> bytes | None:
        return files[row].read_bytes() if files[row].is_file() else None

    def training(chosen: Sequence[int]) -> list[Tensor]:
        raise AssertionError(f"files have no training part of {len(chosen)} images")

    return AskedImages(
        names=[str(file) for file in files], parts=["given"] * len(files), labels=None, formats=formats, block=block,
        training=training, trained=0, content=content,
    )  # fmt: skip
