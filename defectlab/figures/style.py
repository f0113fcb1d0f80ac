"""The style of all figures: colours, sizes, axes, and how a PNG is written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from defectlab.figures.fonts import choose_fonts, drawable
from defectlab.utils.files import atomic

BLUE, ORANGE, RED, GREY = "#2f6db5", "#d9822b", "#c23b3b", "#8a9099"
INK, GRID = "#1c2430", "#e6e8eb"
TITLE, TEXT, SMALL = 11, 8.5, 7  # points
DPI = 144

_NOTE = "synthetic data: made by the generator, not real steel"
# Okabe and Ito's, for colour-blind eyes.
_DISTINCT = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#000000", "#b8a800")


def save_png(figure: Figure, path: Path, synthetic: bool = False) -> None:
    """Write a figure at 144 dots an inch, in one step, with a red note above it where its data are synthetic.

    Raises:
        InputError: the place cannot be written to.
    """
    if synthetic:
        # Without a layout engine matplotlib's place, two per cent below the top, is inside a tall sheet.
        top = 1 - 0.05 / figure.get_figheight() if figure.get_layout_engine() is None else None
        figure.suptitle(_NOTE, y=top, color=RED, fontsize=10, fontweight="bold")
    choose_fonts(figure)
    with atomic(path) as draft:
        # Without the version of matplotlib inside, equal figures are equal files.
        figure.savefig(draft, dpi=DPI, format="png", facecolor="white", metadata={"Software": None})


def short_label(text: str, width: int = 24) -> str:
    """Return text for matplotlib: dollars escaped, invalid bytes replaced, shortened to `width`."""
    text = drawable(" ".join(text.encode("utf-8", "replace").decode("utf-8").split()))
    if len(text) > width:  # both ends of a path or a name say more than its middle
        text = f"{text[: width // 2]}…{text[len(text) - (width - width // 2 - 1) :]}"
    return text.replace("$", r"\$")


def class_colours(count: int) -> list[str]:
    """Return `count` colours: distinct ones up to 8 and up to 20, a continuous scale above."""
    if count <= len(_DISTINCT):
        return list(_DISTINCT[:count])
    if count <= 20:
        order = [*range(0, 20, 2), *range(1, 20, 2)]  # the pale ones last
        return [to_hex(colormaps["tab20"](index)) for index in order[:count]]
    return [to_hex(colour) for colour in colormaps["turbo"](np.linspace(0, 1, count))]


def style_axes(
    axes: Axes, title: str = "", grid: Literal["", "x", "y"] = "", spines: Sequence[str] = ("left", "bottom")
) -> None:
    """Set the title at the left, pale lines across one direction, and the edges that are drawn."""
    axes.set_title(title, loc="left", fontsize=TITLE)
    for side, spine in axes.spines.items():
        spine.set_visible(side in spines)
    if grid:
        axes.grid(axis=grid, color=GRID, lw=0.8)
        axes.set_axisbelow(True)


def place_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Add axes, in inches from the upper left: a layout engine takes seconds for a hundred."""
    wide, high = figure.get_size_inches()
    return figure.add_axes((left / wide, 1 - (top + height) / high, width / wide, height / high))


def place_text(figure: Figure, left: float, top: float, text: str, size: float, bold: bool = False) -> None:
    """Write text, its upper left corner in inches from that of the figure."""
    wide, high = figure.get_size_inches()
    weight = "bold" if bold else "normal"
    figure.text(
        left / wide, 1 - top / high, text, va="top", fontsize=size, fontweight=weight, linespacing=1.3, color=INK
    )


def frame_image(axes: Axes, colour: str = GREY, width: float = 0.8) -> None:
    """Put a thin frame in place of the ticks."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=width)
