"""Find the images that excite a unit most."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from defectlab.explain.activations import TestSetActivations
from defectlab.figures.tiles import Tile, grey_or_colour, tile_grid

_UNITS, _IMAGES = 8, 7


def choose_units(
    peaks: npt.NDArray[np.floating], labels: npt.NDArray[np.int64], most: int = _UNITS
) -> list[tuple[int, int]]:
    """Choose for each class the unit (channel) that sets it apart most: pairs of class and unit; of many classes some.

    That is the largest difference between the unit's mean peak in the class and in all others, in standard deviations
    of its peaks. `peaks` (N, C), `labels` (N,). No unit is taken twice, and none that is always the same.
    """
    spread = peaks.std(axis=0)
    free = spread > 1e-6
    classes = np.unique(labels)
    if len(classes) > most:
        classes = classes[np.linspace(0, len(classes) - 1, most).round().astype(int)]
    chosen: list[tuple[int, int]] = []
    for label in classes:
        own = labels == label
        if not free.any():
            break
        others = peaks[~own].mean(axis=0) if not own.all() else 0.0
        apart = np.where(free, (peaks[own].mean(axis=0) - others) / np.where(free, spread, 1), -np.inf)
        unit = int(apart.argmax())
        free[unit] = False
        chosen.append((int(label), unit))
    return chosen


def units_figure(
    found: TestSetActivations,
    units: Sequence[tuple[int, int]],
    images: Callable[[int], npt.NDArray[np.uint8]],
    labels: npt.NDArray[np.int64],
    names: Sequence[str],
) -> Figure:
    """Draw a row a unit of `choose_units`: the images with its largest values, the place of each ringed.

    `images` returns the image of an index, (1 or 3, H, W), uint8; `labels` (N,) and class `names` are of all images.
    """
    rows = []
    for label, unit in units:
        order = np.argsort(-found.peaks[:, unit], kind="stable")[:_IMAGES]
        tiles = []
        for index in order:
            across, down = (float(value) for value in found.places[index, unit])
            caption = f"{names[labels[index]]}\n{found.peaks[index, unit]:.3g}"
            tiles.append(Tile(grey_or_colour(images(int(index))), caption, mark=(across, down)))
        rows.append((f"unit {unit}\nchosen for\n{names[label]}", tiles))
    title = f"{found.layer}: the images that excite {len(units)} of its {found.peaks.shape[1]} units most"
    return tile_grid(title, rows, tile=1.12, label=1.1)
