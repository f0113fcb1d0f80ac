"""`defectlab compare RUN RUN...`: which runs are better, and which cannot be told apart."""

from rich.console import Console
from rich.markup import escape

from defectlab.cli.arguments import CommandParser, output_file
from defectlab.cli.tables import new_table, print_wide
from defectlab.errors import InputError
from defectlab.evaluate.comparison import Comparison, Pair, compare


def run(words: list[str]) -> int:
    """Print accuracies, then a sentence a pair."""
    parser = CommandParser(
        "defectlab compare", "Exact McNemar tests on shared test images, or corrected t-tests on shared splits."
    )
    parser.add_argument(
        "runs", nargs="+", help="two or more run folders, or folders of crossval, evaluated on the same images"
    )
    parser.add_argument("--level", type=float, default=0.05, help="share of false alarms over all pairs")
    parser.add_argument("--output", type=output_file, help="CSV file of all pairs")
    given = parser.parse_args(words)
    if not 0 < given.level < 0.5:
        raise InputError(f"--level is {given.level}: expected a share between 0 and 0.5, such as 0.05")
    result = compare(given.runs, 1 - given.level, given.output)
    _print_scores(result)
    console = Console()
    for pair, verdict in zip(result.pairs, result.verdicts, strict=True):
        console.print(verdict, highlight=False, markup=False, soft_wrap=True)
        if isinstance(pair, Pair):
            only = f"  right alone: {pair.first_only} and {pair.second_only}"
            console.print(only + (f"; p before Holm {pair.p:.3g}" if len(result.pairs) > 1 else ""), highlight=False)
    if len(result.pairs) > 1:
        columns = ["" if column == "name" else column for column in result.matrix[0]]
        table = new_table("accuracy of the row less the column's, points; * significant", columns, left=())
        for row in result.matrix:
            table.add_row(*(escape(cell) for cell in row.values()))
        print_wide(table)
    return 0


def _print_scores(result: Comparison) -> None:
    pair = result.pairs[0]
    columns, title = ["cross-validation", "accuracy", "95 % interval (corrected)"], "shared splits"
    if isinstance(pair, Pair):
        columns, title = ["run", "right", "accuracy", "95 % interval (Wilson)", "balanced"], "shared test images"
    table = new_table(f"{pair.n if isinstance(pair, Pair) else pair.splits} {title}", columns, wraps=False)
    if result.differences:
        table.add_column("config", overflow="fold")
    for row in result.scores:
        mean = f"{row['accuracy']:.2%}" + (f" ± {row['sd']:.2%}" if "sd" in row else "")
        cells = [row["name"], *([str(row["right"])] if "right" in row else []), mean]
        config = "\n".join(f"{key}: {value}" for key, value in result.differences.get(row["name"], {}).items())
        cells.append(f"{row['low']:.1%} to {row['high']:.1%}")
        cells += [f"{row['balanced_accuracy']:.2%}"] if "balanced_accuracy" in row else []
        cells += [config] if result.differences else []
        table.add_row(*map(escape, cells))
    Console().print(table)
