"""Render HTML pages from the templates in this folder, which escape all text; Python hands them plain values."""

import base64
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from defectlab.figures.style import DPI
from defectlab.utils.text import percent, write_text

Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """Rows under `columns`: an int is a count, a float a fraction in [0, 1], None a dash.

    The first `text_columns` are aligned as text; fractions in the columns `bars` get a bar.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    text_columns: int = 1
    bars: Collection[int] = ()


@dataclass(frozen=True)
class Picture:
    """A PNG to put inside the page, so that the page can be sent alone."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.stem.replace("_", " ")

    @property
    def base64(self) -> str:
        return base64.b64encode(self.path.read_bytes()).decode("ascii")

    @property
    def width(self) -> int:
        """Width in CSS pixels, of which an inch has 96."""
        return int.from_bytes(self.path.read_bytes()[16:20], "big") * 96 // DPI


def write_page(path: Path, template: str, values: Mapping[str, object]) -> None:
    """Write `template` filled with `values`; what is not Unicode, such as odd bytes in a file name, becomes ?."""
    page = _ENVIRONMENT.get_template(template).render(values)
    write_text(path, page.encode("utf-8", "replace").decode("utf-8"))


def percentage(fraction: float | None) -> str:
    """Write a fraction in [0, 1] as `percent` does exactly, or a dash."""
    return "–" if fraction is None else percent(fraction, exact=True).replace("%", "\N{NO-BREAK SPACE}%")


def plain(value: Any) -> str:
    """Write a value as text: thousands with commas, four digits of a fraction, lists without brackets."""
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


_ENVIRONMENT = Environment(
    loader=PackageLoader("defectlab.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
    lstrip_blocks=True,
)  # fmt: skip
_ENVIRONMENT.filters |= {"percent": percentage, "plain": plain}
_ENVIRONMENT.globals["style"] = resources.files("defectlab.report").joinpath("style.css").read_text(encoding="utf-8")
