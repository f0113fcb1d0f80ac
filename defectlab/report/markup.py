"""Pieces of HTML: all text that goes in is escaped here."""

from __future__ import annotations

import base64
import html
from collections.abc import Collection, Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

Cell = str | int | float | None


def text(value: object) -> str:
    """Escaped for HTML, with ? for what is not Unicode, such as odd bytes in a file name."""
    return html.escape(str(value).encode("utf-8", "replace").decode("utf-8"))


def percent(share: float | None) -> str:
    """A share in [0, 1] with one decimal, or with as many as keep it from reading 100 % when it is not."""
    if share is None:
        return "–"
    digits = 1
    while share < 1 and digits < 6 and round(100 * share, digits) == 100:
        digits += 1
    return f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def document(title: str, body: str) -> str:
    """A whole page with the style sheet inside."""
    style = resources.files("defectlab.report").joinpath("style.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>\n{style}</style></head>\n"
        f"<body><main>\n{body}\n</main></body></html>\n"
    )


def section(title: str, body: str) -> str:
    return f"<section><h2>{text(title)}</h2>\n{body}</section>"


def picture(path: Path, dpi: int) -> str:
    """The PNG itself inside the page, so that the page can be sent alone; an inch of it is 96 CSS pixels."""
    png = path.read_bytes()
    width = int.from_bytes(png[16:20], "big") * 96 // dpi
    code = base64.b64encode(png).decode("ascii")
    name = text(path.stem.replace("_", " "))
    return f'<figure><img width={width} alt="{name}" src="data:image/png;base64,{code}"></figure>\n'


def facts(pairs: Iterable[tuple[str, Any]]) -> str:
    """A list of names and values, without those that are not known."""
    known = [(name, value) for name, value in pairs if value is not None and value != "" and value != []]
    if not known:
        return "<p class=quiet>Not recorded.</p>"
    return "<dl>" + "".join(f"<dt>{text(n)}</dt><dd>{text(_plain(v))}</dd>\n" for n, v in known) + "</dl>"


def table(
    columns: Sequence[str], rows: Iterable[Sequence[Cell]], text_columns: int = 1, bars: Collection[int] = ()
) -> str:
    """A table whose first `text_columns` columns are aligned as text.

    An int is a count, a float a share in [0, 1], None a dash; shares in the columns `bars` get a bar.
    """

    def cell(column: int, value: Cell) -> str:
        if column < text_columns:
            return f"<td class=text>{text(value)}</td>"
        if isinstance(value, float) and column in bars:
            return f'<td class=bar style="--share:{100 * value:.1f}%">{percent(value)}</td>'
        shown = percent(value) if value is None or isinstance(value, float) else _plain(value)
        return f"<td>{text(shown)}</td>"

    head = "".join(f"<th{' class=text' if i < text_columns else ''}>{text(c)}</th>" for i, c in enumerate(columns))
    body = "".join(f"<tr>{''.join(cell(i, v) for i, v in enumerate(row))}</tr>\n" for row in rows)
    return f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>\n"


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value)
    return str(value)
