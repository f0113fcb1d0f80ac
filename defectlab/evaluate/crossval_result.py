"""The result of a cross-validation."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from defectlab.errors import InputError
from defectlab.metrics.classification import accuracy_interval
from defectlab.metrics.decisions import decide, mean_thresholds, membership
from defectlab.runs import PredictionTable
from defectlab.utils.text import html_table

Protocol = Literal["kfold", "song-yan"]


@dataclass(frozen=True, kw_only=True)
class CrossValidationSettings:
    """Arguments of `cross_validate`; `test_size` is the number of test images of song-yan, if given."""

    config: str
    protocol: Protocol
    folds: int
    repeats: int
    seed: int
    test_size: int | None = None
    compare_groups: bool = False

    def __str__(self) -> str:
        return f"{self.folds} folds × {self.repeats}" if self.protocol == "kfold" else f"{self.repeats} random halves"


@dataclass(frozen=True, kw_only=True)
class CrossValidation:
    """The result of `cross_validate`; accuracies in [0, 1].

    Args:
        folder: with a run folder a split, runs.csv, the pooled predictions.csv and crossval.json.
        settings: what was repeated.
        rows: run, accuracy, balanced_accuracy, macro_f1, n and split_hash of each run, for `pandas.DataFrame`.
        mean: accuracy over the runs.
        sd: its sample standard deviation.
        interval: of the mean, 95 %, corrected for overlapping training sets (Nadeau & Bengio 2003).
        pooled: every image that was tested once, its probabilities averaged over the runs that tested it.
        ungrouped: the same without the groups of the data, in `ungrouped` of the folder, where that was asked for.
    """

    folder: Path
    settings: CrossValidationSettings
    rows: list[dict[str, Any]]
    mean: float
    sd: float
    interval: tuple[float, float]
    pooled: PredictionTable
    ungrouped: "CrossValidation | None" = None

    def __fspath__(self) -> str:
        return str(self.folder)

    def _repr_html_(self) -> str:
        """Return a table for a notebook."""
        return html_table(repr(self), self.rows)

    def __repr__(self) -> str:
        low, high = self.interval
        return (
            f"CrossValidation: accuracy {self.mean:.2%} ± {self.sd:.2%} (mean ± sd of {len(self.rows)} runs, "
            f"{self.settings}), 95 % interval {low:.2%} to {high:.2%}, balanced {self.pooled.balanced_accuracy:.2%} pooled, in "
            f"{self.folder}"
        )

    @property
    def overstated(self) -> float | None:
        """Return by how much the accuracy is higher where groups are not kept together; None if that was not asked for."""
        return None if self.ungrouped is None else self.ungrouped.mean - self.mean

    @property
    def accuracies(self) -> list[float]:
        """Return the accuracy of each run."""
        return [row["accuracy"] for row in self.rows]

    @property
    def class_rows(self) -> list[dict[str, Any]]:
        """Compute each class's recall over the pooled predictions, its Wilson interval and the most frequent mistake."""
        rows, names, truth = [], self.pooled.class_names, self.pooled.truth
        called = membership(self.pooled.predicted, len(names))
        for index, name in enumerate(names):
            own = called[truth[:, index]]
            n, right = len(own), int(own[:, index].sum())
            low, high = accuracy_interval(right, n) if n else (0.0, 1.0)
            others = own & ~truth[truth[:, index]]  # absent classes that are called
            mistakes = Counter(
                dict(zip(names, others.sum(axis=0).tolist(), strict=True)) if others.any() else {}
            ).most_common(1)
            row = {"class": name, "n": n, "right": right, "recall": right / n if n else None, "low": low, "high": high}
            rows.append(
                {**row, "taken_for": mistakes[0][0] if mistakes else None, "times": mistakes[0][1] if mistakes else 0}
            )
        return rows


def pool(tables: Sequence[PredictionTable]) -> PredictionTable:
    """Average each tested image's probabilities over the runs that tested it, in the order of the file names."""
    names = tables[0].class_names
    found: dict[str, list[np.ndarray]] = {}
    labels: dict[str, Any] = {}
    for table in tables:
        if table.class_names != names or table.labels is None:
            raise InputError("the runs of one cross-validation know different classes: make them anew")
        for file, label, row in zip(table.files, table.labels, table.probabilities, strict=True):
            found.setdefault(file, []).append(row)
            labels[file] = label
    files = sorted(found)
    limits = mean_thresholds(table.thresholds for table in tables)
    means = np.array([np.mean(found[file], axis=0) for file in files])
    return PredictionTable(
        files=files, class_names=names, labels=np.array([labels[file] for file in files]),
        predicted=decide(means, limits), probabilities=means, thresholds=limits,
    )  # fmt: skip
