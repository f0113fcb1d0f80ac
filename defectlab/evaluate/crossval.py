"""Repeated splits of one data set: which runs there are, and what they say together."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

import numpy as np

from defectlab.errors import InputError
from defectlab.metrics.statistics import corrected_interval
from defectlab.runs import PredictionTable, RunFolder

__all__ = ["FILE", "Part", "Protocol", "plan", "pool", "read_crossval", "summarise"]

FILE = "crossval.json"
Protocol = Literal["kfold", "song-yan"]


@dataclass(frozen=True)
class Part:
    """One run of a cross-validation: the folder's name, and the arguments of `fit` that make it what it is."""

    name: str
    words: tuple[str, ...]


def plan(protocol: Protocol, folds: int, repeats: int, seed: int, test_size: int | None = None) -> list[Part]:
    """Every run, in order.

    `kfold` divides the images into folds, anew for each repeat, and tests each fold once. `song-yan` draws half of
    every class for training and tests the other half: Song & Yan, Applied Surface Science 285 (2013), section 4; or it
    tests `test_size` images in all.
    """
    parts = []
    for repeat in range(repeats):
        seeds = ("--seed_everything", str(seed + repeat), "--data.seed", str(seed + repeat))
        if protocol == "song-yan":
            words = (*seeds, "--data.split", "random", "--data.test_size", str(test_size or 0.5))
            parts.append(Part(f"repeat{repeat + 1:03}", words))
        else:
            parts += [
                Part(f"repeat{repeat + 1}-fold{fold}", (*seeds, "--data.split", f"{fold}/{folds}"))
                for fold in range(1, folds + 1)
            ]
    return parts


def read_crossval(folder: Path) -> dict[str, Any]:
    """What crossval.json holds: `arguments`, `fit`, and `summary` once all runs are done.

    Raises:
        InputError: there is none that can be read.
    """
    try:
        saved = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if isinstance(saved, dict) and {"arguments", "fit"} <= set(saved):
            return saved
    except (OSError, ValueError):
        pass
    raise InputError(f"{folder} is no folder of a cross-validation: it has no readable {FILE}")


def summarise(runs: Sequence[RunFolder]) -> dict[str, Any]:
    """Accuracy of each run, mean, sd and the corrected 95 % interval; in [0, 1]."""
    rows, ratios = [], []
    for run in runs:
        metrics = run.read_metrics()
        counts = {part: sum(metrics["data"]["counts"][part].values()) for part in ("train", "val", "test")}
        ratios.append(counts["test"] / counts["train"])
        rows.append(
            {
                "run": run.path.name,
                "accuracy": metrics["test"]["accuracy"],
                "macro_f1": metrics["test"]["macro_f1"],
                "n": metrics["test"]["n"],
                "split_hash": metrics["data"]["split_hash"],
            }
        )
    scores = [float(row["accuracy"]) for row in rows]
    low, high = corrected_interval(scores, fmean(ratios))
    low, high = max(low, 0.0), min(high, 1.0)  # the t interval knows nothing of bounds
    return {
        "accuracy": fmean(scores), "sd": stdev(scores), "low": low, "high": high,
        "test_to_train": fmean(ratios), "runs": rows,
    }  # fmt: skip


def pool(tables: Sequence[PredictionTable]) -> PredictionTable:
    """One row for every image that was tested, its probabilities the mean over the runs that tested it."""
    names = tables[0].class_names
    shares: dict[str, list[np.ndarray]] = {}
    labels: dict[str, int] = {}
    for table in tables:
        if table.class_names != names or table.labels is None:
            raise InputError("the runs of one cross-validation know different classes: make them anew")
        for file, label, row in zip(table.files, table.labels, table.probabilities, strict=True):
            shares.setdefault(file, []).append(row)
            labels[file] = int(label)
    files = sorted(shares)
    means = np.array([np.mean(shares[file], axis=0) for file in files])
    return PredictionTable(files, names, np.array([labels[file] for file in files]), means.argmax(axis=1), means)
