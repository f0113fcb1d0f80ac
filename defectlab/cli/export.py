"""`defectlab export RUN|CKPT --output FILE`: a trained network without what only training needs."""

from pathlib import Path

from defectlab.cli.arguments import CommandParser
from defectlab.deploy.export import export


def run(words: list[str]) -> int:
    """Write the backbone's tensors, or a checkpoint without the optimiser."""
    parser = CommandParser("defectlab export", "Keep a trained network, or its backbone, in a file of its own.")
    parser.add_argument("run", help="run folder (its best checkpoint is used) or .ckpt file")
    parser.add_argument(
        "--output", required=True, type=Path,
        help=".safetensors: the backbone of a PretrainedTask, for model.weights; .ckpt: the whole network, for predict",
    )  # fmt: skip
    parser.add_argument("--half", action="store_true", help="a .safetensors file's kernels in half precision")
    given = parser.parse_args(words)
    file = export(given.run, given.output, given.half)
    print(f"{file}   {file.stat().st_size / 1e6:.1f} MB")
    return 0
