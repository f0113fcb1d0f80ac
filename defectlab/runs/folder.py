"""A run folder: what `fit` leaves behind and every later command reads.

config.yaml  checkpoints/best.ckpt  checkpoints/last.ckpt
metrics.csv  metrics.json  predictions.csv  val_predictions.csv  report.html
"""

from __future__ import annotations

import csv
import html
import json
import logging
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy.typing as npt

from defectlab.errors import InputError
from defectlab.runs.crossvals import CROSSVAL_FILE
from defectlab.runs.metrics import RunMetrics, accuracy_text, check_metrics
from defectlab.runs.predictions import PredictionTable, read_prediction_table, write_prediction_table
from defectlab.runs.state import read_state
from defectlab.utils.files import hash_file
from defectlab.utils.text import write_text

SECTIONS = ("data", "val", "test", "calibration", "operating", "environment", "run")
STAMP = re.compile(r"\d{8}-\d{6}(-\d+)?")  # the name that a run folder is given
LATEST = "latest"
_log = logging.getLogger(__name__)


class _File:
    """Path of a file in the run folder."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, run: RunFolder, kind: type) -> Path:
        return run.path / self.name


@dataclass(frozen=True, repr=False, init=False)
class RunFolder:
    """The files of one run, by name; a path to whatever takes one. Use `open` for a folder that a user named."""

    path: Path

    def __init__(self, path: str | Path) -> None:
        object.__setattr__(self, "path", Path(path))

    def __fspath__(self) -> str:
        return str(self.path)

    @classmethod
    def open(cls, path: str | os.PathLike[str], newest: bool = True) -> RunFolder:
        """Find the run folder, one that holds a config.yaml, that `path` means.

        Args:
            path: a run folder; or a folder of runs, or `latest` in one (alone: in `runs`), for its newest run.
            newest: whether a folder of runs may be given; not where several runs are meant, one a path.

        Raises:
            InputError: there is none; names the newest run nearby.
        """
        try:
            path = Path(path).expanduser()
        except TypeError:
            raise InputError(f"a run is given as {type(path).__name__}: expected the path of a run folder") from None
        if path.name == LATEST and not path.exists():
            path, newest = Path("runs") if path == Path(LATEST) else path.parent, True
        if (path / "config.yaml").is_file():
            return cls(path)
        around = [parent for parent in path.absolute().parents[:2] if (parent / "config.yaml").is_file()]
        # Below a folder that exists, else beside one that was mistyped.
        runs = around or find_runs(path) or ([] if path.exists() else find_runs(path.parent))
        if path.is_dir():
            if runs and newest and not around and not (runs[-1].parent / CROSSVAL_FILE).is_file():
                _log.info("the newest run of %s: %s", path, runs[-1])
                return cls(runs[-1])
            found = f"{path} is not a run folder: it has no config.yaml"
        elif path.exists():
            found = f"{path} is a file, not a run folder"
        else:
            found = f"run folder {path} does not exist"
        if (path / "runtime.py").is_file():
            raise InputError(f"{path} is an exported folder, and no run: python {path / 'runtime.py'} predicts by it")
        hint = f"did you mean {runs[-1]}?" if runs else "give the folder that `defectlab fit` printed"
        raise InputError(f"{found}; {hint}")

    config = _File("config.yaml")
    checkpoints = _File("checkpoints")
    split_csv = _File("split.csv")  # of the data, see `defectlab.data.pipeline.split_table`
    last = _File("checkpoints/last.ckpt")
    metrics_json = _File("metrics.json")
    metrics_csv = _File("metrics.csv")
    predictions_csv = _File("predictions.csv")
    val_predictions_csv = _File("val_predictions.csv")
    misclassified_png = _File("misclassified.png")  # of the part in the report, drawn after the test
    lr_finder_png = _File("lr_finder.png")  # drawn by the rate finder before training

    @property
    def best(self) -> Path:
        """Best checkpoint: the one that state.json names, else checkpoints/best.ckpt; it may be absent."""
        state = read_state(self.path)
        return state.best if state is not None and state.best is not None else self.checkpoints / "best.ckpt"

    @property
    def fingerprint(self) -> str | None:
        """First 16 hexadecimal digits of the best checkpoint's SHA-256; None without one."""
        best = self.best
        return hash_file(best)[:16] if best.is_file() else None

    @property
    def finished(self) -> bool:
        """Whether the test is done: all files are there by the run's state, and metrics have a section `test`."""
        if not (self.config.is_file() and self.metrics_json.is_file() and self.predictions_csv.is_file()):
            return False
        try:
            state = read_state(self.path)
            return (state is None or state.phase == "finished") and "test" in self.read_metrics()
        except InputError:
            return False

    def read_metrics(self) -> dict[str, Any]:
        """Read the sections of metrics.json; undefined figures are None. InputError where there is no such file."""
        try:
            metrics = json.loads(self.metrics_json.read_text(encoding="utf-8"))
        except FileNotFoundError:
            if not self.path.is_dir():
                raise InputError(f"run folder {self.path} is not there any more: give where it is now") from None
            raise InputError(
                f"{self.metrics_json} is missing: the run was not finished; "
                f"use `defectlab resume {self.path}` or `defectlab test {self.path}`"
            ) from None
        except ValueError as error:
            raise InputError(f"{self.metrics_json} is not valid JSON ({error}); run `test` again") from None
        if not isinstance(metrics, dict):
            raise InputError(f"{self.metrics_json} holds no JSON object of sections; run `test` again")
        check_metrics(metrics, self.metrics_json)
        return metrics

    @property
    def metrics(self) -> RunMetrics:
        """Sections of metrics.json, typed; undefined figures of `val` and `test` are NaN, as those of an `Evaluation` are."""
        found = self.read_metrics()
        return cast("RunMetrics", {k: _undefined_as_nan(v) if k in ("val", "test") else v for k, v in found.items()})

    def __repr__(self) -> str:
        """Return path, accuracy and interval."""
        return f"<run {self.path}: {self._headline()}>"

    def _repr_html_(self) -> str:
        """Return the same for a notebook, with a link to the report."""
        report = self.path / "report.html"
        name = html.escape(str(self.path))
        link = (
            f'<a href="{html.escape(report.absolute().as_uri())}">report</a>' if report.is_file() else "no report yet"
        )
        return f"<p><b>{html.escape(self._headline())}</b><br><code>{name}</code> ({link})</p>"

    def _headline(self) -> str:
        try:
            metrics = self.metrics
            part: Literal["val", "test"] = "test" if "test" in metrics else "val"
            return accuracy_text(part, metrics[part], (metrics.get("data") or {}).get("source"))
        except (InputError, KeyError, TypeError, IndexError):
            return "not finished" if self.path.is_dir() else "not there any more"

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Replace metrics.json in one step; NaN and infinity become null."""
        ordered = [*(s for s in SECTIONS if s in metrics), *(s for s in metrics if s not in SECTIONS)]
        plain = {section: _finite(metrics[section]) for section in ordered}
        write_text(self.metrics_json, json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def read_curves(self) -> list[dict[str, str]]:
        """Read the rows of metrics.csv, cells as text and empty where not logged; none if it is absent.

        Raises:
            InputError: it is no such table.
        """
        if not self.metrics_csv.is_file():
            return []
        try:
            with self.metrics_csv.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file, restval=""))
            for row in rows:
                int(row["epoch"] or 0), [float(cell) for cell in row.values() if cell]
        except (OSError, ValueError, TypeError, KeyError, csv.Error):
            raise InputError(f"{self.metrics_csv} is no table of epochs, as fit writes it: remove it") from None
        return rows

    def write_predictions(
        self,
        files: Sequence[str],
        labels: npt.ArrayLike | None,
        probabilities: npt.ArrayLike,
        class_names: Sequence[str],
        thresholds: Sequence[float] | None = None,
    ) -> None:
        """Write predictions.csv with the run's fingerprint; see `write_prediction_table`."""
        write_prediction_table(
            self.predictions_csv, files, labels, probabilities, class_names, checkpoint=self.fingerprint,
            thresholds=thresholds,
        )  # fmt: skip

    def read_predictions(self) -> PredictionTable:
        """Read predictions.csv; see `read_prediction_table`."""
        return read_prediction_table(self.predictions_csv)


