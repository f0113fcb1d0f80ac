"""Boxes and masks as labels: which classes are in each image of a COCO file, a Pascal VOC folder, or Severstal's table."""

from __future__ import annotations

import json
import logging
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from defectlab.data.sources.boxes import find_boxes, read_boxes
from defectlab.data.sources.files import image_files
from defectlab.data.sources.layouts import part_of
from defectlab.data.sources.masks import without_masks
from defectlab.data.sources.tables import Columns, some
from defectlab.errors import InputError

log = logging.getLogger(__name__)

GOOD = "good"  # the class of images without a defect
_COCO = ("images", "annotations", "categories")


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """The area of each class in each image, in the order of the file; `splits` where it gives a split."""

    images: list[str]
    areas: list[dict[str, float]]
    splits: list[str] | None = None


def is_annotated(folder: Path) -> bool:
    """Return whether a folder has COCO's .json files, or Pascal VOC's .xml files in it or in `Annotations`."""
    return bool(_coco_files(folder)) or next(_voc_folder(folder).glob("*.[xX][mM][lL]"), None) is not None


def read_annotations(path: Path, root: Path) -> Annotated:
    """Read the classes in each image from a COCO file, or a folder with COCO's or Pascal VOC's files.

    Raises:
        InputError: no such files, damaged ones, or boxes that hold no pixel of their image.
    """
    if path.is_dir():
        files = _coco_files(path)
        return _join_coco(files) if files else _read_voc(_voc_folder(path), root)
    return _join_coco([path])


def _coco_files(folder: Path) -> list[Path]:
    """Return COCO's files in a folder, in `annotations`, or one folder down as exports have them."""
    found = [path for where in ("*.json", "annotations/*.json", "*/*.coco.json") for path in sorted(folder.glob(where))]
    found = [path for path in found if all(name in _head(path) for name in _COCO)]
    return [path for path in found if path.name.startswith("instances")] or found


def _head(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        content = None
    return content if isinstance(content, dict) else {}


def _join_coco(files: Sequence[Path]) -> Annotated:
    read = [_read_coco(path) for path in files]
    splits = [
        next(filter(None, (part_of(word) for word in (path.parent.name, *re.split("[^a-zA-Z]+", path.stem)))), None)
        for path in files
    ]
    images = [image for found in read for image in found.images]
    parts = [part or "" for part, found in zip(splits, read, strict=True) for _ in found.images]
    areas = [area for found in read for area in found.areas]
    return Annotated(images=images, areas=areas, splits=parts if len(files) > 1 and all(splits) else None)


def _read_coco(path: Path) -> Annotated:
    content = _head(path)
    try:
        names = {item["id"]: str(item["name"]).strip() for item in content["categories"]}
        images = {item["id"]: item for item in content["images"]}
        files = [str(item["file_name"]) for item in content["images"]]
        areas: dict[Any, dict[str, float]] = {key: {} for key in images}
        outside = []
        for item in content["annotations"]:
            image, (left, top, width, height) = images[item["image_id"]], map(float, item["bbox"])
            right, bottom = (min(a + b, float(image.get(side, a + b))) for a, b, side in ((left, width, "width"), (top, height, "height")))  # fmt: skip
            if not (right > max(left, 0) and bottom > max(top, 0)):
                outside.append(f"{image['file_name']}: {item['bbox']}")
            name, known = names[item["category_id"]], areas[item["image_id"]]
            known[name] = known.get(name, 0.0) + (right - max(left, 0)) * (bottom - max(top, 0))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is not as COCO has it ({type(error).__name__}: {error}): expected images with id and file_name, categories "
            "with id and name, and annotations with image_id, category_id and bbox that belong to them"
        ) from None
    if len(images) < len(files):
        raise InputError(f"{path}: {len(files) - len(images)} images have the id of another; expected each id once")
    if outside:
        raise InputError(f"{path}: boxes that hold no pixel of their image: {some(outside)}; mend or remove them")
    return Annotated(images=files, areas=[areas[key] for key in images])


def _voc_folder(folder: Path) -> Path:
    return next((inner for name in ("Annotations", "annotations") if (inner := folder / name).is_dir()), folder)


def _read_voc(folder: Path, root: Path) -> Annotated:
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
            "%s: %d of %d images have no .xml file and count as %s", root, len(images) - len(found), len(images), GOOD
        )
    lists = {
        part_of(path.stem): path.read_text(encoding="utf-8").split()
        for path in sorted(root.glob("ImageSets/Main/*.txt"))
    }
    part = {stem: name for name in ("train", "val", "test") for stem in lists.get(name, ())}
    splits = [part.get(Path(image).stem, "") for image in images]
    return Annotated(images=images, areas=areas, splits=splits if all(splits) else None)


def is_runs(columns: Columns) -> bool:
    """Return whether a table has run-length encoded masks as Severstal's has: ImageId and ClassId, or both in one."""
    return "EncodedPixels" in columns and ("ImageId_ClassId" in columns or {"ImageId", "ClassId"} <= set(columns))


def read_runs(path: Path, columns: Columns, root: Path) -> Annotated:
    """Read the classes in each image from run-length encoded masks, `start length start length …`.

    Images beside those listed, in the folders of these, have no row where they have no defect.

    Raises:
        InputError: a mask that is no such list, or no listed image below the root.
    """
    pairs = [
        name.rpartition("_")[::2] for name in columns["ImageId_ClassId"]
    ] if "ImageId_ClassId" in columns else list(zip(columns["ImageId"], columns["ClassId"], strict=True))  # fmt: skip
    areas: dict[str, dict[str, float]] = {image: {} for image, _ in pairs}
    wrong = []
    for (image, label), text in zip(pairs, columns["EncodedPixels"], strict=True):
        lengths = text.split()[1::2]
        if text and (len(text.split()) % 2 or not all(word.isdecimal() for word in text.split()) or not label):
            wrong.append(f"{image}: {text[:20]!r} of class {label!r}")
        elif text:
            areas[image][label] = areas[image].get(label, 0.0) + sum(map(int, lengths))
    if wrong:
        raise InputError(f"{path}: masks that are no pairs of start and length: {some(wrong)}; mend them")
    files = image_files(root, tell=False)
    folders = {file.parent for file in files if file.name in areas}
    beside = [file.name for file in files if file.parent in folders and file.name not in areas]
    return Annotated(images=[*areas, *beside], areas=[*areas.values(), *({} for _ in beside)])
