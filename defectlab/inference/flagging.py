"""Flag images of a class, or all that are not of one, from a threshold that is chosen on a run's validation images."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from defectlab.data.sources.annotations import GOOD
from defectlab.errors import InputError
from defectlab.inference.decision import Flagged
from defectlab.inference.predictor import Predictor
from defectlab.metrics.decisions import any_probability
from defectlab.metrics.operating import choose_false_alarms, choose_recall, rates_at
from defectlab.runs import PredictionTable, RunFolder, read_own_table
from defectlab.runs.predictions import as_kept
from defectlab.utils.card import DataCard


@dataclass(frozen=True, kw_only=True)
class Flagging:
    """What to flag, and what to promise of it, with 95 % confidence, for images like those of validation.

    Args:
        positive: class to flag.
        good: class that passes, in place of `positive`: all others are flagged. Of a multi-label task, which has no such
            class, `good` are images with none of the classes.
        recall: share of the images to flag that has to be flagged at least, such as 0.99.
        false_alarms: share of the other images that may be flagged at most, such as 0.01, in place of `recall`.
        defect_rate: share of images to flag among those of the line, for what follows per 1,000 images; None without.
    """

    positive: str | None = None
    good: str | None = None
    recall: float | None = None
    false_alarms: float | None = None
    defect_rate: float | None = None

    def __post_init__(self) -> None:
        if (self.positive is None) == (self.good is None):
            raise InputError("give one of positive, a class to flag, and good, the class that passes")
        if (self.recall is None) == (self.false_alarms is None):
            raise InputError("give one of recall, such as 0.99, and false_alarms, such as 0.01")
        if self.defect_rate is not None and not 0 < self.defect_rate < 1:
            raise InputError(
                f"defect_rate is {self.defect_rate}: expected the share of defective images on the line, such as 0.01"
            )


def flag(predictor: Predictor, probabilities: npt.NDArray[np.float64], settings: Flagging) -> Flagged:
    """Flag images by their probabilities (N, C), from a threshold chosen on the run's validation images.

    What it does on a line is estimated on the run's test images, which had no part in the choice, if there are any.

    Raises:
        InputError: a class that is not there, a run without validation images of this network, or too few of them.
    """
    run = RunFolder.open(predictor.name)
    chosen = _chosen(predictor.card, settings)
    scores, positive = _ranked(read_own_table(run, "val", predictor.fingerprint), chosen)
    if settings.recall is not None:
        point = choose_recall(scores, positive, settings.recall)
    else:
        assert settings.false_alarms is not None
        point = choose_false_alarms(scores, positive, settings.false_alarms)
    part, rates = "val", None
    if settings.defect_rate is not None:
        if run.predictions_csv.is_file():
            part = "test"
            scores, positive = _ranked(read_own_table(run, "test", predictor.fingerprint), chosen)
        rates = rates_at(scores, positive, point.threshold, settings.defect_rate)
    return Flagged(
        point=point,
        part=part,
        rates=rates,
        flags=_scores(probabilities, chosen, predictor.card.multilabel) >= point.threshold,
    )


def decide_flagged(
    probabilities: npt.NDArray[np.float64], flags: npt.NDArray[np.bool_], card: DataCard, settings: Flagging
) -> tuple[str, ...]:
    """Return N class names: of a flagged image the likeliest class to flag, of another the likeliest that passes.

    Of a multi-label task an image that is not flagged is `good`, or `not` the class to flag.
    """
    chosen, names = _chosen(card, settings), card.class_names
    best = np.where(flags[:, None] == chosen[None, :], probabilities, -1.0).argmax(axis=1)
    if card.multilabel:
        passes = GOOD if settings.positive is None else f"not {settings.positive}"
        return tuple(names[k] if flag else passes for k, flag in zip(best, flags, strict=True))
    return tuple(names[k] for k in best)


def _chosen(card: DataCard, settings: Flagging) -> npt.NDArray[np.bool_]:
    """Return which of C classes are flagged, (C,)."""
    option = "positive" if settings.good is None else "good"
    name = settings.positive if settings.good is None else settings.good
    known = (GOOD,) if card.multilabel and settings.positive is None else card.class_names
    if name not in known:
        raise InputError(f"{option} is {name}: expected one of {', '.join(known)}")
    named = np.array([own == name for own in card.class_names])
    return named if settings.good is None else ~named


def _scores(probabilities: npt.ArrayLike, chosen: npt.NDArray[np.bool_], multilabel: bool) -> npt.NDArray[np.float64]:
    """Return the probability of any of the classes to flag, from values as tables keep them."""
    return any_probability(as_kept(probabilities), chosen, multilabel)


def _ranked(
    table: PredictionTable, chosen: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    if table.labels is None or len(table.class_names) != len(chosen):
        raise InputError("the run's predictions are not of the network's classes: expected them as `fit` writes them")
    positive: npt.NDArray[np.bool_] = table.truth[:, chosen].sum(axis=1) > 0
    return _scores(table.probabilities, chosen, table.thresholds is not None), positive
