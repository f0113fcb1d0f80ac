"""Heights and widths of image files by their headers, without a pixel being read."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from defectlab.data.sources.decode import shape_of
from defectlab.data.sources.levels import BadImage
from defectlab.data.sources.opening import pillow_hushed

SAMPLE = 1000  # files that tell what a set is like


def sample_shapes(files: Sequence[Path]) -> npt.NDArray[np.int64]:
    """Return the shapes (M, 2) of at most `SAMPLE` files, evenly among them; what cannot be read is left out."""
    step = max(1, -(-len(files) // SAMPLE))
    shapes = file_shapes(files[::step])
    return shapes[shapes.all(axis=1)]


def file_shapes(files: Sequence[Path]) -> npt.NDArray[np.int64]:
    """Return the shapes (N, 2) of all files, upright; 0 for what cannot be read."""

    def shape(path: Path) -> tuple[int, int]:
        try:
            return shape_of(path)
        except BadImage:  # it is told when it is read
            return 0, 0

    with pillow_hushed(), ThreadPoolExecutor() as pool:
        return np.array(list(pool.map(shape, files)), dtype=np.int64).reshape(-1, 2)
