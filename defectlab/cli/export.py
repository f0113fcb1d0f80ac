"""`defectlab export RUN|CKPT --output weights.safetensors`: a trained backbone for other runs to start from."""

from pathlib import Path

from defectlab.cli.arguments import CommandParser
from defectlab.cli.files import checkpoint_of
from defectlab.errors import InputError
from defectlab.networks import MobileNet
from defectlab.networks.weights import save_backbone_weights
from defectlab.tasks.checkpoint import load_task

__all__ = ["run"]


def run(words: list[str]) -> int:
    """Write the backbone's tensors."""
    parser = CommandParser("defectlab export", "Write the backbone of a trained MobileNet, for model.weights.")
    parser.add_argument("run", help="run folder (its best checkpoint is used) or .ckpt file")
    parser.add_argument("--output", required=True, type=Path, help=".safetensors file to write")
    parser.add_argument("--half", action="store_true", help="kernels in half precision: half the size")
    arguments = parser.parse_args(words)
    output: Path = arguments.output
    if output.suffix != ".safetensors" or output.is_dir():
        raise InputError(f"--output is {output}: expected the name of a .safetensors file")
    checkpoint = checkpoint_of(arguments.run)
    task, _ = load_task(checkpoint)
    if not isinstance(task.network, MobileNet):
        raise InputError(f"{checkpoint} is a {type(task.network).__name__}: expected a MobileNet, which has a backbone")
    output.parent.mkdir(parents=True, exist_ok=True)
    save_backbone_weights(task.network, output, arguments.half)
    print(f"{output}   {output.stat().st_size / 1e6:.1f} MB, for model.weights with backbone {task.network.backbone}")
    return 0
