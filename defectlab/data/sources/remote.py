"""Images in an object store or behind a web address, mirrored into the cache."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from defectlab.data.sources.archive import ARCHIVES
from defectlab.data.sources.cache import alone, default_cache, read_note, write_note
from defectlab.data.sources.files import SUFFIXES
from defectlab.data.sources.tables import TABLE_SUFFIXES
from defectlab.errors import InputError
from defectlab.utils.files import atomic
from defectlab.utils.memory import bytes_text
from defectlab.utils.progress import progress_bar
from defectlab.utils.text import first_line

_WANTED = (*SUFFIXES, *TABLE_SUFFIXES, *ARCHIVES, ".json", ".xml")
_STAMPS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created")  # of one store or another
_AT_ONCE = 8


def mirror(address: str, cache: Path | None = None) -> Path:
    """Return a folder in `cache` with the images, tables and archives below an address; or the one file that it names.

    What is there already is fetched again where its size, time or tag has changed; what is gone there is removed.

    Raises:
        InputError: a store whose package is not installed or that does not answer, nothing at the address, names that lead
            elsewhere, or a disk without room.
    """
    store, top, found = _listed(address)
    single = set(found) == {top}
    names = {_below(address, name, top): name for name in found}
    told = {name: _facts(found[full]) for name, full in names.items()}
    target = (
        cache or default_cache()
    ) / f"{PurePosixPath(top).stem[:100]}-{hashlib.sha256(address.encode()).hexdigest()[:16]}"
    with alone(target):
        known = read_note(target).get("told") or {}
        new = [name for name in told if known.get(name) != told[name] or not (target / name).is_file()]
        room, size = sum(told[name][0] for name in new), sum(facts[0] for facts in told.values())
        try:
            target.mkdir(parents=True, exist_ok=True)
            if (free := shutil.disk_usage(target).free) < room:
                raise InputError(
                    f"{address}: {bytes_text(room)} are to be fetched, {bytes_text(free)} are free; make room"
                )

            def fetch(name: str) -> int:
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                with atomic(target / name) as draft:
                    store.get_file(names[name], str(draft))
                return int(told[name][0])

            with (
                progress_bar(f"fetching {address}", room, in_bytes=True) as advance,
                ThreadPoolExecutor(_AT_ONCE) as pool,
            ):
                for fetched in pool.map(fetch, new):
                    advance(fetched)
            for gone in known.keys() - told.keys():
                (target / gone).unlink(missing_ok=True)
            write_note(target, {"address": address, "told": told}, size)
        except InputError:
            raise
        except Exception as error:  # of any of the stores' packages
            raise InputError(
                f"{address}: {first_line(error)[:200]} while it was fetched; the same command goes on"
            ) from None
    return target / next(iter(told)) if single else target


def _listed(address: str) -> tuple[Any, str, Mapping[str, Mapping[str, Any]]]:
    """Return the file system, the path of the address in it, and what is said of each wanted file."""
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise InputError(f"{address}: reading from there needs fsspec: pip install 'defectlab[remote]'") from None
    try:
        store, top = url_to_fs(address)
        own = store.info(top)  # it tells a store that does not answer
        single = own["type"] == "file" and top.lower().endswith(_WANTED)
        found = {top: own} if single else store.find(top, detail=True)
    except Exception as error:  # the package of the store is missing, or it does not answer
        raise InputError(
            f"{address} cannot be read ({first_line(error)[:200]}); expected an object store or a web address"
        ) from None
    wanted = {name: info for name, info in found.items() if name.lower().endswith(_WANTED)}
    if not wanted:
        raise InputError(f"{address}: no image, table or archive there; expected those of a labelled set")
    return store, top, wanted


def _below(address: str, name: str, top: str) -> str:
    """Return the name of a file below the address."""
    below = PurePosixPath(name).name if name == top else os.path.relpath(name, top)
    if below.startswith(("..", "/")) or "\\" in below or "\0" in below:
        raise InputError(f"{address}: {name} leads outside of it; expected files below, do not trust it")
    return below


def _facts(info: Mapping[str, Any]) -> list[Any]:
    return [int(info.get("size") or 0), *(str(info[stamp]) for stamp in _STAMPS if info.get(stamp))]
