"""`defectlab resume RUN`: go on where a stopped run was, or train a finished one for longer."""

import sys

from defectlab.cli.console import print_run
from defectlab.engine.configs import resolve_config_arguments
from defectlab.engine.experiment import DefectCLI
from defectlab.engine.fit import train_and_test
from defectlab.engine.warnings import quieten
from defectlab.runs.locate import take_run
from defectlab.utils.progress import is_first_process

__all__ = ["run"]


def run(words: list[str]) -> int:
    """Train on from last.ckpt with the saved config; further arguments change it."""
    quieten()
    run_folder, changes = take_run("resume", words)
    arguments, _ = resolve_config_arguments(["--config", str(run_folder.config), *changes])
    if run_folder.last.is_file():
        arguments += ["--ckpt_path", str(run_folder.last)]
    elif is_first_process():
        print(
            f"{run_folder.last} is not there: the run was stopped in its first epoch and begins anew", file=sys.stderr
        )
    print_run(train_and_test(DefectCLI("fit", arguments, run=run_folder.path)))
    return 0
