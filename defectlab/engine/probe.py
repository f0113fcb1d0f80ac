"""Judge frozen features by a linear probe on folds of their images, and what more labels would bring it."""

import math
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from defectlab.errors import InputError

SHARES = (0.25, 0.5, 1.0)  # of the images that a fold trains on, of which the learning curve is made
_RESAMPLES = 500
_Indices = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float64]
Folds = list[tuple[_Indices, _Indices]]


def linear_probe(strength: float = 1.0, several: bool = False) -> Pipeline:
    """Build a logistic regression on standardised features; `strength` is the inverse of its penalty.

    With `several` it is one for each class, for labels (N, C) of 0 and 1.
    """
    model = LogisticRegression(C=strength, max_iter=1000)
    return make_pipeline(StandardScaler(), OneVsRestClassifier(model) if several else model)


def inner_folds(labels: _Indices, groups: _Indices, folds: int, repeats: int, seed: int) -> Folds:
    """Divide images into train and test by class, `folds` times a repeat, each group on one side.

    There are fewer folds where no class has so many images, or where there are fewer groups.

    Args:
        labels: class of each image (N,).
        groups: number of its group (N,); each its own where images stand alone.
        folds: of each repeat, at least 2.
        repeats: each with folds of its own.
        seed: of the first repeat; the next take the next numbers.

    Raises:
        InputError: all images are of one group, or each class has one.
    """
    most = min(folds, int(np.bincount(labels).max()), len(np.unique(groups)))
    if most < 2:
        raise InputError(
            f"{len(labels)} images in {len(np.unique(groups))} groups make no folds to choose a starting point by: expected "
            "two images of a class, and two groups; add images"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer images than folds is left out of some
        return [
            pair
            for repeat in range(repeats)
            for pair in StratifiedGroupKFold(most, shuffle=True, random_state=seed + repeat).split(
                labels, labels, groups
            )
        ]


def tested_right(
    features: npt.NDArray[np.float32], labels: _Indices, folds: Folds, groups: _Indices, share: float = 1.0, seed: int = 0
) -> tuple[_Floats, list[float]]:  # fmt: skip
    """Return how often each image (N,) is recognised by a linear probe that was fitted without it, in [0, 1].

    Beside it is the balanced accuracy of each fold, over the classes that it tests.

    Args:
        features: (N, E).
        labels: class of each image (N,).
        folds: of `inner_folds`.
        groups: as there.
        share: of the images of each class that a fold trains on, in (0, 1]; whole groups as far as that goes.
        seed: of the draw of that share.
    """
    right, tested, scores = np.zeros(len(labels)), np.zeros(len(labels)), []
    for number, (train, test) in enumerate(folds):
        if share < 1:
            turn = np.random.default_rng(seed + number).permutation(groups.max() + 1)[groups[train]]
            train = train[np.argsort(turn, kind="stable")]
            own = [train[labels[train] == label] for label in np.unique(labels[train])]
            train = np.concatenate([members[: math.ceil(share * len(members))] for members in own])
        if len(np.unique(labels[train])) > 1:
            found = linear_probe().fit(features[train], labels[train]).predict(features[test])
        else:
            found = np.full(len(test), labels[train[0]])
        right[test] += found == labels[test]
        tested[test] += 1
        scores.append(float(class_shares(labels[test]) @ (found == labels[test])))
    return right / tested, scores


def class_shares(labels: _Indices) -> _Floats:
    """Return weights (N,) of sum 1 by which the mean over images is the mean over their classes: balanced accuracy."""
    _, codes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    weights: _Floats = 1 / (len(sizes) * sizes[codes])
    return weights


def standard_error(values: _Floats, labels: _Indices, groups: _Indices) -> float:
    """Compute the standard error of the mean over classes of values (N,) of images, those of one group not independent."""
    weights, (_, codes) = class_shares(labels), np.unique(labels, return_inverse=True)
    means = np.bincount(codes, values) / np.bincount(codes)
    return float(np.sqrt(np.square(np.bincount(groups, weights * (values - means[codes]))).sum()))


def learning_curve(right: npt.NDArray[Any], labels: _Indices, groups: _Indices, seed: int) -> tuple[_Floats, _Floats]:
    """Extrapolate balanced accuracy to twice the labels: errors fall by a power of the number of labels.

    Cortes et al., "Learning Curves: Asymptotic Values and Rate of Convergence" (NIPS 1993), equation 3, without an asymptote.

    Args:
        right: (3, N), of `tested_right` by each of `SHARES`.
        labels: class of each image (N,).
        groups: as in `inner_folds`.
        seed: of the bootstrap over groups that the deviations come from.

    Returns:
        Balanced accuracy at each of `SHARES`, at twice the last, and the gain between these two; and the deviation of each.
    """
    weights, rng = class_shares(labels), np.random.default_rng(seed)
    drawn = rng.poisson(1.0, (_RESAMPLES, int(groups.max()) + 1))[:, groups]
    weighted = np.vstack((weights, weights * drawn))
    weighted = weighted[weighted.sum(axis=1) > 0]
    errors = weighted @ (1 - right.T) / weighted.sum(axis=1, keepdims=True)
    logs = np.log2(np.maximum(errors, weights.min() / 2))  # half of an image, where no error is left
    slopes = np.clip(-np.polyfit(np.log2(SHARES), logs.T, 1)[0], 0, 1)
    doubled = errors[:, -1] * 2**-slopes
    found = 1 - np.column_stack((errors, doubled, 1 - errors[:, -1] + doubled))
    return found[0], found[1:].std(axis=0, ddof=1)
