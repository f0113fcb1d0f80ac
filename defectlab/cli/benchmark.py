"""`defectlab benchmark RUN|CKPT|DIR...`: latency, where it goes, memory, start-up time and size."""

from collections.abc import Sequence

from rich.markup import escape

from defectlab.cli.arguments import CommandParser, output_file
from defectlab.cli.tables import new_table, print_wide
from defectlab.deploy.benchmark import BenchmarkRow, benchmark


def run(words: list[str]) -> int:
    """Print a table of the calls, and one of what they stand on."""
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
    _print(benchmark(**vars(arguments), progress=True), arguments.turns)
    return 0


def _print(rows: Sequence[BenchmarkRow], turns: int) -> None:
    keys = ("subject", "format", "threads")
    calls = new_table(
        f"a call: median of {turns}, with the extremes",
        (*keys, "batch", "from", "ms", "low to high", "ratio"),
        (0, 1, 4),
    )
    stands = new_table(
        "one file, ms; start to the first answer", (*keys, "decode", "resize", "network", "rest", "start s", "CPU s", "MB", "peak MB", "file MB"), (0, 1)
    )  # fmt: skip
    known = set()
    for row in rows:
        head = (escape(row.subject), row.format, str(row.threads))
        span = f"{row.low_ms:.2f} to {row.high_ms:.2f}"
        calls.add_row(*head, str(row.batch), row.source, f"{row.median_ms:.2f}", span, f"{row.ratio:.2f}")
        if head not in known:
            known.add(head)
            parts = (row.decode_ms, row.resize_ms, row.network_ms, row.rest_ms, row.start_s, row.start_cpu_s)
            memory = (row.start_mb, row.peak_mb, row.size_mb)
            texts = [f"{value:.2f}" if value is not None else "" for value in parts]
            stands.add_row(*head, *texts, *("" if value is None else f"{value:.1f}" for value in memory))
    print_wide(calls)
    print_wide(stands)
