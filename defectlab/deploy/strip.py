"""Keep a trained network without what only training needs."""

from os import PathLike, fspath
from pathlib import Path

from defectlab.engine.checkpoint_io import AtomicCheckpointIO
from defectlab.errors import InputError
from defectlab.networks import PretrainedNetwork
from defectlab.networks.weights import save_backbone_weights
from defectlab.runs.locate import checkpoint_of
from defectlab.tasks.checkpoint import data_state, load_task, read_checkpoint

_NEEDED = (
    "state_dict",
    "hyper_parameters",
    "task",
    "pytorch-lightning_version",
    "epoch",
    "global_step",
    "thresholds",
    "novelty",
)


def strip(run: str | PathLike[str], output: str | PathLike[str], half: bool = False) -> Path:
    """Write a trained network, or its backbone, to a file of its own, and return the file's path.

    Args:
        run: run folder (its best checkpoint is used) or .ckpt file.
        output: .safetensors for the backbone of a PretrainedTask, which `model.weights` takes; .ckpt for the whole
            network without the optimiser, which `predict` takes.
        half: write the kernels of a .safetensors file in half precision.

    Raises:
        InputError: another suffix, the checkpoint itself, a network without a backbone, or no such run.
    """
    target = Path(output)
    if target.suffix not in (".safetensors", ".ckpt") or target.is_dir():
        raise InputError(f"output is {target}: expected the name of a .safetensors or .ckpt file")
    if half and target.suffix == ".ckpt":
        raise InputError("half is for .safetensors files: leave it out")
    file = next((parent for parent in target.parents if parent.is_file()), None)
    if file is not None:
        raise InputError(f"output is {target}, and {file} is a file: expected the name of a file in a folder")
    checkpoint = checkpoint_of(fspath(run))
    if target.exists() and target.samefile(checkpoint):
        raise InputError(f"output {target} is the checkpoint itself: give another name")
    task, _ = load_task(checkpoint)
    if target.suffix == ".ckpt":
        _save_checkpoint(checkpoint, target)
    elif isinstance(task.network, PretrainedNetwork):
        target.parent.mkdir(parents=True, exist_ok=True)
        save_backbone_weights(task.network, target, half)
    else:
        raise InputError(
            f"{checkpoint} is a {type(task.network).__name__}: expected the network of a PretrainedTask, whose backbone can be kept"
        )
    return target


def _save_checkpoint(source: Path, output: Path) -> None:
    """Write tensors, hyper-parameters and data card."""
    whole = read_checkpoint(source)
    kept = {key: whole[key] for key in _NEEDED if key in whole}
    card = data_state(whole, source)
    # Where the images lay says nothing on another machine.
    own = {**card, "root": Path(str(card["root"])).name}
    kept.update({key: own for key, value in whole.items() if value is card})
    AtomicCheckpointIO().save_checkpoint(kept, output)
