"""What may be promised of new images, by validation images that had no part in training: an error, a coverage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from defectlab.errors import InputError
from defectlab.inference.decision import (
    REVIEW,
    Threshold,
    choose_threshold,
    conformal_quantile,
    prediction_sets,
    set_scores,
)
from defectlab.inference.predictions import Predictions
from defectlab.metrics.novelty import check_novelty, novelty_p_values
from defectlab.metrics.operating import images_for_bound
from defectlab.runs.predictions import PredictionTable, as_kept


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Validation images, as promises need them: float32, as tables keep numbers.

    Args:
        confidence: probability of what is predicted, (N,).
        right: whether that is right, (N,).
        set_score: see `set_scores`, (N,).
        novelty: score of each, (N,); None of networks without.
    """

    confidence: npt.NDArray[np.float32]
    right: npt.NDArray[np.bool_]
    set_score: npt.NDArray[np.float32]
    novelty: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Promises:
    """What is decided with a promise.

    Args:
        threshold: confidence from which an image is decided; None decides none.
        set_limit: probability from which a class belongs to an image's set; None makes no sets.
        novelty: share of images of the known kind that may be called novel; None calls none so.
        known: novelty of validation images, (N,).
    """

    threshold: Threshold | None = None
    set_limit: float | None = None
    novelty: float | None = None
    known: npt.NDArray[np.float32] | None = None

    def apply(self, found: Predictions) -> Predictions:
        """Return predictions with their decisions, sets and p-values of novelty."""
        decision, chosen = found.decision, None
        if self.threshold is not None:
            sure = as_kept(found.confidence) >= np.float32(self.threshold.confidence)
            decision = tuple(name if s else REVIEW for name, s in zip(found.predicted, sure, strict=True))
        if self.set_limit is not None:
            chosen = prediction_sets(as_kept(found.probabilities), np.float32(self.set_limit), found.class_names)
        found = replace(found, threshold=self.threshold, decision=decision, sets=chosen)
        if self.novelty is None:
            return found
        if self.known is None or found.novelty is None:
            raise InputError("the network gives no novelty, which was asked for: leave novelty out, or fit anew")
        p_values = novelty_p_values(found.novelty, self.known)
        return replace(found, novelty_p=p_values, novel=p_values <= self.novelty)


def choose_promises(
    calibration: Calibration, class_names: Sequence[str], max_error: float | None = None, sets: float | None = None,
    novelty: float | None = None,
) -> Promises:  # fmt: skip
    """Choose the threshold for an error of at most `max_error`, and the limit of sets with that coverage; see `predict`.

    Raises:
        InputError: a promise that these images cannot show; says how many it takes.
    """
    threshold = None
    if max_error is not None:
        if REVIEW in class_names:
            raise InputError(f"max_error leaves images to the decision {REVIEW}, and a class has that name: use sets")
        right = calibration.right
        threshold = choose_threshold(calibration.confidence, right, max_error)
        if threshold is None:
            raise InputError(
                f"cannot guarantee an error of at most {max_error:g}: {len(right)} validation images, "
                f"{int((~right).sum())} of them wrong, do not show it at 95 %; it takes at least "
                f"{images_for_bound(max_error)} confident ones without an error: hold out more by data.val_size, or allow "
                "more by max_error"
            )
        threshold = replace(threshold, confidence=_below(threshold.confidence, calibration.confidence))
    if novelty is not None:
        if calibration.novelty is None:
            raise InputError(
                "the run has no novelty scorer, which fit adds at its end: it was made by an earlier version, or its network has "
                "no embedding; fit anew"
            )
        check_novelty(novelty, len(calibration.novelty))
    limit = None
    if sets is not None:
        limit = _below(conformal_quantile(calibration.set_score, sets), calibration.set_score)
    return Promises(threshold, limit, novelty, calibration.novelty)


def _below(limit: float, scores: npt.NDArray[np.float32]) -> float:
    """Return a limit a millionth lower, and no nearer to the next score: the image that it is of keeps its side of it.

    Probabilities repeat to the seventh decimal, where the number of images at once, or the processor, is another.
    """
    lower = float(scores[scores < np.float32(limit)].max(initial=0))
    return max((limit + lower) / 2, limit * (1 - 1e-6))


def calibration_of(table: PredictionTable) -> Calibration:
    """Return what promises need of the labelled predictions of validation images."""
    scores = as_kept(set_scores(table.probabilities, table.truth))
    return Calibration(confidence=as_kept(table.confidence), right=table.right, set_score=scores, novelty=table.novelty)
