"""`defectlab crossval --config C`: many splits of one data set, a run folder each, and one table."""

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape

from defectlab.cli.arguments import CommandParser
from defectlab.cli.tables import new_table
from defectlab.errors import InputError
from defectlab.evaluate.crossval import cross_validate
from defectlab.evaluate.crossval_result import CrossValidation
from defectlab.evaluate.leave_class_out import LeaveClassOut, leave_class_out
from defectlab.metrics.classification import accuracy_interval
from defectlab.utils.text import shown_path

# Song & Yan 2013, table 2: AECLBP with a support vector machine, 100 random halves.
_PUBLISHED = "published: AECLBP + SVM 98.93 ± 0.63 % over 100 repeats of 150 + 150 images a class (Song & Yan 2013)"


def run(words: list[str]) -> int:
    """Train and test on every split; begun ones are taken up again."""
    parser = CommandParser(
        "defectlab crossval",
        "Repeated stratified cross-validation. Further arguments go to fit. `defectlab crossval FOLDER` does what an "
        "earlier call has left undone.",
    )
    parser.add_argument("--config", help="a YAML file or the name of a shipped one")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--repeats", type=int, help="2 by default, 20 for song-yan")
    parser.add_argument("--protocol", choices=("kfold", "song-yan"), default="kfold")
    parser.add_argument("--train-per-class", type=int, help="of song-yan, validation included; by default half of them")
    parser.add_argument("--seed", type=int, default=0, help="of the first repeat; the next take the next numbers")
    parser.add_argument("--processes", type=int, default=1, help="runs at a time, each with one thread if above 1")
    parser.add_argument(
        "--compare-groups", action="store_true", help="also without data.group_by: by how much that overstates"
    )
    parser.add_argument(
        "--leave-class-out", action="store_true",
        help="train once for each class without it: how novel its images are to the network, in place of folds",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, help="a new folder; by default runs/crossval-<config>/<time>")
    folder, given, more = parser.parse_with_folder(words)
    if vars(given).pop("leave_class_out"):
        own = ("config", "seed", "output", "processes")
        others = [name for name, value in vars(given).items() if name not in own and value != parser.get_default(name)]
        if folder is not None or others or given.config is None:
            raise InputError(
                "--leave-class-out takes --config, --seed, --processes, --output (also of an equal call that was stopped) and "
                f"arguments of fit, found {folder or ', '.join(others) or 'no config'}"
            )
        found = {name: vars(given)[name] for name in own}
        _print_left_out(leave_class_out(**found, overrides=more, progress=True))
        return 0
    _print(cross_validate(**vars(given), overrides=more, resume=folder, progress=True))
    return 0


def _print_left_out(result: LeaveClassOut) -> None:
    novel = f"novel at {result.share:.0%}"
    columns = ("class left out", "images", "AUROC of novelty", novel, "false alarms", "accuracy of known")
    table = new_table("each class left out in turn", columns, left=(0,))
    for row in result.rows:
        cells = ["–", "–"]
        if row["detected"] is not None:
            cells = [f"{row['detected']:.1%}", f"{row['false_alarms']} of {row['known']}"]
        table.add_row(escape(row["class"]), str(row["images"]), f"{row['auroc']:.4f}", *cells, f"{row['accuracy']:.2%}")
    Console().print(table)
    print(f"AUROC        {result.mean:.4f} in the mean, {result.worst['auroc']:.4f} of {result.worst['class']}")
    if result.false_alarms is not None:
        alarms, known = result.false_alarms
        low, high = accuracy_interval(alarms, known)
        print(
            f"false alarms {alarms} of {known} known test images, {alarms / known:.2%} (95 % {low:.2%} to {high:.2%})"
        )
    else:
        print(f"false alarms of {result.share:g} take more validation images: hold out more by --data.val_size")
    print(f"written to   {shown_path(result.folder)}")


def _print(result: CrossValidation) -> None:
    console = Console()
    columns = ("class", "images", "recognised", "95 % interval (Wilson)", "most often taken for")
    table = new_table("all runs together, each tested image once", columns, left=(0, 4))
    for row in result.class_rows:
        table.add_row(
            escape(row["class"]), str(row["n"]), "–" if row["recall"] is None else f"{row['recall']:.2%}",
            f"{row['low']:.1%} to {row['high']:.1%}",
            f"{escape(row['taken_for'])} ({row['times']})" if row["times"] else "",
        )  # fmt: skip
    console.print(table)
    (low, high), pooled = result.interval, result.pooled
    console.print(
        f"accuracy     {result.mean:.2%} ± {result.sd:.2%} (mean ± sd of {len(result.rows)} runs, {result.settings})\n"
        f"             95 % interval {low:.2%} to {high:.2%}, corrected for overlapping training "
        f"sets (Nadeau & Bengio 2003)\npooled       {np.mean(pooled.right):.2%} of "
        f"{len(pooled.files)} images, balanced {pooled.balanced_accuracy:.2%}",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip
    if result.ungrouped is not None:
        print(
            f"ungrouped    {result.ungrouped.mean:.2%} ± {result.ungrouped.sd:.2%} with images of one group on both sides: "
            f"{result.overstated:+.2%} is what new groups do not show"
        )
    if result.settings.protocol == "song-yan":
        console.print(f"             {_PUBLISHED}", highlight=False, markup=False, soft_wrap=True)
    print(f"written to   {shown_path(result.folder)}")
