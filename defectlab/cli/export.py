"""`defectlab export RUN|CKPT --output FILE`: a trained network without what only training needs."""

from pathlib import Path

from defectlab.cli.arguments import CommandParser
from defectlab.engine.checkpoint_io import AtomicCheckpointIO
from defectlab.errors import InputError
from defectlab.networks import PretrainedNetwork
from defectlab.networks.weights import save_backbone_weights
from defectlab.runs.locate import checkpoint_of
from defectlab.tasks.checkpoint import data_state, load_task, read_checkpoint

__all__ = ["run"]

_NEEDED = ("state_dict", "hyper_parameters", "task", "pytorch-lightning_version", "epoch", "global_step")


def run(words: list[str]) -> int:
    """Write the backbone's tensors, or a checkpoint without the optimiser."""
    parser = CommandParser("defectlab export", "Keep a trained network, or its backbone, in a file of its own.")
    parser.add_argument("run", help="run folder (its best checkpoint is used) or .ckpt file")
    parser.add_argument(
        "--output", required=True, type=Path,
        help=".safetensors: the backbone of a PretrainedTask, for model.weights; .ckpt: the whole network, for predict",
    )  # fmt: skip
    parser.add_argument("--half", action="store_true", help="a .safetensors file's kernels in half precision")
    arguments = parser.parse_args(words)
    output: Path = arguments.output
    if output.suffix not in (".safetensors", ".ckpt") or output.is_dir():
        raise InputError(f"--output is {output}: expected the name of a .safetensors or .ckpt file")
    if arguments.half and output.suffix == ".ckpt":
        raise InputError("--half is for .safetensors files: leave it out")
    checkpoint = checkpoint_of(arguments.run)
    if output.exists() and output.samefile(checkpoint):
        raise InputError(f"--output {output} is the checkpoint itself: give another name")
    task, _ = load_task(checkpoint)
    if output.suffix == ".ckpt":
        _save_checkpoint(checkpoint, output)
    elif isinstance(task.network, PretrainedNetwork):
        save_backbone_weights(task.network, output, arguments.half)
    else:
        raise InputError(
            f"{checkpoint} is a {type(task.network).__name__}: expected the network of a PretrainedTask, whose backbone can be kept"
        )
    print(f"{output}   {output.stat().st_size / 1e6:.1f} MB")
    return 0


def _save_checkpoint(source: Path, output: Path) -> None:
    """Tensors, hyper-parameters and data card; whole or not at all."""
    whole = read_checkpoint(source)
    kept = {key: whole[key] for key in _NEEDED if key in whole}
    card = data_state(whole, source)
    # Where the images lay says nothing on another machine.
    own = {**card, "root": Path(str(card["root"])).name}
    kept.update({key: own for key, value in whole.items() if value is card})
    AtomicCheckpointIO().save_checkpoint(kept, output)
