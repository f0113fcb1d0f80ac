"""Divide images into train, val and test: a pure function of labels, groups, sizes and seed, named by `split_hash`."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from defectlab.data.pipeline.groups import Groups, deal
from defectlab.errors import InputError

WHOLE = "test"  # as a split: all images are test images
TIME = "time"  # as a split: train on the past, test on the future

_NOTHING = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Split:
    """Sorted, disjoint indices into one set of images, each `(n,)` int64; `test` may be empty."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


def parse_fold(split: str) -> tuple[int, int] | None:
    """Return which fold of how many `2/5` means; None for `auto`, `random`, `TIME` and `WHOLE`.

    Raises:
        InputError: it is none of these.
    """
    if split in ("auto", "random", TIME, WHOLE):
        return None
    fold, _, folds = split.partition("/")
    if not (fold.isdecimal() and folds.isdecimal() and 1 <= int(fold) <= int(folds) and int(folds) >= 2):
        raise InputError(f"data.split is {split!r}: expected auto, random, time or a fold such as 2/5")
    return int(fold), int(folds)


def hold_out(
    indices: np.ndarray, labels: np.ndarray, size: int | float, seed: int, name: str, keep: int = 1,
    groups: Groups | None = None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Divide indices `(n,)` into (the rest, the part held out), every class in proportion.

    `size` is a fraction below 1 or a number of images, which `groups` that stay together are near to. Of each class at
    least one image, or group, is held out and `keep` are left. `name` is the argument that an InputError names.
    """
    return _divide(indices, labels, _count(size, len(indices), name), keep, seed, f"{name} is {size}", groups)


def _divide(
    indices: np.ndarray, labels: np.ndarray, held: int, keep: int, seed: int, blame: str, groups: Groups | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Hold out `held` images, and keep at least `keep` of each class."""
    count = len(indices)
    if groups is not None and 0 < held < count:
        own = replace(groups, codes=groups.codes[indices])
        held_out = deal(labels[indices], own, (1 - held / count, held / count), (keep, 1), seed, blame) == 1
        return indices[~held_out], indices[held_out]
    classes, members = np.unique(labels[indices], return_counts=True)
    smallest = members.min(initial=count)
    if smallest <= keep or not len(classes) <= held <= count - keep * len(classes):
        raise InputError(
            f"{blame}, {held} of {count} images in {len(classes)} classes, the smallest of {smallest}: "
            f"expected to take at least 1 a class and to leave at least {keep}; change it or add images"
        )
    rng = np.random.RandomState(seed)  # of NumPy's generators the one whose numbers no release changes
    counts = _counts_by_class(members, held, keep)
    part = [rng.permutation(indices[labels[indices] == label])[:n] for label, n in zip(classes, counts, strict=True)]
    chosen = np.sort(np.concatenate(part))
    return np.setdiff1d(indices, chosen), chosen


def _count(size: int | float, total: int, name: str) -> int:
    """Return the number of images that a size means."""
    if 0 < size < 1:
        return round(total * size)
    if size >= 1 and size % 1 == 0:
        return int(size)
    raise InputError(f"{name} is {size}: expected a fraction above 0 and below 1, or a whole number of images from 1")


def _counts_by_class(members: np.ndarray, held: int, keep: int) -> np.ndarray:
    """Return the images to hold out of each class, `held` in all, by largest remainder in [1, members - keep]."""
    most = members - keep
    quota = members * (held / members.sum())
    counts: np.ndarray = np.clip(np.floor(quota), 1, most).astype(np.int64)
    while counts.sum() < held:
        counts[np.argmax(np.where(counts < most, quota - counts, -np.inf))] += 1
    while counts.sum() > held:
        counts[np.argmax(np.where(counts > 1, counts - quota, -np.inf))] -= 1
    return counts


def stratified_split(
    labels: np.ndarray, val_size: int | float, test_size: int | float, seed: int, groups: Groups | None = None
) -> Split:
    """Split `(N,)` labels by class, and groups as a whole; sizes are fractions of all N images, or counts.

    The test part does not depend on `val_size`; a `test_size` of 0 leaves it empty.
    """
    if test_size == 0:
        train, val = hold_out(np.arange(len(labels)), labels, val_size, seed, "data.val_size", groups=groups)
        return Split(train, val, _NOTHING)
    smallest = np.unique(labels, return_counts=True)[1].min(initial=len(labels))
    if smallest < 3:
        raise InputError(
            f"the smallest class has {smallest} images, too few for data.val_size and data.test_size: "
            "expected at least 3 images a class, one each to train, choose and test; add images"
        )
    val_count = _count(val_size, len(labels), "data.val_size")
    test_count = _count(test_size, len(labels), "data.test_size")
    blame = f"data.test_size is {test_size}"
    rest, test = _divide(np.arange(len(labels)), labels, test_count, 2, seed, blame, groups)
    train, val = _divide(rest, labels, val_count, 1, seed, f"data.val_size is {val_size}", groups)
    return Split(train, val, test)


def fold_split(
    labels: np.ndarray, fold: int, folds: int, val_size: int | float, seed: int, groups: Groups | None = None
) -> Split:
    """Split `(N,)` labels by class into `folds` parts, of which number `fold`, from 1, is the test part.

    Over all folds of one seed every image is tested once. `val_size`, a fraction of all N images or a count, is held
    out of the others. Folds differ by at most one image, in all and in each class, or by what groups that stay together make
    of that.
    """
    smallest = np.unique(labels, return_counts=True)[1].min(initial=len(labels))
    if smallest < folds:
        raise InputError(
            f"the smallest class has {smallest} images, too few for {folds} folds: expected at least one a fold; take "
            "fewer folds or add images"
        )
    if groups is not None:
        dealt = deal(labels, groups, [1 / folds] * folds, [1] * folds, seed, f"data.split is {fold}/{folds}")
        test = np.flatnonzero(dealt == fold - 1)
    else:
        rng = np.random.RandomState(seed)
        # Dealt out in turn, class after class: where one class ends, the next goes on.
        order = np.concatenate([rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)])
        test = np.sort(order[fold - 1 :: folds])
    rest = np.setdiff1d(np.arange(len(labels)), test)
    val_count = _count(val_size, len(labels), "data.val_size")
    train, val = _divide(rest, labels, val_count, 1, seed, f"data.val_size is {val_size}", groups)
    return Split(train, val, test)


