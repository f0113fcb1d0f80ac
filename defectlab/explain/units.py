"""The images that excite a unit most: what it has learned to look for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from defectlab.explain.grid import Tile, grey_or_colour, tile_grid
from defectlab.explain.survey import Survey

__all__ = ["choose_units", "units_figure"]

_UNITS, _IMAGES = 6, 7


def choose_units(peaks: npt.NDArray[np.floating], count: int = _UNITS) -> list[int]:
    """The units (channels) whose peaks `(N, C)` differ most between images, by number; silent ones never.

    A unit's spread is divided by its own mean size and the layer's: loud units do not crowd out quiet ones, nor do those
    that are nearly silent.
    """
    size = np.abs(peaks).mean(axis=0)
    spread = peaks.std(axis=0) / (size + size.mean() + 1e-12) if peaks.size else size
    alive = np.flatnonzero(peaks.std(axis=0) > 1e-6)
    return sorted(int(unit) for unit in alive[np.argsort(-spread[alive], kind="stable")][:count])


def units_figure(
    found: Survey, units: Sequence[int], images: Callable[[int], npt.NDArray[np.uint8]], labels: Sequence[str]
) -> Figure:
    """A row a unit: the images with its largest values, the place of each ringed.

    Args:
        found: of the layer whose channels the units are.
        units: their numbers.
        images: gives the image of an index, `(1 or 3, H, W)`, uint8.
        labels: of each image, to stand below it.
    """
    rows = []
    for unit in units:
        order = np.argsort(-found.peaks[:, unit], kind="stable")[:_IMAGES]
        tiles = []
        for index in order:
            across, down = (float(value) for value in found.places[index, unit])
            caption = f"{labels[index]}\n{found.peaks[index, unit]:.3g}"
            tiles.append(Tile(grey_or_colour(images(int(index))), caption, mark=(across, down)))
        rows.append((f"unit {unit}", tiles))
    title = f"{found.layer}: the images that excite {len(units)} of its {found.peaks.shape[1]} units most"
    return tile_grid(title, rows, tile=1.15, label=0.75)
