"""`defectlab data ...`: get a data set onto the disk."""

from pathlib import Path

from defectlab.cli.arguments import CommandParser

__all__ = ["run"]


def run(words: list[str]) -> int:
    """Fetch NEU-CLS, or generate its synthetic stand-in."""
    parser = CommandParser("defectlab data", "Get a data set onto the disk.")
    commands = parser.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser("fetch", help="download NEU-CLS; every file is checked against its SHA-256")
    fetch.add_argument("directory", nargs="?", type=Path, default=Path("data/neu-cls"), help="default: %(default)s")
    fetch.add_argument("--url", default=None, help="of a zip with the same files")
    synthesize = commands.add_parser("synthesize", help="generate pictures of the six NEU classes")
    synthesize.add_argument("directory", type=Path, help="a folder that does not exist yet")
    synthesize.add_argument("--per-class", type=int, default=300, help="pictures a class (default: %(default)s)")
    synthesize.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(words)
    if arguments.command == "fetch":
        from defectlab.data.fetch import NEU_URL, fetch_neu

        folder = fetch_neu(arguments.directory, arguments.url or NEU_URL)
        print(f"NEU-CLS is in {folder}")
        return 0
    from defectlab.data.synthetic import synthesize as write

    count = write(arguments.directory, arguments.per_class, arguments.seed)
    print(f"{count} synthetic pictures are in {arguments.directory}")
    return 0
