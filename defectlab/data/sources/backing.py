"""Where the pixels of a set live: in memory, in a mapped file, or nowhere, decoded anew for every batch."""

from __future__ import annotations

import logging
import shutil
from math import prod
from pathlib import Path
from typing import Literal, get_args

from defectlab.data.sources.cache import MAX_BYTES
from defectlab.errors import InputError
from defectlab.utils.memory import bytes_text, free_addresses, free_memory

log = logging.getLogger(__name__)

Backing = Literal["auto", "memory", "mapped", "streamed"]
IN_MEMORY_BYTES = 4 * 2**30  # a larger set is mapped, so that several processes share its pages
_TOLD_BYTES = 2**30  # where a smaller set lies in memory, it is not worth a line
_SPARE_BYTES = 2**30  # of disk and addresses, for everything else


def check_backing(value: str) -> None:
    """Raise InputError for another word than those of `Backing`."""
    if value not in get_args(Backing):
        raise InputError(f"data.backing is {value!r}: expected {', '.join(get_args(Backing))}")


def choose_backing(asked: Backing, place: object, count: int, shape: tuple[int, ...], cache: Path) -> Backing:
    """Choose by size: memory up to 4 GiB and half of what is free, else mapped if there is room, else streamed.

    There are `count` images of `shape` bytes at `place`; `cache` is the mapped file, which may be there already. Anything
    but `auto` is kept, or refused where it cannot be.

    Raises:
        InputError: what is asked for needs more than there is; nothing is read yet.
    """
    need, free, addresses = count * prod(shape), free_memory(), free_addresses()
    folder = next(path for path in cache.absolute().parents if path.is_dir())
    there = cache.is_file() and cache.stat().st_size == need
    disk = need if there else shutil.disk_usage(folder).free
    room = there or (need <= MAX_BYTES and need + _SPARE_BYTES <= disk)
    reach = addresses is None or need + _SPARE_BYTES <= addresses
    chosen = asked
    if asked == "auto":
        small = need <= IN_MEMORY_BYTES and (free is None or need <= free / 2)
        chosen = "memory" if small else "mapped" if room and reach else "streamed"
    text = f"{place}: {count:,} images of {' × '.join(map(str, shape))} take {bytes_text(need)}"
    if asked == "memory" and free is not None and need > free:
        raise InputError(
            f"{text}, {bytes_text(free)} of memory are free: give data.backing auto, or a smaller data.image_size"
        )
    if asked == "mapped" and not (room and reach):
        limit = f"{bytes_text(min(disk, MAX_BYTES))} may be used in {folder}"
        limit = limit if reach else f"{bytes_text(addresses or 0)} may be mapped by ulimit -v"
        raise InputError(f"{text}, {limit}: give data.backing streamed, make room, or take a smaller data.image_size")
    if chosen != "memory" or need > _TOLD_BYTES:
        where = {
            "memory": "held in memory", "mapped": f"mapped from {cache}",
            "streamed": "decoded anew for every batch, in threads",
        }  # fmt: skip
        log.info("%s: %s (data.backing)", text, where[chosen])
    return chosen


def check_batch(image_size: object, batch_size: int, values: int) -> None:
    """Raise InputError if a batch of so many images of so many values, as floats and augmented, exceeds the memory.

    Or if `ulimit -v` leaves hardly any: threads and libraries would fail at any moment.
    """
    free, addresses, need = free_memory(), free_addresses(), 2 * 4 * batch_size * values
    if addresses is not None and addresses < _SPARE_BYTES:
        raise InputError(
            f"ulimit -v leaves {bytes_text(addresses)}: expected {bytes_text(_SPARE_BYTES)} beside what torch has taken; raise "
            "it, or limit the memory alone, by a cgroup"
        )
    if free is not None and need > free:
        raise InputError(
            f"data.image_size is {image_size}: a batch of {batch_size} such images takes {bytes_text(need)}, "
            f"{bytes_text(free)} of memory are free; lower data.image_size or data.batch_size"
        )
