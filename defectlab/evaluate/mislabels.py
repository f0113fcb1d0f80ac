"""Images whose label is likely wrong, by what a model that has not seen them says."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from defectlab.errors import InputError
from defectlab.evaluate.probe import linear_probe

__all__ = ["FOLDS", "Suspect", "out_of_fold", "suspects"]

FOLDS = 5


@dataclass(frozen=True)
class Suspect:
    """Image `index` is labelled `label`, but looks like `suggested`, with these out-of-fold probabilities."""

    index: int
    label: int
    suggested: int
    p_label: float
    p_suggested: float


def out_of_fold(
    features: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], seed: int = 0
) -> npt.NDArray[np.float64]:
    """Probabilities (N, C) of a logistic regression on features (N, E), each image's from the folds without it.

    Raises:
        InputError: a class with fewer than five images.
    """
    smallest = np.bincount(labels).min()
    if smallest < FOLDS:
        raise InputError(
            f"the smallest class has {smallest} images: expected at least {FOLDS} to look for wrong labels"
        )
    splitter = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    shares: npt.NDArray[np.float64] = cross_val_predict(
        linear_probe(0.1), features, labels, cv=splitter, method="predict_proba"
    )
    return shares


def suspects(shares: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> list[Suspect]:
    """The most doubtful first: Northcutt et al., "Confident learning", JAIR 70 (2021), section 3.

    A class's threshold is the mean probability that its own images give to it. An image is suspect if another class is
    above its threshold, and is the likeliest of those that are.

    Args:
        shares: Out-of-fold probabilities (N, C).
        labels: As given, (N,).
    """
    classes = shares.shape[1]
    thresholds = np.array([shares[labels == k, k].mean() if (labels == k).any() else np.inf for k in range(classes)])
    confident = np.where(shares >= thresholds, shares, -1.0)
    suggested = confident.argmax(axis=1)
    found = [
        Suspect(int(i), int(labels[i]), int(suggested[i]), float(shares[i, labels[i]]), float(shares[i, suggested[i]]))
        for i in np.flatnonzero((confident.max(axis=1) >= 0) & (suggested != labels))
    ]
    return sorted(found, key=lambda suspect: suspect.p_label - suspect.p_suggested)
