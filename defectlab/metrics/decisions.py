"""What probabilities decide: one class an image, or of a multi-label task any number, each by its own threshold.

Labels are class indices `(N,)`, or of a multi-label task `(N, C)` of 0 and 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

NO_CLASS = "no class"  # to read, of an image of a multi-label task
Labels = npt.NDArray[Any]
Probabilities = npt.NDArray[np.floating[Any]]


def decide(probabilities: Probabilities, thresholds: npt.ArrayLike | None = None) -> Labels:
    """Return the likeliest class `(N,)` of probabilities `(N, C)`, or with thresholds `(C,)` which classes reach theirs."""
    if thresholds is None:
        likeliest: npt.NDArray[np.int64] = probabilities.argmax(axis=1)
        return likeliest
    return np.asarray(probabilities, np.float32) >= np.asarray(thresholds, np.float32)  # as tables keep them


def confidence_of(probabilities: Probabilities, thresholds: npt.ArrayLike | None = None) -> npt.NDArray[np.float64]:
    """Return the probability `(N,)` of what is decided: of several classes that of exactly these, were they independent."""
    values = np.asarray(probabilities, np.float64)
    if thresholds is None:
        largest: npt.NDArray[np.float64] = values.max(axis=1)
        return largest
    product: npt.NDArray[np.float64] = np.where(decide(values, thresholds), values, 1 - values).prod(axis=1)
    return product


def are_right(predicted: Labels, labels: Labels) -> npt.NDArray[np.bool_]:
    """Return which images `(N,)` are decided rightly: of several classes all, and no other."""
    same: npt.NDArray[np.bool_] = (predicted == labels).reshape(len(labels), -1).all(axis=1)
    return same


def membership(labels: Labels, classes: int) -> npt.NDArray[np.bool_]:
    """Return which images are of which class, `(N, C)`."""
    return labels.astype(bool) if labels.ndim == 2 else labels[:, None] == np.arange(classes)


def mean_thresholds(found: Iterable[Sequence[float] | None]) -> tuple[float, ...] | None:
    """Return the mean thresholds `(C,)` of several networks; None where these have none."""
    several = [thresholds for thresholds in found if thresholds is not None]
    return tuple(np.mean(several, axis=0).tolist()) if several else None


def any_probability(
    probabilities: Probabilities, chosen: npt.NDArray[np.bool_], multilabel: bool
) -> npt.NDArray[np.float64]:
    """Return the probability `(N,)` of any of the classes `chosen` `(C,)`, from probabilities `(N, C)`.

    That is their sum; of a multi-label task, whose classes are taken for independent, it is 1 less that of none.
    """
    kept = probabilities[:, chosen].astype(np.float64)
    found: npt.NDArray[np.float64] = 1 - (1 - kept).prod(axis=1) if multilabel else kept.sum(axis=1)
    return found


def label_texts(labels: Labels, class_names: Sequence[str], none: str = "") -> list[str]:
    """Return the class of each image, or its classes joined by `|`, `none` for no class."""
    if labels.ndim == 1:
        return [class_names[label] for label in labels.tolist()]
    return [join_names([class_names[k] for k in np.flatnonzero(row).tolist()]) or none for row in labels]


def join_names(names: Sequence[str]) -> str:
    """Join names by `|`; one in a name has a backslash before it."""
    return "|".join(name.replace("\\", "\\\\").replace("|", "\\|") for name in names)


def split_names(text: str) -> list[str]:
    """Undo `join_names`."""
    found = re.findall(r"((?:\\.|[^\\|])+)", text)
    return [re.sub(r"\\(.)", r"\1", name) for name in found]
