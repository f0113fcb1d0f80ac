"""Tables of labels as text columns, and the image file that each row is about."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import numpy.typing as npt

from defectlab.data.sources.files import SUFFIXES, image_files
from defectlab.errors import InputError
from defectlab.utils.text import read_csv

Columns = dict[str, list[str]]

TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".pq")
USUAL = {  # names of columns in use, without case and separators
    "image": "image file filename filepath path imagepath imagefile imagename imageid img name id",
    "label": "label labels class classname category target defect defectclass classid y",
    "split": "split part subset", "group": "group groupid", "weight": "weight sampleweight",
    "time": "time timestamp datetime date",
}  # fmt: skip
_ADVICE = "expected a table with a column of image files and one of labels"
_NAMED = 3


def some(items: Sequence[object]) -> str:
    """Return how many items there are, and the first three."""
    return f"{len(items)} ({', '.join(map(str, items[:_NAMED]))}{' and so on' if len(items) > _NAMED else ''})"


def read_columns(path: Path) -> Columns:
    """Read a table as text by column: Parquet, or CSV with commas, semicolons, tabs or spaces.

    A table without a header, whose first cell is an image file, gets the columns image, label, column3 and so on; elpv's
    third one is the type of the cell.

    Raises:
        InputError: it cannot be read, has no row, rows of unequal length, or two columns of one name.
    """
    if path.suffix.lower() in (".parquet", ".pq"):
        return _read_parquet(path)
    rows = read_csv(path, _ADVICE, delimiter=None)
    if not rows:
        raise InputError(f"{path} is empty; {_ADVICE}")
    header, cells = [name.strip() for name in rows[0]], rows[1:]
    if header[0].lower().endswith(SUFFIXES):
        header, cells = ["image", "label", *(f"column{place}" for place in range(3, len(header) + 1))], rows
        if len(header) == 3 and {row[-1] for row in cells} <= {"mono", "poly"}:
            header[2] = "type"
    ragged = [number for number, row in enumerate(cells, start=len(rows) - len(cells) + 1) if len(row) != len(header)]
    twice = [name for name, count in Counter(header).items() if count > 1]
    if ragged or twice or not cells:
        what = f"rows of other lengths than {len(header)}: {some(ragged)}" if ragged else "no row"
        raise InputError(f"{path} has {f'two columns {twice[0]}' if twice else what}; {_ADVICE}")
    return {name: [row[place].strip() for row in cells] for place, name in enumerate(header)}


def _read_parquet(path: Path) -> Columns:
    try:
        from pyarrow import parquet, types
    except ImportError:
        raise InputError(
            f"{path}: Parquet needs pyarrow: pip install 'defectlab[parquet]', or save it as .csv"
        ) from None
    try:
        fields = parquet.read_schema(path)
        flat = [f.name for f in fields if not (types.is_struct(f.type) or types.is_binary(f.type))]
        table = parquet.read_table(path, columns=flat)
    except (OSError, ValueError) as error:  # Arrow's own errors are among these
        raise InputError(f"{path} cannot be read ({str(error).splitlines()[0]}); {_ADVICE}") from None
    if not table.num_rows:
        raise InputError(f"{path} has no row; {_ADVICE}")
    return {name: [_cell(value) for value in table.column(name).to_pylist()] for name in flat}


def _cell(value: object) -> str:
    if isinstance(value, list):
        return "|".join(map(str, value))
    if isinstance(value, bool):
        return str(int(value))
    return "" if value is None else value.isoformat() if isinstance(value, datetime) else str(value).strip()


def find_column(path: Path, columns: Iterable[str], role: str, given: str | None) -> str | None:
    """Return the column that is given, else one of a usual name, else None; InputError if the given one is not there."""
    names = list(columns)
    if given is None:
        usual = {re.sub("[^a-z0-9]", "", name.lower()): name for name in reversed(names)}
        return next((usual[name] for name in USUAL[role].split() if name in usual), None)
    if given not in names:
        near = get_close_matches(given, names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(names[:12])}"
        raise InputError(f"{path} has no column {given} (data.labels.{role}): {hint}")
    return given


def locate(path: Path, root: Path, values: Sequence[str], skip_missing: bool) -> tuple[list[int], list[Path]]:
    """Find the image of each row: below the root, beside the table, or by a name that only one image below the root has.

    Returns:
        Which rows have an image, and their files; with `skip_missing` the others are left out.

    Raises:
        InputError: an image that is missing, listed twice, or that two files may be.
    """
    known = {Path(os.path.relpath(file, root)).as_posix(): file for file in image_files(root, tell=False)}
    by_name: dict[str, list[str]] = defaultdict(list)
    for name in known:
        place = Path(name)
        by_name[place.name].append(name)
        by_name[place.stem].append(name)

    def find(value: str) -> Path | list[str] | None:
        name = value.replace("\\", "/").removeprefix("./")
        if name in known:
            return known[name]
        for base in (root, path if path.is_dir() else path.parent) if name else ():
            if (base / name).is_file():
                return base / name
        same = by_name[Path(name).name]
        same = [other for other in same if other.endswith(f"/{name}")] or same
        return known[same[0]] if len(same) == 1 else same or None

    found = [find(value) for value in values]
    missing = [value or "an empty cell" for value, file in zip(values, found, strict=True) if file is None]
    rivals = [
        f"{value} may be {' or '.join(file[:2])}"
        for value, file in zip(values, found, strict=True)
        if isinstance(file, list)
    ]
    counts = Counter(file for file in found if isinstance(file, Path))
    twice = [Path(os.path.relpath(file, root)).as_posix() for file, count in counts.items() if count > 1]
    if rivals:
        raise InputError(f"{path}: images that two files may be: {some(rivals)}; write their folders into the table")
    if missing and (len(missing) == len(values) or not skip_missing):
        raise InputError(
            f"{path}: of {len(values)} images missing below {root}: {some(missing)}; put them there, give their folder as "
            "data.root, or leave them out by data.on_bad_image skip"
        )
    if twice:
        raise InputError(
            f"{path}: images listed twice: {some(twice)}; expected a row an image, with several labels as a|b in it"
        )
    files = [(row, file) for row, file in enumerate(found) if isinstance(file, Path)]
    return [row for row, _ in files], [file for _, file in files]


def numbers(
    path: Path, column: str, values: Sequence[str], low: float, high: float, what: str
) -> npt.NDArray[np.float64]:
    """Read the numbers of a column; InputError for any that is none, or not between `low` and `high`."""
    found = np.array([_number(value) for value in values])
    wrong = [
        value or "an empty cell"
        for value, good in zip(values, (low <= found) & (found <= high), strict=True)
        if not good
    ]
    if wrong:
        raise InputError(f"{path}: column {column} has {some(wrong)} that are no {what}; mend them")
    return found


def _number(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return np.nan


def is_number(value: str) -> bool:
    """Return whether a cell is a finite number."""
    return bool(np.isfinite(_number(value)))


def read_times(path: Path, column: str, values: Sequence[str]) -> npt.NDArray[np.float64]:
    """Read a column of times, all numbers or all dates as ISO 8601 has them, `2024-05-31` or `2024-05-31T07:45:00+02:00`.

    Raises:
        InputError: neither, a mixture of both, or of dates with and without a time zone.
    """
    if is_number(values[0]):
        return numbers(path, column, values, -np.inf, np.inf, "numbers like the first")
    found = [_date(value) for value in values]
    zoned = found[0] is not None and found[0].tzinfo is not None
    wrong = [
        value or "an empty cell" for value, date in zip(values, found, strict=True)
        if date is None or (date.tzinfo is not None) != zoned
    ]  # fmt: skip
    if wrong:
        raise InputError(
            f"{path}: column {column} has {some(wrong)} that are no times like the others: expected all to be numbers, or "
            "dates such as 2024-05-31 or 2024-05-31T07:45:00, with a time zone in all or in none"
        )
    start = datetime.fromisoformat(f"1970-01-01{'T00:00:00+00:00' if zoned else ''}")
    return np.array([(date - start).total_seconds() for date in found if date is not None])


def _date(value: str) -> datetime | None:
    try:
        return datetime.fromisoformat(re.sub(r"^(\d{4})/(\d\d)/(\d\d)", r"\1-\2-\3", value).replace("Z", "+00:00"))
    except ValueError:
        return None
