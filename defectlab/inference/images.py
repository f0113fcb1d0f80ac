"""The images that are to be predicted: files, folders and globs, or arrays."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from defectlab.data.sources.files import expand_images
from defectlab.data.sources.opening import expand_pages
from defectlab.errors import InputError
from defectlab.utils.image_format import ImageFormat

Images = npt.NDArray[np.uint8] | str | PathLike[str] | Sequence[str | PathLike[str]] | Sequence[npt.NDArray[np.uint8]]
"""Files, folders and globs, one or many; or arrays (H, W) or (H, W, 1 or 3), or one (N, H, W[, 1 or 3])."""

ImageInput: TypeAlias = Path | npt.NDArray[np.uint8]


def list_images(images: Images, wanted: ImageFormat) -> Sequence[ImageInput]:
    """Return the files that are named, or each of their pages as `wanted.page` says, or single images (H, W) or (H, W, C).

    Raises:
        InputError: no image, arrays of another kind, or a file of a run folder, which is a figure and no image.
    """
    if not isinstance(images, np.ndarray | str | PathLike | Sequence):
        raise InputError(f"images are given as {type(images).__name__}: expected paths or uint8 arrays of NumPy")
    counts = {1, 3, wanted.channels}
    if isinstance(images, np.ndarray):
        one = images.ndim == 2 or (images.ndim == 3 and images.shape[2] in counts)
        found = [images] if one else list(images)
    elif isinstance(images, str | PathLike) or not any(isinstance(image, np.ndarray) for image in images):
        return list_files(images, wanted.page)  # type: ignore[arg-type]
    else:
        found = [np.asarray(image) for image in images]
    for image in found:
        colour = image.ndim == 3 and image.shape[2] in counts
        deep = wanted.white_level is not None and image.dtype.kind in "uif"
        if not (image.dtype == np.uint8 or deep) or not (image.ndim == 2 or colour) or image.size == 0:
            expected = f"{'numbers' if wanted.white_level is not None else 'uint8'} (H, W) or (H, W, {wanted.channels})"
            raise InputError(f"an image of shape {image.shape} and type {image.dtype}: expected {expected}")
    if not found:
        raise InputError("no image given: expected at least one")
    return found


def list_files(
    images: str | PathLike[str] | Sequence[str | PathLike[str]], page: int | Literal["all"] = 0
) -> list[Path]:
    """Return image files as `expand_images` does, and with `all` each of their pages.

    Raises:
        InputError: those of a run folder, which are figures.
    """
    files = expand_images(images)
    if page == "all":
        files = [path for _, path in expand_pages(files)]
    for folder in {parent for file in files for parent in (file.parent, file.parent.parent)}:
        if (folder / "config.yaml").is_file() and (folder / "metrics.json").is_file():
            raise InputError(f"{folder} is a run folder, whose figures are no images: name one run, then images")
    return files
