"""Which image is for training, which for choosing, which for the final figure.

A split is a pure function of the labels, the sizes asked for and a seed; `split_hash` names it, so two results
can be known to stand on the same test images.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import train_test_split

from defectlab.errors import InputError

__all__ = ["Split", "fixed_split", "hold_out", "split_hash", "stratified_split"]


@dataclass(frozen=True)
class Split:
    """Sorted, disjoint indices into one set of images, each of shape `(n,)` and int64."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


def hold_out(
    indices: np.ndarray, labels: np.ndarray, size: int | float, seed: int, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Divide indices into (the rest, the part held out), every class in proportion.

    `size` is a share in (0, 1) or a count of images; `name` is the argument that an InputError blames.
    """
    count = len(indices)
    held = round(count * size) if isinstance(size, float) else size
    classes, members = np.unique(labels[indices], return_counts=True)
    if held == 0:
        return np.sort(indices), indices[:0]
    if isinstance(size, float) and not 0 < size < 1:
        raise InputError(f"{name} is {size}: expected a share between 0 and 1, or a whole number of images")
    if held < len(classes) or count - held < len(classes) or members.min() < 2:
        raise InputError(
            f"{name} asks for {held} of {count} images in {len(classes)} classes, the smallest of which has "
            f"{members.min()}: expected at least one image a class on either side; change {name} or add images"
        )
    rest, part = train_test_split(indices, test_size=held, random_state=seed, stratify=labels[indices])
    return np.sort(rest), np.sort(part)


def stratified_split(labels: np.ndarray, val_size: int | float, test_size: int | float, seed: int) -> Split:
    """Split `(N,)` labels by class; sizes are shares of all N images, or counts."""
    everything = np.arange(len(labels))
    rest, test = hold_out(everything, labels, test_size, seed, "data.test_size")
    val_count = round(len(labels) * val_size) if isinstance(val_size, float) else val_size
    train, val = hold_out(rest, labels, val_count, seed, "data.val_size")
    return Split(train, val, test)


def fixed_split(names: Sequence[str], labels: np.ndarray, val_size: int | float, seed: int) -> Split:
    """Keep the split that the folders give; a missing validation part is held out of training.

    A missing test part is an error: it would have to be taken from images that somebody chose for training.
    """
    given = {part: np.flatnonzero(np.asarray(names) == part) for part in ("train", "val", "test")}
    if not len(given["train"]) or not len(given["test"]):
        missing = "train" if not len(given["train"]) else "test"
        raise InputError(
            f"the folders give a split without a {missing} part: expected train and test folders (val may be "
            "absent); add it, or set data.split to random to ignore the folders' split"
        )
    if not len(given["val"]):
        given["train"], given["val"] = hold_out(given["train"], labels, val_size, seed, "data.val_size")
    return Split(given["train"], given["val"], given["test"])


def split_hash(split: Split, labels: np.ndarray) -> str:
    """Twelve hexadecimal digits that change with any index or label of any part."""
    digest = hashlib.sha256()
    for part in (split.train, split.val, split.test):
        digest.update(np.ascontiguousarray(part, dtype="<i8").tobytes())
        digest.update(np.ascontiguousarray(labels[part], dtype="<i8").tobytes())
        digest.update(b"|")
    return digest.hexdigest()[:12]
