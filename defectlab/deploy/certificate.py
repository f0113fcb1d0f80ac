"""The certificate of an export: both sides asked about every validation and test image of a run, and what differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from defectlab.deploy.exported import LARGEST_DIFFERENCE
from defectlab.errors import InputError
from defectlab.inference.predictions import Predictions
from defectlab.inference.promises import Calibration, calibration_of, choose_promises
from defectlab.metrics.decisions import Labels, are_right, decide
from defectlab.metrics.statistics import paired_interval
from defectlab.runs.predictions import PredictionTable, as_kept

MARGIN = 0.005  # of accuracy, that an export of less precision may lose
MAX_ERRORS, COVERAGE, NOVELTY = (0.01, 0.05), 0.95, 0.01  # whose decisions are compared
_SHOWN = 5
Precision = Literal["float32", "int8"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """N images that both sides are asked about.

    Args:
        names: N names.
        parts: `val`, `test`, or `given` for images that are of no run.
        labels: (N,) or (N, K); None where they are not known.
    """

    names: list[str]
    parts: list[str]
    labels: Labels | None


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What one side says of N images.

    Args:
        probabilities: (N, K) float32.
        outputs: the other outputs by name, each of N rows.
    """

    probabilities: npt.NDArray[np.float32]
    outputs: Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What was compared between a run and its export, and whether the export passed.

    Args:
        images: how many were compared, by part.
        largest_difference: of a probability.
        decisions: how many images are decided otherwise, by the kind of decision.
        differing: names of some of these.
        precision: `float32`, which passes without a decision that differs and with probabilities within 1e-4; `int8`, which
            passes where `loss_bound` is below `margin`.
        accuracy: of both sides on the labelled images; None without labels.
        loss_bound: upper 95 % bound of the accuracy lost (Agresti & Min 2005), so that a loss of `margin` is rejected; None
            without labels.
        margin: of accuracy, in [0, 1].
    """

    images: dict[str, int]
    largest_difference: float
    decisions: dict[str, int]
    differing: tuple[str, ...]
    precision: Precision = "float32"
    accuracy: tuple[float, float] | None = None
    loss_bound: float | None = None
    margin: float = MARGIN

    @property
    def passed(self) -> bool:
        """Whether the export may be used in place of the run."""
        if self.precision != "float32":
            return self.loss_bound is not None and self.loss_bound < self.margin
        return not any(self.decisions.values()) and self.largest_difference <= LARGEST_DIFFERENCE

    @property
    def text(self) -> str:
        """Return all in a line."""
        n, changed = sum(self.images.values()), {kind: count for kind, count in self.decisions.items() if count}
        words = ", ".join(f"{count} by {kind}" for kind, count in changed.items()) or "none"
        found = (
            f"{n} images: largest difference of a probability {self.largest_difference:.1e}, decisions changed: {words}"
        )
        if self.differing:
            found += f", such as {', '.join(self.differing)}"
        if self.accuracy is not None and self.loss_bound is not None and self.precision != "float32":
            before, after = self.accuracy
            found += (
                f"; accuracy {before:.2%} and {after:.2%}, at 95 % no more than {100 * self.loss_bound:.2f} points are lost "
                f"({100 * self.margin:g} allowed)"
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "passed": self.passed}


def certify(
    asked: Asked, run: Answers, export: Answers, class_names: Sequence[str],
    thresholds: Sequence[float] | None = None, precision: Precision = "float32", margin: float = MARGIN,
) -> Certificate:  # fmt: skip
    """Compare what a run and its export say of the same images.

    Each side takes its own limits from its own answers about the validation images, as it does at work.

    Args:
        asked: N images.
        run: the run's answers.
        export: the export's.
        class_names: K names.
        thresholds: of a multi-label task (K,); else None.
        precision: of the export, see `Certificate`.
        margin: see `Certificate`.
    """
    sides = [_decisions(asked, side, class_names, thresholds) for side in (run, export)]
    nothing = [None] * len(asked.names)  # of a promise that one side cannot give
    changed = {
        kind: np.array([sides[0].get(kind, nothing)[i] != sides[1].get(kind, nothing)[i] for i in range(len(nothing))])
        for kind in {**sides[0], **sides[1]}
    }
    accuracy = loss_bound = None
    if asked.labels is not None:
        right = [are_right(decide(side.probabilities, thresholds), asked.labels) for side in (run, export)]
        accuracy = float(right[0].mean()), float(right[1].mean())
        lost, won = int((right[0] & ~right[1]).sum()), int((~right[0] & right[1]).sum())
        loss_bound = paired_interval(lost, won, len(asked.names), level=0.9)[1]
    return Certificate(
        images={part: asked.parts.count(part) for part in dict.fromkeys(asked.parts)},
        largest_difference=float(np.abs(run.probabilities.astype(np.float64) - export.probabilities).max()),
        decisions={kind: int(rows.sum()) for kind, rows in changed.items()},
        differing=tuple(asked.names[i] for i in np.flatnonzero(np.any(list(changed.values()), axis=0))[:_SHOWN]),
        precision=precision, accuracy=accuracy, loss_bound=loss_bound, margin=margin,
    )  # fmt: skip


def calibrated(
    asked: Asked, answers: Answers, class_names: Sequence[str], thresholds: Sequence[float] | None
) -> Calibration | None:
    """Return what promises stand on: answers about the validation images, where these have labels; else None."""
    known = np.flatnonzero([part == "val" for part in asked.parts])
    if asked.labels is None or not len(known):
        return None
    own, scores = answers.probabilities[known].astype(np.float64), answers.outputs.get("novelty")
    return calibration_of(
        PredictionTable(
            files=[asked.names[i] for i in known], class_names=list(class_names), labels=asked.labels[known],
            predicted=decide(own, thresholds), probabilities=own,
            thresholds=None if thresholds is None else tuple(thresholds),
            novelty=None if scores is None else as_kept(scores[known]),
        )
    )  # fmt: skip


def _decisions(
    asked: Asked, answers: Answers, class_names: Sequence[str], thresholds: Sequence[float] | None
) -> dict[str, Sequence[object]]:
    """Return N decisions of each kind."""
    found = Predictions(
        files=tuple(asked.names), class_names=tuple(class_names), probabilities=answers.probabilities.astype(np.float64),
        thresholds=None if thresholds is None else tuple(thresholds), novelty=answers.outputs.get("novelty"),
    )  # fmt: skip
    kinds: dict[str, Sequence[object]] = {"class": found.predicted}
    if "tile" in answers.outputs:
        kinds["tile"] = answers.outputs["tile"].tolist()
    calibration = calibrated(asked, answers, class_names, thresholds)
    if calibration is None:
        return kinds
    for error in MAX_ERRORS:
        with suppress(InputError):  # too few images, or too many of them wrong
            promises = choose_promises(calibration, class_names, max_error=error)
            kinds[f"max_error {error:g}"] = promises.apply(found).decision or ()
    with suppress(InputError):
        sets = choose_promises(calibration, class_names, sets=COVERAGE).apply(found).sets or ()
        kinds[f"sets {COVERAGE:g}"] = [sorted(one) for one in sets]
    with suppress(InputError):  # no scorer
        novel = choose_promises(calibration, class_names, novelty=NOVELTY).apply(found).novel
        kinds[f"novelty {NOVELTY:g}"] = [] if novel is None else novel.tolist()
    return kinds
