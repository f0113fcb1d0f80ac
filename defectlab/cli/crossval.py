"""`defectlab crossval --config C`: many splits of one data set, a run folder each, and one table."""

import argparse
import json
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from defectlab.cli.arguments import CommandParser
from defectlab.engine.configs import resolve_config_arguments
from defectlab.engine.experiment import without_run
from defectlab.engine.jobs import Job, run_jobs
from defectlab.engine.warnings import quieten
from defectlab.errors import InputError
from defectlab.evaluate.crossval import FILE, plan, pool, read_crossval, summarise
from defectlab.metrics.classification import accuracy_interval
from defectlab.runs import PredictionTable, RunFolder, write_text
from defectlab.utils.text import shown_path

__all__ = ["run"]

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
    parser.add_argument("--output", type=Path, help="a new folder; by default runs/crossval-<config>/<time>")
    named, given, more = parser.parse_with_folder(words)
    quieten()
    if named is not None:
        if more or given.config is not None:
            raise InputError(f"crossval {named} goes on with what it was begun with: leave the other arguments out")
        given, more, folder = _earlier(named, given.processes)
    else:
        folder = _new_folder(given, more)
    parts = plan(given.protocol, given.folds, given.repeats, given.seed, given.test_size)
    runs = [RunFolder(folder / part.name) for part in parts]
    jobs = [
        Job(part.name, run.path, ("--config", given.config, *more, *part.words))
        for part, run in zip(parts, runs, strict=True)
        if not run.finished
    ]
    try:
        run_jobs(jobs, len(parts) - len(jobs), given.processes)
    except InputError:
        if not any(run.finished for run in runs):  # nothing that would be lost
            shutil.rmtree(folder, ignore_errors=True)
        raise
    summary = summarise(runs)
    pooled = pool([run.read_predictions() for run in runs])
    _write(folder, given, more, summary, pooled)
    _print(folder, given, summary, pooled)
    return 0


def _new_folder(given: argparse.Namespace, more: Sequence[str]) -> Path:
    """Check the arguments and make the folder, which remembers them.

    Raises:
        InputError: an argument that cannot be used.
    """
    if given.config is None:
        raise InputError("crossval needs a config: defectlab crossval --config neu_mobilenet.yaml [--data.root DIR]")
    given.repeats = given.repeats if given.repeats is not None else (20 if given.protocol == "song-yan" else 2)
    for name, least in (("folds", 2), ("repeats", 1), ("processes", 1), ("seed", 0)):
        if getattr(given, name) < least:
            raise InputError(f"--{name} is {getattr(given, name)}: expected a whole number of at least {least}")
    if given.protocol == "song-yan" and given.repeats < 2:
        raise InputError("--repeats is 1: expected at least 2 for --protocol song-yan")
    for option in ("--data.split", "--data.seed", "--seed_everything", "--data.test_size", "--ckpt_path"):
        if any(word.partition("=")[0] == option for word in more):
            raise InputError(f"{option} is crossval's own to set: leave it out; --seed moves all of them")
    if given.train_per_class is not None and given.protocol != "song-yan":
        raise InputError("--train-per-class is for --protocol song-yan: leave it out, or take that protocol")
    given.test_size = None if given.train_per_class is None else _rest(given, more)
    config_name = resolve_config_arguments(["--config", given.config])[1]
    folder: Path = given.output or Path("runs") / f"crossval-{config_name}" / time.strftime("%Y%m%d-%H%M%S")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            f"{folder} is there already: go on with it by `defectlab crossval FOLDER`, or name a new folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    _save(folder, given, more, None)
    return folder


def _rest(given: argparse.Namespace, more: Sequence[str]) -> int:
    """How many images are left for the test when so many of each class train.

    Raises:
        InputError: classes of different sizes, or with too few images.
    """
    with without_run(given.config, more) as cli:
        cli.datamodule.prepare_data()
        counts = np.bincount(cli.datamodule.load().labels.numpy())
    wanted: int = given.train_per_class
    if len(set(counts.tolist())) > 1 or not 2 <= wanted < counts[0]:
        raise InputError(
            f"--train-per-class is {wanted}, the classes have {counts.min()} to {counts.max()} images: expected classes of "
            "the same size, and at least 2 and fewer than that; leave it out to take half of each"
        )
    return int(counts.sum() - wanted * len(counts))


def _earlier(folder: Path, processes: int) -> tuple[argparse.Namespace, list[str], Path]:
    """The arguments of an earlier call, from its folder."""
    saved = read_crossval(folder)
    return argparse.Namespace(**saved["arguments"], processes=processes), list(saved["fit"]), folder


def _save(folder: Path, given: argparse.Namespace, more: Sequence[str], summary: dict[str, Any] | None) -> None:
    names = ("config", "protocol", "folds", "repeats", "seed", "test_size")
    saved = {"arguments": {name: getattr(given, name) for name in names}, "fit": list(more)}
    text = json.dumps({**saved, **({"summary": summary} if summary else {})}, indent=2, ensure_ascii=False)
    write_text(folder / FILE, text + "\n")


def _write(
    folder: Path, given: argparse.Namespace, more: Sequence[str], summary: dict[str, Any], pooled: PredictionTable
) -> None:
    _save(folder, given, more, summary)
    whole = RunFolder(folder)
    whole.write_predictions(pooled.files, pooled.labels, pooled.probabilities, pooled.class_names)
    lines = ["run,accuracy,macro_f1,n,split_hash"]
    lines += [f"{r['run']},{r['accuracy']:.6f},{r['macro_f1']:.6f},{r['n']},{r['split_hash']}" for r in summary["runs"]]
    write_text(folder / "runs.csv", "\n".join(lines) + "\n")


def _print(folder: Path, given: argparse.Namespace, summary: dict[str, Any], pooled: PredictionTable) -> None:
    console = Console()
    assert pooled.labels is not None
    table = Table(title="all runs together, each tested image once", title_justify="left")
    for name in ("class", "images", "recognised", "95 % interval (Wilson)", "most often taken for"):
        table.add_column(name, justify="left" if name in ("class", "most often taken for") else "right")
    for index, name in enumerate(pooled.class_names):
        mine = pooled.labels == index
        hits = int((pooled.predicted[mine] == index).sum())
        low, high = accuracy_interval(hits, int(mine.sum())) if mine.any() else (0.0, 1.0)
        mistakes = Counter(pooled.class_names[k] for k in pooled.predicted[mine] if k != index).most_common(1)
        share = f"{hits / mine.sum():.2%}" if mine.any() else "–"
        table.add_row(
            escape(name), str(mine.sum()), share, f"{low:.1%} to {high:.1%}",
            f"{escape(mistakes[0][0])} ({mistakes[0][1]})" if mistakes else "",
        )  # fmt: skip
    console.print(table)
    kind = f"{given.folds} folds × {given.repeats}" if given.protocol == "kfold" else f"{given.repeats} random halves"
    right = float(np.mean(pooled.predicted == pooled.labels))
    console.print(
        f"accuracy     {summary['accuracy']:.2%} ± {summary['sd']:.2%} (mean ± sd of {len(summary['runs'])} runs, {kind})\n"
        f"             95 % interval {summary['low']:.2%} to {summary['high']:.2%}, corrected for overlapping training "
        f"sets (Nadeau & Bengio 2003)\npooled       {right:.2%} of {len(pooled.files)} images",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip
    if given.protocol == "song-yan":
        console.print(f"             {_PUBLISHED}", highlight=False, markup=False, soft_wrap=True)
    print(f"written to   {shown_path(folder)}")
