"""Make new run folders, and remove those that nothing came of."""

import itertools
import os
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from defectlab.errors import InputError
from defectlab.utils.progress import is_first_process

_RUN_VARIABLE = "DEFECTLAB_RUN"


def claim_run_folder(run: Path) -> tuple[Path, list[Path]]:
    """Make a run folder of that very path, unless a run is there; return it, absolute, and the folders that were not there."""
    run = run.expanduser().resolve()
    if not is_first_process():
        return run, []  # by now the first one has written to it
    if (run / "config.yaml").exists():
        raise InputError(f"output {run} is a run folder already: give a new one, or go on with defectlab resume")
    return run, _make(run, f"output {run}")


def new_run_folder(root: Path, name: str) -> tuple[Path, list[Path]]:
    """Make root/name/YYYYmmdd-HHMMSS, the same for every process of one run; also return the folders that were not there."""
    if not is_first_process():
        # The first one writes alone.
        return Path(os.environ.get(_RUN_VARIABLE, root / name / time.strftime("%Y%m%d-%H%M%S"))), []
    run, made = stamped_folder(root / name, "", "set trainer.default_root_dir")
    os.environ[_RUN_VARIABLE] = str(run)  # for the processes that DDP starts from this one
    return run, made


def stamped_folder(parent: Path, prefix: str, advice: str) -> tuple[Path, list[Path]]:
    """Make parent/<prefix>YYYYmmdd-HHMMSS; return it, and the folders that were not there."""
    stamp = prefix + time.strftime("%Y%m%d-%H%M%S")
    for number in itertools.count(1):
        folder = parent / (stamp if number == 1 else f"{stamp}-{number}")
        made = _make(folder, str(folder), advice)
        if folder in made:
            break
        # Of one that began in the same second.
    return folder, made


def _make(folder: Path, name: str, advice: str = "give it") -> list[Path]:
    """Make a folder and those above it; return the ones that were not there, the innermost first."""
    made = [parent for parent in folder.parents if not parent.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
    except OSError as error:
        if folder.is_dir():
            return []
        raise InputError(f"{name} cannot be made ({error.strerror}): {advice} in a folder you can write to") from None
    return [folder, *made]


def remove_made(made: Iterable[Path], keep: bool = False) -> None:
    """Remove folders that were made for a run: the first with all that it holds, unless told to keep it; others if empty."""
    folders = list(made)
    if folders and not keep:
        shutil.rmtree(folders[0], ignore_errors=True)
    for folder in folders:
        with suppress(OSError):  # gone, or not empty
            folder.rmdir()
