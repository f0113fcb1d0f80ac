"""Read image sets in NumPy's .npy files."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from defectlab.data.sources.archive import open_root
from defectlab.data.sources.decode import to_square
from defectlab.data.sources.files import image_files, is_ignored, natural_key
from defectlab.data.sources.images import CACHE, ImageSet, check_shape
from defectlab.data.sources.layouts import SPLITS
from defectlab.errors import InputError
from defectlab.utils.progress import progress_bar

log = logging.getLogger(__name__)

_Array = npt.NDArray[Any]

_IMAGE_WORDS = frozenset(("x", "image", "images", "img", "imgs", "feature", "features"))
_LABEL_WORDS = frozenset(("y", "label", "labels", "target", "targets"))
_EXPECTED = (
    "expected pairs such as images.npy and labels.npy, x_train.npy and y_train.npy, NEU_test_imgs.npy and "
    "NEU_test_labels.npy, mnist_train_features.npy and mnist_train_targets.npy"
)
_BLOCK = 1024  # images converted at a time


@dataclass(frozen=True)
class ArrayFiles:
    """Image and label files of one folder, by part: `train`, `val` and `test`, or an empty text for all images."""

    folder: Path
    pairs: Mapping[str, tuple[Path, Path]]

    @property
    def names(self) -> set[str]:
        """Return the names of all files."""
        return {path.name for pair in self.pairs.values() for path in pair}


def find_arrays(root: Path, wrapped: bool = True) -> ArrayFiles | None:
    """Find the pairs of image and label arrays in a folder or, if `wrapped`, in the only folder in it.

    The words of a file's name, in any order and case, tell what it is: images (x, image, imgs, features, data), labels (y,
    label, targets), and the part (train, val, valid, validation, test). A single .npz file of such arrays will do.
    Arrays without a partner among images are ignored, as is what cannot be read.

    Raises:
        InputError: a partner that is missing, or two candidates for one part.
    """
    try:
        inside = [path for path in root.iterdir() if path.is_dir() and not is_ignored(path.name)] if wrapped else []
        for folder in (root, *inside) if len(inside) == 1 else (root,):
            found = _pairs_in(folder)
            if found is not None:
                return found
    except OSError:  # missing, a file or locked: it is for whoever reads the root next to say so
        return None
    return None


def array_classes(
    files: ArrayFiles, class_names: Sequence[str] | None = None, aliases: Mapping[str, str] | None = None
) -> list[str]:
    """Return the class names of `load_arrays`, from the labels alone.

    Raises:
        InputError: as `load_arrays` for the labels.
    """
    return _classes(files, _read_labels(files, class_names, aliases), class_names, aliases)


def load_arrays(
    root: Path,
    size: int,
    channels: int,
    class_names: Sequence[str] | None = None,
    aliases: Mapping[str, str] | None = None,
) -> ImageSet:
    """Read the arrays that `find_arrays` finds.

    Images are (N, H, W), (N, H, W, C) or (N, C, H, W) with C of 1 or 3, or rows of a square's pixels (N, H * H); whole
    numbers from 0 to 255, or floats in [0, 1] or [0, 255], told by the largest value of all the files. Labels are whole
    numbers (N,), one-hot rows (N, K), or texts. Whole numbers and columns are indices into `class_names`; where that
    is None, classes are named after the values that occur. Texts that are keys of `aliases` stand for its values, which
    are then all the classes. Nothing pickled is ever loaded.

    Raises:
        InputError: names the file that is missing, damaged or of another form, and both of unequal lengths.
    """
    check_shape(size, channels)
    files = find_arrays(root)
    if files is None:
        raise InputError(f"{root}: no image and label arrays; {_EXPECTED}")
    names = _read_labels(files, class_names, aliases)
    known = _classes(files, names, class_names, aliases)
    index = {name: label for label, name in enumerate(known)}
    images = {split: _channels_last(path, _load(path)) for split, (path, _) in files.pairs.items()}
    factor = _factor([(path, images[split]) for split, (path, _) in files.pairs.items()])
    pixels = _resized(list(images.values()), factor, size, channels)
    rows = [image for part in images.values() for image in part]
    _log_numbers(files, class_names, known)
    return ImageSet(
        images=pixels,
        labels=torch.tensor([index[name] for part in names.values() for name in part], dtype=torch.int64),
        class_names=known,
        files=[
            f"{_shown(files.pairs[split][0], root)}[{row}]" for split, part in names.items() for row in range(len(part))
        ],
        splits=[split for split, part in names.items() for _ in part] if len(files.pairs) > 1 else None,
        skipped=[],
        content=lambda index: np.ascontiguousarray(rows[index]).tobytes(),
    )


def _pairs_in(folder: Path) -> ArrayFiles | None:
    arrays, archives = _with_suffix(folder, ".npy"), _with_suffix(folder, ".npz")
    candidates: dict[tuple[str, str], list[Path]] = {}
    for path in arrays:
        for what in _part_and_kind(path.stem):
            candidates.setdefault(what, []).append(path)
    whole = {part for part, _ in candidates if {(part, "images"), (part, "labels")} <= candidates.keys()}
    if not (arrays or archives) or (not whole and image_files(folder)):
        return None
    if not candidates and archives:
        if len(archives) > 1:
            raise InputError(f"{folder}: found {_listed(archives)}, expected a single .npz file; name it by data.root")
        return _pairs_in(open_root(archives[0], CACHE))  # it is a .zip of .npy files
    for (part, kind), paths in candidates.items():
        if len(paths) > 1:
            raise InputError(f"{folder}: found {_listed(paths)} for the {part} {kind}, expected one; move one away")
    found = {what: paths[0] for what, paths in candidates.items()}
    if {"", "train"} <= whole:
        both = f"{found['', 'images'].name} and {found['train', 'images'].name}"
        raise InputError(f"{folder}: found both {both}, expected one of them; move one away")
    for (part, _), path in found.items():
        if part not in whole:
            raise InputError(f"{folder}: no partner of {path.name} among {_listed(arrays)}; {_EXPECTED}")
    if whole.isdisjoint(("", "train")):
        raise InputError(f"{folder}: no images and labels to train on among {_listed(arrays)}; {_EXPECTED}")
    parts = sorted(whole, key=("", "train", "val", "test").index)
    # Arrays without a part beside those of a test are what to train on.
    pairs = {
        part or ("train" if len(parts) > 1 else ""): (found[part, "images"], found[part, "labels"]) for part in parts
    }
    return ArrayFiles(folder, pairs)


def _with_suffix(folder: Path, suffix: str) -> list[Path]:
    paths = (path for path in folder.iterdir() if path.suffix.lower() == suffix and not is_ignored(path.name))
    return sorted(paths, key=lambda path: natural_key(path.name))


def _part_and_kind(stem: str) -> list[tuple[str, str]]:
    """Return the part and the kind in a file's name; nothing if it has no kind, or two parts."""
    words = re.split(r"[^a-z0-9]+", stem.lower())
    parts = {SPLITS[word] for word in words if word in SPLITS}
    kinds = ["images" if word in _IMAGE_WORDS else "labels" for word in words if word in _IMAGE_WORDS | _LABEL_WORDS]
    if not kinds and "data" in words:  # it says little: y_data are labels
        kinds = ["images"]
    return [("".join(parts), kinds[-1])] if kinds and len(parts) < 2 else []  # the last: image_labels are labels


