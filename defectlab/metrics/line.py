"""What thresholds that are chosen on validation do on a line: promises, test figures, and what follows per 1,000 images."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from defectlab.errors import InputError
from defectlab.metrics.decisions import Labels, any_probability, membership
from defectlab.metrics.operating import LineRates, choose_false_alarms, choose_recall, images_for_bound, rates_at
from defectlab.metrics.ranking import Flags, Scores

ANY = "any defect"
RATES = (0.01, 0.02, 0.05, 0.1)  # of false alarms, or of escapes; the strictest that the images can promise is taken
DEFECT_RATE = 0.01
_GOOD = {"good", "ok", "okay", "normal", "nodefect", "nodefects", "defectfree", "free", "pass", "clean", "intact"}
_NEGATIONS = {"no", "non", "not", "un"}


class Promise(TypedDict):
    """A threshold and what it does on the test images if there are any: `LineRates` at a defect rate of 1 %.

    `rate` is the strictest that `n` validation images can promise, of 1, 2, 5 and 10 % false alarms or escapes; without any
    there is no threshold. `needs` are the images that 1 % takes.
    """

    promise: str
    rate: float
    threshold: float | None
    needs: int
    n: int
    test: dict[str, float | list[float]] | None


def good_class(class_names: Sequence[str]) -> str | None:
    """Return the class that is named as parts without a defect are, such as good, ok or no_defect; None without one."""
    named = [name for name in class_names if _passes(re.findall("[a-z]+", name.lower()))]
    return named[0] if len(named) == 1 else None


def _passes(words: list[str]) -> bool:
    """Whether a name is of `_GOOD`, or ends so behind a prefix, as MT_Free; not not_ok."""
    return "".join(words) in _GOOD or (words[-1:] != [] and words[-1] in _GOOD and not _NEGATIONS.intersection(words))


def scores_of(
    probabilities: npt.NDArray[np.floating], labels: Labels, class_names: Sequence[str]
) -> dict[str, tuple[Scores, Flags]]:
    """Return scores (N,) and which images are positive (N,), of each class against all others and of any defect.

    Any defect is what is of none of the classes in a multi-label task, else of another than `good_class`; it is left out
    where that is one class alone.
    """
    truth = membership(labels, len(class_names))
    found = {name: (probabilities[:, k], truth[:, k]) for k, name in enumerate(class_names)}
    good = good_class(class_names)
    several = labels.ndim == 2
    if several or (good is not None and len(class_names) > 2):
        bad = np.array([name != good for name in class_names]) | several
        found[ANY] = any_probability(probabilities, bad, several), truth[:, bad].sum(axis=1) > 0
    return {name: (np.asarray(scores, np.float64), flags) for name, (scores, flags) in found.items()}


def promises(
    validation: Mapping[str, tuple[Scores, Flags]], test: Mapping[str, tuple[Scores, Flags]] | None
) -> dict[str, list[Promise]]:
    """Choose for each class a threshold of few false alarms and one of a high recall, see `Promise` and `scores_of`."""
    return {name: [_promise(kind, *own, None if test is None else test[name]) for kind in ("false_alarms", "recall")]
            for name, own in validation.items()}  # fmt: skip


def _promise(kind: str, scores: Scores, positive: Flags, test: tuple[Scores, Flags] | None) -> Promise:
    allowed = kind == "false_alarms"
    n = int((~positive if allowed else positive).sum())
    kept = next((rate for rate in RATES if images_for_bound(rate) <= n), None)
    rate = RATES[-1] if kept is None else kept
    rate = rate if allowed else 1 - rate
    found = Promise(promise=kind, rate=rate, threshold=None, needs=images_for_bound(RATES[0]), n=n, test=None)
    if kept is None:
        return found
    threshold = (choose_false_alarms if allowed else choose_recall)(scores, positive, rate).threshold
    found["threshold"] = threshold
    if test is not None:
        try:
            rates: LineRates = rates_at(*test, threshold, DEFECT_RATE)
        except InputError:  # a class without an image
            return found
        found["test"] = {name: list(x) if isinstance(x, tuple) else x for name, x in asdict(rates).items()}
    return found
