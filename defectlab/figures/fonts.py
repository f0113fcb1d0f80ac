"""Fonts for names in any script: matplotlib's own has no Chinese, Japanese or Korean."""

from __future__ import annotations

import logging
from functools import lru_cache

from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

log = logging.getLogger(__name__)
_BOXES = "Last Resort"  # matplotlib's, which has a box for every character


@lru_cache(maxsize=1)
def _own() -> frozenset[int]:
    return frozenset(FT2Font(findfont(FontProperties())).get_charmap())


@lru_cache(maxsize=64)
def _others(letters: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Return installed fonts for letters that matplotlib's lacks, and the letters that none has."""
    families: list[str] = []
    left = set(letters)
    for font in sorted(fontManager.ttflist, key=lambda font: ("CJK" not in font.name, font.name, font.fname)):
        if not left or font.style != "normal" or font.name.startswith(_BOXES):
            continue
        try:
            found = {letter for letter in left if ord(letter) in FT2Font(font.fname).get_charmap()}
        except (OSError, RuntimeError):  # a file that is gone or no font
            continue
        if found:
            families.append(font.name)
            left -= found
    if left:
        _tell()
    return tuple(families), frozenset(left)


@lru_cache(maxsize=1)
def _tell() -> None:
    """Tell it once in a process."""
    log.warning(
        "no font here has every letter of these names, so figures show some by their codes: install one that has, such as "
        "Noto Sans CJK"
    )


def drawable(text: str) -> str:
    """Return text with the code, such as U+88C2, of each letter that no installed font has."""
    lacking = _lacking(text)
    if not lacking:
        return text
    gone = _others(lacking)[1]
    return "".join(f"U+{ord(letter):04X} " if letter in gone else letter for letter in text).rstrip()


def choose_fonts(figure: Figure) -> None:
    """Let each text of a figure take letters that matplotlib's own font lacks from installed ones."""
    for text in figure.findobj(Text):
        lacking = _lacking(text.get_text())
        if lacking and (families := _others(lacking)[0]):
            text.set_fontfamily([*FontProperties().get_family(), *families])


def _lacking(text: str) -> frozenset[str]:
    if text.isascii() and text.isprintable():
        return frozenset()
    return frozenset(letter for letter in text if letter != "\n" and ord(letter) not in _own())
