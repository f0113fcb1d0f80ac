"""A run folder: what `fit` leaves behind and every later command reads.

config.yaml  checkpoints/best.ckpt  checkpoints/last.ckpt
metrics.csv  metrics.json  predictions.csv  report.html
"""

from __future__ import annotations

import csv
import json
import math
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from defectlab import __version__
from defectlab.errors import InputError

SECTIONS = ("data", "val", "test", "environment", "run")


@dataclass(frozen=True)
class PredictionTable:
    """Predictions for N images: `labels` and `predicted` are `(N,)` class indices, `probabilities`
    `(N, C)` in [0, 1]. `labels` is None where the truth is not known."""

    files: list[str]
    class_names: list[str]
    labels: npt.NDArray[np.int64] | None
    predicted: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]


@dataclass(frozen=True)
class RunFolder:
    """The files of one run, by name. Use `open` for a folder that a user named."""

    path: Path

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Check that `path` is a run folder, which is one that holds a config.yaml.

        Raises:
            InputError: it is not; the message names the newest run nearby where there is one.
        """
        path = Path(path).expanduser()
        if (path / "config.yaml").is_file():
            return cls(path)
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
        return metrics

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


def find_runs(folder: Path) -> list[Path]:
    """The run folders one or two levels below `folder`, the newest last.

    A folder's age is the time stamp in its name, else the time at which its config was written.
    """

    def age(run: Path) -> str:
        if re.match(r"\d{8}-\d{6}", run.name):
            return run.name
        return time.strftime("%Y%m%d-%H%M%S", time.localtime((run / "config.yaml").stat().st_mtime))

    configs = [*folder.glob("*/config.yaml"), *folder.glob("*/*/config.yaml")]
    return sorted((config.parent for config in configs), key=lambda run: (age(run), str(run)))


def write_prediction_table(
    path: Path,
    files: Sequence[str],
    labels: npt.ArrayLike | None,
    probabilities: npt.ArrayLike,
    class_names: Sequence[str],
) -> None:
    """Write one row an image: `file,label,predicted,confidence,p_<class>...`, in one step.

    `labels` `(N,)` are class indices; with None there is no label column. `probabilities` `(N, C)` are
    written with six decimals, and `confidence` is the largest of a row.

    Raises:
        InputError: lengths that do not fit together, labels out of range, or a place that cannot be
            written to.
    """
    shares = np.asarray(probabilities, dtype=np.float64)
    truth = None if labels is None else np.asarray(labels, dtype=np.int64)
    expected = (len(files), len(class_names))
    if shares.shape != expected or (truth is not None and truth.shape != expected[:1]):
        raise InputError(
            f"{path.name}: probabilities of shape {shares.shape} with labels of shape "
            f"{None if truth is None else truth.shape}; expected {expected}: a row a file, a column a class"
        )
    if truth is not None and truth.size and not 0 <= truth.min() <= truth.max() < len(class_names):
        raise InputError(
            f"{path.name}: labels run from {truth.min()} to {truth.max()}: "
            f"expected 0 to {len(class_names) - 1}, a number for each class"
        )
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    label_column = [] if truth is None else ["label"]
    writer.writerow(["file", *label_column, "predicted", "confidence", *(f"p_{name}" for name in class_names)])
    for index, (file, row) in enumerate(zip(files, shares, strict=True)):
        label = [] if truth is None else [class_names[truth[index]]]
        best = int(row.argmax())
        writer.writerow([file, *label, class_names[best], f"{row[best]:.6f}", *(f"{p:.6f}" for p in row)])
    write_text(path, text.getvalue())


def read_prediction_table(path: Path) -> PredictionTable:
    """Read what `write_prediction_table` wrote.

    Raises:
        InputError: the file is absent, or a row is not what its header says.
    """
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); run `test` or `predict` first") from None
    labelled = "label" in header[:2]
    fixed = ["file", *(["label"] if labelled else []), "predicted", "confidence"]
    class_names = [column.removeprefix("p_") for column in header[len(fixed) :]]
    if header[: len(fixed)] != fixed or not class_names:
        raise InputError(
            f"{path}: header {','.join(header)[:60]!r}; "
            "expected file,[label,]predicted,confidence,p_<class>..., as `test` and `predict` write it"
        )
    index_of = {name: index for index, name in enumerate(class_names)}
    labels, predicted, probabilities = [], [], []
    for line, row in enumerate(rows, start=2):
        try:
            names = [index_of[name] for name in row[1 : len(fixed) - 1]]
            shares = [float(cell) for cell in row[len(fixed) :]]
            if len(row) != len(header):
                raise ValueError(f"{len(row)} cells instead of {len(header)}")
        except (KeyError, ValueError) as error:
            raise InputError(f"{path}, row {line}: {error} does not fit the header; write it anew") from None
        labels.append(names[0])
        predicted.append(names[-1])
        probabilities.append(shares)
    return PredictionTable(
        files=[row[0] for row in rows],
        class_names=class_names,
        labels=np.array(labels, dtype=np.int64) if labelled else None,
        predicted=np.array(predicted, dtype=np.int64),
        probabilities=np.array(probabilities, dtype=np.float64).reshape(len(rows), len(class_names)),
    )


def write_text(path: Path, text: str) -> None:
    """Write a file in one step: a reader finds the old text or the new, never half of it.

    Raises:
        InputError: the place cannot be written to.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # surrogateescape: a file name that is not UTF-8 goes out with the bytes it came with
        draft.write_text(text, encoding="utf-8", errors="surrogateescape", newline="\n")
        os.replace(draft, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); choose another place") from None
    finally:
        with suppress(OSError):  # gone already, or there was no such folder
            draft.unlink()


def environment() -> dict[str, Any]:
    """Versions and hardware that a figure was made with; None where something is not known.

    `cores` are the logical ones this process may use; `commit` is that of the git working tree the
    process runs in, with `-dirty` where tracked files were changed.
    """
    import torch  # here, because most commands that read a run folder never need it

    return {
        "python": platform.python_version(),
        "defectlab": __version__,
        **{name: _version(name) for name in ("torch", "torchvision", "lightning")},
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "commit": _commit(),
    }


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str | None:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or None


def _commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
