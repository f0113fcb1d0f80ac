"""Hyper-parameters as values that a checkpoint can hold without holding code."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

__all__ = ["plain"]


def plain(value: Any) -> Any:
    """The value as None, numbers, strings, lists and dicts, a class as its `class_path`; `...` if it is neither."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, type):
        return {"class_path": f"{value.__module__}.{value.__qualname__}"}
    if isinstance(value, functools.partial):
        return {**plain(value.func), "init_args": plain(value.keywords)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return ...
