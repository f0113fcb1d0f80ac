"""Image sets in NumPy's .npy files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from defectlab.data.sources.decode import to_square
from defectlab.data.sources.files import is_ignored, natural_key
from defectlab.data.sources.idx import find_idx, read_idx, read_idx_pair
from defectlab.data.sources.images import ImageSet, check_shape
from defectlab.errors import InputError
from defectlab.utils.progress import progress_bar

__all__ = ["find_idx", "has_arrays", "load_arrays", "read_idx", "read_idx_pair"]

_Array = npt.NDArray[Any]

_POOL = ("images.npy", "labels.npy")
_PARTS = {
    "train": ("x_train.npy", "y_train.npy"),
    "val": ("x_val.npy", "y_val.npy"),
    "test": ("x_test.npy", "y_test.npy"),
}
_BLOCK = 1024  # images converted at a time


def has_arrays(root: Path) -> bool:
    """Whether a folder, or the only folder in it, holds `images.npy` or `x_train.npy`, in any case."""
    return _array_folder(root) is not None


def load_arrays(root: Path, size: int, channels: int, class_names: Sequence[str] | None) -> ImageSet:
    """`images.npy` + `labels.npy`, or `x_train.npy` + `y_train.npy` with `x_val`, `x_test` if there.

    Images are (N, H, W), (N, H, W, C) or (N, C, H, W) with C of 1 or 3; whole numbers from 0 to 255, or
    floats in [0, 1] or [0, 255], told by the largest value of all the files. Labels are whole numbers
    (N,), one-hot rows (N, K), or strings. Whole numbers and columns are indices into `class_names`; where
    that is None, classes are named after the values that occur. Nothing pickled is ever loaded.

    InputError names the file that is missing, damaged or of another form, and both of unequal lengths.
    """
    check_shape(size, channels)
    folder = _array_folder(root)
    if folder is None:
        raise InputError(f"{root}: no images.npy and no x_train.npy; expected one, with labels.npy or y_train.npy")
    names = _npy_files(folder)
    if _POOL[0] in names and _PARTS["train"][0] in names:
        raise InputError(f"{folder}: found both images.npy and x_train.npy, expected one of them; move one away")
    pairs = {"": _POOL} if _POOL[0] in names else _PARTS
    found: dict[str, tuple[Path, _Array, list[str]]] = {}
    for split, pair in pairs.items():
        missing = [name for name in pair if name not in names]
        if len(missing) == 2:
            continue
        if missing:
            raise InputError(f"{folder}: no {missing[0]}; expected {pair[0]} and {pair[1]} together")
        path, label_path = names[pair[0]], names[pair[1]]
        images, labels = _load(path), _load(label_path)
        if len(images) != len(labels):
            raise InputError(
                f"{path} holds {len(images)} images and {label_path} {len(labels)} labels; expected as many of both"
            )
        found[split] = (path, _channels_last(path, images), _label_names(label_path, labels, class_names))

    known = _class_names(folder, found, class_names)
    index = {name: label for label, name in enumerate(known)}
    factor = _factor([(path, images) for path, images, _ in found.values()])
    files, splits, labels_of = [], [], []
    for split, (path, _, names_of) in found.items():
        files += [f"{path.relative_to(root).as_posix()}[{row}]" for row in range(len(names_of))]
        splits += [split] * len(names_of)
        labels_of += [index[name] for name in names_of]
    return ImageSet(
        images=_resized([images for _, images, _ in found.values()], factor, size, channels),
        labels=torch.tensor(labels_of, dtype=torch.int64),
        class_names=known,
        files=files,
        splits=splits if len(found) > 1 else None,
        skipped=[],
    )


def _array_folder(root: Path) -> Path | None:
    """The folder with the arrays: archives often wrap all in one more folder."""
    try:
        inside = [path for path in root.iterdir() if path.is_dir() and not is_ignored(path.name)]
        for folder in (root, *inside) if len(inside) == 1 else (root,):
            names = _npy_files(folder)
            if _POOL[0] in names or _PARTS["train"][0] in names:
                return folder
    except OSError:  # missing, a file or locked: it is for whoever reads the root next to say so
        return None
    return None


def _npy_files(folder: Path) -> dict[str, Path]:
    return {path.name.lower(): path for path in sorted(folder.iterdir()) if path.suffix.lower() == ".npy"}


def _load(path: Path) -> _Array:
    try:
        array: _Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; expected an .npy file that can be read") from None
    except (ValueError, EOFError, SyntaxError) as error:
        text = " ".join(str(error).split())
        raise InputError(f"{path}: {text}; expected a whole .npy file of plain values, save it anew") from None
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: found an .npz archive, expected one array; save it with numpy.save")
    if array.ndim == 0 or len(array) == 0:
        raise InputError(f"{path}: found an array of shape {array.shape}, expected at least one row")
    return array


def _channels_last(path: Path, images: _Array) -> _Array:
    """(N, H, W, C), with C of 1 or 3."""
    if images.ndim == 3:
        images = images[..., None]
    elif images.ndim == 4 and images.shape[3] not in (1, 3) and images.shape[1] in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
        raise InputError(
            f"{path}: images of shape {images.shape}, expected (N, H, W), (N, H, W, C) or (N, C, H, W) with C of 1 or 3"
        )
    return images


def _factor(found: Sequence[tuple[Path, _Array]]) -> float:
    """What to multiply with for the range [0, 255], the same for all files."""
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
                "save the pictures without normalisation"
            )
        tops.append(high if images.dtype.kind == "f" else 255.0)
    return 255.0 if max(tops) <= 1 else 1.0


def _resized(parts: Sequence[_Array], factor: float, size: int, channels: int) -> Tensor:
    """All parts as one (N, channels, size, size) uint8."""
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
                        picture = Image.fromarray(np.ascontiguousarray(image[..., 0] if image.shape[2] == 1 else image))
                        out[row] = to_square(picture, size, channels)
                done += len(block)
                advance(len(block))
    return torch.from_numpy(out)


def _label_names(path: Path, labels: _Array, class_names: Sequence[str] | None) -> list[str]:
    """The class name of each row."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and labels.dtype.kind in "uifb":
        if not (((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all()):
            raise InputError(f"{path}: rows of {labels.shape[1]} values that are not one-hot, expected one 1 in each")
        labels = labels.argmax(axis=1)
    if labels.ndim != 1 or labels.dtype.kind not in "uifUS":
        what = f"labels of shape {labels.shape} and type {labels.dtype}"
        raise InputError(f"{path}: {what}, expected whole numbers (N,), one-hot rows (N, K) or strings (N,)")
    if labels.dtype.kind == "S":
        return [str(label) for label in np.char.decode(labels, "utf-8", "replace")]
    if labels.dtype.kind == "U":
        return [str(label) for label in labels]
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


def _class_names(
    folder: Path, found: Mapping[str, tuple[Path, _Array, list[str]]], class_names: Sequence[str] | None
) -> list[str]:
    """The classes: those given, which must all be trained on, or else those trained on."""
    if "" not in found and "train" not in found:
        raise InputError(f"{folder}: no x_train.npy and y_train.npy; expected them beside the others")
    trained = set(found["" if "" in found else "train"][2])
    known = sorted(trained, key=natural_key) if class_names is None else list(class_names)
    unknown = sorted({name for _, _, names in found.values() for name in names} - set(known), key=natural_key)
    if unknown:
        raise InputError(f"{folder}: labels {', '.join(unknown)} are not among the classes {', '.join(known)}")
    missing = [name for name in known if name not in trained]
    if missing:
        raise InputError(f"{folder}: no training image of {', '.join(missing)}; expected some of every class")
    if len(known) < 2:
        raise InputError(f"{folder}: found the one class {known[0]}, expected two or more")
    return known
