"""Judge frozen features by linear probes on folds of their images, and what more labels would bring."""

import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from defectlab.errors import InputError

SHARES = (0.25, 0.5, 1.0)  # of the images that a fold trains on, of which the learning curve is made
_REPEATS = 2  # of the division into folds
_RESAMPLES = 200
_Indices = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float64]


def linear_probe(strength: float = 1.0, several: bool = False) -> Pipeline:
    """Build a logistic regression on standardised features; `strength` is the inverse of its penalty.

    With `several` it is one for each class, for labels (N, C) of 0 and 1.
    """
    model = LogisticRegression(C=strength, max_iter=1000)
    return make_pipeline(StandardScaler(), OneVsRestClassifier(model) if several else model)


def inner_folds(labels: _Indices, groups: _Indices, folds: int, seed: int) -> list[tuple[_Indices, _Indices]]:
    """Divide images twice into folds by class, as (train, test) each, the images of a group on one side.

    `labels` and `groups` (N,) are numbers from 0. There are fewer folds where no class has so many images; InputError without
    two groups, or two images of a class.
    """
    most = min(folds, int(np.bincount(labels).max()), int(groups.max()) + 1)
    if most < 2:
        raise InputError(f"{len(labels)} images to train on make no folds to choose by: expected two groups of a class")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a class with fewer images than folds
        splitters = [StratifiedGroupKFold(most, shuffle=True, random_state=seed + turn) for turn in range(_REPEATS)]
        return [
            pair for splitter in splitters for pair in splitter.split(labels, labels, groups) if all(map(len, pair))
        ]


def out_of_fold_hits(
    features: npt.NDArray[np.float32],
    labels: _Indices,
    groups: _Indices,
    folds: Sequence[tuple[_Indices, _Indices]],
    share: float = 1.0,
) -> _Floats:
    """Return how often each image is recognised by linear probes fitted without it, (N,) in [0, 1].

    Probes train on `share` of the images of each class, in whole groups as far as that goes.
    """
    right = np.zeros(len(labels))
    for number, (train, test) in enumerate(folds):
        turns = np.random.default_rng(number).permutation(int(groups.max()) + 1)[groups]
        order = train[np.lexsort((turns[train], labels[train]))]
        own = labels[order]
        chosen = order[np.arange(len(own)) - np.searchsorted(own, own) < np.ceil(share * np.bincount(own)[own])]
        found = np.full(len(test), own[0])
        if len(np.unique(own)) > 1:
            found = linear_probe().fit(features[chosen], labels[chosen]).predict(features[test])
        right[test] += (found == labels[test]) / _REPEATS
    return right


def resampled_weights(labels: _Indices, groups: _Indices) -> _Floats:
    """Return weights (1 + B, N) of sum 1: means by the first are balanced accuracies, by the others on images drawn anew.

    That is a bootstrap over groups, with numbers from Poisson's distribution.
    """
    weights = 1 / np.bincount(labels)[labels]
    drawn = np.random.default_rng(0).poisson(1.0, (_RESAMPLES, int(groups.max()) + 1))[:, groups]
    every = weights * np.vstack((np.ones(len(labels)), drawn + 1e-9))
    found: _Floats = every / every.sum(axis=1, keepdims=True)
    return found


def learning_curve(right: _Floats, weights: _Floats) -> _Floats:
    """Extrapolate balanced accuracy to twice the labels: errors fall by a power of their number.

    Cortes et al., "Learning Curves: Asymptotic Values and Rate of Convergence" (NIPS 1993), equation 3 without an asymptote.
    `right` (3, N) is of `out_of_fold_hits` by each of `SHARES`, `weights` (1 + B, N) of `resampled_weights`. Return (1 + B, 5):
    balanced accuracy at each share, at twice the last, and what is gained by that.
    """
    errors = weights @ (1 - right.T)
    least = weights[0].min() / 2  # half of an image, where there is no error
    slopes = np.clip(-np.polyfit(np.log2(SHARES), np.log2(np.maximum(errors, least)).T, 1)[0], 0, 1)
    fewer = errors[:, 2] * (1 - 2**-slopes)
    found: _Floats = np.column_stack((1 - errors, 1 - errors[:, 2] + fewer, fewer))
    return found
