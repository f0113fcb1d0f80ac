"""`defectlab compare RUN RUN...`: which runs are better, and which cannot be told apart."""

import csv
import io
from dataclasses import asdict, fields
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from defectlab.cli.arguments import CommandParser
from defectlab.errors import InputError
from defectlab.evaluate.comparison import Pair, compare_runs, right_answers
from defectlab.metrics import accuracy_interval
from defectlab.runs import RunFolder, write_text

__all__ = ["run"]


def run(words: list[str]) -> int:
    """Print accuracies, then a sentence a pair."""
    parser = CommandParser("defectlab compare", "Exact McNemar tests on shared test images, adjusted by Holm's method.")
    parser.add_argument("runs", nargs="+", help="two or more run folders that were judged on the same test images")
    parser.add_argument("--level", type=float, default=0.05, help="share of false alarms over all pairs")
    parser.add_argument("--output", type=Path, help="CSV file of all pairs")
    given = parser.parse_args(words)
    if len(given.runs) < 2:
        raise InputError(f"one run is named, {given.runs[0]}: expected at least two")
    if not 0 < given.level < 1:
        raise InputError(f"--level is {given.level}: expected a share between 0 and 1, such as 0.05")
    if given.output is not None and given.output.is_dir():
        raise InputError(f"--output {given.output} is a folder: expected the name of a CSV file")
    runs = [RunFolder.open(name) for name in given.runs]
    names = _short_names([run.path.resolve() for run in runs])
    right = right_answers(runs)
    pairs = compare_runs(names, right)
    table = Table(title=f"{right.shape[1]} shared test images", title_justify="left")
    for column in ("run", "right", "accuracy", "95 % interval (Wilson)"):
        table.add_column(column, justify="left" if column == "run" else "right")
    for name, row in sorted(zip(names, right, strict=True), key=lambda item: -item[1].sum()):
        low, high = accuracy_interval(int(row.sum()), len(row))
        table.add_row(escape(name), str(row.sum()), f"{row.mean():.2%}", f"{low:.1%} to {high:.1%}")
    console = Console()
    console.print(table)
    for pair in pairs:
        console.print(pair.verdict(given.level), highlight=False, markup=False)
        only = f"  right alone: {pair.first_only} and {pair.second_only}"
        console.print(only + (f"; p before Holm {pair.p:.3g}" if len(pairs) > 1 else ""), highlight=False)
    if given.output is not None:
        write_text(given.output, _csv(pairs))
    return 0


def _short_names(paths: list[Path]) -> list[str]:
    """The last parts of each path, as few as tell all of them apart.

    Raises:
        InputError: a run that is named twice.
    """
    if len(set(paths)) < len(paths):
        raise InputError(f"{next(path for path in paths if paths.count(path) > 1)} is named twice: name different runs")
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return ["/".join(path.parts[-depth:]) for path in paths]


def _csv(pairs: list[Pair]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Pair)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(pair) for pair in pairs)
    return text.getvalue()
