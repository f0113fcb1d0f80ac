"""Atomic text files; tables, errors and paths as text."""

import csv
import os
from collections.abc import Sequence
from dataclasses import asdict, fields
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from defectlab.utils.files import atomic

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


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


def csv_text(kind: "type[DataclassInstance]", rows: "Sequence[DataclassInstance]") -> str:
    """Return CSV of instances of one dataclass, a column per field, with a header even without rows."""
    text = StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(kind)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()


def shown_path(path: Path) -> str:
    """Return the path relative to the working folder if it is below it."""
    here = Path(os.path.realpath(os.curdir))
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
