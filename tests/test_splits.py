"""Splits: deterministic, disjoint, complete, proportional, and named by a hash."""

from itertools import combinations

import numpy as np
import pytest

from defectlab.data.pipeline.splits import Split, fixed_split, hold_out, split_hash, stratified_split
from defectlab.errors import InputError


def labels_of(*members: int) -> np.ndarray:
    """So many labels of class 0, 1, ..., well mixed."""
    labels = np.repeat(np.arange(len(members)), members)
    return np.random.RandomState(0).permutation(labels)


def parts(split: Split) -> list[np.ndarray]:
    return [split.train, split.val, split.test]


def equal(one: Split, other: Split) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(parts(one), parts(other), strict=True))


NEU = labels_of(*[300] * 6)
UNEVEN = labels_of(1000, 200, 37, 5, 3)


@pytest.mark.parametrize("labels", [NEU, UNEVEN], ids=["neu", "uneven"])
@pytest.mark.parametrize("sizes", [(0.15, 0.2), (100, 0.3), (0.5, 0.25), (77, 311)])
def test_a_split_is_disjoint_complete_and_sorted(labels: np.ndarray, sizes: tuple[int | float, int | float]) -> None:
    split = stratified_split(labels, *sizes, seed=0)
    for one, other in combinations(parts(split), 2):
        assert not np.intersect1d(one, other).size
    assert np.array_equal(np.sort(np.concatenate(parts(split))), np.arange(len(labels)))
    for part, size in ((split.val, sizes[0]), (split.test, sizes[1])):
        assert len(part) == (round(len(labels) * size) if size < 1 else size)
    for part in parts(split):
        assert part.dtype == np.int64
        assert (np.diff(part) > 0).all()
        assert set(labels[part]) == set(labels)  # no class is ever missing


def test_classes_are_in_proportion() -> None:
    labels = labels_of(300, 450, 37, 120)
    split = stratified_split(labels, 0.15, 0.2, seed=3)
    for part, share in ((split.val, 0.15), (split.test, 0.2)):
        exact = np.bincount(labels) * share
        assert (np.abs(np.bincount(labels[part]) - exact) < 1.01).all()


def test_neu_splits_evenly() -> None:
    split = stratified_split(NEU, 0.15, 0.2, seed=0)
    assert [np.bincount(NEU[part]).tolist() for part in parts(split)] == [[195] * 6, [45] * 6, [60] * 6]


def test_a_split_hangs_on_labels_sizes_and_seed_alone() -> None:
    np.random.seed(5)  # noqa: NPY002 (the state that must not matter)
    first = stratified_split(NEU, 0.15, 0.2, seed=0)
    np.random.seed(6)  # noqa: NPY002
    assert equal(first, stratified_split(NEU.copy(), 0.15, 0.2, seed=0))
    assert not equal(first, stratified_split(NEU, 0.15, 0.2, seed=1))
    # A change here changes every published split: it must not come with an update of NumPy.
    assert first.test[:6].tolist() == [2, 3, 4, 9, 14, 18]
    assert split_hash(first, NEU) == "102982f7e021"


def test_zero_is_a_seed_like_any_other() -> None:
    tests = [stratified_split(NEU, 0.15, 0.2, seed).test for seed in range(5)]
    assert all(not np.array_equal(one, other) for one, other in combinations(tests, 2))


def test_the_test_part_does_not_hang_on_val_size() -> None:
    small, large = stratified_split(NEU, 0.05, 0.2, seed=0), stratified_split(NEU, 0.4, 0.2, seed=0)
    assert np.array_equal(small.test, large.test)


def test_a_share_and_its_number_are_the_same_split() -> None:
    by_share = stratified_split(NEU, 0.15, 0.2, seed=0)
    assert equal(by_share, stratified_split(NEU, 270, 360, seed=0))
    assert equal(by_share, stratified_split(NEU, 270.0, 360.0, seed=0))  # as some YAML readers give them


@pytest.mark.parametrize(
    ("members", "val_size", "test_size", "name"),
    [
        ((1, 1, 1), 0.15, 0.2, "data.test_size"),
        ((2, 50), 0.15, 0.2, "data.val_size"),
        ((), 0.15, 0.2, "data.test_size"),
        ((10, 10, 10), 0.15, 2, "data.test_size"),
        ((10, 10, 10), 2, 0.2, "data.val_size"),
        ((10, 10, 10), 0.15, 28, "data.test_size"),
        ((10, 10, 10), 0.15, 1, "data.test_size"),
        ((10, 10, 10), 0.15, 1000, "data.test_size"),
        ((10, 10, 10), 0.15, 0.001, "data.test_size"),
        ((10, 10, 10), 22, 0.2, "data.val_size"),
        ((10, 10, 10), 0, 0.2, "data.val_size"),
        ((10, 10, 10), -0.1, 0.2, "data.val_size"),
        ((10, 10, 10), 0.15, -5, "data.test_size"),
        ((10, 10, 10), 1.5, 0.2, "data.val_size"),
        ((10, 10, 10), 0.15, float("nan"), "data.test_size"),
        ((10, 10, 10), 0.15, float("inf"), "data.test_size"),
    ],
)
def test_sizes_that_cannot_be_are_named(
    members: tuple[int, ...], val_size: int | float, test_size: int | float, name: str
) -> None:
    with pytest.raises(InputError) as caught:
        stratified_split(labels_of(*members), val_size, test_size, seed=0)
    message = str(caught.value)
    assert name in message
    assert "expected" in message
    assert "\n" not in message


