"""The depth of a set: what is black and white in all of its images, measured on a bounded sample of those to train on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from defectlab.data.sources.files import FORMATS
from defectlab.data.sources.levels import Level, Levels, is_full_scale, settle
from defectlab.data.sources.opening import Header, peek, pillow_hushed
from defectlab.errors import InputError
from defectlab.utils.image_format import ImageFormat, PixelType
from defectlab.utils.progress import progress_bar

log = logging.getLogger(__name__)

_PLAIN = f"{FORMATS['JPEG']} .mpo .bmp".split()  # these never have more than 8 bits, nor pages, nor say who made them
_MOST_OPENED = 20_000  # files whose headers are read
_MOST_MEASURED = 512  # images that are decoded for their levels


@dataclass(frozen=True)
class LevelRule:
    """What `data.white_level` and `data.black_level` ask for, see `settle`, and the indices of the images to measure.

    `train` of None are all.
    """

    white: Level | None = None
    black: Level | None = None
    train: Callable[[], Sequence[int]] | None = None


MEASURED = LevelRule()


def headers_of(files: Sequence[Path]) -> list[Header]:
    """Return the header of each file; of a random 20,000 of more, and of formats that never have more than 8 bits, a plain one."""
    headers = [Header("uint8")] * len(files)
    opened = [index for index, path in enumerate(files) if path.suffix.lower() not in _PLAIN]
    if len(opened) > _MOST_OPENED:
        log.info("headers of %d of %d files are read, drawn at random", _MOST_OPENED, len(opened))
        for index in opened:
            headers[index] = Header(None)
        opened = _sample(opened, _MOST_OPENED)
    with progress_bar("opening images", len(opened)) as advance, pillow_hushed(), ThreadPoolExecutor() as pool:
        for index, header in zip(opened, pool.map(peek, [files[i] for i in opened]), strict=True):
            headers[index] = header
            advance(1)
    return headers


def with_levels(
    wanted: ImageFormat,
    rule: LevelRule,
    kinds: Sequence[PixelType | None],
    measure: Callable[[int], Levels | None],
    name: Callable[[int], str],
) -> ImageFormat:
    """Return `wanted` with the levels of a set, told by a log line.

    Args:
        wanted: the format, without levels.
        rule: where the levels come from.
        kinds: of each image; None where it is not known.
        measure: the levels of the image at an index; None where it cannot be read.
        name: of the image at an index, for messages.

    Raises:
        InputError: integers beside floats, 8 bits beside measured levels of more, or levels that are none.
    """
    of = {kind: [i for i, own in enumerate(kinds) if own == kind] for kind in ("uint8", "integers", "floats")}
    kind: PixelType = "floats" if of["floats"] else "integers" if of["integers"] else "uint8"
    if of["integers"] and of["floats"]:
        fewer = min(of["integers"], of["floats"], key=len)
        raise InputError(
            f"{len(of['integers'])} images hold integers of more than 8 bits and {len(of['floats'])} floats, the fewer are "
            f"{_first(fewer, name)}: expected one kind in a set; convert them"
        )
    if kind == "uint8" and isinstance(rule.white, int | float) and rule.white > 255:
        log.warning("data.white_level is %g, and all images have 8 bits: they stay as they are", rule.white)
        return wanted
    if kind == "uint8" and rule.white is None and rule.black is None:
        return wanted
    train = set(range(len(kinds)) if rule.train is None else rule.train())
    chosen = [i for i in of[kind] if i in train] or of[kind]
    chosen = _sample(chosen, _MOST_MEASURED)
    with progress_bar("measuring levels", len(chosen)) as advance, pillow_hushed(), ThreadPoolExecutor() as pool:
        found = []
        for levels in pool.map(measure, chosen):
            found += [] if levels is None else [levels]
            advance(1)
    if not found:  # it is told when all are read
        return wanted
    white, black = settle(found, rule.white, rule.black)
    if white is None:
        return wanted
    if kind != "uint8" and of["uint8"]:
        if not is_full_scale(kind, white, black):
            raise InputError(
                f"{len(of['uint8'])} of {len(kinds)} images have 8 bits ({_first(of['uint8'], name)}), the others {kind} of "
                f"which {black:g} is black and {white:g} white: nothing says what the 8 bits are; convert them, or say by "
                "data.white_level what their 255 stands for, such as 4095"
            )
        log.warning(
            "%d of %d images have 8 bits (%s): their 255 is taken for the others' %g (data.white_level)",
            len(of["uint8"]), len(kinds), _first(of["uint8"], name), white,
        )  # fmt: skip
    log.info(
        "%d of %d images are %s, of %g to %g in %d training images: %g is black and %g white (data.black_level, "
        "data.white_level)", len(of[kind]), len(kinds), kind, min(one.least for one in found),
        max(one.most for one in found), len(found), black, white,
    )  # fmt: skip
    return replace(wanted, white_level=white, black_level=black, pixel_type=kind)


def tell_pages(files: Sequence[Path], headers: Sequence[Header], page: int | str, root: Path) -> None:
    """Warn of files with several pages, of which one is taken."""
    several = [index for index, header in enumerate(headers) if header.pages > 1]
    if several and page != "all":
        log.warning(
            "%s: %d files hold several images (%s): page %s is taken, counted from 0; data.page: all takes each",
            root, len(several), _first(several, lambda index: files[index].name), page,
        )  # fmt: skip


def tell_beyond(beyond: Sequence[object], wanted: ImageFormat) -> None:
    """Warn of images with pixels that were cut off at black and white."""
    if beyond:
        log.warning(
            "%d images are beyond what the levels allow, %g to %s: their pixels are cut off (%s)",
            len(beyond), wanted.black_level, wanted.white_level, ", ".join(map(str, beyond[:3])),
        )  # fmt: skip


def _sample(indices: list[int], most: int) -> list[int]:
    """Return at most so many, drawn at random, always the same."""
    if len(indices) <= most:
        return indices
    return sorted(np.random.default_rng(0).choice(indices, most, replace=False).tolist())


def _first(indices: Sequence[int], name: Callable[[int], str]) -> str:
    return ", ".join([name(index) for index in indices[:3]] + ["…"] * (len(indices) > 3))
