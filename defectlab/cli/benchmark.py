"""`defectlab benchmark RUN|CKPT|DIR...`: latency, where it goes, memory, start-up time and size."""

from dataclasses import astuple, fields

from rich.markup import escape

from defectlab.cli.arguments import CommandParser, output_file
from defectlab.cli.tables import new_table, print_wide
from defectlab.deploy.benchmark import BenchmarkRow, benchmark


def run(words: list[str]) -> int:
    """Print a row for each kind of call of each subject."""
    parser = CommandParser(
        "defectlab benchmark",
        "Measure trained networks and exported folders, each in a process of its own, in turns A B A B: from an encoded file "
        "and from an array to probabilities.",
    )
    parser.add_argument(
        "subjects", nargs="+", help="runs, checkpoints, ensembles and exported folders; ratios are to the first"
    )
    parser.add_argument(
        "--images", nargs="+", default=(), help="files, folders and globs (default: JPEG files of 200 px)"
    )
    parser.add_argument("--threads", type=int, nargs="+", default=(1,), help="numbers of threads (default: 1)")
    parser.add_argument("--batch", type=int, nargs="+", default=(1,), help="numbers of images a call (default: 1)")
    parser.add_argument("--turns", type=int, default=50, help="timed calls of each (default: %(default)s)")
    parser.add_argument("--output", type=output_file, metavar="CSV", help="file to write all figures to")
    arguments = parser.parse_args(words)
    rows = benchmark(**vars(arguments), progress=True)
    names = [field.name.replace("_", " ") for field in fields(BenchmarkRow)]
    table = new_table(f"a call: median of {arguments.turns}; a ratio is to the first", names, (0, 1, 4))
    for row in rows:
        shown = (f"{value:.2f}" if isinstance(value, float) else str(value) for value in astuple(row))
        table.add_row(*("" if text == "None" else escape(text) for text in shown))
    print_wide(table)
    return 0