@pytest.mark.parametrize("test_size", [2, 0.2, 0.6, 11])
def test_three_images_a_class_are_enough(test_size: int | float) -> None:
    labels = labels_of(12, 3)
    split = stratified_split(labels, 2, test_size, seed=0)
    assert [np.bincount(labels[part])[1] for part in parts(split)] == [1, 1, 1]


@pytest.mark.parametrize("held", [2, 3, 10, 101, 102])
def test_holding_out_keeps_an_image_of_each_class_on_either_side(held: int) -> None:
    labels = labels_of(102, 2)
    rest, part = hold_out(np.arange(104), labels, held, 0, "data.val_size")
    assert len(part) == held
    assert set(labels[rest]) == set(labels[part]) == {0, 1}


def test_holding_out_of_some_indices_alone() -> None:
    chosen = np.arange(0, len(NEU), 3)
    rest, part = hold_out(chosen, NEU, 0.25, 0, "data.val_size")
    assert np.array_equal(np.union1d(rest, part), chosen)
    assert len(part) == 150


# Splits that the folders give


def test_a_given_split_is_kept() -> None:
    names = ["train", "test", "val", "train", "test", "train"]
    split = fixed_split(names, np.array([0, 0, 0, 1, 1, 1]), 0.15, seed=0)
    assert [part.tolist() for part in parts(split)] == [[0, 3, 5], [2], [1, 4]]


def test_missing_validation_comes_out_of_training() -> None:
    names = np.array(["train", "train", "test"] * 100)
    labels = np.arange(300) // 3 % 4
    split = fixed_split(names.tolist(), labels, 0.2, seed=0)
    assert np.array_equal(split.test, np.flatnonzero(names == "test"))
    assert len(split.val) == 40  # a fifth of the training images, not of all
    assert np.array_equal(np.union1d(split.train, split.val), np.flatnonzero(names == "train"))
    assert np.bincount(labels[split.val]).tolist() == [10] * 4
    assert equal(split, fixed_split(names.tolist(), labels, 0.2, seed=0))
    assert not equal(split, fixed_split(names.tolist(), labels, 0.2, seed=1))


def test_a_split_without_train_is_refused() -> None:
    with pytest.raises(InputError, match=r"without a train part.*data\.split"):
        fixed_split(["val", "test"] * 10, np.arange(20) // 2 % 2, 0.2, seed=0)


def test_a_missing_test_part_stays_missing_or_comes_out_of_training() -> None:
    names = np.array(["train", "train", "val"] * 100)
    labels = np.arange(300) // 3 % 4
    for size in (None, 0):
        split = fixed_split(names.tolist(), labels, 0.2, seed=0, test_size=size)
        assert [len(part) for part in parts(split)] == [200, 100, 0]
    split = fixed_split(names.tolist(), labels, 0.2, seed=0, test_size=0.2)
    assert np.array_equal(split.val, np.flatnonzero(names == "val"))
    assert np.bincount(labels[split.test]).tolist() == [10] * 4
    assert np.array_equal(np.union1d(split.train, split.test), np.flatnonzero(names == "train"))
    assert equal(split, fixed_split(names.tolist(), labels, 0.7, seed=0, test_size=40))
    assert not equal(split, fixed_split(names.tolist(), labels, 0.2, seed=1, test_size=0.2))
    with pytest.raises(InputError, match=r"data\.test_size is 199"):
        fixed_split(names.tolist(), labels, 0.2, seed=0, test_size=199)


def test_a_given_test_part_stays_whole_or_is_left_out() -> None:
    names, labels = ["train"] * 6 + ["val"] * 2 + ["test"] * 2, np.arange(10) % 2
    assert fixed_split(names, labels, 0.2, seed=0, test_size=0.5).test.tolist() == [8, 9]
    assert fixed_split(names, labels, 0.2, seed=0, test_size=0).test.tolist() == []


def test_without_a_test_part_the_rest_is_for_training_and_validation() -> None:
    labels = labels_of(10, 10)
    split = stratified_split(labels, 0.2, 0, seed=0)
    assert [len(part) for part in parts(split)] == [16, 4, 0]
    assert len(split_hash(split, labels)) == 12


# The hash


def test_the_hash_names_the_split() -> None:
    labels = labels_of(10, 10, 10)
    split = stratified_split(labels, 0.2, 0.2, seed=0)
    name = split_hash(split, labels)
    assert len(name) == 12
    assert split_hash(stratified_split(labels, 0.2, 0.2, seed=0), labels.astype(np.int32)) == name
    train, val, test = parts(split)
    others = [
        split_hash(Split(val, train, test), labels),
        split_hash(Split(train, test, val), labels),
        split_hash(Split(train[1:], val, test), labels),
        split_hash(Split(np.append(train, val[0]), val[1:], test), labels),
        split_hash(stratified_split(labels, 0.2, 0.2, seed=1), labels),
        split_hash(split, np.where(np.arange(30) == test[0], 7, labels)),
    ]
    assert len({name, *others}) == 7
