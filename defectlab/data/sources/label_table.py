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

from defectlab.data.sources.annotations import GOOD, Annotated, is_annotated, is_runs, read_annotations, read_runs
from defectlab.data.sources.files import check_names, image_files, natural_key
from defectlab.data.sources.layouts import Listing, part_of
from defectlab.data.sources.masks import without_masks
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
    some,
)
from defectlab.errors import InputError

log = logging.getLogger(__name__)

_PREFERRED = ("labels", "label", "train", "annotations", "metadata")  # among several tables of a folder
_BAD = "bad"


@dataclass(frozen=True, kw_only=True)
class LabelTable:
    """A file of labels; a column of None is found by a usual name, and told.

    Args:
        path: .csv (with commas, semicolons, tabs or spaces), .parquet or a COCO .json file; or a folder with COCO's or
            Pascal VOC's files.
        image: column of the files, relative to data.root or to the table.
        label: column of the classes by name or number, `a|b` for several; of a probability of the second of two classes;
            or the names of columns, one a class.
        split: column of `train`, `val` and `test`, kept with data.split auto.
        group: column that data.group_by auto groups by.
        weight: column of numbers above 0 that weigh images in the training loss.
        time: column of numbers or dates for data.split time.
        several: an image of several classes is an error, or of the `first` or of the one with the `largest` area.
        soft: whether probabilities are trained on; None does where they are given a column a class.
    """

    path: str
    image: str | None = None
    label: str | Sequence[str] | None = None
    split: str | None = None
    group: str | None = None
    weight: str | None = None
    time: str | None = None
    several: Literal["error", "first", "largest"] = "error"
    soft: bool | None = None


@dataclass(kw_only=True)
class _Labels:
    """Of each image the area of each of its classes, or the probabilities (N, C) of `class_names`."""

    images: list[str]
    areas: list[dict[str, float]]
    splits: list[str] | None = None
    columns: Columns
    probabilities: npt.NDArray[np.float64] | None = None
    class_names: Sequence[str] | None = None
    soft: bool = False


def is_label_file(path: Path) -> bool:
    """Return whether a path is named as a file of labels is."""
    return path.suffix.lower() in (*TABLE_SUFFIXES, ".json")


def find_labels(root: Path, tables_only: bool = False) -> Path | None:
    """Return the file of labels in a folder: a table that begins with one of its images, COCO's, or Pascal VOC's; or None."""
    tables, names = [], set[str]()
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        if path.suffix.lower() in TABLE_SUFFIXES and path.is_file():
            names = names or {name for file in image_files(root, tell=False) for name in (file.name, file.stem)}
            try:
                columns = read_columns(path)
            except InputError:
                continue
            image = "ImageId_ClassId" if "ImageId_ClassId" in columns else find_column(path, columns, "image", None)
            first = "" if image is None else Path(columns[image][0].replace("\\", "/")).name
            if {first, first.rpartition("_")[0]} & names:
                tables.append(path)
    preferred = [path for name in _PREFERRED for path in tables if path.stem.lower() == name]
    if preferred or len(tables) == 1:
        return (preferred or tables)[0]
    return root if not tables_only and not tables and root.is_dir() and is_annotated(root) else None


