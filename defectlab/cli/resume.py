"""`defectlab resume RUN`: go on where a stopped run was, or train a finished one for longer."""

from defectlab.cli.console import print_run, take_run
from defectlab.engine.fit import run_resume


def run(words: list[str]) -> int:
    """Train on from last.ckpt with the saved config; further arguments change it."""
    run_folder, changes = take_run("resume", words)
    print_run(run_resume(run_folder, changes)[1])
    return 0
