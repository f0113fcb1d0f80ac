"""Conformal p-values of novelty scores: how rare a score this high is among images of the known kind."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from defectlab.errors import InputError

_REPEATS = np.float32(1e-5)  # of a score, whose scale is of the order of 1


def check_novelty(share: float, images: int) -> None:
    """Raise InputError unless `share` of false alarms can be promised by so many validation images.

    The least p-value is 1 / (images + 1): with fewer than 1 / share - 1 images nothing would ever be novel.
    """
    if not 0 < share < 1:
        raise InputError(f"novelty is {share}: expected a share of false alarms between 0 and 1, such as 0.01")
    if 1 / (images + 1) > share:
        raise InputError(
            f"novelty of {share:g} takes at least {math.ceil(1 / share - 1)} validation images, found {images}: hold out "
            "more by data.val_size, or allow more false alarms"
        )


def novelty_p_values(scores: npt.NDArray[np.floating[Any]], known: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Compute (1 + the number of `known` scores that are as high) / (n + 1) of each score (N,), from known ones (n,).

    If an image is like the known ones, which had no part in training, its p-value is at most a with a probability of at
    most a, for any number of images (Bates et al. 2023, "Testing for outliers with conformal p-values", section 2.1).
    Scores are compared as float32, as tables keep them; equal ones, to 1e-5 as they repeat on another
    processor, count as higher, and one that is not a number is novel.
    """
    ranked = np.sort(np.asarray(known, np.float32))
    found = np.asarray(scores, np.float32)
    least = np.where(np.isfinite(found), found - _REPEATS * np.maximum(1, np.abs(found)), found)
    higher = np.where(np.isnan(found), 0, len(ranked) - np.searchsorted(ranked, least, side="left"))
    p_values: npt.NDArray[np.float64] = (1 + higher) / (len(ranked) + 1)
    return p_values


def joined_novelty(scores: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Return the geometric mean (N,) of the scores (M, N) of M networks, whose scales differ: of one network its own."""
    found = np.asarray(scores, np.float32)
    if len(found) > 1:
        with np.errstate(divide="ignore"):
            found = np.exp(np.log(found.astype(np.float64)).mean(axis=0, keepdims=True)).astype(np.float32)
    joined: npt.NDArray[np.float32] = found[0]
    return joined
