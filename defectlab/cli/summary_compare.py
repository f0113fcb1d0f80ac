"""`defectlab summary compare`: networks by parameters, multiply-adds, accuracy and latency."""

import os
import sys
from collections.abc import Sequence
from itertools import takewhile

from rich.markup import escape

from defectlab.cli.arguments import CommandParser, output_file
from defectlab.cli.tables import new_table, print_wide
from defectlab.runs import csv_text, environment, write_text
from defectlab.summary.compare import NetworkRow, compare_networks
from defectlab.utils.cpu import CPUSettings
from defectlab.utils.text import shown_path


def compare(words: list[str]) -> int:
    """Print one table of the networks that are named and of the well-known ones."""
    parser = CommandParser(
        "defectlab summary compare",
        "Networks side by side: `summary compare [RUN|CKPT|CONFIG ...]` has those that are named, then the well-known ones "
        "for the image and the classes of the first that is named. Accuracy stands where a run was tested, and nowhere "
        "else; a folder of `course run`, such as runs/course/neu-simple, has the mean of its seeds. Arguments of fit, such "
        "as --data.image_size 64, go to the configs.",
    )
    parser.add_argument("--named-only", action="store_true", help="leave the well-known networks out")
    parser.add_argument("--image-size", type=int, help="of the well-known ones; 200 if nothing is named")
    parser.add_argument("--channels", type=int, help="of the well-known ones; 1 if nothing is named")
    parser.add_argument("--classes", type=int, help="of the well-known ones; 6 if nothing is named")
    parser.add_argument("--turns", type=int, default=30, help="timed passes of each network (default: %(default)s)")
    parser.add_argument("--csv", type=output_file, metavar="FILE", help="to write the table to")
    names = list(takewhile(lambda word: not word.startswith("-"), words))
    given, more = parser.parse_known_args(words[len(names) :])
    if more and not names:
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    CPUSettings().apply()
    rows = compare_networks(
        names, standard=not given.named_only, image_size=given.image_size, channels=given.channels, classes=given.classes, turns=given.turns,
        overrides=more, progress=True,
    )  # fmt: skip
    _print(rows)
    if given.csv is not None:
        write_text(given.csv, csv_text(NetworkRow, rows))
        print(f"written to   {shown_path(given.csv)}")
    return 0


def _spread(accuracy: float, sd: float | None) -> str:
    return f"{accuracy:.2%}" if sd is None else f"{100 * accuracy:.2f} ± {100 * sd:.2f}%"


def _print(rows: Sequence[NetworkRow]) -> None:
    counts = (
        "image",
        "classes",
        "parameters",
        "multiply-adds",
        "test accuracy",
        "balanced",
        "latency, ms",
        "10 to 90 %",
    )
    table = new_table("networks", ("network", *counts), wraps=False)
    for row in rows:
        synthetic = " SYNTHETIC" if row.data == "synthetic" else ""
        accuracy = "" if row.accuracy is None else f"{_spread(row.accuracy, row.sd)} of {row.n}{synthetic}"
        balanced = "" if row.balanced_accuracy is None else f"{row.balanced_accuracy:.2%}"
        table.add_row(
            escape(row.network), row.image, str(row.classes), f"{row.parameters:,}", f"{row.multiply_adds:,}", accuracy,
            balanced, f"{row.latency_median_ms:.2f}", f"{row.latency_p10_ms:.2f} to {row.latency_p90_ms:.2f}",
        )  # fmt: skip
    print_wide(table)
    machine = environment()
    load = "" if sys.platform == "win32" else f", load average {os.getloadavg()[0]:.1f}"
    print(
        f"latency      of one image, median of {rows[0].passes} passes, the networks in turns; threads: {rows[0].threads}; "
        f"{machine['cpu']}, {machine['cores']} cores{load}, torch {machine['torch']}, float32 on the CPU\n"
        "multiply-adds  of convolutions and linear layers, without biases\n"
        "MobileNetV2 and V3, ResNet-18 and VGG-16 have a linear head on their pooled last map, as PretrainedTask trains them"
    )
