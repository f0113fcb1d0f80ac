"""The labels beside arrays of images: numbers, one-hot rows or texts, and the classes that they name."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from defectlab.data.sources.arrays import ArrayFiles, load_array
from defectlab.data.sources.files import check_names, natural_key
from defectlab.data.sources.levels import Array
from defectlab.errors import InputError

log = logging.getLogger(__name__)


def read_labels(
    files: ArrayFiles,
    class_names: Sequence[str] | None = None,
    aliases: Mapping[str, str] | None = None,
    complete: bool = True,
) -> tuple[list[str], dict[str, list[str]]]:
    """Read the classes, and the class of each row by part.

    Labels are whole numbers (N,), one-hot rows (N, K), or texts. Whole numbers and columns are indices into `class_names`;
    where that is None, classes are named after the values that occur. Texts that are keys of `aliases` stand for its
    values, which are then all the classes. With `complete`, each class has to have training images.

    Raises:
        InputError: names the file that is damaged or of another form, both of unequal lengths, or a class that is
            unknown or without images.
    """
    names, numbers = {}, True
    for part, (image_path, path) in files.pairs.items():
        images, labels = load_array(image_path), load_array(path)
        if len(images) != len(labels):
            raise InputError(
                f"{image_path} holds {len(images)} images and {path} {len(labels)} labels; expected as many of both"
            )
        numbers = numbers and labels.dtype.kind not in "US"
        names[part] = _label_names(path, labels, class_names, aliases or {})
    trained = set(names.get("train", names.get("", [])))
    if class_names is None and aliases and not numbers:
        class_names = list(dict.fromkeys(aliases.values()))
    if class_names is None:
        known = sorted(trained, key=(lambda name: (int(name), name)) if numbers else natural_key)
    else:
        known = list(class_names)
    unknown = sorted({name for part in names.values() for name in part} - set(known), key=natural_key)
    if unknown:
        raise InputError(f"{files.folder}: labels {', '.join(unknown)} are not among the classes {', '.join(known)}")
    check_names(files.folder, known)
    missing = [name for name in known if name not in trained]
    if missing and complete:
        raise InputError(f"{files.folder}: no training image of {', '.join(missing)}; expected some of every class")
    if len(known) < 2:
        raise InputError(f"{files.folder}: found the one class {known[0]}, expected two or more")
    if numbers and class_names is None:
        log.info("labels in %s are numbers: %s; data.class_names names them", files.folder, ", ".join(known))
    elif numbers and not all(name.isdecimal() for name in known):
        told = ", ".join(f"{number} is {name}" for number, name in enumerate(known))
        log.info("labels in %s are numbers: %s", files.folder, told)
    return known, names


def _label_names(path: Path, labels: Array, class_names: Sequence[str] | None, aliases: Mapping[str, str]) -> list[str]:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and labels.dtype.kind in "uifb":
        if not (((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all()):
            raise InputError(f"{path}: rows of {labels.shape[1]} values that are not one-hot, expected one 1 in each")
        labels = labels.argmax(axis=1)
    if labels.ndim != 1 or labels.dtype.kind not in "uifbUS":
        what = f"labels of shape {labels.shape} and type {labels.dtype}"
        raise InputError(f"{path}: {what}, expected whole numbers (N,), one-hot rows (N, K) or strings (N,)")
    if labels.dtype.kind in "US":
        try:
            texts = (np.char.decode(labels, "utf-8") if labels.dtype.kind == "S" else labels).tolist()
        except UnicodeDecodeError:
            raise InputError(f"{path}: labels that are no UTF-8; save them as texts") from None
        return [aliases.get(re.sub(r"[^a-z]", "", text.lower()), text) for text in texts]
    if not (np.isfinite(labels) & (labels == np.rint(labels))).all():
        raise InputError(f"{path}: labels with fractions, expected whole numbers")
    numbers = [int(label) for label in labels]
    if class_names is None:
        return [str(number) for number in numbers]
    if not 0 <= min(numbers) <= max(numbers) < len(class_names):
        raise InputError(
            f"{path}: labels from {min(numbers)} to {max(numbers)}, expected 0 to {len(class_names) - 1} for "
            f"{', '.join(class_names)}"
        )
    return [class_names[number] for number in numbers]
