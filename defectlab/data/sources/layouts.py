"""Class and split of each image of a folder, from file and folder names alone."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from defectlab.data.sources.files import SUFFIXES, image_files, is_ignored, natural_key
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


@dataclass
class Listing:
    """Image files below `root`, each with its label (an index into `class_names`).

    `splits` is "train", "val" or "test" for each file, or None where the folders give no split.
    """

    root: Path
    files: list[Path]
    labels: list[int]
    class_names: list[str]
    splits: list[str] | None


def neu_class(name: str) -> str | None:
    """Return the NEU class that a name in use stands for (`Rolled_in-Scale`, `RS`), or None."""
    return NEU_ALIASES.get(re.sub(r"[^a-z]", "", name.lower()))


def list_folders(root: Path) -> Listing:
    """List a folder per class, or train / val (valid, validation) / test folders with a folder per class in each.

    A folder that holds a single folder is skipped, at the top and inside the splits. Class names are those of the
    training folders, naturally sorted.

    Raises:
        InputError: the root cannot be read, or holds no image, fewer than two classes, a class without an image,
            images outside the class folders, or a class that training does not have.
    """
    files = _images_in(root)
    parts = [path.relative_to(root).parts for path in files]
    depth = _wrappers(parts)
    heads = {part[depth] for part in parts if len(part) > depth + 1}
    base = root.joinpath(*parts[0][:depth])
    named = {head: SPLITS[head.lower()] for head in heads if head.lower() in SPLITS}
    if not any(part[depth] in named and len(part) > depth + 2 for part in parts):
        names = [_class_of(root, part, depth) for part in parts]
        _check_folders(base, set(names))
        return _listing(root, files, names, names, None)

    if len(named) < len(heads):
        other = min(heads - set(named), key=natural_key)
        raise InputError(f"{base / other}: stands beside {min(named)}, expected only train, val and test; move it away")
    if "train" not in named.values():
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
        if named[head] == "train":
            trained |= {names[index] for index in inside}
    for part in parts:
        _class_of(root, part, depth)  # no image beside the split folders either
    _check_folders(base, heads, SPLITS)
    return _listing(root, files, names, [n for n, s in zip(names, splits, strict=True) if s == "train"], splits)


def list_neu(root: Path) -> Listing:
    """List the six NEU classes in any layout, with `class_names` always `NEU_CLASSES`.

    An image's class is that of the nearest folder above it that is named like one (`crazing`, `Rolled-in_Scale`, `RS`),
    else of its own name (`crazing_1.jpg`, `Cr_1.bmp`). Folders named train and val or test give the split; any others,
    such as IMAGES and Validation_Images of NEU-DET, give none.

    Raises:
        InputError: the root cannot be read, or holds no image, images of no class, a class without a (training)
            image, or images outside the split folders where there are some.
    """
    files = _images_in(root)
    parts = [path.relative_to(root).parts for path in files]
    found = [_neu_label(part) for part in parts]
    labels = [label for label in found if label is not None]
    if len(labels) < len(files):
        first = files[found.index(None)]
        raise InputError(
            f"{root}: {len(files) - len(labels)} of {len(files)} images are of no NEU class, the first is "
            f"{first}; expected names like crazing_1.jpg or Cr_1.bmp, or folders {', '.join(NEU_CLASSES)}"
        )
    named = [next((SPLITS[p.lower()] for p in part[:-1] if p.lower() in SPLITS), "") for part in parts]
    has_split = "train" in named and ("val" in named or "test" in named)
    if has_split and "" in named:
        first = files[named.index("")]
        raise InputError(f"{first}: lies outside the train, val and test folders of {root}; move it into one, or away")
    trained = {label for label, split in zip(labels, named, strict=True) if not has_split or split == "train"}
    missing = [name for label, name in enumerate(NEU_CLASSES) if label not in trained]
    if missing:
        where = "train folder" if has_split else "data"
        raise InputError(f"{root}: no image of {', '.join(missing)} in the {where}; expected all six NEU classes")
    return Listing(root, files, labels, list(NEU_CLASSES), named if has_split else None)


def _images_in(root: Path) -> list[Path]:
    files = image_files(root)
    if not files:
        raise InputError(f"{root}: no image inside; expected {', '.join(SUFFIXES)} files in one folder a class")
    return files


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


def _check_folders(base: Path, used: Collection[str], expected: Collection[str] | None = None) -> None:
    """Raise InputError if a folder in `base` (of the names in `expected`, if given) holds no image."""
    for path in sorted(base.iterdir(), key=lambda path: natural_key(path.name)):
        name = path.name
        if name in used or is_ignored(name) or name.lower() == "annotations" or not path.is_dir():
            continue
        if expected is None or name.lower() in expected:
            raise InputError(f"{path}: a folder without an image; add images, or remove it")


def _listing(root: Path, files: list[Path], names: list[str], trained: list[str], splits: list[str] | None) -> Listing:
    class_names = sorted(set(trained), key=natural_key)
    for path, name in zip(files, names, strict=True):
        if name not in class_names:
            raise InputError(
                f"{path}: class {name} is not among the training classes {', '.join(class_names)}; "
                "add training images of it, or remove it"
            )
    if len(class_names) < 2:
        raise InputError(f"{root}: found the one class {class_names[0]}, expected a folder for each of two or more")
    labels = {name: label for label, name in enumerate(class_names)}
    return Listing(root, files, [labels[name] for name in names], class_names, splits)


def _neu_label(part: tuple[str, ...]) -> int | None:
    prefix = re.match(r"[^0-9]*", part[-1].rsplit(".", 1)[0])
    assert prefix is not None  # it matches the empty string too
    for name in (*reversed(part[:-1]), prefix.group()):
        found = neu_class(name)
        if found is not None:
            return NEU_CLASSES.index(found)
    return None
