"""`defectlab data ...`: get a data set onto the disk, and look into one."""

from pathlib import Path

from defectlab.cli.arguments import CommandParser

__all__ = ["run"]


def run(words: list[str]) -> int:
    """Fetch NEU-CLS, generate its synthetic stand-in, or inspect a folder."""
    parser = CommandParser("defectlab data", "Get a data set onto the disk, or look into one.")
    commands = parser.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser("fetch", help="download NEU-CLS; every file is checked against its SHA-256")
    fetch.add_argument("directory", nargs="?", type=Path, default=Path("data/neu-cls"), help="default: %(default)s")
    fetch.add_argument("--url", default=None, help="of a zip with the same files")
    synthesize = commands.add_parser("synthesize", help="generate pictures of the six NEU classes")
    synthesize.add_argument("directory", type=Path, help="a folder that does not exist yet")
    synthesize.add_argument("--per-class", type=int, default=300, help="pictures a class (default: %(default)s)")
    synthesize.add_argument("--seed", type=int, default=0)
    commands.add_parser("inspect", help="counts, broken files, duplicates, doubtful labels")
    if words[:1] == ["inspect"]:
        return _inspect(words[1:])
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


def _inspect(words: list[str]) -> int:
    parser = CommandParser(
        "defectlab data inspect",
        "What is in a folder of labelled pictures, in any layout that fit reads, and what is wrong with it: "
        "`data inspect DIR`, or `data inspect --config C ...` for a config's data and its split, with arguments of fit.",
    )
    parser.add_argument("--config", help="in place of a folder")
    parser.add_argument("--output", type=Path, default=Path("inspection"), help="a folder (default: %(default)s)")
    named, arguments, more = parser.parse_with_folder(words)
    if more and arguments.config is None:
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    from defectlab.cli.inspect import inspect

    return inspect(named, arguments.config, more, arguments.output)
