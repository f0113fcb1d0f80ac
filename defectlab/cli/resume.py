"""`defectlab resume RUN`: go on where a stopped run was, or train a finished one for longer."""

import sys

from defectlab.cli.console import print_run, take_run
from defectlab.engine.fit import run_resume
from defectlab.utils.progress import is_first_process


def run(words: list[str]) -> int:
    """Train on from last.ckpt with the saved config; further arguments change it."""
    run_folder, changes = take_run("resume", words)
    if not run_folder.last.is_file() and is_first_process():
        print(f"{run_folder.last} is not there: a run that was stopped in its first epoch begins anew", file=sys.stderr)
    print_run(run_resume(run_folder, changes)[1])
    return 0
