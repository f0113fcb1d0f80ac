"""Atomic text files; tables, errors and paths as text."""

import csv
import os
from collections.abc import Sequence
from dataclasses import asdict, fields
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from defectlab.utils.files import atomic

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_MOST_VALUES = 100_000  # of a YAML file


def write_text(path: Path, text: str) -> None:
    """Write a file atomically, see `atomic`.

    Raises:
        InputError: the place cannot be written to.
    """
    with atomic(path) as draft:
        # surrogateescape: a file name that is not UTF-8 goes out with the bytes it came with
        draft.write_text(text, encoding="utf-8", errors="surrogateescape", newline="\n")


def load_yaml(text: str) -> Any:
    """Parse plain YAML; ValueError where it is none, or where its aliases stand for more than 100,000 values."""
    try:
        sizes: dict[int, int] = {}

        def size(node: yaml.Node | None) -> int:
            if not isinstance(node, yaml.CollectionNode):
                return 1
            if id(node) not in sizes:
                sizes[id(node)] = _MOST_VALUES  # of a node that holds itself
                parts = [part for item in node.value for part in (item if isinstance(item, tuple) else (item,))]
                sizes[id(node)] = 1 + sum(size(part) for part in parts)
            return sizes[id(node)]

        if size(yaml.compose(text, yaml.SafeLoader)) >= _MOST_VALUES:
            raise ValueError("its aliases stand for more values than a config has")
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(first_line(error)) from None


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
