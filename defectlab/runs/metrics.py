"""Type metrics.json, check it when it is read, and write an accuracy as text."""

from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, TypedDict, get_args, get_origin, get_type_hints, is_typeddict

from defectlab.errors import InputError
from defectlab.metrics.classification import SplitMetrics, accuracy_interval
from defectlab.metrics.line import Promise


class DataFacts(TypedDict, total=False):
    """Where the images came from, and how they were divided: see `ImageDataModule.describe`."""

    source: str
    root: str
    class_names: list[str]
    counts: dict[str, dict[str, int]]
    split_hash: str
    mean: list[float]
    std: list[float]
    image_size: int | list[int]
    fit: str
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
    seed: int | bool
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
    """Sections of metrics.json. A run without a test part has no `test`; `operating` is by class, see `Promise`."""

    data: DataFacts
    val: SplitMetrics
    test: SplitMetrics
    calibration: Calibration
    operating: dict[str, list[Promise]]
    environment: dict[str, Any]
    run: RunFacts


def count_correct(result: Mapping[str, Any]) -> int:
    """Return the number of correct images of `SplitMetrics`."""
    correct: float = result["accuracy"] * result["n"]
    return round(correct)


def balanced_of(result: Mapping[str, Any]) -> float:
    """Return the balanced accuracy of a part; older runs have it as macro recall alone."""
    return float(result["balanced_accuracy"] if "balanced_accuracy" in result else result["macro_recall"])


def accuracy_text(part: str, result: Mapping[str, Any], source: str | None) -> str:
    """Write the accuracy of a part with its 95 % Wilson interval and number of images and the balanced accuracy."""
    correct, n = count_correct(result), result["n"]
    low, high = accuracy_interval(correct, n)
    synthetic = ", SYNTHETIC images" if source == "synthetic" else ""
    return f"{part} {correct / n:.2%} ({low:.1%} to {high:.1%}, n = {n}{synthetic}), balanced {balanced_of(result):.2%}"


def check_metrics(metrics: Mapping[str, Any], path: Path) -> None:
    """Raise InputError for a value of another type than it is written with."""
    found = _misfit({name: value for name, value in metrics.items() if value is not None}, RunMetrics, "")
    if found is not None:
        raise InputError(f"{path}: {found}, which `test` does not write; run it again")
    for part in ("val", "test"):
        result = metrics.get(part) or {}
        matrix, names = result.get("confusion_matrix"), result.get("per_class")
        if matrix is not None and names is not None and {len(matrix), *map(len, matrix)} != {len(names)}:
            raise InputError(
                f"{path}: {part}.confusion_matrix is no square of its {len(names)} classes; run `test` again"
            )


def _misfit(value: Any, hint: Any, place: str) -> str | None:
    """Return the first place whose value does not have its type, with the value; a figure may be None, for NaN."""
    origin, inner = get_origin(hint), get_args(hint)
    kinds: Any = {float: (int, float, type(None)), list: list, dict: dict}.get(origin or hint, origin or hint)
    if is_typeddict(hint):
        kinds = dict
    if hint is Any or origin is UnionType:
        return None
    if not isinstance(value, kinds) or (isinstance(value, bool) and hint is not bool):
        return f"{place} is {str(value)[:40]!r}"
    parts: dict[str, tuple[Any, Any]] = {}
    if is_typeddict(hint):
        hints = get_type_hints(hint)
        parts = {name: (value[name], hints[name]) for name in hints.keys() & value.keys()}
    elif origin is dict:
        parts = {str(name): (item, inner[1]) for name, item in value.items()}
    elif origin is list:
        parts = {str(index): (item, inner[0]) for index, item in enumerate(value)}
    checked = (_misfit(item, kind, f"{place}.{name}".lstrip(".")) for name, (item, kind) in parts.items())
    return next((found for found in checked if found is not None), None)
