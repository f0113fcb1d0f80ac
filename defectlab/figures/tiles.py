"""Rows of small images with a title a row: the one look of all sheets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle

from defectlab.errors import InputError
from defectlab.figures.style import GREY, INK, ORANGE, SMALL, TEXT, TITLE, frame_image, place_axes, short_label

# Both read the same to colour-blind eyes: from none to much, and from negative over white to positive.
AMOUNT, SIGNED = "viridis", "RdBu_r"
_LINE = 0.135  # inches a line of small text
_GAP = 0.08


@dataclass(frozen=True)
class Tile:
    """One image: `(H, W)` in the colours of `colormap` between `low` and `high`, or `(H, W, 3)` in [0, 1].

    `caption` stands below it; `mark` is a point in fractions of width and height from the upper left, ringed.
    """

    pixels: npt.NDArray[Any]
    caption: str = ""
    colormap: str = "gray"
    low: float = 0.0
    high: float = 1.0
    mark: tuple[float, float] | None = None


def tile_grid(
    title: str, rows: Sequence[tuple[str, Sequence[Tile]]], tile: float = 1.0, label: float = 1.7,
    heads: Sequence[str] = (),
) -> Figure:  # fmt: skip
    """A figure of rows, each its title (may have several lines, the first in bold) and its tiles.

    Args:
        title: of the figure.
        rows: from the top; rows may be of different length.
        tile: width of a tile in inches; its height follows the pixels.
        label: width of the column of row titles in inches; 0 for none.
        heads: titles of the columns of tiles.

    Raises:
        InputError: no tile at all.
    """
    if not rows or not all(tiles for _, tiles in rows):
        raise InputError("rows: found none, or one without a tile; expected at least one tile a row")
    columns = max(len(tiles) for _, tiles in rows)
    wide = _GAP + label + columns * (tile + _GAP)
    wide = max(wide, 0.09 * len(title) + 2 * _GAP)
    top = 0.24 + 0.3 + (0.22 if heads else 0)  # room for a note, the title, the heads
    heights = [_height(text, tiles, tile) for text, tiles in rows]
    high = top + sum(heights) + _GAP
    figure = Figure(figsize=(wide, high))
    # One for all, in inches from the upper left: an axes a tile takes seconds for a sheet.
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
    """Pixels `(1 or 3, H, W)` as what a tile takes: `(H, W)` or `(H, W, 3)` in [0, 1]."""
    pixels = image.astype(np.float32) / 255
    shown: npt.NDArray[Any] = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    return shown


def value_range(maps: npt.NDArray[np.floating[Any]]) -> tuple[str, float, float]:
    """Colour map, low and high for maps of one kind: signed around 0 if there is anything below it.

    The highest half per cent is cut off, so that a single bright pixel does not darken all others.
    """
    high = float(np.quantile(np.abs(maps), 0.995)) or float(np.abs(maps).max()) or 1.0
    return (SIGNED, -high, high) if maps.min() < 0 else (AMOUNT, 0.0, high)


def _tall(item: Tile, tile: float) -> float:
    height, width = item.pixels.shape[:2]
    return tile * int(height) / int(width)


def _height(text: str, tiles: Sequence[Tile], tile: float) -> float:
    pictures = max(_tall(item, tile) + _LINE * len(item.caption.splitlines()) for item in tiles)
    return max(pictures, _LINE * 1.15 * (text.count("\n") + 1)) + _GAP + 0.04


def _draw(axes: Axes, item: Tile, extent: tuple[float, float, float, float]) -> None:
    """The image, its frame and its mark; `extent` is left, right, bottom, top."""
    left, right, bottom, top = extent
    axes.imshow(item.pixels, cmap=item.colormap, vmin=item.low, vmax=item.high, extent=extent, interpolation="nearest")
    axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, color=GREY, linewidth=0.8))
    if item.mark is not None:
        centre = (left + item.mark[0] * (right - left), top + item.mark[1] * (bottom - top))
        ring = Circle(centre, 0.09 * (right - left), fill=False, color=ORANGE, linewidth=1.6)
        axes.add_patch(ring)
        ring.set_clip_path(Rectangle((left, top), right - left, bottom - top, transform=axes.transData))


def image_sheet(
    images: npt.ArrayLike,
    titles: Sequence[str] | None = None,
    colours: Sequence[str] | None = None,
    columns: int = 8,
) -> Figure:
    """Images side by side, each with a caption below it.

    Args:
        images: `(N, C, H, W)` with one or three channels, uint8 or float in [0, 1], array or CPU tensor.
        titles: N captions; lines above 24 characters lose their middle.
        colours: N colours of caption and frame; grey without.
        columns: images in a row.

    Raises:
        InputError: no images, another shape, or as many captions or colours as there are not images.
    """
    pixels = np.asarray(images)
    if pixels.ndim != 4 or len(pixels) == 0 or pixels.shape[1] not in (1, 3):
        raise InputError(f"images of shape {pixels.shape}: expected (N, 1 or 3, H, W) with N of 1 or more")
    n, _, height, width = pixels.shape
    for name, given in (("titles", titles), ("colours", colours)):
        if given is not None and len(given) != n:
            raise InputError(f"{name}: {len(given)} given for {n} images; expected one an image")
    if pixels.dtype != np.uint8:
        pixels = np.clip(pixels.astype(np.float32), 0, 1)

    columns = min(columns, n)
    lines = max((title.count("\n") + 1 for title in titles), default=0) if titles else 0
    tile, gap = 1.5, 0.1
    tall, caption = tile * height / width, 0.13 * lines + (0.06 if lines else 0)
    rows = math.ceil(n / columns)
    head = 0.22  # room for a note
    wide = columns * (tile + gap) + gap
    high = head + rows * (tall + caption + gap) + gap
    figure = Figure(figsize=(wide, high))
    for index in range(n):
        row, column = divmod(index, columns)
        top = head + gap + row * (tall + caption + gap)
        axes = place_axes(figure, gap + column * (tile + gap), top, tile, tall)
        picture = pixels[index].transpose(1, 2, 0)
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255 if pixels.dtype == np.uint8 else 1, aspect="auto")
        colour = GREY if colours is None else colours[index]
        frame_image(axes, colour, 0.8 if colours is None else 2)
        if titles is not None:
            text = "\n".join(short_label(line) for line in titles[index].split("\n"))
            ink = INK if colours is None else colour
            axes.text(0, -0.05 / tall, text, transform=axes.transAxes, va="top", fontsize=SMALL, color=ink)
    return figure
