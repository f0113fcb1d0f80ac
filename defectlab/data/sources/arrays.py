"""Read image sets in NumPy's .npy files."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from defectlab.data.sources.archive import check_regular, open_root
from defectlab.data.sources.decode import decode_array
from defectlab.data.sources.depth import MEASURED, LevelRule, tell_beyond
from defectlab.data.sources.files import image_files, is_ignored, natural_key
from defectlab.data.sources.images import ImageSet
from defectlab.data.sources.layouts import part_of
from defectlab.data.sources.levels import Array, BadImage, levels_of, pixel_type_of
from defectlab.errors import InputError
from defectlab.utils.image_format import ImageFormat
from defectlab.utils.progress import progress_bar
from defectlab.utils.text import listed

_IMAGE_WORDS = frozenset(("x", "image", "images", "img", "imgs", "feature", "features"))
_LABEL_WORDS = frozenset(("y", "label", "labels", "target", "targets"))
_PARTS = ("", "train", "val", "test")
_EXPECTED = (
    "expected pairs such as images.npy and labels.npy, x_train.npy and y_train.npy, NEU_test_imgs.npy and "
    "NEU_test_labels.npy, mnist_train_features.npy and mnist_train_targets.npy"
)


@dataclass(frozen=True)
class ArrayFiles:
    """Image and label files of one folder, by part: `train`, `val` and `test`, or an empty text for all images.

    `prefix` comes before their names: the path of the folder below the root of the data, with a slash.
    """

    folder: Path
    pairs: Mapping[str, tuple[Path, Path]]
    prefix: str = ""

    @property
    def names(self) -> set[str]:
        """Return the names of all files."""
        return {path.name for pair in self.pairs.values() for path in pair}


def find_arrays(root: Path, wrapped: bool = True, to_train: bool = True) -> ArrayFiles | None:
    """Find the pairs of image and label arrays in a folder or, if `wrapped`, in the only folder in it.

    The words of a file's name, in any order and case, tell what it is: images (x, image, imgs, features, data), labels (y,
    label, targets), and the part (train, val, valid, validation, test). A single .npz file of such arrays will do.
    Arrays without a partner among images are ignored, as is what cannot be read.

    Raises:
        InputError: a partner that is missing, two candidates for one part, or, with `to_train`, none to train on.
    """
    try:
        inside = [path for path in root.iterdir() if path.is_dir() and not is_ignored(path.name)] if wrapped else []
        for folder in (root, *inside) if len(inside) == 1 else (root,):
            found = _pairs_in(folder, to_train)
            if found is not None:
                return found if folder == root else replace(found, prefix=f"{folder.name}/")
    except OSError:  # missing, a file or locked: it is for whoever reads the root next to say so
        return None
    return None


def load_arrays(
    files: ArrayFiles,
    names: Mapping[str, Sequence[str]],
    class_names: Sequence[str],
    wanted: ImageFormat,
    rule: LevelRule | None = MEASURED,
) -> ImageSet:
    """Read the images of arrays, whose labels are the classes `names` of each part, as `read_labels` gives them.

    Images are (N, H, W), (N, H, W, C) or (N, C, H, W) with C of 1, 3 or `wanted.channels`, or rows of a square's pixels
    (N, H * H). Levels are measured as `rule` says; None takes those of `wanted`. Nothing pickled is ever loaded.

    Raises:
        InputError: names the file that is damaged or of another form.
    """
    index = {name: label for label, name in enumerate(class_names)}
    images = {part: channels_last(path, load_array(path), wanted.channels) for part, (path, _) in files.pairs.items()}
    rows = [image for part in images.values() for image in part]
    planned = ImageSet(
        images=torch.empty(0),
        labels=torch.tensor([index[name] for part in names.values() for name in part], dtype=torch.int64),
        class_names=list(class_names),
        files=[
            f"{files.prefix}{files.pairs[part][0].name}[{row}]"
            for part, found in names.items()
            for row in range(len(found))
        ],
        splits=[part for part, found in names.items() for _ in found] if set(files.pairs) - {""} else None,
        content=lambda index: np.ascontiguousarray(rows[index]).tobytes(),
    )
    if rule is not None:
        kinds = [pixel_type_of(row) for row in rows]
        wanted = rule.apply(files.folder, wanted, kinds, planned, lambda index: levels_of(rows[index]))
    return replace(planned, images=_resized(rows, planned.files, wanted), reading=wanted.reading)


def array_shapes(files: ArrayFiles, channels: int) -> Array:
    """Return height and width of the images of each part (P, 2)."""
    return np.array([channels_last(path, load_array(path), channels).shape[1:3] for path, _ in files.pairs.values()])


def load_array(path: Path) -> Array:
    """Map the array of an .npy file; InputError if it is not whole, is empty, or holds Python's objects."""
    try:
        check_regular(path)
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; expected an .npy file that can be read") from None
    except Exception as error:  # a damaged header makes NumPy raise nearly anything
        text = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: {text}; expected a whole .npy file of plain values, save it anew") from None
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: found an .npz archive, expected one array; name it .npz, or save it with numpy.save")
    if array.ndim == 0 or 0 in array.shape:
        raise InputError(f"{path}: found an array of shape {array.shape}, expected at least one row")
    return array


