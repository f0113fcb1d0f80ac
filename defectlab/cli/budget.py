"""`defectlab budget --config C`: how many labelled images a class are enough."""

from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from defectlab.cli.arguments import CommandParser
from defectlab.engine.experiment import DefectCLI, without_run
from defectlab.engine.warnings import quieten
from defectlab.errors import InputError
from defectlab.evaluate.budget import STRATEGIES, Row, curves, measure
from defectlab.figures.style import save_png
from defectlab.runs import csv_text, write_text
from defectlab.tasks import PretrainedTask
from defectlab.utils.progress import progress_bar
from defectlab.utils.text import shown_path

__all__ = ["run"]


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
    quieten()
    budgets = sorted(set(given.per_class))
    if budgets[0] < 1 or given.draws < 2:
        raise InputError("--per-class has to be at least 1, --draws at least 2")
    if given.output.exists() and not given.output.is_dir():
        raise InputError(f"--output {given.output} is a file: expected a folder")
    with without_run(given.config, more) as cli:
        rows, synthetic = _measure(cli, budgets, given.draws)
    write_text(given.output / "budget.csv", csv_text(Row, rows))
    save_png(curves(rows), given.output / "budget.png", synthetic)
    _print(rows, synthetic)
    print(f"written to   {shown_path(given.output)}")
    return 0


def _measure(cli: DefectCLI, budgets: list[int], draws: int) -> tuple[list[Row], bool]:
    task, data = cli.model, cli.datamodule
    if not isinstance(task, PretrainedTask) or task.hparams.get("weights") is None:
        raise InputError("budget needs a pretrained backbone: a config of PretrainedTask with model.weights")
    data.prepare_data()
    data.setup("fit")
    labels = data.data.labels.numpy()
    pool = np.concatenate((data.parts.train, data.parts.val))
    smallest = int(np.bincount(labels[pool], minlength=data.num_classes).min())
    possible = [budget for budget in budgets if budget <= smallest]
    if not possible:
        raise InputError(f"--per-class begins at {budgets[0]}, the smallest class has {smallest} images to train on")
    if possible != budgets and smallest not in possible:
        possible.append(smallest)
    task.network.eval()
    train, val, test = (
        [task.embed(images) for images, _ in loader]
        for loader in (data.train_eval_dataloader(), data.val_dataloader(), data.test_dataloader())
    )
    known = torch.cat([*train, *val]).cpu().numpy(), labels[pool]
    judges = torch.cat(test).cpu().numpy(), labels[data.parts.test]
    with progress_bar("choosing and fitting", draws * len(STRATEGIES)) as advance:
        return measure(known, judges, possible, draws, data.seed, advance), data.source == "synthetic"


def _print(rows: list[Row], synthetic: bool) -> None:
    note = " on SYNTHETIC images" if synthetic else ""
    shown = Table(title=f"test accuracy{note}, mean ± sd of {rows[0].draws} draws", title_justify="left")
    for name in ("images a class", "in all", *STRATEGIES):
        shown.add_column(name, justify="right")
    for first in (row for row in rows if row.strategy == STRATEGIES[0]):
        same = [row for row in rows if row.per_class == first.per_class]
        shown.add_row(
            str(first.per_class), str(first.labelled), *(f"{100 * row.mean:.1f} ± {100 * row.sd:.1f}" for row in same)
        )
    Console().print(shown)
