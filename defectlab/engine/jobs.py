"""Run several fits, each in a folder of its own, one after the other or a few at a time."""

import math
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stdout
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path

from defectlab.data.pipeline.split_table import SplitTable
from defectlab.engine.configs import override_words
from defectlab.engine.experiment import DefectCLI
from defectlab.engine.fit import train_and_test
from defectlab.engine.host import as_guest
from defectlab.engine.start import settle_start
from defectlab.errors import InputError
from defectlab.runs.ledger import READS_FILE
from defectlab.runs.lock import LOCK_FILE, RunLocked, locked
from defectlab.utils.progress import progress_bar

_LOG = "fit.log"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One fit of several; `settings` are values by dotted name, over the `overrides` of all; images are divided by `split`."""

    name: str
    folder: Path
    config: str
    seed: int
    settings: Mapping[str, object]
    overrides: tuple[str, ...] = ()
    split: SplitTable | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """Return the arguments of `fit`."""
        settings = {"seed_everything": self.seed, "data.seed": self.seed, **self.settings}
        return ("--config", self.config, *self.overrides, *override_words(settings))


def check_own_settings(command: str, overrides: Sequence[str], own: Iterable[str], advice: str) -> None:
    """Raise InputError for overrides of what a command sets itself, by dotted name; `advice` ends the message."""
    given = {word.partition("=")[0] for word in overrides}
    for name in own:
        if f"--{name}" in given:
            raise InputError(f"{name} is {command}'s own to set: leave it out; {advice}")


def run_jobs(
    jobs: Sequence[Job],
    *,
    done: int = 0,
    processes: int = 1,
    continue_on_error: bool = False,
    on_done: Callable[[Job, str | None], None] | None = None,
    progress: bool = False,
) -> dict[str, str]:
    """Run every job from its beginning, `processes` at a time, each with one thread if above 1.

    What a killed job left in its folder is removed. `done` jobs were done before, for the progress bar; `on_done` is called
    with each job at its end, and its error or None.

    Returns:
        The error of each failed job, by name, whose folder is removed; without `continue_on_error` it is raised.
    """
    errors: dict[str, str] = {}

    def note(job: Job, error: str | None) -> None:
        if error is not None:
            if not continue_on_error:
                raise InputError(f"{job.name}: {error}")
            errors[job.name] = error
        if on_done is not None:
            on_done(job, error)
        advance(1)

    with progress_bar("runs", done + len(jobs), after=1.0 if progress else math.inf) as advance:
        advance(done)
        if processes == 1:
            for job in jobs:
                note(job, _run(job.words, job.folder, job.split))
            return errors
        with ProcessPoolExecutor(processes, get_context("spawn"), initializer=_end_with_parent) as pool:
            futures = {
                pool.submit(_run, (*job.words, "--cpu.threads", "1"), job.folder, job.split): job for job in jobs
            }
            try:
                for future in as_completed(futures):
                    note(futures[future], future.result())
            except BrokenProcessPool:
                raise InputError(
                    "a process of the runs was killed, perhaps for its memory: give fewer processes; the same call goes on "
                    "with what is left"
                ) from None
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
    return errors


def _end_with_parent() -> None:
    """End a worker whose parent was killed: it would write into a folder that the next call begins anew."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _run(words: Sequence[str], folder: Path, split: SplitTable | None) -> str | None:
    """Train and test into the folder, from its beginning; return the error, or None."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with as_guest(), locked(folder):
            for old in folder.iterdir():  # what a killed job left
                if old.is_dir():
                    shutil.rmtree(old, ignore_errors=True)
                elif old.name != LOCK_FILE:
                    old.unlink()
            (folder.parent / READS_FILE).touch()  # all runs of one call are counted together
            with (folder / _LOG).open("w", encoding="utf-8") as log, redirect_stdout(log):
                words, split, choice = settle_start(words, split)
                cli = DefectCLI("fit", [*words, "--trainer.enable_progress_bar", "false"], run=folder)
                cli.choice = choice
                if split is not None:
                    cli.datamodule.keep_split(split)
                cli.datamodule.prepare_data()
                cli.datamodule.setup("fit")
                cli.datamodule.check_test_part()  # tests are what is to be compared
                train_and_test(cli)
    except RunLocked as error:
        return str(error)
    except InputError as error:
        shutil.rmtree(folder, ignore_errors=True)
        return str(error)
    return None
