"""Boxes and masks as labels: which classes are in each image of a COCO file, a Pascal VOC folder, or Severstal's table."""

from __future__ import annotations

import json
import logging
import os
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from defectlab.data.sources.boxes import find_boxes, read_boxes
from defectlab.data.sources.files import image_files
from defectlab.data.sources.layouts import part_of
from defectlab.data.sources.masks import without_masks
from defectlab.data.sources.tables import Columns, refuse
from defectlab.errors import InputError

log = logging.getLogger(__name__)

GOOD = "good"  # the class of images without a defect
_COCO = ("images", "annotations", "categories")


@dataclass(kw_only=True)
class Labels:
    """Of each image its classes with their areas, or with `soft` their probabilities; none for `GOOD`.

    `corners` (N, 2) are the largest left and top edge of its boxes, where a table has these.
    """

    images: list[str]
    areas: list[dict[str, float]]
    splits: list[str] | None = None
    columns: Columns = field(default_factory=dict)
    soft: bool | None = None
    corners: list[tuple[float, float]] = field(default_factory=list)


def is_annotated(folder: Path) -> bool:
    """Return whether a folder has COCO's .json files, or Pascal VOC's .xml files in it or in `Annotations`."""
    return bool(_coco_files(folder)) or next(_voc_folder(folder).glob("*.[xX][mM][lL]"), None) is not None


def read_annotations(path: Path, root: Path) -> Labels:
    """Read the classes in each image from a COCO file, or a folder with COCO's or Pascal VOC's files.

    Raises:
        InputError: no such files, damaged ones, or boxes that hold no pixel of their image.
    """
    files = _coco_files(path) if path.is_dir() else [path]
    if not files:
        return _read_voc(_voc_folder(path), root)
    read = [_read_coco(file) for file in files]
    words = [(file.parent.name, *re.split("[^a-zA-Z]+", file.stem)) for file in files]
    parts = [next(filter(None, map(part_of, names)), None) for names in words]
    splits = [part or "" for part, found in zip(parts, read, strict=True) for _ in found.images]
    return Labels(
        images=[image for found in read for image in found.images], areas=[area for found in read for area in found.areas],
        splits=splits if len(files) > 1 and all(splits) else None,
    )  # fmt: skip


def _coco_files(folder: Path) -> list[Path]:
    """Return COCO's files in a folder, in `annotations`, or one folder down as exports have them."""
    found = [path for where in ("*.json", "annotations/*.json", "*/*.coco.json") for path in sorted(folder.glob(where))]
    found = [path for path in found if all(name in _content(path) for name in _COCO)]
    return [path for path in found if path.name.startswith("instances")] or found


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        content = None
    return content if isinstance(content, dict) else {}


def _read_coco(path: Path) -> Labels:
    content, empty = _content(path), dict[str, bool]()
    try:
        names = {item["id"]: str(item["name"]).strip() for item in content["categories"]}
        images = {item["id"]: item for item in content["images"]}
        areas: dict[Any, dict[str, float]] = {key: defaultdict(float) for key in images}
        for item in content["annotations"]:
            image, (x, y, width, height) = images[item["image_id"]], map(float, item["bbox"])
            wide = min(x + width, image.get("width", x + width)) - max(x, 0)
            high = min(y + height, image.get("height", y + height)) - max(y, 0)
            empty[f"{image['file_name']}: {item['bbox']}"] = not min(wide, high) > 0
            areas[item["image_id"]][names[item["category_id"]]] += wide * high
        files = [str(item["file_name"]) for item in images.values()]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is not as COCO has it ({type(error).__name__}: {error}): expected images with id and file_name, categories "
            "with id and name, and annotations with the image_id, category_id and bbox of these"
        ) from None
    refuse(path, empty, empty.values(), "are boxes that hold no pixel of their image; mend or remove them")
    return Labels(images=files, areas=list(areas.values()))


def _voc_folder(folder: Path) -> Path:
    return next((inner for name in ("Annotations", "annotations") if (inner := folder / name).is_dir()), folder)


def _read_voc(folder: Path, root: Path) -> Labels:
    jpegs = root / "JPEGImages"
    files = image_files(jpegs) if jpegs.is_dir() else without_masks(root, image_files(root))
    images = [Path(os.path.relpath(file, root)).as_posix() for file in files]
    found = find_boxes(folder, images)
    areas: list[dict[str, float]] = [defaultdict(float) for _ in images]
    for image, area in zip(images, areas, strict=True):
        for box in read_boxes(found[image]) if image in found else ():
            area[box.label] += (box.right - box.left) * (box.bottom - box.top)
    if len(found) < len(images):
        log.warning(
            "%s: %d of %d images have no .xml file: they are %s", root, len(images) - len(found), len(images), GOOD
        )
    return Labels(images=images, areas=areas)


def is_runs(columns: Columns) -> bool:
    """Return whether a table has run-length encoded masks as Severstal's has."""
    return {"ImageId", "ClassId", "EncodedPixels"} <= set(columns)


def read_runs(path: Path, columns: Columns, root: Path) -> Labels:
    """Read the classes in each image from run-length encoded masks, `start length start length …`.

    Images beside those listed have no row where they have no defect. InputError for a mask that is no such list.
    """
    rows = list(zip(columns["ImageId"], columns["ClassId"], columns["EncodedPixels"], strict=True))
    areas: dict[str, dict[str, float]] = {image: defaultdict(float) for image in columns["ImageId"]}
    wrong = (bool(text) and not (name and re.fullmatch(r"(\d+ \d+ ?)+", text)) for _, name, text in rows)
    refuse(path, columns["ImageId"], wrong, "have masks that are no pairs of start and length of a class; mend them")
    for image, name, text in rows:
        if text:
            areas[image][name] += sum(map(int, text.split()[1::2]))
    files = image_files(root, tell=False)
    folders = {file.parent for file in files if file.name in areas}
    for file in files:
        if file.parent in folders:
            areas.setdefault(file.name, {})
    return Labels(images=list(areas), areas=list(areas.values()))
