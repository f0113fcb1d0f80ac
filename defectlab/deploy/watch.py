"""Predict the images of a folder as they arrive, and keep a row of each in a CSV file."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from defectlab.data.sources.files import image_files, page_of
from defectlab.data.sources.opening import expand_pages
from defectlab.deploy.runtime import Runtime
from defectlab.errors import InputError
from defectlab.inference.predictions import Predictions
from defectlab.inference.promises import Promises
from defectlab.utils.files import temporary_folder
from defectlab.utils.text import read_csv

_PAUSE = 0.2  # seconds between two looks
_SETTLED = 2.0  # seconds without a change, after which a file is whole at first sight: one that was renamed in
_AT_ONCE = 64
_State = tuple[int, int]  # size and time of the last change


def watch(
    runtime: Runtime, folder: Path, promises: Promises, keep: Callable[[Predictions], None], done: set[str]
) -> int:
    """Predict images in and below a folder as they arrive, until it is interrupted; return how many.

    A file is whole when size and time are the same at two looks. One that cannot be read is told, and tried again when it has
    changed.

    Args:
        runtime: network.
        folder: that is looked at.
        promises: what is decided.
        keep: gets the predictions of what has arrived.
        done: names of files that are passed over.

    Raises:
        InputError: the folder is not there; other errors are told, and the work is tried again.
    """
    before: dict[Path, _State] = {}
    tried: dict[Path, _State] = {}
    count, told = 0, ""
    try:
        while True:
            began = time.monotonic()
            try:
                now = {
                    path: _state(path) for path in image_files(folder, tell=False) if os.path.abspath(path) not in done
                }
                old = (time.time() - _SETTLED) * 1e9
                ready = [p for p, s in now.items() if s != tried.get(p) and (s == before.get(p) or 0 < s[1] < old)]
                for block in (ready[i : i + _AT_ONCE] for i in range(0, len(ready), _AT_ONCE)):
                    pages = runtime.card.formats[0].page == "all"
                    found = runtime.predict([page for _, page in expand_pages(block)] if pages else block)
                    for skipped in found.skipped:
                        print(f"left out {skipped}", file=sys.stderr, flush=True)
                    if found.files:
                        keep(promises.apply(found))
                    count += len(found)
                    done |= {_file_of(name) for name in found.files}
                    tried |= {path: now[path] for path in block}
                before = now
            except InputError as error:  # such as a folder that vanished meanwhile, or a disk that is full
                if not folder.is_dir():
                    raise
                if str(error) != told:
                    told = str(error)
                    print(f"runtime: {told}; tried again", file=sys.stderr, flush=True)
            time.sleep(max(_PAUSE, 3 * (time.monotonic() - began)))
    except KeyboardInterrupt:
        return count


def files_done(output: Path, empty: Predictions) -> set[str]:
    """Return the files that an output has rows of, a last row that was cut off taken out; begin it where it is not there.

    Raises:
        InputError: it has other columns than `empty`, predictions of no image, or cannot be written.
    """
    try:
        if not output.exists() or not output.stat().st_size:
            empty.write_csv(output)
        with temporary_folder(output.parent) as place:
            empty.write_csv(place / "header.csv")
            header = (place / "header.csv").read_bytes()
        content = output.read_bytes()
        if not content.startswith(header):
            raise InputError(f"{output} has other columns than this call writes: name another file")
        if not content.endswith(b"\n"):
            os.truncate(output, content.rfind(b"\n") + 1)
    except OSError as error:
        raise InputError(f"{output} cannot be written ({error.strerror}); choose another place") from None
    _, *rows = read_csv(output, "expected what --watch has written")
    return {_file_of(row[0]) for row in rows}


def append_rows(found: Predictions, output: Path) -> None:
    """Append the rows of predictions to a CSV file, or begin it; InputError where it cannot be written: then none is there."""
    if not output.exists():  # it was moved away
        found.write_csv(output)
        return
    try:
        with temporary_folder(output.parent) as place:
            found.write_csv(place / "rows.csv")
            rows = (place / "rows.csv").read_bytes().partition(b"\n")[2]
        with output.open("ab", buffering=0) as file:
            size = file.tell()
            try:
                if file.write(rows) < len(rows):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise
    except OSError as error:
        raise InputError(f"{output} cannot be written ({error.strerror}); choose another place") from None


def _file_of(name: str) -> str:
    return os.path.abspath(page_of(Path(name))[0])


def _state(path: Path) -> _State:
    with suppress(OSError):  # it vanished, or is told when it is read
        found = path.stat()
        return found.st_size, found.st_mtime_ns
    return 0, 0
