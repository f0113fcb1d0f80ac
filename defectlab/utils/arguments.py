"""Check plain values against the annotations of the function that they are given to."""

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from defectlab.errors import InputError

_LARGEST = 2**31  # of a whole number: a seed, a size


def check_arguments(function: Callable[..., Any], given: Mapping[str, Any], prefix: str = "") -> None:
    """Raise InputError for the first value that does not fit the annotation of its argument, named after a `prefix`.

    Whole numbers have to be below 2^31, others finite. What has no annotation of plain values, or one that cannot be
    resolved, is not checked.
    """
    try:
        hints = get_type_hints(function.__init__ if inspect.isclass(function) else function)
    except (NameError, TypeError, AttributeError):  # of a user's
        return
    for name, value in given.items():
        if name in hints and not _fits(value, hints[name]):
            expected = inspect.formatannotation(hints[name]).replace("typing.", "")
            raise InputError(
                f"{prefix}{name} is {str(value)[:40]!r} ({type(value).__name__}): expected {expected[:100]}"
            )


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in arguments)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in arguments)
    if hint in (None, NoneType):
        return value is None
    if hint in (int, float):
        if isinstance(value, bool) or not isinstance(value, int if hint is int else int | float):
            return False
        return abs(value) < _LARGEST if isinstance(value, int) else math.isfinite(value)
    if hint in (bool, str):
        return isinstance(value, hint)
    if inspect.isclass(origin) and issubclass(list, origin):  # a list, or a protocol that lists have, such as Sequence
        return isinstance(value, list | tuple) and all(_fits(item, arguments[0]) for item in value)
    if inspect.isclass(origin) and issubclass(dict, origin):
        return isinstance(value, dict)
    if dataclasses.is_dataclass(hint):
        fields = get_type_hints(hint)
        known = isinstance(value, dict) and value.keys() <= fields.keys()
        return known and all(_fits(item, fields[name]) for name, item in value.items())
    return True