def list_labels(
    table: LabelTable,
    root: Path,
    class_names: Sequence[str] | None = None,
    aliases: Mapping[str, str] | None = None,
    keep_split: bool = True,
    timed: bool = False,
    complete: bool = True,
    skip_missing: bool = False,
) -> Listing:
    """List the images of a file of labels.

    Args:
        table: the file, and what its columns mean.
        root: folder of the images.
        class_names: in the order of the labels; numbers from 0 are indices into these. None takes the names that occur.
        aliases: other names in use, without case and separators, and the classes they stand for.
        keep_split: whether the column of the split is read.
        timed: whether the column of times is read.
        complete: whether each class needs an image.
        skip_missing: whether images that are not there are left out with a warning.

    Raises:
        InputError: names the first three images that are missing, listed twice, of no, an unknown or several classes, and
            columns that are missing or hold something else.
    """
    path = Path(table.path).expanduser()
    path = path if path.exists() or path.is_absolute() else root / path
    found = _read(path, table, root, class_names)
    rows, files = locate(path, root, found.images, skip_missing)
    if len(rows) < len(found.images):
        log.warning("%s: %d images that are not there are left out", path, len(found.images) - len(rows))
    left = len(set(without_masks(root, image_files(root, tell=False))) - set(files))
    if left:
        log.warning("%s: %d images below %s are not in it and are left out", path, left, root)
    columns = {name: [values[row] for row in rows] for name, values in found.columns.items()}
    images = [found.images[row] for row in rows]
    targets = None
    if found.probabilities is None:
        chosen = _one_class(path, images, [found.areas[row] for row in rows], table.several)
        labels, known = _indices(path, images, chosen, class_names, aliases or {})
    else:
        assert found.class_names is not None
        p = found.probabilities[rows]
        # A half counts as the second of two classes.
        labels, known = (p.shape[1] - 1 - p[:, ::-1].argmax(axis=1)).tolist(), list(found.class_names)
        targets = p.astype(np.float32) if (found.soft if table.soft is None else table.soft) else None
    check_names(path, known)
    empty = [name for label, name in enumerate(known) if label not in set(labels)]
    if len(known) < 2 or (complete and empty):
        what = f"no image of {some(empty)}" if len(known) > 1 else f"the one class {known[0]}"
        raise InputError(f"{path}: found {what}; expected images of two or more classes, see data.class_names")
    roles = {
        role: column
        for role in ("split", "group", "weight", "time")
        if columns and (column := find_column(path, columns, role, getattr(table, role)))
    }
    if roles:
        log.info("%s: %s", path, ", ".join(f"{role} in column {column}" for role, column in roles.items()))
    splits = None if found.splits is None else [found.splits[row] for row in rows]
    if keep_split and "split" in roles:
        splits = [part_of(value) or "" for value in columns[roles["split"]]]
        if "" in splits:
            wrong = [value for value, part in zip(columns[roles["split"]], splits, strict=True) if not part]
            raise InputError(f"{path}: column {roles['split']} has {some(wrong)}: expected train, val and test")
    weights = None
    if "weight" in roles:
        cells = columns[roles["weight"]]
        weights = numbers(path, roles["weight"], cells, 1e-6, 1e6, "numbers above 0").astype(np.float32)
    records = ImageRecords(
        targets=targets, weights=weights, columns=columns,
        groups=filled(path, roles["group"], columns[roles["group"]], images) if "group" in roles else None,
        times=read_times(path, roles["time"], columns[roles["time"]]) if timed and "time" in roles else None,
    )  # fmt: skip
    return Listing(
        root=root, files=files, labels=labels, class_names=known, splits=splits if keep_split else None, records=records
    )


def filled(place: object, column: str, values: Sequence[str], images: Sequence[str]) -> Sequence[str]:
    """Return the values of a column; InputError naming the images whose cell is empty."""
    empty = [image for image, value in zip(images, values, strict=True) if not value]
    if empty:
        raise InputError(f"{place}: column {column} is empty for {some(empty)}; fill it in, or remove these images")
    return values


def _read(path: Path, table: LabelTable, root: Path, class_names: Sequence[str] | None) -> _Labels:
    """Read images and their classes from a file or a folder of any kind."""
    annotated: Annotated | None = None
    if path.is_dir() or path.suffix.lower() == ".json":
        annotated, columns = read_annotations(path, root), {}
    else:
        columns = read_columns(path)
        annotated = read_runs(path, columns, root) if is_runs(columns) else None
    if annotated is not None:
        areas = [area or {GOOD: 1.0} for area in annotated.areas]
        good = sum(not area for area in annotated.areas)
        if good:
            log.info("%s: %d of %d images have no defect and are of the class %s", path, good, len(areas), GOOD)
        return _Labels(images=annotated.images, areas=areas, splits=annotated.splits, columns={})
    image = find_column(path, columns, "image", table.image)
    if image is None:
        raise InputError(
            f"{path} has the columns {', '.join(columns)}: expected one of image files; name it as data.labels.image"
        )
    if table.label is None or isinstance(table.label, str):
        label = find_column(path, columns, "label", table.label)
        several = None if label else _class_columns(columns, class_names)
    else:
        label, several = None, [str(find_column(path, columns, "label", name)) for name in table.label]
    if label is None and not several:
        raise InputError(
            f"{path} has the columns {', '.join(columns)}: expected one of classes; name it as data.labels.label"
        )
    log.info("%s: image in column %s, class in column %s", path, image, label or " and ".join(several or ()))
    images = columns[image]
    if several:
        return _from_columns(path, images, columns, several)
    assert label is not None
    cells = filled(path, label, columns[label], images)
    if all(map(is_number, cells)):
        values = np.array(cells, dtype=np.float64)
        if (values % 1 != 0).any():  # a probability
            names = class_names or (GOOD, _BAD)
            p = numbers(path, label, cells, 0, 1, "probabilities")
            if len(names) != 2:
                raise InputError(
                    f"{path}: column {label} has fractions, a probability of the second of two classes; data.class_names has {len(names)}"
                )
            log.info(
                "%s: column %s is the probability of %s; from 0.5 an image is of that class", path, label, names[1]
            )
            both = np.stack((1 - p, p), axis=1)
            return _Labels(images=images, areas=[], columns=columns, probabilities=both, class_names=names)
        cells = [str(int(value)) for value in values.tolist()]
    split = [[part.strip() for part in cell.split("|") if part.strip()] for cell in cells]
    return _Labels(images=images, areas=[dict.fromkeys(parts, 1.0) for parts in split], columns=columns)


