"""Find the run or the checkpoint that a RUN argument names."""

import os
from pathlib import Path

from defectlab.errors import InputError
from defectlab.runs import RunFolder, members_of
from defectlab.runs.folder import LATEST
from defectlab.runs.state import read_state
from defectlab.utils.files import hash_file
from defectlab.utils.resources import check_card, shipped_files

_IMAGENET = "imagenet"


def imagenet_name(name: str, weights: Path | None = None) -> str | None:
    """Return the network of `imagenet/NETWORK`, before any training; None for a run or a checkpoint."""
    head, _, network = name.partition("/")
    if head == _IMAGENET and not Path(name).exists():
        return network.rstrip("/")
    if weights is not None:
        raise InputError(f"--weights is for imagenet/NETWORK, and {name} has weights of its own: leave it out")
    return None


def checkpoint_of(name: str | os.PathLike[str]) -> Path:
    """Find the checkpoint to use: the file itself, a run folder's best, or a shipped one.

    Like a config, a shipped file is found from any folder, as `neu_mobilenet.ckpt` or `checkpoints/…`.

    Raises:
        InputError: neither a file nor a run folder with a checkpoint; an ensemble.
    """
    name = os.fspath(name)
    if Path(name).is_file():
        return Path(name)
    if imagenet_name(name) is not None:
        raise InputError(
            f"{name} is no run: expected a run folder or a .ckpt file; predict and explain take such a name"
        )
    if not Path(name).exists():
        from defectlab.networks.backbones import BACKBONES  # and torchvision, which a run need not wait for

        if name in BACKBONES:
            raise InputError(f"there is no run {name}: did you mean imagenet/{name}, which predict and explain take?")
    if Path(name).suffix == ".ckpt" and Path(name).parent in (Path(), Path("checkpoints")):
        found = shipped_files(Path(name).name)
        if found:
            return check_card(found[0])
    if Path(name).suffix == ".ckpt" and not Path(name).exists():
        shipped = [path.name for path in shipped_files("*.ckpt")]
        raise InputError(
            f"there is no checkpoint {name}: expected a .ckpt file, or a shipped one: {', '.join(shipped)}"
        )
    run = RunFolder.open(name)
    _check_no_ensemble(run)
    return _best_of(run)


def _best_of(run: RunFolder) -> Path:
    """Return a run's best checkpoint as its state names it; one of an earlier version may have its last alone."""
    state, best = read_state(run.path), run.best
    if state is None and not best.is_file() and run.last.is_file():
        return run.last
    if not best.is_file():
        if run.checkpoints.is_dir():
            raise InputError(f"{best} is not there: put it back, or resume the run if it was stopped")
        raise InputError(f"{run.checkpoints} holds no checkpoint: the run was stopped early; resume it first")
    if state is not None and state.sha256 is not None and hash_file(best) != state.sha256:
        raise InputError(
            f"{best} is not the checkpoint that the run ended with, by its SHA-256: put the right one back, or name the file "
            "itself"
        )
    return best


def names_run(name: str | os.PathLike[str]) -> bool:
    """Return whether a name is that of a run folder, or of the newest in one, rather than of a checkpoint."""
    path = Path(name).expanduser()
    return path.is_dir() or path.name == LATEST


def checkpoints_of(name: str | os.PathLike[str]) -> list[Path]:
    """Find the checkpoints of an ensemble's members, or the one that `checkpoint_of` returns."""
    if not names_run(name):
        return [checkpoint_of(name)]
    run = RunFolder.open(name)
    return [checkpoint_of(member) for member in members_of(run) or [run]]


def _check_no_ensemble(run: RunFolder) -> None:
    if members := members_of(run):
        raise InputError(
            f"{run.path} is an ensemble, which has no network of its own: give a member, such as {members[0].path}; "
            "after a new test of one, write the ensemble anew with defectlab ensemble"
        )


def open_trained_run(run: str | Path | RunFolder) -> RunFolder:
    """Open the folder of a run of one network; InputError for an ensemble."""
    found = RunFolder.open(run)
    _check_no_ensemble(found)
    return RunFolder(found.path.resolve())
