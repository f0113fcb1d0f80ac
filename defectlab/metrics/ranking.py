"""Rank images by the score of one class against all others: curves and areas.

Everywhere `scores` (N,) are higher the likelier the positive class, `positive` (N,) says which images are of it, and an
image is flagged where its score is at least the threshold. A false alarm is a negative image that is flagged, an escape a
positive one that is not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from defectlab.errors import InputError

Scores = npt.NDArray[np.floating[Any]]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Every distinct operating point of a ranking, from nothing flagged to everything flagged.

    Args:
        thresholds: scores from which an image is flagged, falling; the first is infinite, (P,).
        flagged: positive images that are flagged, (P,).
        alarms: negative images that are flagged, (P,).
        positives: positive images in all.
        negatives: negative images in all.
    """

    thresholds: npt.NDArray[np.float64]
    flagged: npt.NDArray[np.int64]
    alarms: npt.NDArray[np.int64]
    positives: int
    negatives: int

    @property
    def recall(self) -> npt.NDArray[np.float64]:
        """Share of the positive images that is flagged, (P,), rising."""
        return self.flagged / self.positives

    @property
    def false_alarm_rate(self) -> npt.NDArray[np.float64]:
        """Share of the negative images that is flagged, (P,), rising."""
        return self.alarms / self.negatives

    @property
    def precision(self) -> npt.NDArray[np.float64]:
        """Share of the flagged images that is positive, (P,); 1 where nothing is flagged."""
        total = self.flagged + self.alarms
        return np.where(total > 0, self.flagged / np.maximum(total, 1), 1.0)

    @property
    def auroc(self) -> float:
        """Area under recall by false-alarm rate: the probability that a positive image scores above a negative one."""
        steps = np.diff(self.false_alarm_rate)
        return float(np.sum(steps * (self.recall[1:] + self.recall[:-1]) / 2))

    @property
    def average_precision(self) -> float:
        """Mean of the precision over the steps of the recall, without interpolation."""
        return float(np.sum(np.diff(self.recall) * self.precision[1:]))

    def recall_at(self, false_alarm_rate: float) -> float:
        """Return the largest recall of an operating point with at most this share of false alarms on these images."""
        return float(self.recall[self.false_alarm_rate <= false_alarm_rate].max())


def curve(scores: Scores, positive: Flags) -> Curve:
    """Compute all operating points of a ranking; images of equal score are flagged together.

    Raises:
        InputError: shapes differ, a score is not a number, or there is no positive or no negative image.
    """
    scores, positive = np.asarray(scores, np.float64), np.asarray(positive, np.bool_)
    if scores.ndim != 1 or scores.shape != positive.shape:
        raise InputError(f"scores of shape {scores.shape} and labels of shape {positive.shape}: expected (N,) and (N,)")
    if np.isnan(scores).any():
        raise InputError(
            f"{int(np.isnan(scores).sum())} of {len(scores)} scores are not numbers: nothing can be ranked"
        )
    if not positive.any() or positive.all():
        raise InputError(
            f"{int(positive.sum())} of {len(positive)} images are of the positive class: expected at least one, and one "
            "of another class"
        )
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.flatnonzero(np.append(np.diff(ranked) != 0, True))  # of a run of equal scores
    flagged = np.append(0, np.cumsum(positive[order])[last])
    return Curve(
        thresholds=np.append(math.inf, ranked[last]),
        flagged=flagged,
        alarms=np.append(0, last + 1) - flagged,
        positives=int(flagged[-1]),
        negatives=len(scores) - int(flagged[-1]),
    )


def rank_figures(scores: Scores, positive: Flags) -> tuple[float, float, float]:
    """Compute AUROC, average precision and recall at 1 % false alarms; NaN where all images are positive or none is."""
    if not positive.any() or positive.all():
        return math.nan, math.nan, math.nan
    found = curve(scores, positive)
    return found.auroc, found.average_precision, found.recall_at(0.01)
