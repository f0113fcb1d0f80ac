"""Probabilities in the terminal: a bar a class for one image, a line an image for several."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from rich.cells import cell_len

from defectlab.utils.text import percent

_ALL, _LIKELIEST = 20, 5  # up to so many classes all are shown, of more so many
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_NARROWEST = 10  # columns of the longest bar


def bar_lines(
    probabilities: npt.NDArray[np.float64], class_names: Sequence[str], width: int, encoding: str
) -> list[str]:
    """Draw a line a class, the likeliest first: its name, a bar that is as long as it is likely, and a percentage.

    Of more than 20 `class_names` the five likeliest are drawn, and a last line says so. `probabilities` (C,) add up to 1.
    `width` is the terminal's in columns; names are never cut: the bars give way. Where its `encoding` has no block
    characters the bars are of #, and what it cannot show is ?.
    """
    count = len(class_names) if len(class_names) <= _ALL else _LIKELIEST
    shown = [int(index) for index in np.argsort(-probabilities, kind="stable")[:count]]
    names = _column([printable(class_names[index], encoding) for index in shown])
    longest = max(_NARROWEST, min(width, 100) - cell_len(names[0]) - 11)
    blocks = printable(_EIGHTHS, encoding) == _EIGHTHS
    lines = []
    for name, index in zip(names, shown, strict=True):
        bar = _bar(float(probabilities[index]) * longest, blocks)
        lines.append(f"{name}  {bar}{' ' * (longest - len(bar))}  {percent(float(probabilities[index])):>6}")
    if count < len(class_names):
        lines.append(f"the {count} likeliest of {len(class_names)} classes")
    return lines


def answer_lines(columns: Mapping[str, Sequence[str]], encoding: str) -> list[str]:
    """Align columns of N texts under their names, a line a row; nothing is cut or folded."""
    aligned = [_column([printable(text, encoding) for text in (head, *texts)]) for head, texts in columns.items()]
    return ["  ".join(row).rstrip() for row in zip(*aligned, strict=True)]


def printable(text: str, encoding: str) -> str:
    """The text without control characters, with ? for what an encoding lacks."""
    clean = "".join(letter if letter.isprintable() else "?" for letter in text)
    return clean.encode(encoding, "replace").decode(encoding)


def _bar(length: float, blocks: bool) -> str:
    if not blocks:
        return "#" * round(length)
    whole, eighths = divmod(round(8 * length), 8)
    return "█" * whole + (_EIGHTHS[eighths] if eighths else "")


def _column(texts: Sequence[str]) -> list[str]:
    """Padded to the width of the widest, wide characters counted as two."""
    widest = max(map(cell_len, texts))
    return [text + " " * (widest - cell_len(text)) for text in texts]
