"""A progress bar for work that takes long enough to make one wonder."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

# Set by torchrun, by Lightning (the local one alone), by SLURM and by jsrun; all are 0 on rank zero.
_RANK_VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")


def is_rank_zero() -> bool:
    """Whether this is the first or the only process of a run."""
    return all(os.environ.get(name, "0") in ("0", "") for name in _RANK_VARIABLES)


_shown: ContextVar[bool] = ContextVar("shown", default=True)


@contextmanager
def progress_bars(shown: bool | None) -> Iterator[None]:
    """Hide every bar that is begun inside, however deep, unless `shown`; None leaves it as it is."""
    token = _shown.set(_shown.get() if shown is None else shown and _shown.get())
    try:
        yield
    finally:
        _shown.reset(token)


@contextmanager
def progress_bar(
    description: str, total: int | None, in_bytes: bool = False, after: float = 1.0, shown: bool = True
) -> Iterator[Callable[[int], None]]:
    """Gives `advance(count)`, which draws on standard error once `after` seconds have gone by.

    Short work shows nothing, and neither does any rank but zero. A `total` of None is one not known. Without `shown`
    there is no bar, nor any that is begun inside.
    """
    began = time.monotonic()
    done = 0
    bar: Progress | None = None
    shown = shown and _shown.get() and is_rank_zero()

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
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn() if in_bytes else MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


# Set by torchrun, by Lightning's launcher and by SLURM; absent or 0 in the first process.
_VARIABLES = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")


def is_first_process() -> bool:
    """Whether this is the first process of its run, or the only one."""
    return all(os.environ.get(name, "0") in ("0", "") for name in _VARIABLES)
