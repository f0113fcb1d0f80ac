"""Sheets of small images in rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle

from defectlab.errors import InputError
from defectlab.figures.style import GREY, INK, ORANGE, SMALL, TEXT, TITLE, short_label

# Both suit colour-blind eyes: from none to much, and from negative over white to positive.
AMOUNT, SIGNED = "viridis", "RdBu_r"
_LINE = 0.135  # inches a line of small text
_GAP = 0.08
_STRIP = 2.0  # sides in this ratio
_LEAST = 4.5  # inches of a line of strips


@dataclass(frozen=True)
class Tile:
    """One image: `(H, W)` in the colours of `colormap` between `low` and `high`, or `(H, W, 3)` in [0, 1].

    `caption` stands below it; `mark` is a point in fractions of width and height from the upper left, ringed.
    """

    pixels: npt.NDArray[Any]
    caption: str = ""
    _: KW_ONLY
    colormap: str = "gray"
    low: float = 0.0
    high: float = 1.0
    mark: tuple[float, float] | None = None


def tile_grid(
    title: str, rows: Sequence[tuple[str, Sequence[Tile]]], tile: float = 1.0, label: float = 1.7,
    heads: Sequence[str] = (),
) -> Figure:  # fmt: skip
    """Draw rows of tiles, each with its title (may have several lines, the first in bold).

    Args:
        title: of the figure.
        rows: from the top; rows may be of different length.
        tile: width of a tile in inches; its height follows the pixels. Strips are wider, on several lines; upright ones
            narrower.
        label: width of the column of row titles in inches; 0 for none.
        heads: titles of the columns of tiles.

    Raises:
        InputError: no tile at all.
    """
    if not rows or not all(tiles for _, tiles in rows):
        raise InputError("rows: found none, or one without a tile; expected at least one tile a row")
    columns = max(len(tiles) for _, tiles in rows)
    ratios = [item.pixels.shape[1] / item.pixels.shape[0] for _, tiles in rows for item in tiles]
    if max(ratios) >= _STRIP:
        fewer = max(1, round(columns / math.sqrt(max(ratios))))
        tile = max(columns * (tile + _GAP), _LEAST) / fewer - _GAP
        columns, rows, heads = fewer, _in_lines(rows, fewer, heads), ()
    elif min(ratios) <= 1 / _STRIP:
        tile = max(tile * math.sqrt(min(ratios)), 0.5)
    wide = _GAP + label + columns * (tile + _GAP)
    wide = max(wide, 0.09 * len(title) + 2 * _GAP)
    top = 0.24 + 0.3 + (0.22 if heads else 0)  # room for a note, the title, the heads
    heights = [_height(text, tiles, tile) for text, tiles in rows]
    high = top + sum(heights) + _GAP
    figure = Figure(figsize=(wide, high))
    # One axes for all, in inches from the upper left: one per tile takes seconds.
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()

    def write(x: float, y: float, text: str, **style: Any) -> None:
        axes.text(x, y, text, va="top", color=INK, **style)

    write(_GAP, 0.26, short_label(title, 200), fontsize=TITLE, fontweight="bold")
    for column, head in enumerate(heads):
        write(_GAP + label + column * (tile + _GAP), top - 0.2, short_label(head), fontsize=TEXT, fontweight="bold")
    y = top
    for (text, tiles), height in zip(rows, heights, strict=True):
        for number, line in enumerate(text.split("\n") if label else ()):
            style = {"fontsize": TEXT, "fontweight": "bold"} if number == 0 else {"fontsize": 7.5}
            write(_GAP, y + number * _LINE * 1.15, short_label(line, int(label * 15)), **style)
        for column, item in enumerate(tiles):
            x = _GAP + label + column * (tile + _GAP)
            bottom = y + _tall(item, tile)
            _draw(axes, item, (x, x + tile, bottom, y))
            for number, line in enumerate(item.caption.splitlines()):
                write(x, bottom + 0.02 + number * _LINE, short_label(line, int(tile * 17)), fontsize=SMALL)
        y += height
    axes.set(xlim=(0, wide), ylim=(high, 0), aspect="auto")
    return figure


def grey_or_colour(image: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """Turn pixels `(C, H, W)` into those of a tile, `(H, W)` or `(H, W, 3)` in [0, 1]: of two channels the mean, of more the
    first three."""
    pixels = image.astype(np.float32) / 255
    shown: npt.NDArray[Any] = pixels.mean(axis=0) if len(pixels) < 3 else pixels[:3].transpose(1, 2, 0)
    return shown


def value_range(maps: npt.NDArray[np.floating[Any]]) -> tuple[str, float, float]:
    """Return colour map, low and high for maps of one kind: signed around 0 if there are negative values.

    The highest half per cent is clipped, so that a single bright pixel does not darken all others.
    """
    high = float(np.quantile(np.abs(maps), 0.995)) or float(np.abs(maps).max()) or 1.0
    return (SIGNED, -high, high) if maps.min() < 0 else (AMOUNT, 0.0, high)


def _tall(item: Tile, tile: float) -> float:
    height, width = item.pixels.shape[:2]
    return tile * int(height) / int(width)


def _height(text: str, tiles: Sequence[Tile], tile: float) -> float:
    images = max(_tall(item, tile) + _LINE * len(item.caption.splitlines()) for item in tiles)
    return max(images, _LINE * 1.15 * (text.count("\n") + 1)) + _GAP + 0.04


def _in_lines(
    rows: Sequence[tuple[str, Sequence[Tile]]], columns: int, heads: Sequence[str]
) -> list[tuple[str, list[Tile]]]:
    """Divide rows into lines of so many tiles, with the titles of the columns in their captions."""
    lines = []
    for text, tiles in rows:
        names = [*heads, *[""] * len(tiles)]
        named = [
            replace(item, caption=f"{name}\n{item.caption}".strip()) for name, item in zip(names, tiles, strict=False)
        ]
        starts = range(0, len(named), columns)
        lines += [("" if start else text, named[start : start + columns]) for start in starts]
    return lines


def _draw(axes: Axes, item: Tile, extent: tuple[float, float, float, float]) -> None:
    """Draw the image, its frame and its mark; `extent` is left, right, bottom, top."""
    left, right, bottom, top = extent
    axes.imshow(item.pixels, cmap=item.colormap, vmin=item.low, vmax=item.high, extent=extent, interpolation="nearest")
    axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, color=GREY, linewidth=0.8))
    if item.mark is not None:
        centre = (left + item.mark[0] * (right - left), top + item.mark[1] * (bottom - top))
        radius = 0.09 * math.sqrt((right - left) * (bottom - top))
        ring = Circle(centre, radius, fill=False, color=ORANGE, linewidth=1.6)
        axes.add_patch(ring)
        ring.set_clip_path(Rectangle((left, top), right - left, bottom - top, transform=axes.transData))


def image_sheet(images: npt.ArrayLike, titles: Sequence[str] | None = None, columns: int = 8) -> Figure:
    """Draw images side by side, each with a caption below it.

    Args:
        images: `(N, C, H, W)`, uint8 or float in [0, 1], array or CPU tensor.
        titles: N captions.
        columns: images in a row.

    Raises:
        InputError: no images, another shape, or another number of captions.
    """
    pixels = np.asarray(images)
    if pixels.ndim != 4 or len(pixels) == 0:
        raise InputError(f"images of shape {pixels.shape}: expected (N, C, H, W) with N of 1 or more")
    if titles is not None and len(titles) != len(pixels):
        raise InputError(f"titles: {len(titles)} given for {len(pixels)} images; expected one an image")
    if pixels.dtype != np.uint8:
        pixels = (np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)
    captions = titles or [""] * len(pixels)
    tiles = [Tile(grey_or_colour(image), caption) for image, caption in zip(pixels, captions, strict=True)]
    rows = [("", tiles[start : start + columns]) for start in range(0, len(tiles), columns)]
    return tile_grid("", rows, tile=1.5, label=0)
