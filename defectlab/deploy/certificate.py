"""The certificate of an export: both sides asked about every validation and test image of a run, and what differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from defectlab.inference.decision import choose_threshold, conformal_quantile, prediction_sets
from defectlab.metrics.decisions import Labels, are_right, confidence_of, decide
from defectlab.metrics.operating import images_for_bound
from defectlab.metrics.statistics import paired_interval

LARGEST_DIFFERENCE = 1e-4  # of a probability, of an export in float32
MARGIN = 0.005  # of accuracy, that an export of less precision may lose
MAX_ERRORS, COVERAGE = (0.01, 0.05), 0.95  # whose decisions are compared
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What one side says of N images, the validation images first.

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
    precision: str = "float32"
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
    names: Sequence[str], parts: Sequence[str], run: Answers, export: Answers, labels: Labels | None,
    thresholds: Sequence[float] | None = None, precision: str = "float32", margin: float = MARGIN,
) -> Certificate:  # fmt: skip
    """Compare what a run and its export say of the same N images.

    Args:
        names: N names.
        parts: the part of each image.
        run: the run's answers.
        export: the export's.
        labels: (N,) or (N, K); None where they are not known.
        thresholds: of a multi-label task (K,); else None.
        precision: of the export, see `Certificate`.
        margin: see `Certificate`.
    """
    sides = (run.probabilities, export.probabilities)
    classes = [decide(side, thresholds) for side in sides]
    changed = {"class": (classes[0] != classes[1]).reshape(len(names), -1).any(axis=1)}
    accuracy = loss_bound = None
    if labels is not None:
        right = [are_right(decided, labels) for decided in classes]
        accuracy = float(right[0].mean()), float(right[1].mean())
        lost, won = int((right[0] & ~right[1]).sum()), int((~right[0] & right[1]).sum())
        loss_bound = paired_interval(lost, won, len(names), level=0.9)[1]
        known = np.array([part == "val" for part in parts])
        if known.any():
            changed |= _bounded_decisions(sides, [side[known] for side in right], labels[known], known, thresholds)
    if "tile" in export.outputs and "tile" in run.outputs:
        changed["tile"] = run.outputs["tile"] != export.outputs["tile"]
    any_changed = np.logical_or.reduce(list(changed.values()))
    return Certificate(
        images={part: list(parts).count(part) for part in dict.fromkeys(parts)},
        largest_difference=float(np.abs(sides[0].astype(np.float64) - sides[1]).max()),
        decisions={kind: int(rows.sum()) for kind, rows in changed.items()},
        differing=tuple(names[i] for i in np.flatnonzero(any_changed)[:_SHOWN]),
        precision=precision, accuracy=accuracy, loss_bound=loss_bound, margin=margin,
    )  # fmt: skip


def _bounded_decisions(
    sides: Sequence[npt.NDArray[np.float32]], right: Sequence[npt.NDArray[np.bool_]], labels: Labels,
    known: npt.NDArray[np.bool_], thresholds: Sequence[float] | None,
) -> dict[str, npt.NDArray[np.bool_]]:  # fmt: skip
    """Return which images are decided otherwise where each side has chosen its own limits on the validation images."""
    changed = {}
    confidences = [confidence_of(side, thresholds).astype(np.float32) for side in sides]
    for error in MAX_ERRORS:
        if images_for_bound(error) > known.sum():
            continue
        found = [
            choose_threshold(confidence[known].astype(np.float64), own, error)
            for confidence, own in zip(confidences, right, strict=True)
        ]
        sure = [
            np.zeros(len(confidence), np.bool_) if limit is None else confidence >= np.float32(limit.confidence)
            for confidence, limit in zip(confidences, found, strict=True)
        ]
        changed[f"max_error {error:g}"] = sure[0] != sure[1]
    if known.sum() >= COVERAGE / (1 - COVERAGE):
        names = [str(k) for k in range(sides[0].shape[1])]
        limits = [np.float32(conformal_quantile(side[known].astype(np.float64), labels, COVERAGE)) for side in sides]
        sets = [prediction_sets(side, limit, names) for side, limit in zip(sides, limits, strict=True)]
        changed[f"sets {COVERAGE:g}"] = np.array([set(a) != set(b) for a, b in zip(*sets, strict=True)])
    return changed
