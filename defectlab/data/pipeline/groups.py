"""Groups of images that stay on one side of every split: from a column or a pattern, and dealt by class."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
import numpy.typing as npt

from defectlab.data.pipeline.duplicates import Duplicate, groups
from defectlab.data.sources.label_table import filled
from defectlab.data.sources.records import ImageRecords
from defectlab.data.sources.tables import some
from defectlab.errors import InputError

_Indices = npt.NDArray[np.int64]
_ORDERS = 40  # orders of the groups that are tried until each part has each class
_NUMBERED = re.compile(r"(?:^|/)([A-Za-z]+[ _-]?)\d+[ _/-]")


@dataclass(frozen=True, kw_only=True)
class Groups:
    """The group of each image, `codes` (N,) from 0 with their `names`; `by` and `class_names` are for messages."""

    codes: _Indices
    names: Sequence[str]
    by: str
    class_names: Sequence[str]

    def members(self) -> list[list[int]]:
        """Return the images of each group."""
        return [
            part.tolist()
            for part in np.split(np.argsort(self.codes, kind="stable"), np.bincount(self.codes).cumsum()[:-1])
        ]

    def joined(self, pairs: Sequence[Duplicate]) -> Groups:
        """Return groups in which two images of a pair are of one, too; a joined group has the name of its first."""
        firsts = np.unique(self.codes, return_index=True)[1]
        same = [Duplicate(int(firsts[code]), index, 1.0) for index, code in enumerate(self.codes)]
        codes = self.codes.copy()
        for members in groups([*same, *pairs], len(codes)):
            codes[members] = codes[members].min()
        kept, codes = np.unique(codes, return_inverse=True)
        return Groups(codes=codes, names=[self.names[code] for code in kept], by=self.by, class_names=self.class_names)


def group_names(group_by: str | None, files: Sequence[str], records: ImageRecords) -> Sequence[str] | None:
    """Return the group of each file: `auto` takes the table's own, else a column or what a pattern finds in the name.

    Raises:
        InputError: no such column, a pattern that is none, has not one group or does not match every file, an empty cell,
            or one group that holds everything.
    """
    if group_by is None or (group_by == "auto" and records.groups is None):
        return None
    if group_by == "auto":
        assert records.groups is not None
        found = records.groups
    elif group_by in records.columns:
        found = filled("data.group_by", group_by, records.columns[group_by], files)
    else:
        found = _matched(group_by, files, list(records.columns))
    if len(set(found)) < 2:
        raise InputError(
            f"data.group_by is {group_by}: all {len(files)} images are of the one group {found[0]}; expected three or more"
        )
    return found


def _matched(group_by: str, files: Sequence[str], columns: Sequence[str]) -> list[str]:
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise InputError(
            f"data.group_by is {group_by}: no regular expression ({error}); expected one like coil_(\\d+)_"
        ) from None
    if pattern.groups != 1:
        near = get_close_matches(group_by, columns, n=1, cutoff=0.5)
        hint = (
            f"did you mean the column {near[0]}?"
            if near
            else f"expected a column{f' of {some(columns)}' if columns else ''} or"
        )
        raise InputError(
            f"data.group_by is {group_by}: {hint} a pattern has one group in parentheses, like coil_(\\d+)_"
        )
    matches = [pattern.search(file) for file in files]
    unmatched = [file for file, match in zip(files, matches, strict=True) if match is None or not match[1]]
    if unmatched:
        raise InputError(
            f"data.group_by is {group_by}: of {len(files)} images without a group: {some(unmatched)}; expected each to match"
        )
    return [match[1] for match in matches if match]


def looks_grouped(files: Sequence[str], labels: _Indices) -> tuple[str, int] | None:
    """Return a pattern by which names look grouped, and how many groups it finds; None where they do not.

    A word and a number stand before the end of each name (`coil_12_034.png`), there are few images a number, and these are
    of one class more often than any images are.
    """
    first = _NUMBERED.search(files[0])
    if first is None:
        return None
    pattern = rf"(?:^|/){re.escape(first[1])}(\d+)[ _/-]"
    matches = [re.search(pattern, file) for file in files]
    if not all(matches):
        return None
    codes = np.unique([match[1] for match in matches if match], return_inverse=True)[1]
    counts = np.zeros((codes.max() + 1, labels.max() + 1))
    np.add.at(counts, (codes, labels), 1)
    sizes, total = counts.sum(axis=1), counts.sum(axis=0)
    pairs = (sizes * (sizes - 1)).sum()
    if len(sizes) < 4 or pairs < len(files) or np.median(sizes) > max(50, len(files) / 10):
        return None
    alike = (counts * (counts - 1)).sum() / pairs
    chance = (total * (total - 1)).sum() / (len(files) * (len(files) - 1))
    return (pattern.replace("(?:^|/)", ""), len(sizes)) if alike > chance + 0.1 else None


def deal(
    labels: _Indices,
    own: Groups,
    chosen: _Indices,
    shares: Sequence[float],
    least: Sequence[int],
    seed: int,
    blame: str,
) -> _Indices:
    """Return the part (n,) of each of the `chosen` images, so that no group is in two and each class in proportion.

    Large groups come first, those of about one size in an order drawn by the seed; each goes where the shares of the
    classes and of all images come nearest to those wanted. Of the orders tried the best is taken.

    Args:
        labels: (N,) int64.
        own: the groups of the N images.
        chosen: (n,) int64, indices of the images to divide.
        shares: of each part, in sum 1.
        least: groups of each class that each part has to get.
        seed: of the orders.
        blame: of an error: the setting that asks for this.

    Raises:
        InputError: there are too few groups of some class.
    """
    classes, label = np.unique(labels[chosen], return_inverse=True)
    used, code = np.unique(own.codes[chosen], return_inverse=True)
    counts = np.zeros((len(used), len(classes)))
    np.add.at(counts, (code, label), 1)
    having = (counts > 0).sum(axis=0)
    few = [
        f"{own.class_names[classes[k]]} in {having[k]}: {', '.join(own.names[used[g]] for g in np.flatnonzero(counts[:, k])[:3])}"
        for k in np.flatnonzero(having < sum(least))
    ]  # fmt: skip
    advice = "add images of other groups, take fewer folds or parts, or group by something finer"
    if few:
        raise InputError(
            f"{blame} and data.group_by {own.by}: classes in too few groups: {some(few)}; expected at least {sum(least)}, {advice}"
        )
    sizes = counts.sum(axis=1)
    fractions = np.hstack((counts / counts.sum(axis=0), sizes[:, None] / sizes.sum()))
    wanted = np.array(shares)[:, None]
    rng = np.random.RandomState(seed)
    best, found = (len(classes) * len(shares) + 1, 0.0), np.zeros(len(used), dtype=np.int64)
    for trial in range(_ORDERS):
        order = rng.permutation(len(used))
        order = order[np.argsort(-np.floor(np.log2(sizes[order])), kind="stable")]
        gap, part = -wanted * np.ones(fractions.shape[1]), np.zeros(len(used), dtype=np.int64)
        for group in order:
            own_share = fractions[group]
            place = int(np.argmin(((2 * gap + own_share) @ own_share) / wanted[:, 0]))
            gap[place] += own_share
            part[group] = place
        lacking = sum(((counts[part == p] > 0).sum(axis=0) < n).sum() for p, n in enumerate(least))
        score = int(lacking), float((gap**2 / wanted).sum())
        if score < best:
            best, found = score, part
        if not best[0] and trial * len(used) > 1000:
            break
    if best[0]:
        lack = [
            f"{own.class_names[classes[k]]} in part {p + 1} of {len(shares)}"
            for p, n in enumerate(least) for k in np.flatnonzero((counts[found == p] > 0).sum(axis=0) < n)
        ]  # fmt: skip
        raise InputError(
            f"{blame} and data.group_by {own.by}: no division found that gives each class to each part, without {some(lack)}; {advice}"
        )
    result: _Indices = found[code]
    return result


def check_given(parts: Sequence[str], own: Groups) -> None:
    """Raise InputError for groups that stand in two parts of a split that the source gives."""
    seen: dict[int, str] = {}
    across = [
        own.names[code] for code, part in dict.fromkeys(zip(own.codes.tolist(), parts, strict=True))
        if seen.setdefault(code, part) != part
    ]  # fmt: skip
    if across:
        raise InputError(
            f"data.group_by is {own.by}: groups in two parts of the given split: {some(across)}; divide anew by data.split random, "
            "or leave data.group_by null"
        )
