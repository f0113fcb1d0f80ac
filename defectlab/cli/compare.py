"""`defectlab compare RUN RUN...`: which runs are better, and which cannot be told apart."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from defectlab.cli.arguments import CommandParser
from defectlab.errors import InputError
from defectlab.evaluate.comparison import CrossvalPair, Pair, compare_crossvals, compare_runs, correct_matrix
from defectlab.evaluate.crossval import FILE, read_crossval
from defectlab.metrics.classification import accuracy_interval
from defectlab.runs import RunFolder, csv_text, write_text

__all__ = ["run"]


def run(words: list[str]) -> int:
    """Print accuracies, then a sentence a pair."""
    parser = CommandParser(
        "defectlab compare", "Exact McNemar tests on shared test images, or corrected t-tests on shared splits."
    )
    parser.add_argument(
        "runs", nargs="+", help="two or more run folders, or folders of crossval, judged on the same images"
    )
    parser.add_argument("--level", type=float, default=0.05, help="share of false alarms over all pairs")
    parser.add_argument("--output", type=Path, help="CSV file of all pairs")
    given = parser.parse_args(words)
    if len(given.runs) < 2:
        raise InputError(f"one run is named, {given.runs[0]}: expected at least two")
    if not 0 < given.level < 1:
        raise InputError(f"--level is {given.level}: expected a share between 0 and 1, such as 0.05")
    if given.output is not None and given.output.is_dir():
        raise InputError(f"--output {given.output} is a folder: expected the name of a CSV file")
    if any((Path(name) / FILE).is_file() for name in given.runs):
        return _compare_crossvals([Path(name) for name in given.runs], given.level, given.output)
    runs = [RunFolder.open(name) for name in given.runs]
    names = _short_names([run.path.resolve() for run in runs])
    right = correct_matrix(runs)
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
        console.print(pair.verdict(given.level), highlight=False, markup=False, soft_wrap=True)
        only = f"  right alone: {pair.first_only} and {pair.second_only}"
        console.print(only + (f"; p before Holm {pair.p:.3g}" if len(pairs) > 1 else ""), highlight=False)
    if given.output is not None:
        write_text(given.output, csv_text(Pair, pairs))
    return 0


def _compare_crossvals(folders: list[Path], level: float, output: Path | None) -> int:
    names = _short_names([folder.resolve() for folder in folders])
    summaries = []
    for folder in folders:
        saved = read_crossval(folder)
        if "summary" not in saved:
            raise InputError(f"{folder} is not finished: defectlab crossval {folder}")
        summaries.append(saved["summary"])
    pairs = compare_crossvals(names, summaries)
    table = Table(title=f"{pairs[0].splits} shared splits", title_justify="left")
    for column in ("cross-validation", "accuracy", "95 % interval (corrected)"):
        table.add_column(column, justify="left" if column == "cross-validation" else "right")
    for name, summary in sorted(zip(names, summaries, strict=True), key=lambda item: -item[1]["accuracy"]):
        mean = f"{summary['accuracy']:.2%} ± {summary['sd']:.2%}"
        table.add_row(escape(name), mean, f"{summary['low']:.1%} to {summary['high']:.1%}")
    console = Console()
    console.print(table)
    for pair in pairs:
        console.print(pair.verdict(level), highlight=False, markup=False, soft_wrap=True)
    if output is not None:
        write_text(output, csv_text(CrossvalPair, pairs))
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
