"""Make new run folders."""

import itertools
import os
import time
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
    made = [folder for folder in (run, *run.parents) if not folder.exists()]
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"output {run} cannot be made ({error.strerror}): give a folder you can write to") from None
    return run, made


def new_run_folder(root: Path, name: str) -> tuple[Path, list[Path]]:
    """Make root/name/YYYYmmdd-HHMMSS, the same for every process of one run; also return the folders that were not there."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    if not is_first_process():
        return Path(os.environ.get(_RUN_VARIABLE, root / name / stamp)), []  # the first one writes alone
    for number in itertools.count(1):
        run = root / name / (stamp if number == 1 else f"{stamp}-{number}")
        made = [folder for folder in (run, run.parent, root) if not folder.exists()]
        try:
            run.mkdir(parents=True)
        except FileExistsError:  # of a run that began in the same second
            continue
        except OSError as error:
            raise InputError(
                f"{run} cannot be made ({error.strerror}): set trainer.default_root_dir to a folder you can write to"
            ) from None
        break
    os.environ[_RUN_VARIABLE] = str(run)  # for the processes that DDP starts from this one
    return run, made
