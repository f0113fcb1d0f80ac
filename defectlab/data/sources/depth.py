"""The depth of a set: what is black and white in all of its images, measured on a bounded sample of those to train on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import numpy.typing as npt

from defectlab.data.sources.files import FORMATS
from defectlab.data.sources.levels import Level, Levels, is_full_scale, levels_of, settle
from defectlab.data.sources.opening import Header, in_threads, peek_all
from defectlab.errors import InputError
from defectlab.utils.image_format import ImageFormat, PixelType
from defectlab.utils.text import listed

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

_PLAIN = f"{FORMATS['JPEG']} .mpo .bmp".split()  # these never have more than 8 bits, nor pages, nor say who made them
_MOST_OPENED = 20_000  # files whose headers are read
_MOST_MEASURED = 512  # images that are decoded for their levels
_NARROW = 0.1  # of the grey levels: a set that uses less is told


def headers_of(files: Sequence[Path]) -> list[Header]:
    """Return the header of each file; of more than 20,000 those of a random sample, and empty ones."""
    headers = [Header("uint8")] * len(files)
    opened = [index for index, path in enumerate(files) if path.suffix.lower() not in _PLAIN]
    if len(opened) > _MOST_OPENED:
        log.info("the headers of %d of %d files are read, drawn at random", _MOST_OPENED, len(opened))
        for index in opened:
            headers[index] = Header(None)
        opened = _sample(opened, _MOST_OPENED)
    for index, header in zip(opened, peek_all([files[index] for index in opened]), strict=True):
        headers[index] = header
    return headers


@dataclass(frozen=True)
class LevelRule:
    """Levels to be measured: what is asked for, see `settle`, and which images of an `ImageSet` are to train on; None for all."""

    white: Level | None = None
    black: Level | None = None
    train: Callable[[Any], Sequence[int]] | None = None

    def apply(
        self, place: Path, wanted: ImageFormat, kinds: Sequence[PixelType | None], planned: Any,
        measure: Callable[[int], Levels | None],
    ) -> ImageFormat:  # fmt: skip
        """Return `wanted` with the levels of the `ImageSet` planned at `place`, whose pixels are not read, told by a log line.

        Of each image `kinds` is the pixel type, where it is known, and `measure` gives the levels, None where it cannot be
        read.

        Raises:
            InputError: integers beside floats, 8 bits beside measured levels of more, or levels that are none.
        """
        names: list[str] = planned.files
        of = {kind: [i for i, own in enumerate(kinds) if own == kind] for kind in get_args(PixelType)}
        found = [f"{len(own)} {kind} ({listed([names[i] for i in own])})" for kind, own in of.items() if own]
        kind: PixelType = "floats" if of["floats"] else "integers" if of["integers"] else "uint8"
        if of["floats"] and of["integers"]:
            raise InputError(
                f"{place}: pixels are of {' and '.join(found)}: expected one kind in a set; convert the fewer"
            )
        if kind == "uint8" and self.white is None and self.black is None:
            return wanted
        if kind == "uint8" and isinstance(self.white, int | float) and self.white > 255:
            log.warning(
                "%s: data.white_level is %g, and all images have 8 bits: they stay as they are", place, self.white
            )
            return wanted
        chosen = set(range(len(names)) if self.train is None else self.train(planned))
        sample = _sample([i for i in of[kind] if i in chosen] or of[kind], _MOST_MEASURED)
        measured = [levels for levels in in_threads("measuring levels", measure, sample) if levels is not None]
        if not measured:  # it is told when all are read
            return wanted
        try:
            bright, dark = settle(measured, self.white, self.black)
        except InputError as error:
            raise InputError(f"{place}: {error}") from None
        if bright is None:
            return wanted
        log.info(
            "%s: %s with values from %g to %g in %d training images: %g is black and %g white (data.black_level, "
            "data.white_level)", place, found[-1], min(x.least for x in measured), max(x.most for x in measured),
            len(measured), dark, bright,
        )  # fmt: skip
        if kind != "uint8" and of["uint8"]:
            if not is_full_scale(kind, bright, dark):
                raise InputError(
                    f"{place}: pixels are of {' and '.join(found)}, of which {dark:g} is black and {bright:g} white: nothing says "
                    "what the 8 bits are; convert them, or say by data.white_level what their 255 stands for, such as 4095"
                )
            log.warning(
                "%s: pixels are of %s: 255 of 8 bits is taken for %g of the others", place, " and ".join(found), bright
            )
        return replace(wanted, white_level=bright, black_level=dark, pixel_type=kind)


MEASURED = LevelRule()


def tell_pages(place: Path, files: Sequence[Path], headers: Sequence[Header], page: int | str) -> None:
    """Warn of files with several pages, of which one is taken."""
    several = [path.name for path, header in zip(files, headers, strict=True) if header.pages > 1]
    if several and page != "all":
        log.warning(
            "%s: %d files hold several images (%s): page %s is taken, counted from 0; data.page: all takes each",
            place, len(several), listed(several), page,
        )  # fmt: skip


def tell_beyond(beyond: Sequence[object], wanted: ImageFormat) -> None:
    """Warn of images with pixels that were cut off at black and white."""
    if beyond:
        log.warning(
            "%d images have values beyond %s to %s, which are cut off (%s)", len(beyond), wanted.black_level,
            wanted.white_level or "white", listed(beyond),
        )  # fmt: skip


def tell_narrow(images: Tensor, train: npt.NDArray[np.int64], place: str) -> None:
    """Warn where 256 of the training images, uint8, use less than a tenth of the grey levels, hot pixels left out."""
    rows = train[:: len(train) // 256 + 1] if len(train) else range(min(256, len(images)))
    found = [levels for row in rows if (levels := levels_of(images[int(row)].numpy())) is not None]
    low, high = min(levels.low for levels in found), max(levels.high for levels in found)
    if 0 < high - low < _NARROW * 255:
        log.warning(
            "%s: the images use %d of 256 grey levels, from %d to %d: let data.white_level: auto and data.black_level: auto "
            "measure what is white and black", place, high - low + 1, low, high,
        )  # fmt: skip


def _sample(indices: list[int], most: int) -> list[int]:
    """Return at most so many, drawn at random, always the same."""
    if len(indices) <= most:
        return indices
    return sorted(np.random.default_rng(0).choice(indices, most, replace=False).tolist())
