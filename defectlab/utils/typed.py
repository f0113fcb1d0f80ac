"""Check values against the annotations of the function that they are given to.

`inspect`, which takes longer to import than this package, is imported where it is used.
"""

import functools
import math
import numbers
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from defectlab.errors import InputError

# What is taken for a number, and the bound of its size: whole numbers are seeds and sizes.
_NUMBERS: dict[Any, tuple[Any, float]] = {int: (numbers.Integral, 2**32), float: (numbers.Real, math.inf)}
_NAMES = {
    "NoneType": "None", "PathLike": "a path", "Path": "a path", "str": "a text", "int": "a whole number",
    "float": "a finite number",
}  # fmt: skip


def typed(function: Callable[..., Any], package: str, public: str) -> Callable[..., Any]:
    """Return the function as `package.public`, which raises InputError for an argument of another type than annotated."""

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        from inspect import signature

        check_arguments(
            function, signature(function).bind(*args, **kwargs).arguments, suffix=f" of {public}", plain=False
        )
        return function(*args, **kwargs)

    checked.__module__, checked.__qualname__ = package, public  # so that it can be pickled
    return checked


def check_arguments(
    function: Callable[..., Any], given: Mapping[str, Any], prefix: str = "", suffix: str = "", plain: bool = True
) -> None:
    """Raise InputError for the first value that does not fit the annotation of its argument.

    Whole numbers have to be below 2^32, others finite. An annotation that cannot be resolved is not checked.

    Args:
        function: function or class with the annotations.
        given: values by argument.
        prefix: stands before the argument's name in the error.
        suffix: stands behind it.
        plain: whether the values are those of a file: then annotations of other classes are not checked.
    """
    hints = _hints(function)
    for name, value in given.items():
        if name in hints and not _fits(value, hints[name], plain):
            raise InputError(
                f"{prefix}{name}{suffix} is {str(value)[:60]!r} ({type(value).__name__}): expected {_shown(hints[name])}"
            )


@functools.cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function.__init__ if isinstance(function, type) else function)  # type: ignore[misc]
    except (NameError, TypeError, AttributeError):  # a user's, or a type that is imported for type checkers alone
        return {}


def _fits(value: Any, hint: Any, plain: bool) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, one, plain) for one in arguments)
    if origin is Literal:
        # A public function names the values that it knows itself.
        return any(type(value) is type(one) and (value == one or not plain) for one in arguments)
    if hint in (None, NoneType):
        return value is None
    if hint in _NUMBERS:
        kind, bound = _NUMBERS[hint]
        return isinstance(value, kind) and type(value) is not bool and bool(abs(value) < bound)
    if hint in (bool, str):
        return isinstance(value, hint)
    return _fits_plain(value, hint, origin, arguments) if plain else _is_instance(value, origin or hint)


def _fits_plain(value: Any, hint: Any, origin: Any, arguments: tuple[Any, ...]) -> bool:
    import dataclasses

    if isinstance(origin, type) and issubclass(list, origin):  # a list, or a protocol that lists have, such as Sequence
        return isinstance(value, list | tuple) and all(_fits(item, arguments[0], True) for item in value)
    if isinstance(origin, type) and issubclass(dict, origin):
        return isinstance(value, dict)
    if dataclasses.is_dataclass(hint):
        fields = get_type_hints(hint)
        known = isinstance(value, dict) and value.keys() <= fields.keys()
        return known and all(_fits(item, fields[name], True) for name, item in value.items())
    return True


def _is_instance(value: Any, kind: Any) -> bool:
    if not isinstance(kind, type) or kind is object or hasattr(value, "__array__"):
        return True
    try:
        return isinstance(value, kind)
    except TypeError:  # a protocol
        return True


def _shown(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(_shown, get_args(hint))))
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    name = getattr(get_origin(hint) or hint, "__name__", str(hint))
    return _NAMES.get(name, name)
