"""Tables of labels as text columns, and the image file that each row is about."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import numpy.typing as npt

from defectlab.data.sources.files import SUFFIXES
from defectlab.errors import InputError
from defectlab.utils.text import listed, read_csv

Columns = dict[str, list[str]]

_PARQUET = (".parquet", ".pq")
TABLE_SUFFIXES = (".csv", ".tsv", ".txt", *_PARQUET)
USUAL = {  # names of columns in use, without case and separators
    "image": "image file filename filepath path imagepath imagefile imagename imageid img name id",
    "label": "label labels class classname category target defectclass classid y",
    "split": "split part subset", "group": "group groupid", "weight": "weight sampleweight",
    "time": "time timestamp datetime date", "box": "box bbox boundingbox",
}  # fmt: skip
_ADVICE = "expected a table with a column of image files and one of labels"


def is_label_file(path: Path) -> bool:
    """Return whether a path is named as a file of labels is."""
    return path.suffix.lower() in (*TABLE_SUFFIXES, ".json")


def some(items: Sequence[object], what: str = "") -> str:
    """Return how many items there are, and the first three."""
    return f"{len(items)} {what}".strip() + f" ({listed(items)})"


def refuse(place: object, names: Iterable[str], wrong: Iterable[bool], what: str) -> None:
    """Raise InputError that counts those names that are wrong, gives the first three, and says `what` is."""
    found = [name or "an empty cell" for name, bad in zip(names, wrong, strict=True) if bad]
    if found:
        raise InputError(f"{place}: {some(found)} {what}")


def read_columns(path: Path) -> Columns:
    """Read a table as text by column: Parquet, or CSV with commas, semicolons, tabs or spaces.

    A table without a header, whose first cell is an image file, gets the columns image, label, column3 and so on; elpv's
    third one is the type of the cell. InputError for no table, rows of unequal length, or two columns of one name.
    """
    rows = _parquet_rows(path) if path.suffix.lower() in _PARQUET else read_csv(path, _ADVICE, delimiter=None)
    header = [name.strip() for name in rows[0]] if rows else [""]
    if header[0].lower().endswith(SUFFIXES):
        header = ["image", "label", *(f"column{place}" for place in range(3, len(header) + 1))]
        header[2:] = ["type"] if {row[-1] for row in rows} <= {"mono", "poly"} else header[2:]
        rows = [header, *rows]
    ragged = [number for number, row in enumerate(rows, start=1) if len(row) != len(header)]
    twice = [name for name, count in Counter(header).items() if count > 1]
    if ragged or twice or len(rows) < 2:
        what = f"lines of another length than the first: {some(ragged)}" if ragged else "no row"
        raise InputError(f"{path} has {f'two columns {twice[0]}' if twice else what}; {_ADVICE}")
    return {name: [row[place].strip() for row in rows[1:]] for place, name in enumerate(header)}


def _parquet_rows(path: Path) -> list[list[str]]:
    """Return the header and the rows of the flat columns."""
    try:
        from pyarrow import parquet, types
    except ImportError:
        raise InputError(
            f"{path}: Parquet needs pyarrow: pip install 'defectlab[parquet]', or save it as .csv"
        ) from None
    try:
        schema = parquet.read_schema(path)
        names = [f.name for f in schema if not (types.is_struct(f.type) or types.is_binary(f.type))]
        table = parquet.read_table(path, columns=names)
    except (OSError, ValueError) as error:  # Arrow's own are among these
        raise InputError(f"{path} cannot be read ({str(error).splitlines()[0]}); {_ADVICE}") from None
    return [names, *([_cell(value) for value in row.values()] for row in table.to_pylist())]


def _cell(value: object) -> str:
    if isinstance(value, list):
        return "|".join(map(str, value))
    return "" if value is None else str(int(value) if isinstance(value, bool) else value)


def find_column(path: Path, columns: Iterable[str], role: str, given: str | None = None) -> str | None:
    """Return the column that is given, else one of a usual name, else None; InputError if the given one is not there."""
    names = list(columns)
    if given is None:
        usual = {re.sub("[^a-z0-9]", "", name.lower()): name for name in reversed(names)}
        return next((usual[name] for name in USUAL[role].split() if name in usual), None)
    if given not in names:
        near = get_close_matches(given, names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(names[:12])}"
        raise InputError(f"{path} has no column {given} (data.label_columns.{role}): {hint}")
    return given


def locate(path: Path, root: Path, below: Sequence[Path], values: Sequence[str], skip_missing: bool) -> dict[int, Path]:
    """Find the image of each row: below the root, beside the table, or by a name that one image `below` it has alone.

    With `skip_missing` rows without an image are left out; InputError for them otherwise, or for one listed twice.
    """
    known = {Path(os.path.relpath(file, root)).as_posix(): file for file in below}
    by_name: dict[str, list[Path]] = defaultdict(list)
    for file in known.values():
        for name in {file.name, file.stem}:
            by_name[name].append(file)
    found: dict[int, Path] = {}
    for row, value in enumerate(values):
        name = value.replace("\\", "/").removeprefix("./")
        beside = [base / name for base in (root, path.parent) if name not in known and name and (base / name).is_file()]
        same = [known[name]] if name in known else beside or by_name[Path(name).name]
        same = [file for file in same if file.as_posix().endswith(f"/{name}")] or same
        if beside or len(same) == 1:
            found[row] = same[0]
    if not (skip_missing and found):
        what = (
            f"of {len(values)} images are missing below {root}, or one of several of that name: put them there, give "
        )
        gone = (row not in found for row in range(len(values)))
        refuse(path, values, gone, what + "data.root, or leave them out by data.on_bad_image skip")
    counts = Counter(found.values())
    again = (counts[file] > 1 for file in found.values())
    refuse(path, (values[row] for row in found), again, "are listed twice: expected each once, with two labels as a|b")
    return found


def numbers(path: Path, column: str, values: Sequence[str], low: float, high: float) -> npt.NDArray[np.float64]:
    """Read the numbers of a column; InputError for any that is none, or not between `low` and `high`."""
    found = np.array([float(value) if is_number(value) else np.nan for value in values])
    refuse(
        path, values, ~((low <= found) & (found <= high)), f"in column {column} are no numbers from {low:g} to {high:g}"
    )
    return found


def is_number(value: str) -> bool:
    """Return whether a cell is a finite number."""
    with suppress(ValueError):
        return bool(np.isfinite(float(value)))
    return False


def read_times(path: Path, column: str, values: Sequence[str]) -> npt.NDArray[np.float64]:
    """Read numbers, or dates as ISO 8601 has them, `2024-05-31` or `2024-05-31T07:45:00+02:00`, in seconds; not both."""
    found = [_time(value) for value in values]
    wrong = (kind != found[0][0] or not kind for kind, _ in found)
    refuse(path, values, wrong, (
        f"in column {column} are no times like the others: expected numbers, or dates such as 2024-05-31 or "
        "2024-05-31T07:45:00, with a time zone in all or in none"
    ))  # fmt: skip
    return np.array([seconds for _, seconds in found])


def _time(text: str) -> tuple[str, float]:
    """Return the kind of a time, empty for none, and its number."""
    if is_number(text):
        return "number", float(text)
    with suppress(ValueError):
        date = datetime.fromisoformat(text.replace("/", "-").replace("Z", "+00:00"))
        return str(date.tzinfo is None), (date if date.tzinfo else date.replace(tzinfo=timezone.utc)).timestamp()
    return "", 0.0
