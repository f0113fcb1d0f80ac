"""Text files that are replaced in one step, tables and errors as text."""

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
    """Write a file in one step: a reader finds the old text or the new, never half of it.

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
    """CSV of instances of one dataclass, a column a field, with a header even if there are no rows."""
    text = StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(kind)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()


def shown_path(path: Path) -> str:
    """The path as one would type it here: relative if it is below the working folder."""
    here = Path(os.path.realpath(os.curdir))
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
