"""A run folder: what `fit` leaves behind and every later command reads.

config.yaml  checkpoints/best.ckpt  checkpoints/last.ckpt
metrics.csv  metrics.json  predictions.csv  val_predictions.csv  report.html
"""

from __future__ import annotations

import csv
import html
import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy.typing as npt

from defectlab.errors import InputError
from defectlab.metrics.classification import accuracy_interval
from defectlab.runs.metrics import RunMetrics, check_metrics
from defectlab.runs.predictions import PredictionTable, read_prediction_table, write_prediction_table
from defectlab.utils.text import write_text

_STAMP = re.compile(r"\d{8}-\d{6}")
SECTIONS = ("data", "val", "test", "calibration", "environment", "run")


@dataclass(frozen=True, repr=False, init=False)
class RunFolder:
    """The files of one run, by name. Use `open` for a folder that a user named."""

    path: Path

    def __init__(self, path: str | Path) -> None:
        object.__setattr__(self, "path", Path(path))

    @classmethod
    def open(cls, path: str | Path | RunFolder) -> RunFolder:
        """Check that `path` is a run folder, which is one that holds a config.yaml; a folder of runs means its newest.

        Raises:
            InputError: it is not; the message names the newest run nearby where there is one.
        """
        path = (path.path if isinstance(path, RunFolder) else Path(path)).expanduser()
        if (path / "config.yaml").is_file():
            return cls(path)
        dated = [run for run in path.glob("*/config.yaml") if _STAMP.match(run.parent.name)]
        if dated:
            return cls(max(run.parent for run in dated))
        if path.is_dir():
            found = f"{path} is not a run folder: it has no config.yaml"
        elif path.exists():
            found = f"{path} is a file, not a run folder"
        else:
            found = f"run folder {path} does not exist"
        around = [parent for parent in path.absolute().parents[:2] if (parent / "config.yaml").is_file()]
        # Below a folder that exists, else beside one that was mistyped.
        runs = around or find_runs(path) or ([] if path.exists() else find_runs(path.parent))
        hint = f"did you mean {runs[-1]}?" if runs else "give the folder that `defectlab fit` printed"
        raise InputError(f"{found}; {hint}")

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        return self.checkpoints / "best.ckpt"

    @property
    def last(self) -> Path:
        return self.checkpoints / "last.ckpt"

    @property
    def metrics_json(self) -> Path:
        return self.path / "metrics.json"

    @property
    def metrics_csv(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def predictions_csv(self) -> Path:
        return self.path / "predictions.csv"

    @property
    def val_predictions_csv(self) -> Path:
        return self.path / "val_predictions.csv"

    @property
    def finished(self) -> bool:
        """Whether the test is done: config, predictions, and metrics with a section `test` are there."""
        if not (self.config.is_file() and self.metrics_json.is_file() and self.predictions_csv.is_file()):
            return False
        try:
            return "test" in self.read_metrics()
        except InputError:
            return False

    def read_metrics(self) -> dict[str, Any]:
        """The sections of metrics.json; a figure that is not defined is None.

        Raises:
            InputError: the file is absent or is not a JSON object.
        """
        try:
            metrics = json.loads(self.metrics_json.read_text(encoding="utf-8"))
        except FileNotFoundError:
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
        """Sections of metrics.json, typed; see `read_metrics`."""
        return cast("RunMetrics", self.read_metrics())

    def __repr__(self) -> str:
        """Give the path, and accuracy and interval where they are known."""
        return f"<run {self.path}: {self._headline()}>"

    def _repr_html_(self) -> str:
        """Give the same for a notebook, with a link to the report."""
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
            judged = metrics[part]
            hits = sum(row[index] for index, row in enumerate(judged["confusion_matrix"]))
            low, high = accuracy_interval(hits, judged["n"])
        except (InputError, KeyError, TypeError, IndexError):
            return "not finished" if self.path.is_dir() else "not there any more"
        synthetic = ", SYNTHETIC images" if (metrics.get("data") or {}).get("source") == "synthetic" else ""
        return f"{part} {hits / judged['n']:.2%} ({low:.1%} to {high:.1%}, n = {judged['n']}{synthetic})"

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Replace metrics.json in one step; NaN and infinity become null."""
        ordered = [*(s for s in SECTIONS if s in metrics), *(s for s in metrics if s not in SECTIONS)]
        plain = {section: _finite(metrics[section]) for section in ordered}
        write_text(self.metrics_json, json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def update_metrics(self, section: str, value: Any) -> None:
        """Set one section of metrics.json and keep the others."""
        metrics = self.read_metrics() if self.metrics_json.exists() else {}
        self.write_metrics({**metrics, section: value})

    def read_curves(self) -> list[dict[str, str]]:
        """The rows of metrics.csv, cells as text and empty where not logged; none if it is absent."""
        if not self.metrics_csv.is_file():
            return []
        with self.metrics_csv.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file, restval=""))

    def write_predictions(
        self,
        files: Sequence[str],
        labels: npt.ArrayLike | None,
        probabilities: npt.ArrayLike,
        class_names: Sequence[str],
    ) -> None:
        """Write predictions.csv; see `write_prediction_table`."""
        write_prediction_table(self.predictions_csv, files, labels, probabilities, class_names)

    def read_predictions(self) -> PredictionTable:
        """Read predictions.csv; see `read_prediction_table`."""
        return read_prediction_table(self.predictions_csv)


def open_run(path: str | Path | RunFolder) -> RunFolder:
    """Open the folder that a run has left.

    Raises:
        InputError: no run folder; the message names the newest one nearby.
    """
    return RunFolder.open(path)


def lacks_test_part(metrics: Mapping[str, Any]) -> bool:
    """Whether the data of a run, by its metrics, had no image to test on."""
    counts: dict[str, int] = ((metrics.get("data") or {}).get("counts") or {}).get("test") or {}
    return bool(counts) and not any(counts.values())


def find_runs(folder: Path) -> list[Path]:
    """The run folders one or two levels below `folder`, the newest last.

    A folder's age is the time stamp in its name, else the time at which its config was written.
    """

    def age(run: Path) -> str:
        if _STAMP.match(run.name):
            return run.name
        return time.strftime("%Y%m%d-%H%M%S", time.localtime((run / "config.yaml").stat().st_mtime))

    configs = [*folder.glob("*/config.yaml"), *folder.glob("*/*/config.yaml")]
    return sorted((config.parent for config in configs), key=lambda run: (age(run), str(run)))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
