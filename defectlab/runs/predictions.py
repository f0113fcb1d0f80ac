"""Write and read predictions.csv: one row an image, written by `test` and `predict`, read by every comparison."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from defectlab.errors import InputError
from defectlab.metrics.decisions import (
    Labels,
    are_right,
    confidence_of,
    decide,
    label_texts,
    membership,
    split_names,
)
from defectlab.metrics.results import balanced_accuracy
from defectlab.utils.text import csv_rows, read_csv, write_text

_CHECKPOINT = "checkpoint"  # last column
_NOVELTY = "novelty"


@dataclass(frozen=True, kw_only=True)
class PredictionTable:
    """Predictions of N images.

    Args:
        labels: class indices (N,), of a multi-label task (N, C) of 0 and 1; None if unknown.
        predicted: as `labels`.
        probabilities: (N, C).
        checkpoint: fingerprint of the network's checkpoint, see `RunFolder.fingerprint`; None in tables without it.
        thresholds: of a multi-label task the probability of each class from which it is predicted, (C,); else None.
        novelty: how strange each image is, (N,) float32, see `NoveltyScorer`; None in tables without it.
    """

    files: list[str]
    class_names: list[str]
    labels: Labels | None
    predicted: Labels
    probabilities: npt.NDArray[np.float64]
    checkpoint: str | None = None
    thresholds: tuple[float, ...] | None = None
    novelty: npt.NDArray[np.float32] | None = None

    @property
    def truth(self) -> npt.NDArray[np.bool_]:
        """Which images are of which class, (N, C); InputError where that is unknown."""
        return membership(self._known_labels, len(self.class_names))

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Which images are predicted rightly, (N,), see `are_right`; InputError where that is unknown."""
        return are_right(self.predicted, self._known_labels)

    @property
    def _known_labels(self) -> Labels:
        if self.labels is None:
            raise InputError("the predictions have no labels: expected a run's own, as `fit` and `test` write it")
        return self.labels

    @property
    def balanced_accuracy(self) -> float:
        """Balanced accuracy, see `SplitMetrics`; InputError where the labels are unknown."""
        return balanced_accuracy(self.predicted, self._known_labels, len(self.class_names))

    @property
    def confidence(self) -> npt.NDArray[np.float64]:
        """Probability of what is predicted, (N,), see `confidence_of`."""
        return confidence_of(self.probabilities, self.thresholds)


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
    thresholds: Sequence[float] | None = None,
    novelty: npt.NDArray[np.floating[Any]] | None = None,
) -> None:
    """Write one row an image: `file,label,predicted,confidence,p_<class>...`, the columns of N texts `extra`, `checkpoint`.

    Scores of `novelty` (N,) are a column before the last.

    `labels` are as of `PredictionTable`; with None there is no label column. `probabilities` (N, C) are written as
    `as_kept` rounds them. With `thresholds` (C,) an image has any number of classes, joined by `|`, and columns
    `t_<class>` keep them. InputError for lengths that do not fit together.
    """
    table = as_kept(probabilities)
    truth = None if labels is None else np.asarray(labels, dtype=np.int64)
    expected = (len(files), len(class_names))
    if table.shape != expected or (
        truth is not None and truth.shape != (expected[:1] if thresholds is None else expected)
    ):
        raise InputError(
            f"{path.name}: probabilities of shape {table.shape} with labels of shape "
            f"{None if truth is None else truth.shape}; expected {expected}: a row a file, a column a class"
        )
    most = len(class_names) if thresholds is None else 2
    if truth is not None and truth.size and not 0 <= truth.min() <= truth.max() < most:
        raise InputError(
            f"{path.name}: labels run from {truth.min()} to {truth.max()}: "
            f"expected 0 to {most - 1}, a number for each class"
        )
    limits = {} if thresholds is None else {
        f"t_{name}": [str(np.float32(value))] * len(files) for name, value in zip(class_names, thresholds, strict=True)
    }  # fmt: skip
    scores = {} if novelty is None else {_NOVELTY: [str(score) for score in as_kept(novelty)]}
    about = {} if checkpoint is None else {_CHECKPOINT: [checkpoint] * len(files)}
    confidence = confidence_of(table, thresholds).astype(np.float32) if len(files) else ()
    columns: dict[str, Sequence[object]] = {
        "file": files,
        **({} if truth is None else {"label": label_texts(truth, class_names)}),
        "predicted": label_texts(decide(table, thresholds), class_names),
        "confidence": [str(p) for p in confidence],
        **{f"p_{name}": [str(p) for p in table[:, k]] for k, name in enumerate(class_names)},
        **limits, **(extra or {}), **scores, **about,
    }  # fmt: skip
    write_text(path, csv_rows([list(columns), *zip(*columns.values(), strict=True)]))


