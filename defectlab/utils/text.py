"""Atomic text files; tables, errors and paths as text."""

import csv
import html
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, fields
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from defectlab.errors import InputError
from defectlab.utils.files import atomic

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_FORMULA = re.compile(r"['=+\-@\t\r]")  # what a spreadsheet takes for the start of a formula, and our mark against it


def write_text(path: Path, text: str) -> None:
    """Write a file atomically, see `atomic`.

    Raises:
        InputError: the place cannot be written to.
    """
    with atomic(path) as draft:
        # surrogateescape: a file name that is not UTF-8 goes out with the bytes it came with
        draft.write_text(text, encoding="utf-8", errors="surrogateescape", newline="\n")


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def listed(names: Sequence[object], most: int = 3) -> str:
    """Return the first names as text."""
    return ", ".join(map(str, names[:most])) + " and so on" * (len(names) > most)


class _Lines(list[str]):
    """Collects the rows of a CSV writer whose lines end in a carriage return, so that one in a cell is quoted."""

    def write(self, line: str) -> None:
        self.append(line.removesuffix("\r\n") + "\n")


def csv_rows(rows: Iterable[Iterable[object]], quoted: bool = False) -> str:
    """Return CSV; a text that a spreadsheet would compute gets an apostrophe before it, which `read_csv` takes off.

    With `quoted` every text is between quotes, so that one that is cut off can be told.
    """
    lines = _Lines()
    writer = csv.writer(lines, lineterminator="\r\n", quoting=csv.QUOTE_NONNUMERIC if quoted else csv.QUOTE_MINIMAL)
    writer.writerows([f"'{x}" if isinstance(x, str) and _FORMULA.match(x) else x for x in row] for row in rows)
    return "".join(lines)


def csv_text(kind: "type[DataclassInstance]", rows: "Sequence[DataclassInstance]", quoted: bool = False) -> str:
    """Return CSV of instances of one dataclass, a column per field, with a header even without rows; see `csv_rows`."""
    return csv_rows([[field.name for field in fields(kind)], *(astuple(row) for row in rows)], quoted)


def html_table(title: str, rows: "Sequence[Mapping[str, Any]] | Sequence[DataclassInstance]", most: int = 20) -> str:
    """Return the first rows, dicts or dataclasses of the same fields, as an HTML table for a notebook."""
    if not rows:
        return f"<p>{html.escape(title)}</p>"
    dicts = [dict(row) if isinstance(row, Mapping) else vars(row) for row in rows[:most]]
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in dicts[0])
    lines = ["".join(f"<td>{html.escape(_cell(value))}</td>" for value in row.values()) for row in dicts]
    table = "".join(f"<tr>{line}</tr>" for line in (heads, *lines))
    left_out = f"<p>… of {len(rows):,} rows</p>" if len(rows) > most else ""
    return f"<p>{html.escape(title)}</p><table>{table}</table>{left_out}"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)


def read_csv(path: Path, advice: str, delimiter: str | None = ",") -> list[list[str]]:
    """Read the rows of a CSV file that are not empty; InputError, which ends in `advice`, where there are none to read.

    A `delimiter` of None is told by the first line: what it has most of, of comma, semicolon and tab, else runs of spaces.
    """
    try:
        if not path.is_file():  # a pipe would be waited for
            raise FileNotFoundError(None, "there is no such file")
        text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
        first = text.lstrip().partition("\n")[0]
        mark = delimiter or max(",;\t", key=first.count)
        mark = mark if delimiter or mark in first else " "
        rows = [row for row in csv.reader(StringIO(text, newline=""), delimiter=mark) if row]
        rows = rows if mark != " " else [[cell for cell in row if cell] for row in rows]
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); {advice}") from None
    except csv.Error as error:  # such as a cell of more than 128 kB
        raise InputError(f"{path} is no table ({error}); {advice}") from None
    return [[x[1:] if x[:1] == "'" and _FORMULA.match(x, 1) else x for x in row] for row in rows]


def percent(fraction: float, digits: int = 1, exact: bool = False) -> str:
    """Write a fraction in [0, 1] in per cent, where 0 and 100 stand for nothing else: <0.1% and >99.9% are between.

    With `exact` as many digits are added as keep it from reading 100.
    """
    shown = 100 * fraction
    while exact and shown < 100 and digits < 6 and round(shown, digits) == 100:
        digits += 1
    if not exact and 0 < shown < 100 and round(shown, digits) in (0, 100):
        return f"<{10.0**-digits:g}%" if shown < 50 else f">{100 - 10.0**-digits:g}%"
    return f"{shown:.{digits}f}%"


def shown_path(path: Path) -> str:
    """Return the path relative to the working folder if it is below it."""
    here = Path(os.path.realpath(os.curdir))
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