def _shown(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name  # the latter of an .npz


def _listed(paths: Sequence[Path], most: int = 8) -> str:
    return ", ".join([path.name for path in paths[:most]] + ["…"] * (len(paths) > most))


def _load(path: Path) -> _Array:
    try:
        array: _Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; expected an .npy file that can be read") from None
    except (ValueError, EOFError, SyntaxError) as error:
        text = " ".join(str(error).split())
        raise InputError(f"{path}: {text}; expected a whole .npy file of plain values, save it anew") from None
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: found an .npz archive, expected one array; name it .npz, or save it with numpy.save")
    if array.ndim == 0 or len(array) == 0:
        raise InputError(f"{path}: found an array of shape {array.shape}, expected at least one row")
    return array


def _channels_last(path: Path, images: _Array) -> _Array:
    """Return the images as (N, H, W, C), with C of 1 or 3."""
    if images.ndim == 2 and math.isqrt(images.shape[1]) ** 2 == images.shape[1]:
        images = images.reshape(len(images), math.isqrt(images.shape[1]), -1)
    if images.ndim == 3:
        images = images[..., None]
    elif images.ndim == 4 and images.shape[3] not in (1, 3) and images.shape[1] in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
        raise InputError(
            f"{path}: images of shape {images.shape}, expected (N, H, W), (N, H, W, C) or (N, C, H, W) with C of 1 or 3, "
            "or (N, H * H)"
        )
    return images


def _factor(found: Sequence[tuple[Path, _Array]]) -> float:
    """Return the factor to the range [0, 255], the same for all files."""
    tops = []
    for path, images in found:
        if images.dtype.kind not in "uif":
            raise InputError(f"{path}: images of type {images.dtype}, expected uint8, or floats in [0, 1] or [0, 255]")
        if images.dtype == np.uint8:
            tops.append(255.0)
            continue
        blocks = [images[start : start + _BLOCK] for start in range(0, len(images), _BLOCK)]
        low, high = min(float(b.min()) for b in blocks), max(float(b.max()) for b in blocks)
        if not (low >= 0 and high <= 255 and all(np.isfinite(b).all() for b in blocks)):
            raise InputError(
                f"{path}: values from {low:g} to {high:g}, expected 0 to 255, or 0 to 1 as floats; "
                "save the images without normalisation"
            )
        tops.append(high if images.dtype.kind == "f" else 255.0)
    return 255.0 if max(tops) <= 1 else 1.0


def _resized(parts: Sequence[_Array], factor: float, size: int, channels: int) -> Tensor:
    """Join all parts to one (N, channels, size, size) uint8."""
    total = sum(len(images) for images in parts)
    out = np.empty((total, channels, size, size), dtype=np.uint8)
    done = 0
    with progress_bar("reading arrays", total) as advance:
        for images in parts:
            for start in range(0, len(images), _BLOCK):
                block = images[start : start + _BLOCK]
                if block.dtype != np.uint8:
                    block = np.rint(block * factor).astype(np.uint8)
                if block.shape[1:] == (size, size, channels):
                    out[done : done + len(block)] = block.transpose(0, 3, 1, 2)
                else:
                    for row, image in enumerate(block, done):
                        pixels = np.ascontiguousarray(image[..., 0] if image.shape[2] == 1 else image)
                        out[row] = to_square(Image.fromarray(pixels), size, channels)
                done += len(block)
                advance(len(block))
    return torch.from_numpy(out)


def _read_labels(
    files: ArrayFiles, class_names: Sequence[str] | None, aliases: Mapping[str, str] | None
) -> dict[str, list[str]]:
    """Read the class name of each row, by part."""
    found = {}
    for split, (path, label_path) in files.pairs.items():
        images, labels = _load(path), _load(label_path)
        if len(images) != len(labels):
            raise InputError(
                f"{path} holds {len(images)} images and {label_path} {len(labels)} labels; expected as many of both"
            )
        found[split] = _label_names(label_path, labels, class_names, aliases or {})
    return found


def _label_names(
    path: Path, labels: _Array, class_names: Sequence[str] | None, aliases: Mapping[str, str]
) -> list[str]:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and labels.dtype.kind in "uifb":
        if not (((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all()):
            raise InputError(f"{path}: rows of {labels.shape[1]} values that are not one-hot, expected one 1 in each")
        labels = labels.argmax(axis=1)
    if labels.ndim != 1 or labels.dtype.kind not in "uifUS":
        what = f"labels of shape {labels.shape} and type {labels.dtype}"
        raise InputError(f"{path}: {what}, expected whole numbers (N,), one-hot rows (N, K) or strings (N,)")
    if labels.dtype.kind in "US":
        texts = np.char.decode(labels, "utf-8", "replace") if labels.dtype.kind == "S" else labels
        return [aliases.get(re.sub(r"[^a-z]", "", text.lower()), text) for text in texts.tolist()]
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


def _classes(
    files: ArrayFiles,
    names: Mapping[str, Sequence[str]],
    class_names: Sequence[str] | None,
    aliases: Mapping[str, str] | None,
) -> list[str]:
    """Return the names given, those of the aliases if labels are texts, else those of the training labels."""
    trained = set(names.get("train", names.get("", [])))
    if class_names is None and aliases is not None and not _are_numbers(files):
        class_names = list(dict.fromkeys(aliases.values()))
    known = sorted(trained, key=natural_key) if class_names is None else list(class_names)
    unknown = sorted({name for part in names.values() for name in part} - set(known), key=natural_key)
    if unknown:
        raise InputError(f"{files.folder}: labels {', '.join(unknown)} are not among the classes {', '.join(known)}")
    missing = [name for name in known if name not in trained]
    if missing:
        raise InputError(f"{files.folder}: no training image of {', '.join(missing)}; expected some of every class")
    if len(known) < 2:
        raise InputError(f"{files.folder}: found the one class {known[0]}, expected two or more")
    return known


def _are_numbers(files: ArrayFiles) -> bool:
    return all(_load(path).dtype.kind not in "US" for _, path in files.pairs.values())


def _log_numbers(files: ArrayFiles, class_names: Sequence[str] | None, known: Sequence[str]) -> None:
    """Log which number has which name."""
    if not _are_numbers(files):
        return
    path = next(iter(files.pairs.values()))[1]
    if class_names is None:
        log.info(
            "%s holds numbers: the classes are called %s; data.class_names names them", path.name, ", ".join(known)
        )
    elif not all(name.isdecimal() for name in known):
        names = ", ".join(f"{number} is {name}" for number, name in enumerate(known))
        log.info("%s: %s", path.name, names)