def _class_columns(columns: Columns, class_names: Sequence[str] | None) -> list[str] | None:
    """Return the columns that are one a class: those of the names given, else all of 0 to 1 where there are two or more."""
    if class_names is not None and set(class_names) <= set(columns):
        return list(class_names)
    found = [
        name for name, cells in columns.items() if all(is_number(cell) and 0 <= float(cell) <= 1 for cell in cells)
    ]
    return found if len(found) > 1 else None


def _from_columns(path: Path, images: list[str], columns: Columns, names: Sequence[str]) -> _Labels:
    """Read one column a class: 0 or 1, where a row of zeros has no defect; or probabilities that sum to 1."""
    p = np.stack([numbers(path, name, columns[name], 0, 1, "numbers from 0 to 1") for name in names], axis=1)
    if np.isin(p, (0, 1)).all():
        areas = [{name: 1.0 for name, one in zip(names, row, strict=True) if one} or {GOOD: 1.0} for row in p.tolist()]
        return _Labels(images=images, areas=areas, columns=columns)
    wrong = [image for image, total in zip(images, p.sum(axis=1), strict=True) if abs(total - 1) > 0.01]
    if wrong:
        raise InputError(f"{path}: probabilities that do not sum to 1: {some(wrong)}; expected one class an image")
    return _Labels(
        images=images,
        areas=[],
        columns=columns,
        probabilities=p / p.sum(axis=1, keepdims=True),
        class_names=names,
        soft=True,
    )


def _one_class(path: Path, images: Sequence[str], areas: Sequence[dict[str, float]], several: str) -> list[str]:
    """Return the one class of each image, by area where that is asked for: the place where several labels are refused."""
    many = [f"{image}: {', '.join(area)}" for image, area in zip(images, areas, strict=True) if len(area) > 1]
    if many and several == "error":
        raise InputError(
            f"{path}: of {len(images)} images with several classes: {some(many)}; expected one an image: take the first, or the "
            "largest by area, by data.labels.several, or leave these images out"
        )
    if many:
        log.warning("%s: %s have several classes: the %s is taken", path, some(many), several)
    return [max(area, key=area.__getitem__) if several == "largest" else next(iter(area)) for area in areas]


def _indices(
    path: Path,
    images: Sequence[str],
    names: Sequence[str],
    class_names: Sequence[str] | None,
    aliases: Mapping[str, str],
) -> tuple[list[int], list[str]]:
    """Return the index of each name in the classes, and these."""
    names = [aliases.get(re.sub(r"[^a-z]", "", name.lower()), name) for name in names]
    if class_names is None:
        known = sorted(set(names), key=natural_key)
        log.info("%s: the classes are %s", path, ", ".join(known[:20]))
    else:
        known = list(class_names)
        if not set(names) <= set(known) and all(name.isdecimal() and int(name) < len(known) for name in names):
            names = [known[int(name)] for name in names]
    unknown = [f"{image}: {name}" for image, name in zip(images, names, strict=True) if name not in known]
    if unknown:
        raise InputError(
            f"{path}: unknown labels of {some(unknown)}; expected {', '.join(known[:20])}, see data.class_names"
        )
    places = {name: label for label, name in enumerate(known)}
    return [places[name] for name in names], known
