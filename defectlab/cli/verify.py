"""`defectlab verify DIR [--data.root ROOT]`: whether an exported folder answers here as the run did."""

from pathlib import Path

from defectlab.cli.arguments import CommandParser
from defectlab.deploy.verify import verify


def run(words: list[str]) -> int:
    """Repeat an export's test vectors and certificate."""
    parser = CommandParser("defectlab verify", "Repeat the certificate of an exported folder on this machine.")
    parser.add_argument("folder", type=Path, help="that `defectlab export` has made")
    parser.add_argument(
        "--data.root", dest="root", type=Path, help="the run's images; without, twenty of them in the folder"
    )
    parser.add_argument(
        "--provider", default="cpu", help="of ONNX Runtime, or device of OpenVINO (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, help="that decode and compute (default: 1)")
    given = parser.parse_args(words)
    print(f"verified     {verify(given.folder, given.root, given.provider, given.threads).text}")
    return 0
