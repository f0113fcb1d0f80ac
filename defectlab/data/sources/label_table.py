"""Labels from a file, in place of class folders: a table of any usual form, COCO, Pascal VOC, Severstal's masks."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from defectlab.data.sources.annotations import GOOD, Labels, is_annotated, is_runs, read_annotations, read_runs
from defectlab.data.sources.files import check_names, image_files, natural_key
from defectlab.data.sources.layouts import Listing, part_of
from defectlab.data.sources.masks import without_masks
from defectlab.data.sources.opening import file_shapes
from defectlab.data.sources.records import ImageRecords
from defectlab.data.sources.tables import (
    TABLE_SUFFIXES,
    Columns,
    find_column,
    is_number,
    locate,
    numbers,
    read_columns,
    read_times,
    refuse,
    some,
)  # fmt: skip
from defectlab.errors import InputError

log = logging.getLogger(__name__)

_ROLES = ("split", "group", "weight", "time")
_PREFERRED = ("labels", "label", "train", "annotations", "metadata")  # among several tables of a folder


@dataclass(frozen=True, kw_only=True)
class LabelColumns:
    """What the columns of a table of labels are; one of None is found by a usual name, and told.

    Args:
        image: column of the files, relative to data.root or to the table.
        label: column of the names or numbers of classes, or of a probability of the second of two; or the columns, one a class.
        split: column of `train`, `val` and `test`, kept with data.split auto.
        group: column that data.group_by auto groups by.
        weight: column of numbers above 0 that weigh images in the training loss.
        time: column of numbers or dates for data.split time.
        box: column of boxes, left, top, width and height in pixels, a row a box: the rows of one image are joined.
        several: an image of several classes is an error, or of the `first` or of the one with the `largest` area; `all` makes
            a multi-label set, of whose images each has any number of classes.
        soft: whether probabilities are trained on; None does where they are given a column a class.
    """

    image: str | None = None
    label: str | Sequence[str] | None = None
    split: str | None = None
    group: str | None = None
    weight: str | None = None
    time: str | None = None
    box: str | None = None
    several: Literal["error", "first", "largest", "all"] = "error"
    soft: bool | None = None


def find_labels(root: Path) -> Path | None:
    """Return the file of labels in a folder: a table that begins with one of its images, COCO's, or Pascal VOC's; or None."""
    tables: list[Path] = []
    names: set[str] = set()
    for path in sorted(root.glob("*")):
        if path.suffix.lower() in TABLE_SUFFIXES and path.is_file():
            names = names or {name for file in image_files(root, tell=False) for name in (file.name, file.stem)}
            try:
                columns = read_columns(path)
            except InputError:
                continue
            image = find_column(path, columns, "image")
            tables += [path] if image and Path(columns[image][0].replace("\\", "/")).name in names else []
    preferred = [path for name in _PREFERRED for path in tables if path.stem.lower() == name] or tables
    if len(tables) == 1 or preferred != tables:
        return preferred[0]
    return root if not tables and is_annotated(root) else None


def list_labels(
    path: Path, root: Path, table: LabelColumns | None = None, class_names: Sequence[str] | None = None,
    aliases: Mapping[str, str] | None = None, split: str = "auto", skip_missing: bool = False,
) -> Listing:  # fmt: skip
    """List the images below `root` of a file of labels.

    That is .csv (of commas, semicolons, tabs or spaces), .parquet, COCO's .json, or a folder of COCO's or Pascal VOC's files.
    Numbers from 0 are indices into `class_names`, of which None takes those that occur; keys of `aliases` are other names in
    use. The split is read with a `split` of `auto`, times with `time`; but for `test` each class needs an image.

    Raises:
        InputError: names the first three images that are missing (unless `skip_missing` leaves them out), listed twice, of
            no, an unknown or several classes; or columns that are missing or hold something else.
    """
    path, table = path if path.exists() or path.is_absolute() else root / path, table or LabelColumns()
    found = _read(path, root, table, class_names)
    below = image_files(root, tell=False)
    files = locate(path, root, below, found.images, skip_missing)
    if found.corners:
        shapes = file_shapes([files[row] for row in sorted(files)])
        pairs = zip((found.corners[row] for row in sorted(files)), shapes.tolist(), strict=True)
        beyond = (high > 0 and (x >= wide or y >= high) for (x, y), (high, wide) in pairs)
        refuse(
            path,
            (found.images[row] for row in sorted(files)),
            beyond,
            "have boxes that hold no pixel of them; mend or remove these",
        )
    left = len(set(without_masks(root, below)) - set(files.values()))
    if left or len(files) < len(found.images):
        missing = len(found.images) - len(files)
        log.warning("%s: left out are %d images without a row, and %d rows without an image", path, left, missing)
    several = table.several == "all"
    if several:
        known, members = _several(path, found, class_names, aliases or {})
        labels = [-1] * len(members)
    else:
        labels, known = _indices(path, found, _one_class(path, found, table.several), class_names, aliases or {})
    roles = {role: find_column(path, found.columns, role, getattr(table, role)) for role in _ROLES if found.columns}
    cells = {role: found.columns[name] for role, name in roles.items() if name}
    if cells:
        log.info("%s: %s", path, ", ".join(f"{role} in column {roles[role]}" for role in cells))
    splits = found.splits if split == "auto" else None
    if split == "auto" and "split" in cells:
        splits = [part_of(value) or "" for value in cells["split"]]
        refuse(
            path,
            cells["split"],
            (not part for part in splits),
            f"in column {roles['split']} are not train, val or test",
        )
    if "group" in cells:
        refuse(path, found.images, (not value for value in cells["group"]), f"have no group in column {roles['group']}")
    soft = found.soft if table.soft is None or found.soft is None else table.soft
    targets = np.array([[area.get(name, 0.0) for name in known] for area in found.areas], np.float32) if soft else None
    records = ImageRecords(
        targets=members if several else targets, multilabel=several,
        weights=numbers(path, "of weights", cells["weight"], 1e-6, 1e6).astype(np.float32) if "weight" in cells else None,
        groups=np.array(cells["group"]) if "group" in cells else None,
        times=read_times(path, str(roles["time"]), cells["time"]) if split == "time" and "time" in cells else None,
        columns={name: np.array(values) for name, values in found.columns.items()},
    )  # fmt: skip
    places = [files.get(row, root) for row in range(len(labels))]
    whole = Listing(root=root, files=places, labels=labels, class_names=known, splits=splits, records=records)
    listing = whole.select(sorted(files), known)
    check_names(path, known)
    present = set(np.flatnonzero(members[sorted(files)].any(axis=0)) if several else listing.labels)
    empty = [name for label, name in enumerate(known) if label not in present and split != "test"]
    if len(known) < 2 or empty:
        what = some(empty, "classes without an image") if empty else f"the one class {known[0]}"
        raise InputError(f"{path}: found {what}; expected images of two or more, see data.class_names")
    return listing


def _read(path: Path, root: Path, table: LabelColumns, class_names: Sequence[str] | None) -> Labels:
    """Read images and their classes from a file or a folder of any kind."""
    if path.is_dir() or path.suffix.lower() == ".json":
        return read_annotations(path, root)
    columns = read_columns(path)
    if is_runs(columns):
        return read_runs(path, columns, root)
    image = find_column(path, columns, "image", table.image)
    label: str | None = None
    if isinstance(table.label, str | None):
        label = find_column(path, columns, "label", table.label)
        each = [] if label else _class_columns(columns, class_names)
    else:
        each = [str(find_column(path, columns, "label", name)) for name in table.label]
    if image is None or not (label or each):
        wanted = "image files (data.label_columns.image)" if image is None else "classes (data.label_columns.label)"
        raise InputError(f"{path} has the columns {', '.join(columns)}: expected one of {wanted}; name it")
    log.info("%s: image in column %s, class in column %s", path, image, label or " and ".join(each))
    if label and (box := find_column(path, columns, "box", table.box)):
        return _joined_boxes(path, columns, image, label, box)
    found, cells = Labels(images=columns[image], areas=[], columns=columns), columns[label or each[0]]
    if each:
        p = np.stack([numbers(path, name, columns[name], 0, 1) for name in each], axis=1)
        found.soft = bool((p % 1).any()) or None
        if table.several == "all" and found.soft is not None:
            raise InputError(
                f"{path}: the columns of classes hold probabilities: expected 0 and 1 where several is all"
            )
        wrong = (found.soft is not None and abs(total - 1) > 0.01 for total in p.sum(axis=1))
        refuse(path, found.images, wrong, "have probabilities that do not sum to 1; expected one class an image")
        found.areas = [{name: x for name, x in zip(each, row, strict=True) if x} for row in p.tolist()]
        return found
    if table.several != "all":
        refuse(
            path, found.images, (not cell.strip("| ") for cell in cells), f"have no label in column {label}; fill it in"
        )
    numeric = all(map(is_number, cells))
    if numeric and table.several != "all" and any(float(cell) % 1 for cell in cells):
        good, bad = class_names if class_names is not None and len(class_names) == 2 else (GOOD, "bad")
        log.info("%s: column %s is a probability, from 0.5 an image is %s, else %s", path, label, bad, good)
        found.areas = [{bad: p, good: 1 - p} for p in numbers(path, str(label), cells, 0, 1).tolist()]
        found.soft = False
    else:
        texts = [str(int(float(cell))) for cell in cells] if numeric else cells
        found.areas = [dict.fromkeys(filter(None, map(str.strip, text.split("|"))), 1.0) for text in texts]
    return found


def _joined_boxes(path: Path, columns: Columns, image: str, label: str, box: str) -> Labels:
    """Join the rows of each image, of which each has a class and its box; an empty class is none."""
    edges = [[float(number) for number in re.findall(r"-?\d+\.?\d*(?:e[-+]?\d+)?", cell)] for cell in columns[box]]
    named = (f"{name}: {cell}" for name, cell in zip(columns[image], columns[box], strict=True))
    wrong = (bool(cell) and not _is_box(four) for cell, four in zip(columns[box], edges, strict=True))
    what = f"in column {box} hold no pixel of the image: expected left, top, width and height in pixels"
    refuse(path, named, wrong, what)
    first: dict[str, int] = {}
    areas: dict[str, dict[str, float]] = {}
    corners: dict[str, tuple[float, float]] = {}
    for row, (name, text, four) in enumerate(zip(columns[image], columns[label], edges, strict=True)):
        first.setdefault(name, row)
        own, (x, y, wide, high) = areas.setdefault(name, {}), four or (0.0, 0.0, 1.0, 1.0)
        if text:
            own[text] = own.get(text, 0.0) + wide * high
        corners[name] = max(corners.get(name, (x, y))[0], x), max(corners.get(name, (x, y))[1], y)
    kept = {column: [cells[row] for row in first.values()] for column, cells in columns.items()}
    return Labels(images=list(first), areas=list(areas.values()), columns=kept, corners=list(corners.values()))


def _is_box(four: Sequence[float]) -> bool:
    return len(four) == 4 and min(four[2:]) > 0 and four[0] + four[2] > 0 and four[1] + four[3] > 0


def _class_columns(columns: Columns, class_names: Sequence[str] | None) -> list[str]:
    """Return the columns that are one a class: those of the names given, else all of 0 to 1 where there are two or more."""
    if class_names is not None and set(class_names) <= set(columns):
        return list(class_names)
    found = [name for name, cells in columns.items() if all(is_number(x) and 0 <= float(x) <= 1 for x in cells)]
    return found if len(found) > 1 else []


def _one_class(path: Path, found: Labels, several: str) -> list[str]:
    """Return the class of each image: the place where several of one image are refused."""
    if good := sum(not area for area in found.areas):
        log.info("%s: %d of %d images have no defect: they are %s", path, good, len(found.areas), GOOD)
    largest = several == "largest" or found.soft is not None
    if several == "error" and not largest:
        named = (f"{image}: {', '.join(area)}" for image, area in zip(found.images, found.areas, strict=True))
        refuse(path, named, (len(area) > 1 for area in found.areas), (
            f"of {len(found.areas)} images have several classes, expected one: take all of them, the first, or the largest by area, "
            "by data.label_columns.several, or leave these images out"
        ))  # fmt: skip
    return [
        (max(area, key=area.__getitem__) if largest else next(iter(area))) if area else GOOD for area in found.areas
    ]


def _several(
    path: Path, found: Labels, class_names: Sequence[str] | None, aliases: Mapping[str, str]
) -> tuple[list[str], npt.NDArray[np.float32]]:
    """Return the classes, and which image is of which, (N, C)."""
    named = [[name for name, area in areas.items() if area and name != GOOD] for areas in found.areas]
    pairs = Labels(
        images=[image for image, names in zip(found.images, named, strict=True) for _ in names], areas=[],
    )  # fmt: skip
    flat, known = _indices(path, pairs, [name for names in named for name in names], class_names, aliases)
    members = np.zeros((len(named), len(known)), np.float32)
    members[np.repeat(np.arange(len(named)), [len(names) for names in named]), flat] = 1
    return known, members


def _indices(
    path: Path, found: Labels, names: Sequence[str], class_names: Sequence[str] | None, aliases: Mapping[str, str]
) -> tuple[list[int], list[str]]:
    """Return the index of each name in the classes, and these."""
    names = [aliases.get(re.sub(r"[^a-z]", "", name.lower()), name) for name in names]
    known = sorted(set(names), key=natural_key) if class_names is None else list(class_names)
    if not set(names) <= set(known) and all(name.isdecimal() and int(name) < len(known) for name in names):
        names = [known[int(name)] for name in names]
    places = {name: label for label, name in enumerate(known)}
    named = (f"{image}: {name}" for image, name in zip(found.images, names, strict=True))
    expected = f"have labels that are no class; expected {', '.join(known[:20])}, see data.class_names"
    refuse(path, named, (name not in places for name in names), expected)
    return [places[name] for name in names], known
