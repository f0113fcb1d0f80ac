"""Type metrics.json, check it when it is read, and write an accuracy as text."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from defectlab.errors import InputError
from defectlab.metrics.classification import SplitMetrics, accuracy_interval


class DataFacts(TypedDict, total=False):
    """Where the images came from, and how they were divided: see `ImageDataModule.describe`."""

    source: str
    root: str
    class_names: list[str]
    counts: dict[str, dict[str, int]]
    split_hash: str
    mean: list[float]
    std: list[float]
    image_size: int
    channels: int
    skipped: list[str]


class Calibration(TypedDict):
    """Temperature fitted on the validation images, and the test's calibration error and loss with it."""

    temperature: float
    ece: float
    loss: float


class RunFacts(TypedDict, total=False):
    """How the run was made; `best_epoch` counts from 0, `checkpoint` is `RunFolder.fingerprint`."""

    config: str
    seed: int
    epochs: int
    best_epoch: int
    parameters: int
    weights: str
    lr: float
    train_seconds: float
    total_seconds: float
    test_split_read: int
    checkpoint: str


class RunMetrics(TypedDict, total=False):
    """Sections of metrics.json. A run without a test part has no `test`."""

    data: DataFacts
    val: SplitMetrics
    test: SplitMetrics
    calibration: Calibration
    environment: dict[str, Any]
    run: RunFacts


def count_correct(result: Mapping[str, Any]) -> int:
    """Return the number of correct images of `SplitMetrics`."""
    return sum(row[index] for index, row in enumerate(result["confusion_matrix"]))


def accuracy_text(part: str, result: Mapping[str, Any], source: str | None) -> str:
    """Write the accuracy of a part with its 95 % Wilson interval and its number of images."""
    correct, n = count_correct(result), result["n"]
    low, high = accuracy_interval(correct, n)
    synthetic = ", SYNTHETIC images" if source == "synthetic" else ""
    return f"{part} {correct / n:.2%} ({low:.1%} to {high:.1%}, n = {n}{synthetic})"


_KINDS: dict[str, type | tuple[type, ...]] = {
    "n": int,
    "accuracy": (int, float, type(None)),
    "confusion_matrix": list,
    "per_class": dict,
    "class_names": list,
    "counts": dict,
}


def check_metrics(metrics: Mapping[str, Any], path: Path) -> None:
    """Raise InputError for a known section that is no object, or a value of another type than it is written with."""
    for section in RunMetrics.__annotations__.keys() & metrics.keys():
        values = {} if metrics[section] is None else metrics[section]
        if not isinstance(values, dict):
            raise InputError(f"{path}: {section} is {str(values)[:40]!r}, expected an object; run `test` again")
        for name in _KINDS.keys() & values.keys():
            if section in ("data", "val", "test") and not isinstance(values[name], _KINDS[name]):
                found = str(values[name])[:40]
                raise InputError(f"{path}: {section}.{name} is {found!r}, which `test` does not write; run it again")
