"""Masks beside images: files that show where a defect is, and are no images of a class."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from defectlab.data.sources.levels import BadImage
from defectlab.data.sources.opening import opened
from defectlab.errors import InputError

log = logging.getLogger(__name__)

_WORD = "mask|masks|label|labels|lable|gt|groundtruth|ground_truth|annotation|annotations|segmentation|segmentations"
_FOLDER = re.compile(f"({_WORD})", re.IGNORECASE)
_ENDING = re.compile(f"[ _.-]({_WORD})$", re.IGNORECASE)
_COMPARED = 5  # pairs of equal names that are opened


def is_mask_folder(name: str) -> bool:
    """Return whether a folder is named as those of masks and annotations are."""
    return _FOLDER.fullmatch(name) is not None


def without_masks(root: Path, files: Sequence[Path]) -> list[Path]:
    """Return the files that are no masks of others, with a warning that counts and names what is left out.

    A mask lies in a folder such as `ground_truth` or `Label`, or has a name such as `1_mask.png`, and is named after an
    image; or it is the .png or .bmp beside a .jpg of the same name.

    Raises:
        InputError: files that may be masks or a class; or each image has a mask, and some folder has images with an empty
            one and others: then the masks tell the classes, not the folders.
    """
    in_folder = [any(map(is_mask_folder, path.relative_to(root).parts[:-1])) for path in files]
    stems = {path.stem for path, inside in zip(files, in_folder, strict=True) if not inside}
    beside = defaultdict(set)
    for path in files:
        beside[path.parent, path.stem].add(path.suffix.lower())
    masks: dict[Path, Path] = {}  # of what
    for path, inside in zip(files, in_folder, strict=True):
        stem = _ENDING.sub("", path.stem)
        if (inside and stem in stems) or (stem != path.stem and (path.parent, stem) in beside):
            masks[path] = path.parent / stem
        elif path.suffix.lower() in (".png", ".bmp") and beside[path.parent, path.stem] & {".jpg", ".jpeg"}:
            masks[path] = path.with_suffix("")
    twins = [path for path, image in masks.items() if image == path.with_suffix("")]
    if not all(len(_values(path)) <= 2 for path in twins[:_COMPARED]):  # two images that happen to have one name
        for path in twins:
            del masks[path]
            if any(map(is_mask_folder, path.relative_to(root).parts[:-1])):
                raise InputError(
                    f"{path} has the name of another image, in a folder that is called like those of masks, and more than two "
                    "values: expected a class folder or masks; rename the folder, or move it away"
                )
    if not masks:
        return list(files)
    images = [path for path in files if path not in masks]
    log.warning("%s: %d masks of images are left out, such as %s", root, len(masks), next(iter(masks)))
    if len(masks) >= len(images):
        _check_folders_tell(root, masks)
    return images


def _values(path: Path) -> list[int]:
    """Return the lowest three values of the pixels, fewer if there are no more: two of a mask, none of what is no image."""
    try:
        with opened(path) as source:
            return [int(value) for value in np.unique(np.asarray(source))[:3]]
    except BadImage:
        return []


def _check_folders_tell(root: Path, masks: dict[Path, Path]) -> None:
    """Raise InputError if a folder has images with an empty mask and others with one that is not."""
    seen: dict[Path, tuple[bool, Path]] = {}
    for path, image in masks.items():
        blank = _values(path) in ([], [0])
        first = seen.setdefault(image.parent, (blank, path))
        if first[0] != blank:
            raise InputError(
                f"{root}: each image has a mask, and of {first[1]} and {path} one alone is empty: the masks tell which image "
                "has a defect, not the folders; sort the images into a folder a class, without the masks"
            )
