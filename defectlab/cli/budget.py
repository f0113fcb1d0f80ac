"""`defectlab budget --config C`: how many labelled images a class are enough."""

from pathlib import Path

from rich.console import Console

from defectlab.cli.arguments import CommandParser
from defectlab.cli.tables import new_table
from defectlab.evaluate.budget import STRATEGIES, LabelBudget, label_budget
from defectlab.utils.files import check_output_folder
from defectlab.utils.text import shown_path


def run(words: list[str]) -> int:
    """Write budget.csv and budget.png: a linear probe on the config's backbone, frozen."""
    parser = CommandParser(
        "defectlab budget",
        "Accuracy by labelled images a class: a linear probe on the frozen backbone of a config, on random images and on "
        "images chosen by uncertainty or to cover the set. Further arguments go to fit.",
    )
    parser.add_argument("--config", required=True, help="a YAML file or the name of a shipped one, of a PretrainedTask")
    parser.add_argument("--per-class", type=int, nargs="+", default=[1, 2, 5, 10, 20, 50, 100], help="labelled images")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--output", type=Path, default=Path("budget"), help="a folder (default: %(default)s)")
    given, more = parser.parse_known_args(words)
    check_output_folder(given.output)
    found = label_budget(given.config, given.per_class, given.draws, more, progress=True)
    found.write(given.output)
    _print(found)
    print(f"written to   {shown_path(given.output)}")
    return 0


def _print(found: LabelBudget) -> None:
    rows = found.rows
    note = " on SYNTHETIC images" if found.synthetic else ""
    title = f"test accuracy{note} (balanced), mean ± sd of {rows[0].draws} draws"
    shown = new_table(title, ("images a class", "in all", *STRATEGIES), left=())
    for first in (row for row in rows if row.strategy == STRATEGIES[0]):
        same = [row for row in rows if row.per_class == first.per_class]
        shown.add_row(
            str(first.per_class),
            str(first.labelled),
            *(f"{100 * row.mean:.1f} ± {100 * row.sd:.1f} ({100 * row.balanced_mean:.1f})" for row in same),
        )
    Console().print(shown)
