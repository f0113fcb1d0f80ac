"""Judge frozen features by linear probes on folds of their images, and what more labels would bring."""

import math
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


def learning_curve(right: _Floats, weights: _Floats) -> tuple[list[float], float]:
    """Extrapolate balanced accuracy to twice the labels: errors fall by a power of their number.

    Cortes et al., "Learning Curves: Asymptotic Values and Rate of Convergence" (NIPS 1993), equation 3 without an asymptote.
    `right` (3, N) is of `out_of_fold_hits` by each of `SHARES`, `weights` of `resampled_weights`. Return the accuracy at each
    share and at twice the last, and how uncertain the last step is: by how far the law misses the step before, and by chance.
    """
    errors = np.maximum(weights @ (1 - right.T), weights[0].min() / 2)  # half of an image, where there is none
    few, half, every = errors[0].tolist()
    slope = float(np.clip(-np.polyfit(np.log2(SHARES), np.log2(errors[0]), 1)[0], 0, 1))
    accuracies = (weights[0] @ right.T).tolist()
    doubled = accuracies[2] + (1 - accuracies[2]) * (1 - 2**-slope)
    chance = float((errors[1:, 1] - errors[1:, 2]).std())
    return [*accuracies, doubled], math.hypot(half**2 / few - every, chance)
