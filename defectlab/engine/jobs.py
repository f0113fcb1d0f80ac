"""Several fits for one command, each in a folder of its own, one after the other or a few at a time."""

import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stdout
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path

from defectlab.engine.configs import resolve_config_arguments
from defectlab.engine.experiment import DefectCLI
from defectlab.engine.fit import train_and_test
from defectlab.engine.host import as_guest
from defectlab.errors import InputError
from defectlab.utils.progress import progress_bar

__all__ = ["Job", "run_jobs"]

_LOG = "fit.log"


@dataclass(frozen=True)
class Job:
    """One fit: what errors call it, its run folder, and its arguments, `--config` among them."""

    name: str
    folder: Path
    words: tuple[str, ...]


def run_jobs(
    jobs: Sequence[Job],
    done: int,
    processes: int,
    continue_on_error: bool = False,
    tell: Callable[[Job, str | None], None] = lambda job, reason: None,
) -> dict[str, str]:
    """Run every job from its beginning; what a killed one left in its folder is removed.

    Args:
        jobs: what is left to do.
        done: how many were done before, for the progress bar.
        processes: runs at a time, each with one thread if above 1.
        continue_on_error: whether the others still run after one that could not.
        tell: called with each job at its end, and why it could not be run if `continue_on_error`, else None.

    Returns:
        What was wrong, by name, with the jobs that could not be run; their folders are removed.

    Raises:
        InputError: a job could not be run, unless `continue_on_error`.
    """
    wrong: dict[str, str] = {}
    with progress_bar("runs", done + len(jobs)) as advance:
        advance(done)
        if processes == 1:
            for job in jobs:
                _note(job, _run(job), continue_on_error, wrong)
                tell(job, wrong.get(job.name))
                advance(1)
            return wrong
        with ProcessPoolExecutor(processes, get_context("spawn"), initializer=_end_with_parent) as pool:
            futures = {pool.submit(_run, job, ("--cpu.threads", "1")): job for job in jobs}
            try:
                for future in as_completed(futures):
                    job = futures[future]
                    _note(job, future.result(), continue_on_error, wrong)
                    tell(job, wrong.get(job.name))
                    advance(1)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
    return wrong


def _end_with_parent() -> None:
    """A worker whose parent was killed would go on, and write into a folder that the next call begins anew."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _note(job: Job, reason: str | None, continue_on_error: bool, wrong: dict[str, str]) -> None:
    if reason is None:
        return
    if not continue_on_error:
        raise InputError(f"{job.name}: {reason}")
    wrong[job.name] = reason


def _run(job: Job, more: tuple[str, ...] = ()) -> str | None:
    """None, or why the job could not be run."""
    shutil.rmtree(job.folder, ignore_errors=True)
    job.folder.mkdir(parents=True)
    words, _ = resolve_config_arguments([*job.words, *more])
    try:
        with as_guest(), (job.folder / _LOG).open("w", encoding="utf-8") as log, redirect_stdout(log):
            cli = DefectCLI("fit", [*words, "--trainer.enable_progress_bar", "false"], run=job.folder)
            cli.datamodule.prepare_data()
            cli.datamodule.setup("fit")
            cli.datamodule.check_test_part()  # tests are what is to be compared
            train_and_test(cli)
    except InputError as error:
        shutil.rmtree(job.folder, ignore_errors=True)
        return str(error)
    return None
