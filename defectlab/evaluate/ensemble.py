"""Several runs' predictions for the same images: brought into one order, and averaged."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from defectlab.errors import InputError
from defectlab.runs import PredictionTable, read_prediction_table

__all__ = ["aligned_tables", "averaged"]


def aligned_tables(files: Sequence[Path]) -> list[PredictionTable]:
    """Tables of predictions with labels, each with the rows in the order of the first one's.

    Args:
        files: `predictions.csv` of run folders, or their `val_predictions.csv`.

    Raises:
        InputError: images or labels that differ between them, a file named twice, or predictions without labels.
    """
    tables = [read_prediction_table(file) for file in files]
    first = tables[0]
    found = []
    for file, table in zip(files, tables, strict=True):
        if table.labels is None or first.labels is None:
            raise InputError(f"{file} has no labels: expected a run's own, as `fit` and `test` write it")
        place = {name: index for index, name in enumerate(table.files)}
        if len(place) != len(table.files):
            raise InputError(f"{file} names a file twice: images cannot be told apart; write it anew")
        if place.keys() != set(first.files):
            shared = len(place.keys() & set(first.files))
            raise InputError(
                f"{files[0].parent} and {file.parent} were judged on different {_kind(file)} images "
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
                table,
                files=list(first.files),
                labels=table.labels[order],
                predicted=table.predicted[order],
                probabilities=table.probabilities[order],
            )
        )
    return found


def averaged(files: Sequence[Path]) -> PredictionTable:
    """The mean of each image's probabilities, (N, C), over the tables; the class of the largest is predicted.

    The arithmetic mean, as of an ensemble of networks (Lakshminarayanan et al. 2017, section 2.4), not that of logits:
    one network that is sure of the wrong class cannot outvote the others by how sure it is.

    Raises:
        InputError: as `aligned_tables`; or other classes.
    """
    tables = aligned_tables(files)
    names = tables[0].class_names
    for file, table in zip(files, tables, strict=True):
        if table.class_names != names:
            raise InputError(
                f"{file.parent} knows the classes {', '.join(table.class_names)}, {files[0].parent} "
                f"{', '.join(names)}: expected the same in the same order"
            )
    shares = np.mean([table.probabilities for table in tables], axis=0)
    return PredictionTable(tables[0].files, names, tables[0].labels, shares.argmax(axis=1), shares)


def _kind(file: Path) -> str:
    return "validation" if file.name.startswith("val_") else "test"
