"""Progress bars for work of more than a second, and which process of a run this is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

# Set by torchrun, by Lightning's launcher, by SLURM and by jsrun; absent or 0 in the first process.
_RANK_VARIABLES = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
_shown: ContextVar[bool] = ContextVar("shown", default=True)


@contextmanager
def progress_bars(shown: bool | None) -> Iterator[None]:
    """Show or hide all bars inside the block; None leaves it as it is."""
    token = _shown.set(_shown.get() if shown is None else shown and _shown.get())
    try:
        yield
    finally:
        _shown.reset(token)


@contextmanager
def progress_bar(
    description: str, total: int | None, in_bytes: bool = False, after: float = 1.0, shown: bool = True
) -> Iterator[Callable[[int], None]]:
    """Yield `advance(count)`, which draws a bar on standard error once `after` seconds have passed.

    Only the first process draws. `total` is None if it is not known. Without `shown` there is no bar, nor any inside.
    """
    began = time.monotonic()
    done = 0
    bar: Progress | None = None
    shown = shown and _shown.get() and is_first_process()

    def advance(count: int) -> None:
        nonlocal done, bar
        done += count
        if bar is None and shown and time.monotonic() - began >= after:
            bar = _new_bar(in_bytes)
            bar.add_task(description, total=total)
            bar.start()
        if bar is not None:
            bar.update(bar.task_ids[0], completed=done)

    try:
        with progress_bars(shown):
            yield advance
    finally:
        if bar is not None:
            bar.stop()


def _new_bar(in_bytes: bool) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    count = DownloadColumn() if in_bytes else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), count, TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))


def is_first_process() -> bool:
    """Return whether this is the first process of a run, or its only one."""
    return later_rank() is None


def later_rank() -> str | None:
    """Return the environment variable that makes this a later process of a run; None in the first."""
    return next((name for name in _RANK_VARIABLES if os.environ.get(name, "0") not in ("0", "")), None)
