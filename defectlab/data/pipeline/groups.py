"""Groups of images that stay on one side of every split: from a column or a pattern, and dealt by class."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

import numpy as np
import numpy.typing as npt

from defectlab.data.pipeline.duplicates import Duplicate, groups
from defectlab.data.sources.records import ImageRecords
from defectlab.data.sources.tables import refuse, some
from defectlab.errors import InputError

_Indices = npt.NDArray[np.int64]
_ORDERS = 40  # of the groups, tried until each part has each class
_NUMBERED = re.compile(r"(?:^|/)([A-Za-z]+[ _-]?)\d+[ _/-]")
_MOST_ALIKE = 50  # images of a group, for names to look grouped


@dataclass(frozen=True, kw_only=True)
class Groups:
    """The group of each image, `codes` (N,) into `names`; `by` and `class_names` are for messages."""

    codes: _Indices
    names: Sequence[str]
    by: str
    class_names: Sequence[str]

    def joined(self, pairs: Sequence[Duplicate]) -> Groups:
        """Return groups in which the two images of a pair are of one, too."""
        firsts, codes = np.unique(self.codes, return_index=True)[1], self.codes.copy()
        same = [Duplicate(int(firsts[code]), index, 1.0) for index, code in enumerate(codes)]
        for members in groups([*same, *pairs], len(codes)):
            codes[members] = codes[members].min()
        return replace(self, codes=codes)

    def check_given(self, parts: Sequence[str]) -> None:
        """Raise InputError for groups that are in two parts of a split that the source gives."""
        held: dict[int, set[str]] = {}
        for code, part in zip(self.codes.tolist(), parts, strict=True):
            held.setdefault(code, set()).add(part)
        what = (
            "are in two parts of the split that is given: divide anew by data.split random, or group by something else"
        )
        refuse(self.by, (self.names[code] for code in held), (len(found) > 1 for found in held.values()), what)


def group_names(group_by: str | None, files: Sequence[str], records: ImageRecords) -> npt.NDArray[Any] | None:
    """Return the group of each file: `auto` takes the table's own, else a column or what a pattern finds in the name.

    InputError for no such column nor pattern with one group in it, a file without a group, or one that holds everything.
    """
    place = f"data.group_by is {group_by}"
    found = records.groups if group_by == "auto" else records.columns.get(str(group_by))
    if group_by is None or (group_by == "auto" and found is None):
        return None
    if found is None:
        try:
            pattern = re.compile(group_by)
        except re.error as error:
            raise InputError(f"{place}: no regular expression ({error}); expected one like coil_(\\d+)_") from None
        if pattern.groups != 1:
            near = get_close_matches(group_by, records.columns, n=1) or list(records.columns)
            hint = f"expected a column, such as {', '.join(near[:3])}, or" if near else "expected"
            raise InputError(f"{place}: {hint} a pattern with one group in parentheses, like coil_(\\d+)_")
        matches = [pattern.search(file) for file in files]
        found = np.array([(match[1] or "") if match else "" for match in matches])
    refuse(place, files, found == "", f"of {len(files)} images have no group; expected one for each")
    if len(set(found.tolist())) < 2:
        raise InputError(f"{place}: all {len(files)} images are of the one group {found[0]}; expected three or more")
    return found


def looks_grouped(files: Sequence[str], labels: _Indices) -> tuple[str, int] | None:
    """Return a pattern by which names look grouped, and how many groups it finds; None where they do not.

    A word and a number stand before the end of each name (`coil_12_034.png`), there are few images a number, and these are
    of one class more often than any images are.
    """
    first = _NUMBERED.search(files[0])
    pattern = f"{re.escape(first[1])}(\\d+)[ _/-]" if first else "$."
    matches = [re.search(f"(?:^|/){pattern}", file) for file in files]
    codes = np.unique([match[1] if match else "" for match in matches], return_inverse=True)[1]
    counts = np.zeros((codes.max() + 1, labels.max() + 1))
    np.add.at(counts, (codes, labels), 1)
    sizes = counts.sum(axis=1)
    if not all(matches) or len(sizes) < 4 or not 1.5 < np.median(sizes) <= _MOST_ALIKE:
        return None
    within, among = counts / sizes[:, None], counts.sum(axis=0) / len(files)
    alike = (sizes * (within**2).sum(axis=1)).sum() / len(files) > (among**2).sum() + 0.1 + 1 / sizes.mean()
    return (pattern, len(sizes)) if alike else None


def deal(
    labels: _Indices, own: Groups, shares: Sequence[float], least: Sequence[int], seed: int, blame: str
) -> _Indices:
    """Deal images to parts, so that no group is in two and each part has its share of every class; return the parts (n,).

    Large groups come first, those of about one size in an order drawn by the seed; each goes where the shares of the
    classes and of all images come nearest to `shares`, of sum 1. Part i gets at least `least[i]` groups of each class, or an
    InputError blames the setting `blame`.
    """
    classes, label = np.unique(labels, return_inverse=True)
    code = np.unique(own.codes, return_inverse=True)[1]
    counts = np.zeros((code.max() + 1, len(classes)))
    np.add.at(counts, (code, label), 1)
    sizes = counts.sum(axis=1)
    fractions = np.hstack((counts / counts.sum(axis=0), sizes[:, None] / sizes.sum()))
    wanted, rng = np.array(shares)[:, None], np.random.RandomState(seed)
    for _ in range(_ORDERS):
        order = rng.permutation(len(sizes))
        order = order[np.argsort(-np.floor(np.log2(sizes[order])), kind="stable")]
        gap, part = -wanted * np.ones(fractions.shape[1]), np.zeros(len(sizes), dtype=np.int64)
        for group in order:
            share = fractions[group]
            part[group] = (((2 * gap + share) @ share) / wanted[:, 0]).argmin()
            gap[part[group]] += share
        lacking = sum((counts[part == p] > 0).sum(axis=0) < n for p, n in enumerate(least))
        if not lacking.any():
            dealt: _Indices = part[code]
            return dealt
    few = [f"{own.class_names[classes[k]]} in {(counts[:, k] > 0).sum()} groups" for k in np.flatnonzero(lacking)]
    raise InputError(
        f"{blame}, by {own.by}: {some(few, 'classes')} are in too few of {len(sizes)} groups to be in each part, expected "
        f"{sum(least)} or more: add images of other groups, take fewer folds or larger parts, or group by something finer"
    )
