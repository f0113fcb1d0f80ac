"""Find images whose label is likely wrong, by a model that was fitted without them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_predict

from defectlab.engine.probe import linear_probe
from defectlab.errors import InputError

FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """Image `index` is labelled `label`, but looks like `suggested`, with these out-of-fold probabilities."""

    index: int
    label: int
    suggested: int
    p_label: float
    p_suggested: float


def out_of_fold(
    features: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    seed: int = 0,
    groups: npt.NDArray[Any] | None = None,
) -> npt.NDArray[np.float64]:
    """Compute out-of-fold probabilities (N, C) of a logistic regression on features (N, E); five images a class at least.

    `groups` (N,) stay in one fold where each class is in five of them.
    """
    smallest = np.bincount(labels).min()
    if smallest < FOLDS:
        raise InputError(
            f"the smallest class has {smallest} images: expected at least {FOLDS} to look for wrong labels"
        )
    if groups is not None and min(len(set(groups[labels == k])) for k in set(labels.tolist())) < FOLDS:
        groups = None
    splitter = (StratifiedKFold if groups is None else StratifiedGroupKFold)(FOLDS, shuffle=True, random_state=seed)
    probabilities: npt.NDArray[np.float64] = cross_val_predict(
        linear_probe(0.1), features, labels, groups=groups, cv=splitter, method="predict_proba"
    )
    return probabilities


def suspects(probabilities: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> list[Suspect]:
    """Find images whose label is doubtful, the most doubtful first, from out-of-fold probabilities (N, C).

    Northcutt et al., "Confident learning", JAIR 70 (2021), section 3: a class's threshold is the mean probability that
    its own images give to it; an image is suspect if another class is above its threshold, and is the likeliest of those.
    """
    p, rows = probabilities, np.arange(len(labels))
    thresholds = np.array([p[labels == k, k].mean() if (labels == k).any() else np.inf for k in range(p.shape[1])])
    confident = np.where(p >= thresholds, p, -1.0)
    suggested = confident.argmax(axis=1)
    own, other = p[rows, labels], p[rows, suggested]
    found = [
        Suspect(
            index=int(i), label=int(labels[i]), suggested=int(suggested[i]), p_label=float(own[i]),
            p_suggested=float(other[i]),
        )
        for i in np.flatnonzero((confident.max(axis=1) >= 0) & (suggested != labels))
    ]  # fmt: skip
    return sorted(found, key=lambda suspect: suspect.p_label - suspect.p_suggested)
