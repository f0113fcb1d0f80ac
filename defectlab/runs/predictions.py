"""Write and read predictions.csv: one row an image, written by `test` and `predict`, read by every comparison."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from defectlab.errors import InputError
from defectlab.utils.text import csv_rows, read_csv, write_text

_CHECKPOINT = "checkpoint"  # last column


@dataclass(frozen=True, kw_only=True)
class PredictionTable:
    """Predictions of N images: class indices (N,) `labels` (None if unknown) and `predicted`; `probabilities` (N, C).

    `checkpoint` is the fingerprint of the network's checkpoint, see `RunFolder.fingerprint`; None in tables without it.
    """

    files: list[str]
    class_names: list[str]
    labels: npt.NDArray[np.int64] | None
    predicted: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]
    checkpoint: str | None = None


def as_kept(probabilities: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Round probabilities (N, C) as tables keep them, from which they come back exactly.

    What is decided by a table, such as a threshold, has to be compared with probabilities that are rounded alike.
    """
    return np.asarray(probabilities, dtype=np.float32)


def write_prediction_table(
    path: Path,
    files: Sequence[str],
    labels: npt.ArrayLike | None,
    probabilities: npt.ArrayLike,
    class_names: Sequence[str],
    extra: Mapping[str, Sequence[str]] | None = None,
    checkpoint: str | None = None,
) -> None:
    """Write one row an image: `file,label,predicted,confidence,p_<class>...`, the columns of N texts `extra`, `checkpoint`.

    `labels` (N,) are class indices; with None there is no label column. `probabilities` (N, C) are written as
    `as_kept` rounds them, and `confidence` is the largest of a row. InputError for lengths that do not fit together.
    """
    table = as_kept(probabilities)
    truth = None if labels is None else np.asarray(labels, dtype=np.int64)
    expected = (len(files), len(class_names))
    if table.shape != expected or (truth is not None and truth.shape != expected[:1]):
        raise InputError(
            f"{path.name}: probabilities of shape {table.shape} with labels of shape "
            f"{None if truth is None else truth.shape}; expected {expected}: a row a file, a column a class"
        )
    if truth is not None and truth.size and not 0 <= truth.min() <= truth.max() < len(class_names):
        raise InputError(
            f"{path.name}: labels run from {truth.min()} to {truth.max()}: "
            f"expected 0 to {len(class_names) - 1}, a number for each class"
        )
    label_column = [] if truth is None else ["label"]
    more = {**(extra or {}), **({} if checkpoint is None else {_CHECKPOINT: [checkpoint] * len(files)})}
    rows = [["file", *label_column, "predicted", "confidence", *(f"p_{name}" for name in class_names), *more]]
    for index, (file, row) in enumerate(zip(files, table, strict=True)):
        label = [] if truth is None else [class_names[truth[index]]]
        best = int(row.argmax())
        last = (column[index] for column in more.values())
        rows.append([file, *label, class_names[best], *(str(p) for p in (row[best], *row)), *last])
    write_text(path, csv_rows(rows))


def read_prediction_table(path: Path) -> PredictionTable:
    """Read what `write_prediction_table` wrote; InputError where the file is absent or a row does not fit its header."""
    header, *rows = read_csv(path, "expected the predictions of a run, as `fit` and `test` write them") or [[]]
    labelled = "label" in header[:2]
    fixed = ["file", *(["label"] if labelled else []), "predicted", "confidence"]
    last = len(fixed) + sum(column.startswith("p_") for column in header)
    class_names = [column.removeprefix("p_") for column in header[len(fixed) : last]]
    if header[: len(fixed)] != fixed or not class_names:
        raise InputError(
            f"{path}: header {','.join(header)[:60]!r}; "
            "expected file,[label,]predicted,confidence,p_<class>..., as `test` and `predict` write it"
        )
    index_of = {name: index for index, name in enumerate(class_names)}
    labels, predicted, probabilities = [], [], []
    has_checkpoint = header[last:][-1:] == [_CHECKPOINT]
    checkpoints = {row[-1] for row in rows if row} if has_checkpoint else set()
    if len(checkpoints) > 1:
        raise InputError(
            f"{path} has rows of {len(checkpoints)} checkpoints: expected those of one network; write it anew"
        )
    for line, row in enumerate(rows, start=2):
        try:
            names = [index_of[name] for name in row[1 : len(fixed) - 1]]
            values = [float(cell) for cell in row[len(fixed) : last]]
            if len(row) != len(header):
                raise ValueError(f"{len(row)} cells instead of {len(header)}")
            if not all(0 <= value <= 1 + 1e-6 for value in values):  # nor of NaN
                raise ValueError(f"a probability of {min(values)} or {max(values)}")
        except (KeyError, ValueError) as error:
            raise InputError(f"{path}, row {line}: {error} does not fit the header; write it anew") from None
        labels.append(names[0])
        predicted.append(names[-1])
        probabilities.append(values)
    return PredictionTable(
        files=[row[0] for row in rows], class_names=class_names,
        labels=np.array(labels, dtype=np.int64) if labelled else None, predicted=np.array(predicted, dtype=np.int64),
        probabilities=as_kept(probabilities).astype(np.float64).reshape(len(rows), len(class_names)),
        checkpoint=next(iter(checkpoints), None),
    )  # fmt: skip


def aligned_tables(tables: Mapping[Path, PredictionTable]) -> list[PredictionTable]:
    """Return tables of labelled predictions, by their files, each with the rows in the order of the first one's.

    InputError for images or labels that differ between them, or a file named twice.
    """
    files = list(tables)
    first = tables[files[0]]
    found = []
    for file, table in tables.items():
        if table.labels is None or first.labels is None:
            raise InputError(f"{file} has no labels: expected a run's own, as `fit` and `test` write it")
        place = {name: index for index, name in enumerate(table.files)}
        if len(place) != len(table.files):
            raise InputError(f"{file} names a file twice: images cannot be told apart; write it anew")
        if place.keys() != set(first.files):
            kind = "validation" if file.name.startswith("val_") else "test"
            shared = len(place.keys() & set(first.files))
            raise InputError(
                f"{files[0].parent} and {file.parent} were evaluated on different {kind} images "
                f"({len(first.files)} and {len(place)}, {shared} of them shared): give runs with the same data and "
                "data.seed"
            )
        order = [place[name] for name in first.files]
        theirs = [table.class_names[label] for label in table.labels[order]]
        ours = [first.class_names[label] for label in first.labels]
        if theirs != ours:
            name = next(f for f, a, b in zip(first.files, ours, theirs, strict=True) if a != b)
            raise InputError(
                f"{files[0].parent} and {file.parent} give {name} different labels: they cannot be compared"
            )
        found.append(
            replace(
                table, files=list(first.files), labels=table.labels[order], predicted=table.predicted[order],
                probabilities=table.probabilities[order],
            )
        )  # fmt: skip
    return found
