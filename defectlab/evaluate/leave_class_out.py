"""Leave each class out in turn: can a network tell images of a class that it was never shown from those that it knows?"""

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from defectlab.data.pipeline.split_table import SplitTable
from defectlab.engine.configs import override_words, read_arguments
from defectlab.engine.experiment import without_run
from defectlab.engine.host import as_guest
from defectlab.engine.jobs import Job, check_own_settings, run_jobs
from defectlab.errors import InputError, check_at_least
from defectlab.metrics.novelty import check_novelty, novelty_p_values
from defectlab.metrics.ranking import curve
from defectlab.runs import RunFolder, read_own_table, write_text
from defectlab.utils.text import csv_rows, html_table

_PLAN_FILE = "leave_class_out.json"


@dataclass(frozen=True, kw_only=True)
class LeaveClassOut:
    """The result of `leave_class_out`.

    Args:
        folder: with a run folder a class, novelty.csv and the plan.
        share: of false alarms that was asked for.
        rows: a dict a class that was left out, for `pandas.DataFrame`: `class`, `images` of it, `auroc` of the novelty
            against the test images of the known classes, `detected`, the share of its images that is novel, and of the
            `known` test images the `false_alarms`; both None with too few validation images. `accuracy` is of the known.
    """

    folder: Path
    share: float
    rows: list[dict[str, Any]]

    @property
    def mean(self) -> float:
        """Mean AUROC over the classes."""
        return fmean(row["auroc"] for row in self.rows)

    @property
    def worst(self) -> dict[str, Any]:
        """The row of the least AUROC."""
        return min(self.rows, key=lambda row: float(row["auroc"]))

    @property
    def false_alarms(self) -> tuple[int, int] | None:
        """Known test images that are called novel, and all of them, over the runs; None with too few validation images."""
        alarms = [row["false_alarms"] for row in self.rows]
        return None if None in alarms else (sum(alarms), sum(row["known"] for row in self.rows))

    def __fspath__(self) -> str:
        return str(self.folder)

    def _repr_html_(self) -> str:
        """Return a table for a notebook."""
        return html_table(repr(self), self.rows)

    def __repr__(self) -> str:
        worst = self.worst
        return (
            f"<left out in turn: AUROC of novelty {self.mean:.4f} in the mean of {len(self.rows)} classes, "
            f"{worst['auroc']:.4f} of {worst['class']}>"
        )


def leave_class_out(
    config: str | Path,
    *,
    overrides: Sequence[str] | Mapping[str, object] = (),
    share: float = 0.01,
    seed: int = 0,
    output: str | Path | None = None,
    processes: int = 1,
    progress: bool = False,
) -> LeaveClassOut:
    """Train once for each class without any image of it, and measure how novel its images then are.

    The other images are divided alike in all runs. Those of the class that is left out are all in the test part, under
    their own name, so that the figures of such a run's test are not those of a classifier.

    Args:
        config: a YAML file or the name of a shipped one; its data have three classes or more, one an image.
        overrides: further arguments of `fit`, as words or as values by dotted or nested name.
        share: of false alarms that is promised, see `predict`.
        seed: of the split and of every run.
        output: a new folder, or one that an equal call has begun; by default runs/leave-class-out-<config>/<time>.
        processes: runs at a time, each with one thread if above 1.
        progress: whether to draw a bar on standard error.

    Raises:
        InputError: an argument that cannot be used, a network without novelty, or a run that failed.
    """
    check_at_least("processes", processes, 1)
    check_at_least("seed", seed, 0)
    if not 0 < share < 1:
        check_novelty(share, 0)
    words = override_words(overrides)
    check_own_settings("crossval", words, ("data.seed", "seed_everything", "ckpt_path"), "seed moves all of them")
    seeded = [*words, *override_words({"seed_everything": seed, "data.seed": seed})]
    with without_run(str(config), seeded) as cli:
        data = cli.datamodule
        data.prepare_data()
        data.setup("fit")
        data.check_test_part()
        names, table = list(data.class_names), data.split_table()
        if data.multilabel or len(names) < 3:
            raise InputError(
                f"{data.location} has {'several classes an image' if data.multilabel else f'{len(names)} classes'}: to "
                "leave one out takes three or more, one an image"
            )
    folder = Path(output) if output is not None else Path(
        "runs", f"leave-class-out-{read_arguments(['--config', str(config)]).name}", time.strftime("%Y%m%d-%H%M%S")
    )  # fmt: skip
    plan = json.dumps({"config": str(config), "fit": list(words), "seed": seed, "split": table.hash}, indent=2) + "\n"
    file = folder / _PLAN_FILE
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not file.is_file() or file.read_text(encoding="utf-8") != plan:
            raise InputError(
                f"{folder} is there already, with another plan: expected a new folder, or the same arguments"
            )
    else:
        write_text(file, plan)
    plain = [re.sub(r"[^\w.-]+", "_", name) for name in names]
    runs = [RunFolder(folder / f"{number:02}-{name}") for number, name in enumerate(plain, start=1)]
    jobs = [
        Job(
            name=run.path.name, folder=run.path, seed=seed, settings={}, config=str(config), overrides=words,
            split=_without(table, name),
        )
        for run, name in zip(runs, names, strict=True) if not run.finished
    ]  # fmt: skip
    with as_guest(progress):
        run_jobs(jobs, done=len(runs) - len(jobs), processes=processes, progress=progress)
    rows = [_row(run, name, share) for run, name in zip(runs, names, strict=True)]
    write_text(folder / "novelty.csv", csv_rows([list(rows[0]), *(list(row.values()) for row in rows)]))
    return LeaveClassOut(folder=folder, share=share, rows=rows)


def _without(table: SplitTable, name: str) -> SplitTable:
    """Return the split with all images of a class in the test part."""
    return SplitTable(tuple(replace(row, part="test") if row.label == name else row for row in table.rows))


def _row(run: RunFolder, name: str, share: float) -> dict[str, Any]:
    """Measure the novelty of the images of one class, which training had none of."""
    tested, known = read_own_table(run), read_own_table(run, "val").novelty
    if tested.novelty is None or known is None:
        raise InputError(f"{run.path} has no novelty: its network gives no embedding, see its fit.log")
    new = np.array(tested.labels) == tested.class_names.index(name)
    detected = alarms = None
    if (1 + len(known)) * share >= 1:
        novel = novelty_p_values(tested.novelty, known) <= share
        detected, alarms = float(novel[new].mean()), int(novel[~new].sum())
    return {
        "class": name, "images": int(new.sum()), "auroc": curve(tested.novelty, new).auroc, "detected": detected,
        "known": int((~new).sum()), "false_alarms": alarms, "accuracy": float(tested.right[~new].mean()),
    }  # fmt: skip
