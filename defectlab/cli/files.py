"""What a RUN argument means."""

from pathlib import Path

from defectlab.errors import InputError
from defectlab.runs import RunFolder

__all__ = ["checkpoint_of"]


def checkpoint_of(name: str) -> Path:
    """The checkpoint to use: the file itself, or a run folder's best, else its last.

    Raises:
        InputError: neither a file nor a run folder with a checkpoint.
    """
    if Path(name).is_file():
        return Path(name)
    run = RunFolder.open(name)
    for file in (run.best, run.last):
        if file.is_file():
            return file
    raise InputError(f"{run.checkpoints} holds no best.ckpt or last.ckpt: the run was stopped early; resume it first")
