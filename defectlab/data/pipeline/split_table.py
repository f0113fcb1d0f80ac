"""A split as a table: the part, label, size and content of every image, kept beside a run."""

import csv
import hashlib
import io
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from defectlab.data.pipeline.splits import Split
from defectlab.errors import InputError
from defectlab.utils.progress import progress_bar
from defectlab.utils.text import csv_rows, listed, write_text

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = get_args(Part)

_BLOCK = 256  # images that a thread reads at a time


@dataclass(frozen=True, kw_only=True)
class SplitRow:
    """One image of a split.

    Args:
        part: `train`, `val` or `test`.
        label: name of the class.
        size: bytes of the content.
        hash: `content_hash` of the file, or of the image where it is none.
        file: relative to the root of the data, with forward slashes.
        group: what stays together in the split; empty, and no column of the table, where nothing has to.
    """

    part: Part
    label: str
    size: int
    hash: str
    file: str
    group: str = ""


@dataclass(frozen=True)
class SplitTable:
    """The images of a split, part after part, each once; `write` and `read` keep it as CSV that pandas reads."""

    rows: tuple[SplitRow, ...]

    @cached_property
    def hash(self) -> str:
        """Return sixteen hexadecimal digits that change with the part, label, name or content of any image."""
        digest = hashlib.blake2b(digest_size=8)
        for row in sorted(self.rows, key=lambda row: row.file):
            digest.update("\0".join((row.part, row.label, row.hash, row.file, "")).encode(errors="surrogateescape"))
        return digest.hexdigest()

    def write(self, path: Path) -> None:
        """Write the table atomically; a text that a spreadsheet would compute gets an apostrophe before it.

        Raises:
            InputError: the place cannot be written to.
        """
        names = _COLUMNS if any(row.group for row in self.rows) else _COLUMNS[:-1]
        write_text(path, csv_rows([names, *([getattr(row, name) for name in names] for row in self.rows)], quoted=True))

    @classmethod
    def read(cls, path: Path) -> "SplitTable":
        """Read what `write` wrote.

        Raises:
            InputError: there is no such file, or it is no whole table of images, each once.
        """
        try:
            text = path.read_bytes().decode("utf-8", "surrogateescape")
            header, *cells = list(csv.reader(io.StringIO(text, newline=""), strict=True)) or [[]]
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}): expected the split of a run") from None
        except csv.Error as error:
            raise InputError(f"{path} is not the split of a run ({error}): put the run's own file back") from None
        names = _COLUMNS if header[-1:] == _COLUMNS[-1:] else _COLUMNS[:-1]
        if header != names or not cells:
            found = f"the header {','.join(header)[:60]!r} and {len(cells)} rows"
            raise InputError(f"{path} has {found}: expected {','.join(names)} and a row an image; put the file back")
        rows = []
        for line, values in enumerate(cells, start=2):
            given = dict(zip(names, (text.removeprefix("'") for text in values), strict=False))
            part = next((part for part in PARTS if part == given.get("part")), None)
            whole = len(values) == len(names) and re.fullmatch(
                "[0-9]{1,18},[0-9a-f]{32}", f"{given['size']},{given['hash']}"
            )
            if part is None or not whole:
                raise InputError(
                    f"{path}, row {line}: {','.join(values)[:80]!r} is not {','.join(names)}; put the run's own file back"
                )
            rows.append(SplitRow(
                part=part, label=given["label"], size=int(given["size"]), hash=given["hash"], file=given["file"],
                group=given.get("group", ""),
            ))  # fmt: skip
        if len({row.file for row in rows}) < len(rows):
            raise InputError(f"{path} names an image twice: put the run's own file back")
        return cls(tuple(rows))


_COLUMNS = [field.name for field in fields(SplitRow)]


def content_hash(content: bytes) -> str:
    """Return BLAKE2b of 16 bytes as 32 hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def make_table(
    split: Split, labels: Sequence[str], files: Sequence[str], told: Callable[[int], tuple[int, str]],
    groups: npt.NDArray[Any] | None = None,
) -> SplitTable:  # fmt: skip
    """Return the table of a split of N images; `told(index)` is the size and the hash that an image is told by."""
    indices = [(part, int(index)) for part in PARTS for index in getattr(split, part)]
    found = _told([index for _, index in indices], told)
    return SplitTable(tuple(
        SplitRow(
            part=part, label=labels[index], size=size, hash=digest, file=files[index],
            group="" if groups is None else str(groups[index]),
        )
        for (part, index), (size, digest) in zip(indices, found, strict=True)
    ))  # fmt: skip


def apply_table(
    table: SplitTable, labels: Sequence[str], files: Sequence[str], told: Callable[[int], tuple[int, str]]
) -> Split:
    """Divide N images as a table does: the split of those that it has; others are in no part.

    Raises:
        InputError: an image of the table that is not there, or has another label or content.
    """
    index_of = {file: index for index, file in enumerate(files)}
    here = [(row, index_of[row.file]) for row in table.rows if row.file in index_of]
    hashes = _told([index for _, index in here], told)
    changed = [
        row.file for (row, index), (_, digest) in zip(here, hashes, strict=True)
        if (row.label, row.hash) != (labels[index], digest)
    ]  # fmt: skip
    missing = [row.file for row in table.rows if row.file not in index_of]
    found = [
        f"{len(names)} {what} ({listed(names)})"
        for names, what in ((missing, "missing"), (changed, "changed"))
        if names
    ]
    if found:
        raise InputError(
            f"of the {len(table.rows)} images of the run's split {' and '.join(found)}: its figures are of other images; "
            "put them back, or fit anew"
        )
    return Split(*(np.array(sorted(i for row, i in here if row.part == part), dtype=np.int64) for part in PARTS))


def _told(indices: Sequence[int], told: Callable[[int], tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Return the size and the hash of each image's content."""

    def tell(block: Sequence[int]) -> list[tuple[int, str]]:
        return list(map(told, block))

    blocks = [indices[start : start + _BLOCK] for start in range(0, len(indices), _BLOCK)]
    with progress_bar("comparing images", len(indices)) as advance, ThreadPoolExecutor() as pool:
        for found in pool.map(tell, blocks):
            advance(len(found))
            yield from found