def _pairs_in(folder: Path, to_train: bool) -> ArrayFiles | None:
    arrays, archives = _with_suffix(folder, ".npy"), _with_suffix(folder, ".npz")
    candidates: dict[tuple[str, str], list[Path]] = {}
    for path in arrays:
        for what in _part_and_kind(path.stem):
            candidates.setdefault(what, []).append(path)
    whole = {part for part, _ in candidates if {(part, "images"), (part, "labels")} <= candidates.keys()}
    if not (arrays or archives) or (not whole and _has_images(folder)):
        return None
    if not candidates and archives:
        if len(archives) > 1:
            raise InputError(f"{folder}: found {_listed(archives)}, expected a single .npz file; name it by data.root")
        return _pairs_in(open_root(archives[0]), to_train)  # it is a .zip of .npy files
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
    if not whole or (to_train and whole.isdisjoint(("", "train"))):
        raise InputError(f"{folder}: no images and labels to train on among {_listed(arrays)}; {_EXPECTED}")
    # Arrays without a part beside those of a test are what to train on.
    pairs = {
        part or ("train" if len(whole) > 1 else ""): (found[part, "images"], found[part, "labels"])
        for part in sorted(whole, key=_PARTS.index)
    }
    return ArrayFiles(folder, pairs)


def _has_images(folder: Path) -> bool:
    """Return whether there are image files in and below a folder, beside arrays in itself."""
    return any(path.suffix.lower() != ".npy" or path.parent != folder for path in image_files(folder, tell=False))


def _with_suffix(folder: Path, suffix: str) -> list[Path]:
    paths = (path for path in folder.iterdir() if path.suffix.lower() == suffix and not is_ignored(path.name))
    return sorted(paths, key=lambda path: natural_key(path.name))


def _part_and_kind(stem: str) -> list[tuple[str, str]]:
    """Return the part and the kind in a file's name; nothing if it has no kind, or two parts."""
    words = re.split(r"[^a-z0-9]+", stem.lower())
    parts = {part for word in words if (part := part_of(word))}
    kinds = ["images" if word in _IMAGE_WORDS else "labels" for word in words if word in _IMAGE_WORDS | _LABEL_WORDS]
    if not kinds and "data" in words:  # it says little: y_data are labels
        kinds = ["images"]
    return [("".join(parts), kinds[-1])] if kinds and len(parts) < 2 else []  # the last: image_labels are labels


def _listed(paths: Sequence[Path]) -> str:
    return listed([path.name for path in paths], most=8)


def channels_last(path: Path, images: Array, channels: int) -> Array:
    """Return the images as (N, H, W, C), with C of 1 or 3, or of `channels` where these are others."""
    counts = (1, 3) if channels in (1, 3) else (channels,)
    if images.dtype.kind not in "uif":
        raise InputError(f"{path}: images of type {images.dtype}, expected whole numbers or floats")
    if images.ndim == 2 and math.isqrt(images.shape[1]) ** 2 == images.shape[1]:
        images = images.reshape(len(images), math.isqrt(images.shape[1]), -1)
    if images.ndim == 3:
        images = images[..., None]
    elif images.ndim == 4 and images.shape[3] not in counts and images.shape[1] in counts:
        images = images.transpose(0, 2, 3, 1)
    if images.ndim != 4 or images.shape[3] not in counts:
        raise InputError(
            f"{path}: images of shape {images.shape}, expected (N, H, W), (N, H, W, C) or (N, C, H, W) with C of "
            f"{' or '.join(map(str, counts))} as data.channels is {channels}, or (N, H * H)"
        )
    return images


def _resized(rows: Sequence[Array], names: Sequence[str], wanted: ImageFormat) -> Tensor:
    """Return images (H, W, C) as one (N, *wanted.shape) uint8."""
    out = np.empty((len(rows), *wanted.shape), dtype=np.uint8)
    beyond, as_is = [], wanted.white_level is None
    with progress_bar("reading arrays", len(rows)) as advance:
        for index, (row, name) in enumerate(zip(rows, names, strict=True)):
            if as_is and row.dtype == np.uint8 and row.shape == (*wanted.shape[1:], wanted.channels):
                out[index] = row.transpose(2, 0, 1)
            else:
                try:
                    out[index], cut_off = decode_array(row, wanted)
                except BadImage as error:
                    raise InputError(f"{name}: {error}") from None
                beyond += [name] if cut_off else []
            advance(1)
    tell_beyond(beyond, wanted)
    return torch.from_numpy(out)