def open_run(path: str | Path | RunFolder) -> RunFolder:
    """Open a run folder; InputError names the newest one nearby."""
    return RunFolder.open(path)


def lacks_test_part(metrics: Mapping[str, Any]) -> bool:
    """Return whether the data of a run, by its metrics, had no test images."""
    counts: dict[str, int] = ((metrics.get("data") or {}).get("counts") or {}).get("test") or {}
    return bool(counts) and not any(counts.values())


def find_runs(folder: str | Path) -> list[Path]:
    """List the run folders one or two levels below `folder`, the newest last.

    A folder's age is the time stamp in its name, else the time at which its config was written. What another test
    of a run left inside its folder is no run.
    """

    def age(run: Path) -> str:
        if STAMP.match(run.name):
            return run.name
        return time.strftime("%Y%m%d-%H%M%S", time.localtime((run / "config.yaml").stat().st_mtime))

    configs = [*Path(folder).glob("*/config.yaml"), *Path(folder).glob("*/*/config.yaml")]
    runs = [config.parent for config in configs if not (config.parents[1] / "config.yaml").is_file()]
    return sorted(runs, key=lambda run: (age(run), str(run)))


def _undefined_as_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _undefined_as_nan(item) for key, item in value.items()}
    return math.nan if value is None else value


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