def time_split(times: np.ndarray, val_size: int | float, test_size: int | float, groups: Groups | None = None) -> Split:
    """Split images by their times `(N,)`: the earliest train, the next validate, the latest test.

    Sizes are fractions of all N images, or counts; a cut is made at the nearest place that divides neither images of one
    time nor a group; InputError if there are too few of these.
    """
    order = np.argsort(times, kind="stable")
    ordered, places = times[order], np.arange(1, len(times))
    free = ordered[1:] > ordered[:-1]
    if groups is not None:
        codes = groups.codes[order]
        last = np.zeros(len(groups.names), dtype=np.int64)
        np.maximum.at(last, codes, np.arange(len(codes)))
        free &= np.maximum.accumulate(last[codes])[:-1] < places
    cuts, tested = places[free], test_size != 0
    if len(cuts) < 1 + tested:
        raise InputError(
            f"data.split is time: {len(np.unique(times))} times of {len(times)} images leave {len(cuts)} places to cut that divide "
            f"no time{f' and nothing of {groups.by}' if groups else ''}, expected at least {1 + tested}: give finer times or "
            "other groups, or divide by data.split random"
        )
    test_count = _count(test_size, len(times), "data.test_size") if tested else 0
    ends = cuts[1:] if tested else np.array([len(times)])
    end = int(ends[np.abs(ends - (len(times) - test_count)).argmin()])
    starts = cuts[cuts < end]
    start = int(starts[np.abs(starts - (end - _count(val_size, len(times), "data.val_size"))).argmin()])
    return Split(*(np.sort(part) for part in (order[:start], order[start:end], order[end:])))


def fixed_split(
    names: Sequence[str], labels: np.ndarray, val_size: int | float, seed: int, test_size: int | float | None = None,
    groups: Groups | None = None,
) -> Split:  # fmt: skip
    """Keep the split that the source gives, `train`, `val` or `test` for each of N images.

    A missing validation part is held out of training: `val_size` is a fraction of the training images, or a count; so
    is `test_size` where there is no test part, None for an empty one. A given test part stays whole, or with a
    `test_size` of 0 is left out.
    """
    given = {part: np.flatnonzero(np.asarray(names) == part) for part in ("train", "val", "test")}
    if not len(given["train"]):
        raise InputError(
            "the folders give a split without a train part: expected train beside val or test; add it, or set data.split "
            "to random to ignore the folders' split"
        )
    train, val, test = given.values()
    if test_size == 0:
        test = _NOTHING
    elif test_size is not None and not len(test):
        keep = 1 if len(val) else 2  # an image of each class for validation, too
        train, test = hold_out(train, labels, test_size, seed, "data.test_size", keep, groups)
    if not len(val):
        train, val = hold_out(train, labels, val_size, seed, "data.val_size", groups=groups)
    return Split(train, val, test)


def split_hash(split: Split, labels: np.ndarray) -> str:
    """Return twelve hexadecimal digits that change with any index or label of any part."""
    digest = hashlib.sha256()
    for part in (split.train, split.val, split.test):
        digest.update(np.ascontiguousarray(part, dtype="<i8").tobytes())
        digest.update(np.ascontiguousarray(labels[part], dtype="<i8").tobytes())
        digest.update(b"|")
    return digest.hexdigest()[:12]
