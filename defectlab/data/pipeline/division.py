"""How a data set is divided by the settings of its datamodule, with groups that stay together."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from defectlab.data.pipeline import splits
from defectlab.data.pipeline.duplicates import near_duplicates
from defectlab.data.pipeline.groups import Groups, group_names, looks_grouped
from defectlab.data.pipeline.split_table import PARTS
from defectlab.data.sources.images import ImageSet
from defectlab.errors import InputError
from defectlab.utils.text import listed

log = logging.getLogger(__name__)

_TEST_FRACTION = 0.2  # of a set that comes without a split


@dataclass(frozen=True, kw_only=True)
class Division:
    """The settings of a split, see the arguments of `ImageDataModule`; `location` of the data is for messages."""

    split: str
    val_size: int | float
    test_size: int | float | None
    seed: int
    group_by: str | None
    group_duplicates: bool
    location: str

    def group_names(self, data: ImageSet) -> npt.NDArray[Any] | None:
        """Return the group of each image; a warning tells of names that look grouped."""
        if self.split == splits.WHOLE:
            return None
        found = group_names(self.group_by, data.files, data.records)
        if found is None and self.group_by and (seen := looks_grouped(data.files, data.strata)):
            log.warning(
                "%s: names look like %d groups of images that are alike: a random split overstates the accuracy on new ones; "
                "keep them together by data.group_by '%s'", self.location, seen[1], seen[0],
            )  # fmt: skip
        return found

    def divide(self, data: ImageSet, planned: bool = False) -> splits.Split:
        """Split the images, whose `records` have their groups; InputError where that cannot be done as asked.

        With `planned` it is what can be done without pixels, and nothing is told.
        """
        labels = data.strata
        if self.split == splits.WHOLE:
            return splits.Split(*(np.arange(count) for count in (0, 0, len(labels))))
        own, fold = self._groups(data, planned), splits.parse_fold(self.split)
        test_size = _TEST_FRACTION if self.test_size is None else self.test_size
        if fold is not None:
            return splits.fold_split(labels, *fold, self.val_size, self.seed, own)
        if self.split == splits.TIME:
            if data.records.times is None:
                raise InputError(
                    "data.split is time: expected data.labels with a column of times, see data.label_columns.time"
                )
            return splits.time_split(data.records.times, self.val_size, test_size, own)
        if data.splits is None or self.split != "auto":
            return splits.stratified_split(labels, self.val_size, test_size, self.seed, own)
        given = data.splits.count("test")
        parts = splits.fixed_split(data.splits, labels, self.val_size, self.seed, self.test_size, own)
        if given and self.test_size is not None and not planned:
            what = "they are left out" if self.test_size == 0 else "they stay whole, and no others are taken"
            log.warning("data.test_size is %s, %s gives %d test images: %s", self.test_size, self.location, given, what)
        return parts

    def _groups(self, data: ImageSet, planned: bool) -> Groups | None:
        """Return what stays together: the groups, and images of the same place; InputError where a given split parts them."""
        names = data.records.groups
        duplicates = self.group_duplicates and not planned
        if names is None and not duplicates:
            return None
        own = groups_of(data, "data.group_duplicates" if names is None else f"data.group_by {self.group_by}")
        if names is not None and not planned:
            log.info("%d images are in %d groups, which stay together (data.group_by)", len(own.codes), len(own.names))
        if duplicates:
            pairs = near_duplicates(data.images)
            count = len({index for pair in pairs for index in (pair.first, pair.second)})
            log.info("%d images show the same place as another: they stay together", count)
            own = own.joined(pairs)
        if data.splits is not None and self.split == "auto":
            own.check_given(data.splits)
        return own


def groups_of(data: ImageSet, by: str = "") -> Groups:
    """Return the groups that the records of a set tell, named by what they are `by`; without any each image is its own."""
    names = data.files if data.records.groups is None else data.records.groups
    unique, codes = np.unique(names, return_inverse=True)
    return Groups(codes=codes, names=unique.tolist(), by=by, class_names=data.strata_names)


def check_classes(parts: splits.Split, data: ImageSet, location: str) -> None:
    """Raise InputError for a class without training images; warn of classes that other parts lack."""
    for part in PARTS:
        indices = getattr(parts, part)
        counts = data.class_counts(indices)
        missing = [name for name, count in zip(data.class_names, counts, strict=True) if not count]
        if not missing or (part == "test" and not len(indices)):
            continue
        text = f"{location}: no image of {listed(missing)} in the {part} part"
        if part == "train":
            raise InputError(f"{text}; add some, or leave the class out")
        log.warning("%s: its figures say nothing about them", text)
