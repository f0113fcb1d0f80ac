"""Roots of images: a folder, a .zip, several of them, or a glob pattern of folders or files."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from defectlab.data.sources.archive import open_root
from defectlab.data.sources.files import expand_images, natural_key
from defectlab.data.sources.layouts import Listing, list_folders
from defectlab.errors import InputError


def is_single(root: str | Sequence[str]) -> bool:
    """Return whether a root is one folder or file, not several, nor a pattern."""
    return isinstance(root, str) and (not glob.has_magic(root) or os.path.lexists(os.path.expanduser(root)))


def common_folder(root: str | Sequence[str]) -> Path:
    """Return the folder of a single root, .zip unpacked, or the one that all of several roots lie in."""
    if isinstance(root, str) and is_single(root):
        return open_root(Path(root).expanduser())
    return Path(os.path.commonpath([path.parent for path in _expanded(root)]))


def list_roots(root: str | Sequence[str], keep_split: bool) -> Listing:
    """List class folders below each of several roots, or the files of a pattern, whose class is the folder they lie in.

    Images are named relative to the folder that all roots lie in.

    Raises:
        InputError: a root that is missing or has no class folders, an image below two roots, or a split that some roots give.
    """
    common = common_folder(root)
    paths = _expanded(root)
    folders = [path for path in paths if path.is_dir() or path.suffix.lower() == ".zip"]
    found = [(path, list_folders(open_root(path), keep_split, partial=True)) for path in folders]
    files = [path for path in paths if path not in folders]
    names = sorted(
        {path.parent.name for path in files}.union(*(listing.class_names for _, listing in found)), key=natural_key
    )
    whole = Listing(
        root=common, files=files, labels=[names.index(path.parent.name) for path in files], class_names=names,
        named=[path.relative_to(common).as_posix() for path in files], splits=None,
    )  # fmt: skip
    splits = [listing.splits is not None for _, listing in found] + [False] * bool(files)
    if any(splits) and not all(splits):
        raise InputError(
            f"data.root: {paths[splits.index(False)]} gives no split, others do; set data.split to random, or move it"
        )
    for path, listing in found:
        assert whole.named is not None
        whole.files += listing.files
        whole.labels += [names.index(listing.class_names[label]) for label in listing.labels]
        whole.named += [f"{path.relative_to(common).as_posix()}/{name}" for name in listing.names]
    seen: dict[str, str] = {}
    for name, file in zip(whole.names, whole.files, strict=True):
        real = os.path.realpath(file)
        if seen.setdefault(real, name) != name:
            raise InputError(
                f"data.root: {seen[real]} and {name} are one image, below two roots: give each folder once"
            )
    if len(names) < 2:
        raise InputError(f"data.root: found the one class {names[0]} below {len(paths)} roots, expected two or more")
    given = [part for _, listing in found for part in listing.splits or ()]
    return replace(whole, splits=given or None)


def _expanded(root: str | Sequence[str]) -> list[Path]:
    """Return the absolute paths of the roots, and of what patterns match, in natural order."""
    found: list[Path] = []
    for text in [root] if isinstance(root, str) else root:
        path = Path(os.path.abspath(os.path.expanduser(text)))
        matches = (
            [path]
            if path.exists() or not glob.has_magic(text)
            else [Path(p) for p in glob.glob(str(path), recursive=True)]
        )
        kept = [match for match in matches if match.is_dir() or match.suffix.lower() == ".zip" or match == path]
        found += kept or expand_images(str(path))
    if len(set(found)) < len(found) or not found:
        raise InputError(f"data.root is {root}: expected folders, each once")
    return sorted(found, key=lambda path: natural_key(path.as_posix()))
