"""Tests and intervals for small test sets and overlapping training sets."""

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, variance

from scipy.stats import binomtest, t

from defectlab.errors import InputError


def mcnemar(first_only: int, second_only: int) -> float:
    """Compute the two-sided exact p-value that two classifiers err equally often on the same images.

    McNemar, "Note on the sampling error of the difference between correlated proportions", Psychometrika 12 (1947),
    with the binomial distribution in place of the chi-square.

    `first_only` and `second_only` count the images that one of them alone had right.
    """
    if min(first_only, second_only) < 0:
        raise InputError(f"{first_only} and {second_only} images: expected counts of at least 0")
    if first_only == second_only == 0:
        return 1.0
    return float(binomtest(first_only, first_only + second_only).pvalue)


def paired_interval(first_only: int, second_only: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Compute the bounds, in [-1, 1], of the first of two accuracies on the same `n` images less the second.

    Agresti & Min, "Simple improved confidence intervals for comparing matched proportions", Statistics in Medicine 24
    (2005): Wald's interval with half an image more in each of four cells. The counts are those of `mcnemar`.
    """
    discordant, difference, images = first_only + second_only + 1, first_only - second_only, n + 2
    half = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(discordant - difference**2 / images)
    return max((difference - half) / images, -1.0), min((difference + half) / images, 1.0)


def images_needed(first_only: int, second_only: int, n: int, level: float = 0.05, power: float = 0.8) -> int | None:
    """Estimate how many images would show the difference seen on `n`; None if there is none.

    Connor, "Sample size for testing differences in proportions for the paired-sample design", Biometrics 43 (1987).
    """
    discordant, difference = (first_only + second_only) / n, (first_only - second_only) / n
    if difference == 0:
        return None
    normal = NormalDist()
    wide = normal.inv_cdf(1 - level / 2) * math.sqrt(discordant)
    narrow = normal.inv_cdf(power) * math.sqrt(discordant - difference**2)
    return math.ceil((wide + narrow) ** 2 / difference**2)


def corrected_interval(scores: Sequence[float], test_to_train: float, level: float = 0.95) -> tuple[float, float]:
    """Compute the bounds of the mean score of repeated splits, whose training sets overlap.

    The variance of the mean is that of the scores times 1/J + n_test/n_train in place of 1/J: Nadeau & Bengio,
    "Inference for the generalization error", Machine Learning 52 (2003), section 3.

    Args:
        scores: One per split, J in all.
        test_to_train: Test images for each training image, such as 0.25 for five folds.
        level: Of confidence, in (0, 1).

    Raises:
        InputError: fewer than two scores, or a ratio that is not above 0.
    """
    half = float(t.ppf((1 + level) / 2, len(scores) - 1)) * _corrected_error(scores, test_to_train)
    return fmean(scores) - half, fmean(scores) + half


def corrected_t_test(differences: Sequence[float], test_to_train: float) -> float:
    """Compute the two-sided p-value that the mean difference of two procedures on the same J splits is 0.

    Nadeau & Bengio (2003), as in `corrected_interval`; Bouckaert & Frank (PAKDD 2004) for repeated cross-validation.
    """
    error = _corrected_error(differences, test_to_train)
    mean = fmean(differences)
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * t.sf(abs(mean) / error, len(differences) - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for multiple tests: Holm, "A simple sequentially rejective multiple test procedure" (1979)."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _corrected_error(scores: Sequence[float], test_to_train: float) -> float:
    if len(scores) < 2:
        raise InputError(f"{len(scores)} score: expected those of at least two splits")
    if not test_to_train > 0:
        raise InputError(f"test_to_train is {test_to_train}: expected test images over training images, above 0")
    return math.sqrt((1 / len(scores) + test_to_train) * variance(scores))