def read_prediction_table(path: Path) -> PredictionTable:
    """Read what `write_prediction_table` wrote; InputError where the file is absent or a row does not fit its header."""
    header, *rows = read_csv(path, "expected the predictions of a run, as `fit` and `test` write them") or [[]]
    labelled = "label" in header[:2]
    fixed = ["file", *(["label"] if labelled else []), "predicted", "confidence"]
    last = len(fixed) + len(list(takewhile(lambda column: column.startswith("p_"), header[len(fixed) :])))
    class_names = [column.removeprefix("p_") for column in header[len(fixed) : last]]
    several = header[last : last + len(class_names)] == [f"t_{name}" for name in class_names]
    if header[: len(fixed)] != fixed or not class_names:
        raise InputError(
            f"{path}: header {','.join(header)[:60]!r}; "
            "expected file,[label,]predicted,confidence,p_<class>..., as `test` and `predict` write it"
        )
    index_of = {name: index for index, name in enumerate(class_names)}
    labels: list[int | list[bool]] = []
    predicted: list[int | list[bool]] = []
    probabilities, limits = [], set()
    scores: list[float] = []
    at = header.index(_NOVELTY, last) if _NOVELTY in header[last:] else None
    has_checkpoint = header[last:][-1:] == [_CHECKPOINT]
    checkpoints = {row[-1] for row in rows if row} if has_checkpoint else set()
    if len(checkpoints) > 1:
        raise InputError(
            f"{path} has rows of {len(checkpoints)} checkpoints: expected those of one network; write it anew"
        )
    for line, row in enumerate(rows, start=2):
        try:
            named = [_indices(cell, index_of, several) for cell in row[1 : len(fixed) - 1]]
            values = [float(cell) for cell in row[len(fixed) : last]]
            scores += [] if at is None else [float(row[at])]
            if len(row) != len(header):
                raise ValueError(f"{len(row)} cells instead of {len(header)}")
            if not all(0 <= value <= 1 + 1e-6 for value in values):  # nor of NaN
                raise ValueError(f"a probability of {min(values)} or {max(values)}")
        except (KeyError, ValueError, IndexError) as error:
            raise InputError(f"{path}, row {line}: {error} does not fit the header; write it anew") from None
        labels.append(named[0])
        predicted.append(named[-1])
        probabilities.append(values)
        limits.add(tuple(row[last : last + len(class_names)]) if several else ())
    if len(limits) > 1:
        raise InputError(f"{path} has rows of {len(limits)} sets of thresholds: expected one; write it anew")
    kind = np.bool_ if several else np.int64
    return PredictionTable(
        files=[row[0] for row in rows], class_names=class_names,
        labels=np.array(labels, dtype=kind) if labelled else None, predicted=np.array(predicted, dtype=kind),
        probabilities=as_kept(probabilities).astype(np.float64).reshape(len(rows), len(class_names)),
        checkpoint=next(iter(checkpoints), None), thresholds=_numbers(path, next(iter(limits), ())) if several else None,
        novelty=None if at is None else as_kept(scores),
    )  # fmt: skip


def _indices(cell: str, index_of: Mapping[str, int], several: bool) -> int | list[bool]:
    """Return the index of the class in a cell, or which classes are in it."""
    if not several:
        return index_of[cell]
    chosen = {index_of[name] for name in split_names(cell)}
    return [index in chosen for index in range(len(index_of))]


def _numbers(path: Path, cells: Sequence[str]) -> tuple[float, ...]:
    """Return the thresholds of a row."""
    try:
        found = tuple(float(cell) for cell in cells)
    except ValueError as error:
        raise InputError(f"{path}: a threshold does not fit the header ({error}); write it anew") from None
    return found


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
        theirs = label_texts(table.labels[order], table.class_names)
        ours = label_texts(first.labels, first.class_names)
        if theirs != ours:
            name = next(f for f, a, b in zip(first.files, ours, theirs, strict=True) if a != b)
            raise InputError(
                f"{files[0].parent} and {file.parent} give {name} different labels: they cannot be compared"
            )
        found.append(
            replace(
                table, files=list(first.files), labels=table.labels[order], predicted=table.predicted[order],
                probabilities=table.probabilities[order], novelty=None if table.novelty is None else table.novelty[order],
            )
        )  # fmt: skip
    return found
