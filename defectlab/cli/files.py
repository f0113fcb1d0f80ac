"""What a RUN argument means."""

from pathlib import Path

from defectlab.errors import InputError
from defectlab.networks.weights import shipped_files
from defectlab.runs import RunFolder

__all__ = ["checkpoint_of", "take_run"]


def checkpoint_of(name: str) -> Path:
    """The checkpoint to use: the file itself, or a run folder's best, else its last; or one of those that are shipped.

    Like a config, a shipped file is found wherever the user stands, as `neu_mobilenet.ckpt` or `checkpoints/…`.

    Raises:
        InputError: neither a file nor a run folder with a checkpoint.
    """
    if Path(name).is_file():
        return Path(name)
    if Path(name).suffix == ".ckpt" and Path(name).parent in (Path(), Path("checkpoints")):
        found = shipped_files(Path(name).name)
        if found:
            return found[0]
    if Path(name).suffix == ".ckpt" and not Path(name).exists():
        shipped = [path.name for path in shipped_files("*.ckpt")]
        raise InputError(
            f"there is no checkpoint {name}: expected a .ckpt file, or a shipped one: {', '.join(shipped)}"
        )
    run = RunFolder.open(name)
    for file in (run.best, run.last):
        if file.is_file():
            return file
    raise InputError(f"{run.checkpoints} holds no best.ckpt or last.ckpt: the run was stopped early; resume it first")


def take_run(command: str, words: list[str]) -> tuple[RunFolder, list[str]]:
    """The run folder that the first word names, and the words after it.

    Raises:
        SystemExit: help was asked for, and has been printed.
        InputError: no word names one, or there is no such run folder.
    """
    usage = f"defectlab {command} RUN [--trainer.max_epochs N ...]"
    if {"-h", "--help"} & set(words):
        print(f"usage: {usage}\n\nRUN is the folder that fit left behind; defectlab fit --help lists the options.")
        raise SystemExit(0)
    if not words or words[0].startswith("-"):
        raise InputError(f"{command} needs a run folder: {usage}")
    run = RunFolder.open(words[0])
    return RunFolder(run.path.resolve()), words[1:]
