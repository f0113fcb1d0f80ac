"""Operating points of a ranking: thresholds with a bound, what they do on a line, and the intervals of areas.

`scores`, `positive` and the words of `defectlab.metrics.ranking`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from defectlab.errors import InputError
from defectlab.metrics.classification import accuracy_interval
from defectlab.metrics.ranking import Flags, Scores, curve

Interval = tuple[float, float]

_SMALLEST = float(np.finfo(np.float32).tiny)  # below it numbers are denormal, and may be flushed to 0


def auroc_interval(auroc: float, positives: int, negatives: int, level: float = 0.95) -> Interval:
    """Compute the score interval of an AUROC, which has a width at 0 and 1 too.

    Newcombe, "Confidence intervals for an effect size measure based on the Mann-Whitney statistic. Part 2", Statistics in
    Medicine 25 (2006), method 5: the areas from which the one found is z standard errors away by Hanley & McNeil (1982).
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    z, more = float(norm.ppf((1 + level) / 2)), (positives + negatives) / 2 - 1

    def distance(area: float) -> float:
        spread = 1 + more * ((1 - area) / (2 - area) + area / (1 + area))
        return (area - auroc) ** 2 - z**2 * area * (1 - area) * spread / (positives * negatives)

    # At 0 and 1 the area found is itself a root, beside the one that is wanted.
    low = 0.0 if auroc == 0 else float(brentq(distance, 0.0, min(auroc, 1 - 1e-9)))
    high = 1.0 if auroc == 1 else float(brentq(distance, max(auroc, 1e-9), 1.0))
    return low, high


def average_precision_interval(average_precision: float, positives: int, level: float = 0.95) -> Interval:
    """Compute Wilson's interval of an average precision, as if it were a share of the positive images.

    Boyd, Eng & Page, "Area under the precision-recall curve: point estimates and confidence intervals" (ECML 2013), find
    the binomial interval to keep its level; Wilson's has a width at 1 too.
    """
    return accuracy_interval(average_precision * positives, positives, level)


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """A threshold chosen on validation, and what it promises.

    Args:
        threshold: score from which an image is flagged.
        promise: `recall` or `false_alarms`: the rate that is bounded.
        bound: the promised rate: recall at least, or false alarms at most this, with confidence `level`.
        level: of confidence, in (0, 1).
        n: validation images of the class that the promise is about.
    """

    threshold: float
    promise: str
    bound: float
    level: float
    n: int


def images_for_bound(rate: float, level: float = 0.95) -> int:
    """Return how many images, none of them wrong, show that at most this rate is wrong: 299 for 1 % at 95 %.

    Wilks, "Determination of sample sizes for setting tolerance limits" (1941).
    """
    return math.ceil(math.log(1 - level) / math.log1p(-rate))


def choose_false_alarms(scores: Scores, positive: Flags, rate: float, level: float = 0.95) -> OperatingPoint:
    """Choose the lowest threshold whose false-alarm rate on new images is at most `rate`, with probability `level`.

    The share of new negative images above the r-th highest of n is Beta(r, n - r + 1) whatever their distribution (at
    most, where scores are equal): a tolerance limit, which needs no correction for having been chosen (Wilks 1941).

    Raises:
        InputError: a rate or level outside (0, 1), or too few negative images; says how many it takes.
    """
    negatives = np.sort(scores[~positive])[::-1]
    rank = _rank(len(negatives), rate, level, f"false alarms of at most {rate:g}", "images of other classes")
    # Equal scores are not flagged: the threshold is the next number above, but none that a processor takes for 0.
    threshold = float(np.nextafter(np.float64(negatives[rank - 1]), math.inf))
    threshold = threshold if abs(threshold) >= _SMALLEST else _SMALLEST
    return OperatingPoint(threshold=threshold, promise="false_alarms", bound=rate, level=level, n=len(negatives))


def choose_recall(scores: Scores, positive: Flags, recall: float, level: float = 0.95) -> OperatingPoint:
    """Choose the highest threshold whose recall on new images is at least `recall`, with probability `level`.

    As `choose_false_alarms`, for the share of positive images below the r-th lowest.

    Raises:
        InputError: a recall or level outside (0, 1), or too few positive images; says how many it takes.
    """
    positives = np.sort(scores[positive])
    rank = _rank(len(positives), 1 - recall, level, f"a recall of at least {recall:g}", "images of the class")
    return OperatingPoint(
        threshold=float(positives[rank - 1]), promise="recall", bound=recall, level=level, n=len(positives)
    )


def _rank(n: int, rate: float, level: float, promise: str, images: str) -> int:
    """Return the largest r for which Beta(r, n - r + 1) is at most `rate` with probability `level`."""
    from scipy.stats import beta

    for name, value in (("the promised rate", rate), ("level", level)):
        if not 0 < value < 1:
            raise InputError(f"{promise} with level {level:g}: {name} has to be between 0 and 1, both left out")
    ranks = np.arange(1, n + 1)
    kept = ranks[beta.cdf(rate, ranks, n - ranks + 1) >= level]
    if not len(kept):
        raise InputError(
            f"{promise} takes at least {images_for_bound(rate, level)} validation {images} to promise with {level:.0%} "
            f"confidence, found {n}: hold out more by data.val_size, or ask for less"
        )
    return int(kept[-1])


@dataclass(frozen=True, kw_only=True)
class LineRates:
    """What an operating point does on a line, per 1,000 images at its defect rate; intervals are Wilson's, 95 %.

    Args:
        recall: share of the defective images that is flagged, and its interval.
        false_alarm_rate: share of the good images that is flagged, and its interval.
        escapes: defective images that pass, per 1,000, and their interval.
        false_rejects: good images that are flagged, per 1,000, and their interval.
    """

    recall: float
    recall_interval: Interval
    false_alarm_rate: float
    false_alarm_interval: Interval
    escapes: float
    escapes_interval: Interval
    false_rejects: float
    false_rejects_interval: Interval


def rates_at(scores: Scores, positive: Flags, threshold: float, defect_rate: float) -> LineRates:
    """Compute what a threshold does on labelled images, and what follows per 1,000 images of a line.

    Raises:
        InputError: `defect_rate` is not in (0, 1), or a class has no image.
    """
    if not 0 < defect_rate < 1:
        raise InputError(
            f"defect_rate is {defect_rate}: expected the share of defective images on the line, such as 0.01"
        )
    found = curve(scores, positive)
    hits, alarms = int((scores[positive] >= threshold).sum()), int((scores[~positive] >= threshold).sum())
    recall_low, recall_high = accuracy_interval(hits, found.positives)
    alarm_low, alarm_high = accuracy_interval(alarms, found.negatives)
    recall, alarm = hits / found.positives, alarms / found.negatives
    bad, good = 1000 * defect_rate, 1000 * (1 - defect_rate)
    return LineRates(
        recall=recall, recall_interval=(recall_low, recall_high),
        false_alarm_rate=alarm, false_alarm_interval=(alarm_low, alarm_high),
        escapes=bad * (1 - recall), escapes_interval=(bad * (1 - recall_high), bad * (1 - recall_low)),
        false_rejects=good * alarm, false_rejects_interval=(good * alarm_low, good * alarm_high),
    )  # fmt: skip
