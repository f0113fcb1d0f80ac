"""`defectlab export RUN --output DIR|FILE`: a network that runs without torch and is proved equal, or a smaller file."""

from pathlib import Path

from defectlab.cli.arguments import CommandParser
from defectlab.deploy.certificate import MARGIN
from defectlab.deploy.export import Export, export
from defectlab.utils.text import shown_path


def run(words: list[str]) -> int:
    """Export a run, and print its certificate."""
    parser = CommandParser(
        "defectlab export",
        "Export a trained network as a folder that runs without torch, or keep it in a file of its own. Further arguments "
        "are those of test, such as --data.root DIR.",
    )
    parser.add_argument("run", help="run folder (its best checkpoint is used), ensemble, or .ckpt file")
    parser.add_argument(
        "--output", required=True, type=Path,
        help="a new folder: model, runtime.py, certificate; .ckpt: the network alone, for predict; .safetensors: the "
        "backbone of a PretrainedTask, for model.weights",
    )  # fmt: skip
    parser.add_argument("--format", default="onnx", help="onnx, openvino or torch (default: %(default)s)")
    parser.add_argument(
        "--int8", action="store_true", help="quantise; kept if it is proved to lose less than the margin"
    )
    parser.add_argument(
        "--margin", type=float, default=MARGIN, help="accuracy that int8 may lose (default: %(default)s)"
    )
    parser.add_argument("--images", nargs="+", help="files and folders to compare on, where there is no run folder")
    parser.add_argument("--half", action="store_true", help="a .safetensors file's kernels in half precision")
    given, more = parser.parse_known_args(words)
    found = export(
        given.run, given.output, format=given.format, int8=given.int8, margin=given.margin, half=given.half,
        images=given.images, overrides=more, progress=True,
    )  # fmt: skip
    if not isinstance(found, Export):
        print(f"{found}   {found.stat().st_size / 1e6:.1f} MB")
        return 0
    size = sum(file.stat().st_size for file in found.folder.glob("model.*"))
    print(f"certificate  {found.certificate.text}")
    print(f"exported to  {shown_path(found.folder)}   model {size / 1e6:.1f} MB")
    print(f"try it       python {shown_path(found.folder / 'runtime.py')} --self-test")
    return 0
