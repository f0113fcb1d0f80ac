"""One style for all figures: colours, resolution, how a PNG is written."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["BLUE", "DPI", "GREY", "ORANGE", "RED", "SYNTHETIC_NOTE", "save_png", "short_label"]


BLUE, ORANGE, RED, GREY = "#2f6db5", "#d9822b", "#c23b3b", "#8a9099"


DPI = 144


SYNTHETIC_NOTE = "synthetic data: made by the generator, not real steel"


def save_png(figure: Figure, path: Path, note: str | None = None) -> None:
    """Write the figure at 144 dots an inch, with an optional red note above it."""
    if note is not None:
        # By hand where no layout engine does it: two per cent below the top would be inside a tall sheet.
        top = 1 - 0.05 / figure.get_figheight() if figure.get_layout_engine() is None else None
        figure.suptitle(note, y=top, color=RED, fontsize=10, fontweight="bold")
    # Without the version of matplotlib inside, equal figures are equal files.
    figure.savefig(path, dpi=DPI, format="png", facecolor="white", metadata={"Software": None})


def short_label(text: str, width: int = 24) -> str:
    """Text that matplotlib takes as it is: no mathematics between dollars, no stray bytes, not too long."""
    text = " ".join(text.encode("utf-8", "replace").decode("utf-8").split())
    if len(text) > width:  # both ends of a path or a name say more than its middle
        text = f"{text[: width // 2]}…{text[len(text) - (width - width // 2 - 1) :]}"
    return text.replace("$", r"\$")


def hide_spines(axes: Axes, *sides: str) -> None:
    for side in sides:
        axes.spines[side].set_visible(False)
