"""WebDataset's shards: files of one sample share a name up to its first dot, `0001.jpg` beside `0001.cls` or `0001.json`."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from defectlab.data.sources.files import image_files, new_folder
from defectlab.data.sources.layouts import part_of
from defectlab.errors import InputError
from defectlab.utils.text import csv_rows, listed, read_csv, write_text

LABELS = "labels.csv"
_KEYS = ("label", "labels", "class", "class_name", "cls", "category")  # of a .json


def write_labels(folder: Path) -> None:
    """Write labels.csv into a folder of unpacked samples that have their labels in .cls or .json files beside them.

    Raises:
        InputError: a sample without a label, or one that cannot be read.
    """
    files = image_files(folder, tell=False)
    samples = {_sample(file) for file in files}
    beside = [path for path in folder.rglob("*") if path.suffix in (".cls", ".json") and _sample(path) in samples]
    named = [path for path in beside if path.suffix == ".cls"] or beside
    labels = {_sample(path): _label(path) for path in named}
    if not any(labels.values()) or (folder / LABELS).exists():
        return  # what else may lie beside an image
    bare = [file.name for file in files if not labels.get(_sample(file))]
    if bare:
        raise InputError(
            f"{len(bare)} samples have no class in a .cls or .json beside the image ({listed(bare)}): expected one for each, in "
            "a .json as label, class or category"
        )
    rows = [[file.relative_to(folder).as_posix(), labels[_sample(file)]] for file in files]
    write_text(folder / LABELS, csv_rows([["image", "label"], *rows]))


def join_shards(root: Path, folders: Sequence[Path], cache: Path) -> Path:
    """Return one folder with links to the unpacked shards of `root` and their labels together.

    Shards that are named for parts of a split, such as train-000.tar, give it.
    """
    key = hashlib.sha256("\n".join(folder.name for folder in folders).encode()).hexdigest()[:16]
    target = cache / f"{root.name[:100]}-shards-{key}"
    tables = [(folder / LABELS).is_file() for folder in folders]
    if not any(tables):
        raise InputError(
            f"{root} holds .tar files of samples without .cls or .json: unpack them, or give one .tar of class folders"
        )
    if not target.is_dir():
        parts = [part_of(folder.name.split("-")[0].split("_")[0]) or "" for folder in folders]
        rows = [["image", "label", *(["split"] if all(parts) else [])]]
        with new_folder(target) as whole:
            for folder, part, has_table in zip(folders, parts, tables, strict=True):
                if not has_table:
                    raise InputError(
                        f"{folder.name}: samples without .cls or .json, which other shards have; pack it anew"
                    )
                for image, label in read_csv(folder / LABELS, "pack the shard anew")[1:]:
                    name = f"{folder.name.rpartition('-')[0]}_{image.replace('/', '_')}"  # in no folder, which would be a class
                    os.link(folder / image, whole / name)
                    rows.append([name, label, *([part] if all(parts) else [])])
            write_text(whole / LABELS, csv_rows(rows))
    return target


def _sample(path: Path) -> str:
    return f"{path.parent}/{path.name.split('.')[0]}"


def _label(path: Path) -> str:
    """Return the label in a .cls or .json file, of several joined by `|`; empty where there is none."""
    try:
        found: Any = path.read_text(encoding="utf-8").strip()
        if path.suffix == ".json":
            content = json.loads(found)
            found = next((content[key] for key in _KEYS if key in content), "") if isinstance(content, dict) else ""
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path.name} cannot be read ({error}): expected the class of a sample") from None
    several = found if isinstance(found, list) else [found]
    return "|".join(str(one) for one in several if isinstance(one, str | int))
