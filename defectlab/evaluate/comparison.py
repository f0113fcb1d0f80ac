"""Runs that were judged on the same images, two at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from defectlab.errors import InputError
from defectlab.evaluate.ensemble import aligned_tables
from defectlab.metrics.statistics import corrected_t_test, holm, images_needed, mcnemar
from defectlab.runs import RunFolder, lacks_test_part

__all__ = ["CrossvalPair", "Pair", "compare_crossvals", "compare_runs", "correct_matrix"]


@dataclass(frozen=True)
class Pair:
    """Two runs on `n` shared test images; `p` is exact McNemar's, `p_holm` adjusted for all pairs of the call."""

    first: str
    second: str
    n: int
    first_only: int
    second_only: int
    p: float
    p_holm: float

    def verdict(self, level: float) -> str:
        """One sentence in plain words."""
        if self.p_holm < level:
            better = self.first if self.first_only > self.second_only else self.second
            return f"{better} is better ({_short(self.p_holm)})"
        needed = images_needed(self.first_only, self.second_only, self.n, level)
        words = f"{self.first} and {self.second} cannot be told apart with {self.n} images ({_short(self.p_holm)})"
        if needed is None:
            return f"{words}: both have the same number right"
        return f"{words}; if the difference is as large as it looks, you would need about {needed:,}"


@dataclass(frozen=True)
class CrossvalPair:
    """Two cross-validations on the same `splits`; `difference` is the second's mean accuracy less the first's."""

    first: str
    second: str
    splits: int
    difference: float
    p: float
    p_holm: float

    def verdict(self, level: float) -> str:
        """One sentence in plain words."""
        gain = f"{abs(self.difference):.2%} more of the images on average over {self.splits} splits"
        if self.p_holm < level:
            return f"{self.second if self.difference > 0 else self.first} is better: {gain} ({_short(self.p_holm)})"
        return (
            f"{self.first} and {self.second} cannot be told apart: {self.difference:+.2%} on average over {self.splits} "
            f"splits ({_short(self.p_holm)}); more images would tell, more repeats hardly"
        )


def correct_matrix(runs: Sequence[RunFolder]) -> npt.NDArray[np.bool_]:
    """Which run had which test image right, shape (runs, images), images in the first run's order.

    Raises:
        InputError: a run without a test part, test images or labels that differ between runs, or predictions without
            labels.
    """
    for run in runs:
        if run.metrics_json.is_file() and lacks_test_part(run.read_metrics()):
            raise InputError(
                f"{run.path} had no test images, by which runs are compared: fit it again with data.test_size above 0"
            )
    tables = aligned_tables([run.predictions_csv for run in runs])
    return np.array([table.labels == table.predicted for table in tables])


def compare_runs(names: Sequence[str], right: npt.NDArray[np.bool_]) -> list[Pair]:
    """Every pair of runs, from `correct_matrix` (runs, images)."""
    found = []
    for i, j in combinations(range(len(names)), 2):
        first_only, second_only = int((right[i] & ~right[j]).sum()), int((~right[i] & right[j]).sum())
        found.append((names[i], names[j], right.shape[1], first_only, second_only, mcnemar(first_only, second_only)))
    adjusted = holm([pair[-1] for pair in found])
    return [Pair(*pair, p_holm) for pair, p_holm in zip(found, adjusted, strict=True)]


def compare_crossvals(names: Sequence[str], summaries: Sequence[Mapping[str, Any]]) -> list[CrossvalPair]:
    """Every pair by the corrected resampled t-test, adjusted by Holm's method.

    Args:
        names: One a cross-validation.
        summaries: What `summarise` gave for each.

    Raises:
        InputError: other splits, of other images or another protocol or seed.
    """
    hashes = [[run["split_hash"] for run in summary["runs"]] for summary in summaries]
    for name, theirs in zip(names, hashes, strict=True):
        if theirs != hashes[0]:
            raise InputError(
                f"{names[0]} and {name} were made on different splits ({len(hashes[0])} and {len(theirs)}): give "
                "cross-validations with the same data, --protocol, --folds, --repeats, --seed and data.val_size"
            )
    found = []
    for i, j in combinations(range(len(names)), 2):
        pairs = zip(summaries[i]["runs"], summaries[j]["runs"], strict=True)
        differences = [second["accuracy"] - first["accuracy"] for first, second in pairs]
        p = corrected_t_test(differences, summaries[i]["test_to_train"])
        found.append((names[i], names[j], len(differences), float(np.mean(differences)), p))
    adjusted = holm([pair[-1] for pair in found])
    return [CrossvalPair(*pair, p_holm) for pair, p_holm in zip(found, adjusted, strict=True)]


def _short(p: float) -> str:
    return "p < .001" if p < 0.001 else "p = " + f"{p:.3f}".removeprefix("0")
