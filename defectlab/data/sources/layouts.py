"""Class and split of each image of a folder, from file and folder names alone."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from defectlab.data.sources.files import SUFFIXES, check_names, image_files, is_address, is_ignored, natural_key
from defectlab.data.sources.masks import is_mask_folder, without_masks
from defectlab.data.sources.records import ImageRecords
from defectlab.errors import InputError

NEU_CLASSES = ("crazing", "inclusion", "patches", "pitted_surface", "rolled-in_scale", "scratches")

# Names in use for the NEU classes, without separators, case and numbers; the short ones are of the original release.
NEU_ALIASES = {
    alias: name
    for name, aliases in zip(NEU_CLASSES, (
        "crazing cr", "inclusion inclusions in", "patches patch pa", "pittedsurface pitted ps",
        "rolledinscale rolledin rolled rs", "scratches scratch sc",
    ), strict=True)
    for alias in aliases.split()
}  # fmt: skip

SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test",
}  # fmt: skip


_FILLERS = re.compile("[^a-z]|data|dataset|set|seg|images?|imgs?|folder|split")  # beside train and test in a name


@dataclass(kw_only=True)
class Listing:
    """Image files below `root`, each with its label (an index into `class_names`; -1 in a multi-label set, whose
    classes are in `records.targets`).

    `splits` is "train", "val" or "test" for each file, or None where the source gives no split; `records` is what a table
    says of each.
    """

    root: Path
    files: list[Path]
    labels: list[int]
    class_names: list[str]
    splits: list[str] | None = None
    records: ImageRecords = field(default_factory=ImageRecords)

    @property
    def names(self) -> list[str]:
        """Return the files relative to the root, with forward slashes."""
        return [Path(os.path.relpath(path, self.root)).as_posix() for path in self.files]

    def select(self, indices: Iterable[int], also: Collection[str] = ()) -> Listing:
        """Return the files at `indices`; of the classes those that they are of, and those in `also`."""
        chosen = list(indices)
        present = {self.labels[i] for i in chosen}
        if self.records.targets is not None and self.records.multilabel:
            present = set(np.flatnonzero(self.records.targets[chosen].any(axis=0)).tolist())
        kept = [label for label, name in enumerate(self.class_names) if label in present or name in also]
        return Listing(
            root=self.root, files=[self.files[i] for i in chosen], class_names=[self.class_names[label] for label in kept],
            labels=[kept.index(self.labels[i]) if self.labels[i] >= 0 else -1 for i in chosen],
            splits=None if self.splits is None else [self.splits[i] for i in chosen],
            records=self.records.select(chosen).with_classes(kept),
        )  # fmt: skip


def part_of(folder: str) -> str | None:
    """Return which part of a split a folder is named after (`seg_train`, `Test_Set`, `validation`), or None."""
    return SPLITS.get(folder.lower()) or SPLITS.get(_FILLERS.sub("", folder.lower()))


def neu_class(name: str) -> str | None:
    """Return the NEU class that a name in use stands for (`Rolled_in-Scale`, `RS`), or None."""
    return NEU_ALIASES.get(re.sub(r"[^a-z]", "", name.lower()))


def list_folders(root: Path, keep_split: bool = True) -> Listing:
    """List a folder per class, or train / val (valid, validation) / test folders with a folder per class in each.

    Or a folder per class with train and test folders in each. A folder that holds a single folder is skipped, at the top
    and inside the splits. Class names are those of the training folders, naturally sorted; without `keep_split` those of
    all. Masks beside the images are left out.

    Raises:
        InputError: the root cannot be read, or holds no image, fewer than two classes, a class without an image,
            images outside the class folders, a class that training does not have, or folders that may be both.
    """
    files = _images_in(root)
    parts = [path.relative_to(root).parts for path in files]
    depth = _wrappers(parts)
    heads = {part[depth] for part in parts if len(part) > depth + 1}
    base = root.joinpath(*parts[0][:depth])
    named = {head: found for head in heads if (found := part_of(head))}
    if "JPEGImages" in heads:
        raise InputError(
            f"{base / 'JPEGImages'}: a folder of Pascal VOC's, expected one a class, or .xml files in Annotations"
        )
    if not any(part[depth] in named and len(part) > depth + 2 for part in parts):
        if len(named) > 1 and "train" in named.values():
            seen = " and ".join(sorted(named, key=natural_key))
            raise InputError(f"{base}: {seen} hold images themselves; expected a folder for each class in either")
        names = [_class_of(root, part, depth) for part in parts]
        _check_folders(base, set(names))
        return _listing(root, files, names, names, _inner_splits(root, parts, depth))

    if len(named) < len(heads):
        other = min(heads - set(named), key=natural_key)
        raise InputError(f"{base / other}: stands beside {min(named)}, expected only train, val and test; move it away")
    if keep_split and "train" not in named.values():
        raise InputError(f"{base}: found {' and '.join(sorted(named))}, expected a train folder beside them; add it")
    splits = [named.get(part[depth], "") for part in parts]
    names = [""] * len(files)
    trained: set[str] = set()
    for head in sorted(named, key=lambda head: named[head] != "train"):  # train first: it names the classes
        inside = [index for index, part in enumerate(parts) if part[depth] == head]
        level = depth + 1 + _wrappers([parts[index][depth + 1 :] for index in inside], trained)
        for index in inside:
            names[index] = _class_of(root, parts[index], level)
        _check_folders(root.joinpath(*parts[inside[0]][:level]), {names[index] for index in inside})
        if named[head] == "train" or not keep_split:
            trained |= {names[index] for index in inside}
    for part in parts:
        _class_of(root, part, depth)  # no image beside the split folders either
    _check_folders(base, heads, of_split=True)
    return _listing(root, files, names, sorted(trained), splits)


def is_single(root: str | Sequence[str]) -> bool:
    """Return whether a root is one folder or file, neither several nor a pattern."""
    if not isinstance(root, str):
        return False
    return is_address(root) or not glob.has_magic(root) or os.path.lexists(os.path.expanduser(root))


def list_several(roots: str | Sequence[str]) -> Listing:
    """List the images below several roots, or that a pattern matches, named relative to the folder that holds all.

    The class of an image is the first folder below its root, or the folder that it lies in.

    Raises:
        InputError: a root that is missing, an image below two of them, folders of a split, or fewer than two classes.
    """
    texts = [os.path.abspath(os.path.expanduser(root)) for root in ([roots] if isinstance(roots, str) else roots)]
    classes: dict[Path, str] = {}
    for text in texts:
        matches = [text] if os.path.lexists(text) else sorted(glob.glob(text, recursive=True), key=natural_key)
        tops = [Path(match) for match in matches if os.path.isdir(match) or match.lower().endswith(SUFFIXES)]
        if not tops:
            raise InputError(
                f"data.root has {text}, where nothing is: expected folders or image files, a .zip by itself"
            )
        for top in tops:
            for file in without_masks(top, image_files(top)) if top.is_dir() else [top]:
                if file in classes:
                    raise InputError(f"data.root: {file} is below two roots; give each folder once")
                below = file.relative_to(top).parts[:-1] if top.is_dir() else ()
                classes[file] = below[0] if below else file.parent.name
    names = sorted(set(classes.values()), key=natural_key)
    parts = [name for name in names if part_of(name)]
    if len(names) < 2 or parts:
        what = f"folders of a split, {', '.join(parts)}" if parts else f"the classes {', '.join(names) or 'none'}"
        raise InputError(f"data.root has several roots with {what}: expected two or more class folders below them")
    root = Path(os.path.commonpath([file.parent for file in classes]))
    check_names(root, names)
    files = sorted(classes, key=lambda file: natural_key(file.as_posix()))
    return Listing(root=root, files=files, labels=[names.index(classes[file]) for file in files], class_names=names)


def list_neu(root: Path) -> Listing:
    """List the six NEU classes in any layout, with `class_names` always `NEU_CLASSES`.

    An image's class is that of the nearest folder above it that is named like one (`crazing`, `Rolled-in_Scale`, `RS`),
    else of its own name (`crazing_1.jpg`, `Cr_1.bmp`). Folders named train and val or test give the split; any others,
    such as IMAGES and Validation_Images of NEU-DET, give none.

    Raises:
        InputError: the root cannot be read, or holds no image, images of no class, a class without a (training)
            image, or images outside the split folders where there are some.
    """
    listing = list_labelled(root, NEU_CLASSES)
    named = [next(filter(None, map(part_of, Path(name).parts[:-1])), "") for name in listing.names]
    has_split = "train" in named and ("val" in named or "test" in named)
    if has_split and "" in named:
        first = listing.files[named.index("")]
        raise InputError(f"{first}: lies outside the train, val and test folders of {root}; move it into one, or away")
    trained = {label for label, split in zip(listing.labels, named, strict=True) if not has_split or split == "train"}
    missing = [name for label, name in enumerate(NEU_CLASSES) if label not in trained]
    if missing:
        where = "train folder" if has_split else "data"
        raise InputError(f"{root}: no image of {', '.join(missing)} in the {where}; expected all six NEU classes")
    return replace(listing, splits=named if has_split else None)


def list_labelled(root: Path, class_names: Sequence[str]) -> Listing:
    """List images of known classes, some of which may have none: the class is the nearest folder that is named like one.

    NEU's classes may have any name in use, and be in the image's own name.

    Raises:
        InputError: the root cannot be read, or holds no image, or images of no class.
    """
    is_neu = set(class_names) == set(NEU_CLASSES)
    files = _images_in(root)
    found = [_label(path.relative_to(root).parts, class_names, is_neu) for path in files]
    labels = [label for label in found if label is not None]
    if len(labels) < len(files):
        first = files[found.index(None)]
        expected = f"folders {', '.join(class_names)}"
        raise InputError(
            f"{root}: {len(files) - len(labels)} of {len(files)} images are of {'no NEU class' if is_neu else 'no class'}, "
            f"the first is {first}; expected {'names like crazing_1.jpg or Cr_1.bmp, or ' if is_neu else ''}{expected}"
        )
    return Listing(root=root, files=files, labels=labels, class_names=list(class_names))


def _images_in(root: Path) -> list[Path]:
    files = [file for file in image_files(root) if file.parent != root or file.suffix.lower() != ".npy"]
    if not files:
        raise InputError(f"{root}: no image inside; expected {', '.join(SUFFIXES[:8])} and so on in one folder a class")
    return without_masks(root, files)


def _inner_splits(root: Path, parts: Sequence[tuple[str, ...]], depth: int) -> list[str] | None:
    """Return the parts of a split that folders inside of each class give: `Class1/Train/1.png`."""
    found = [next(filter(None, map(part_of, part[depth + 1 : -1])), "") for part in parts]
    if not any(found):
        return None
    first = found.index("") if "" in found else -1
    deeper = next((part for part in parts if len(part) != depth + 3), None)
    if first >= 0 or deeper is not None or "train" not in found:
        part = parts[next(index for index, name in enumerate(found) if name)]
        seen = root.joinpath(*part[: next(level for level in range(depth + 2, len(part)) if part_of(part[level - 1]))])
        other = root.joinpath(*(parts[first] if first >= 0 else deeper or parts[0]))
        raise InputError(
            f"{seen} is a part of a split inside of a class folder, beside {other}: expected train and test folders with a "
            "folder for each class in them, or just these two in each class; give the folder of one such set as the root"
        )
    return found


def _wrappers(parts: Sequence[tuple[str, ...]], stop: Collection[str] = ()) -> int:
    """Return how many folders, from the top, hold a single folder; one named in `stop` does not count."""
    depth = 0
    while True:
        heads = {part[depth] for part in parts}
        if len(heads) > 1 or min(map(len, parts)) < depth + 3 or not heads.isdisjoint(stop):
            return depth
        depth += 1


def _class_of(root: Path, part: tuple[str, ...], depth: int) -> str:
    if len(part) == depth + 1:
        raise InputError(
            f"{root.joinpath(*part)}: lies in no class folder; expected <class>/{part[-1]}, move it into one"
        )
    return part[depth]


def _check_folders(base: Path, used: Collection[str], of_split: bool = False) -> None:
    """Raise InputError if a folder in `base` (named after a part, with `of_split`) holds no image."""
    for path in sorted(base.iterdir(), key=lambda path: natural_key(path.name)):
        name = path.name
        if name in used or is_ignored(name) or is_mask_folder(name) or not path.is_dir():
            continue
        if not of_split or part_of(name):
            raise InputError(f"{path}: a folder without an image; add images, or remove it")


def _listing(
    root: Path, files: list[Path], names: list[str], trained: Collection[str], splits: list[str] | None
) -> Listing:
    if splits is not None:
        trained = {name for name, split in zip(names, splits, strict=True) if split == "train"} | set(trained)
    check_names(root, names)
    class_names = sorted(set(trained), key=natural_key)
    for path, name in zip(files, names, strict=True):
        if name not in class_names:
            raise InputError(
                f"{path}: class {name} is not among the training classes {', '.join(class_names)}; "
                "add training images of it, remove it, or divide all images anew by data.split random"
            )
    if len(class_names) < 2:
        raise InputError(f"{root}: found the one class {class_names[0]}, expected a folder for each of two or more")
    labels = {name: label for label, name in enumerate(class_names)}
    return Listing(
        root=root, files=files, labels=[labels[name] for name in names], class_names=class_names, splits=splits
    )


def _label(part: tuple[str, ...], class_names: Sequence[str], is_neu: bool) -> int | None:
    prefix = re.split("[0-9]", part[-1].rsplit(".", 1)[0])[0]
    for folder in (*reversed(part[:-1]), *([prefix] if is_neu else [])):
        name = neu_class(folder) if is_neu else folder
        if name in class_names:
            return class_names.index(name)
    return None
