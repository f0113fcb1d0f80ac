"""Decide by probabilities: thresholds with a bound on the error, sets with a coverage, decisions of least cost."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from defectlab.errors import InputError
from defectlab.metrics.decisions import Labels, membership
from defectlab.metrics.operating import LineRates, OperatingPoint, images_for_bound
from defectlab.utils.text import read_csv

REVIEW = "review"  # the decision that leaves an image to a person


@dataclass(frozen=True)
class Threshold:
    """Images with at least this confidence are decided: `errors` of `n` calibration images, of `total`, were wrong."""

    confidence: float
    n: int
    errors: int
    total: int

    @property
    def share(self) -> float:
        """Share of the calibration images that is decided, in [0, 1]."""
        return self.n / self.total


@dataclass(frozen=True, kw_only=True)
class Flagged:
    """An operating point, and what it does.

    Args:
        point: threshold and promise.
        part: `test` or `val`, the run's images that `rates` are of.
        rates: on those, and per 1,000 images of the line; None without a defect rate.
        flags: which images are flagged, (N,).
    """

    point: OperatingPoint
    part: str
    rates: LineRates | None
    flags: npt.NDArray[np.bool_]


def choose_threshold(
    confidence: npt.NDArray[np.floating[Any]], right: npt.NDArray[np.bool_], max_error: float, level: float = 0.95
) -> Threshold | None:
    """Choose the lowest confidence whose error stays below `max_error`, with probability `level`; None if there is none.

    Confidences are tried from the top down, beginning where enough images are above for the bound to hold at all, and
    the first that fails the exact binomial test ends the search: testing in a fixed order keeps the level without a
    correction (Angelopoulos et al., "Learn then test", Annals of Applied Statistics 2025, section 4).

    Args:
        confidence: of calibration images that had no part in training, (N,).
        right: whether they were classified correctly, (N,).
        max_error: share of wrong ones among the decided, in (0, 1).
        level: of confidence, in (0, 1).
    """
    for name, value in (("max_error", max_error), ("level", level)):
        if not 0 < value < 1:
            raise InputError(f"{name} is {value}: expected a share between 0 and 1, such as 0.01")
    order = np.argsort(-confidence, kind="stable")
    ranked, errors = confidence[order], np.cumsum(~right[order])
    found, log_factorial = None, np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, len(ranked) + 1)))])
    for n in range(images_for_bound(max_error, level), len(ranked) + 1):
        if n < len(ranked) and ranked[n] == ranked[n - 1]:
            continue  # equal confidences are decided together
        if _binomial_cdf(int(errors[n - 1]), n, max_error, log_factorial) > 1 - level:
            break
        found = Threshold(float(ranked[n - 1]), n, int(errors[n - 1]), len(ranked))
    return found


def _binomial_cdf(errors: int, n: int, rate: float, log_factorial: npt.NDArray[np.float64]) -> float:
    """Compute the probability of at most so many errors in n draws, from log k! (N,) of N > n: SciPy takes half a second to load."""
    k = np.arange(errors + 1)
    ways = log_factorial[n] - log_factorial[k] - log_factorial[n - k]
    return float(np.exp(ways + k * math.log(rate) + (n - k) * math.log1p(-rate)).sum())


def set_scores(probabilities: npt.NDArray[np.floating[Any]], labels: Labels) -> npt.NDArray[np.floating[Any]]:
    """Return the probability (N,) of the true class, of several the least; 1 of an image without any, as every set covers it."""
    truth = membership(labels, probabilities.shape[1])
    scores: npt.NDArray[np.floating[Any]] = np.where(truth, probabilities, 1.0).min(axis=1)
    return scores


def conformal_quantile(scores: npt.NDArray[np.floating[Any]], coverage: float) -> float:
    """Compute the probability from which a class belongs to an image's set, so that sets hold the truth with `coverage`.

    Split conformal prediction with the score 1 - p of the true class, of several the least likely: Sadinle, Lei &
    Wasserman, "Least ambiguous set-valued classifiers", JASA 114 (2019). It holds on average over images like those of
    calibration, whose `set_scores` (N,) are given, and which had no part in training; InputError for too few of them.
    """
    if not 0 < coverage < 1:
        raise InputError(f"coverage is {coverage}: expected a share between 0 and 1, such as 0.95")
    n = len(scores)
    rank = math.ceil((n + 1) * coverage)
    if rank > n:
        needed = math.ceil(coverage / (1 - coverage))
        raise InputError(
            f"a coverage of {coverage:g} takes at least {needed} validation images, found {n}: hold out more by "
            "data.val_size, or ask for less"
        )
    return float(-np.sort(-scores)[rank - 1])


def prediction_sets(
    probabilities: npt.NDArray[np.floating[Any]], limit: float | np.float32, class_names: Sequence[str]
) -> tuple[tuple[str, ...], ...]:
    """Return the classes of each image (N, C), the likeliest first; empty where none reaches the limit."""
    order = np.argsort(-probabilities, axis=1, kind="stable")
    rows = zip(order, probabilities, strict=True)
    return tuple(tuple(class_names[k] for k in row if p[k] >= limit) for row, p in rows)


def min_expected_cost(probabilities: npt.NDArray[np.float64], costs: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Decide (N,) by least expected cost, from probabilities (N, C) and costs (C, C) of truth by decision."""
    decisions: npt.NDArray[np.int64] = (probabilities @ costs).argmin(axis=1)
    return decisions


def read_costs(path: str | PathLike[str], class_names: Sequence[str]) -> npt.NDArray[np.float64]:
    """Read costs (C, C), in the order of `class_names`, from a CSV file: a row a true class, a column a decision.

    Its first row and first column name the classes, in any order.
    """
    header, *rows = read_csv(Path(path), "expected a CSV file of costs, a row a true class") or [[]]
    columns, names = [name.strip() for name in header[1:]], [row[0].strip() for row in rows]
    if sorted(columns) != sorted(class_names) or sorted(names) != sorted(class_names):
        raise InputError(f"{path}: expected one row and one column for each of {', '.join(class_names)}")
    try:
        cells = {n: dict(zip(columns, map(float, row[1:]), strict=True)) for n, row in zip(names, rows, strict=True)}
    except ValueError:
        raise InputError(f"{path}: expected a number in every cell") from None
    costs = np.array([[cells[truth][decision] for decision in class_names] for truth in class_names])
    if not np.isfinite(costs).all() or (costs < 0).any():
        raise InputError(f"{path}: expected finite costs of at least 0")
    return costs
