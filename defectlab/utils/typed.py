"""Check the arguments of public functions against their annotations."""

import functools
import numbers
import types
import typing
from collections.abc import Callable
from typing import Any

from defectlab.errors import InputError

_PLAIN = (bool, int, float, complex, str, bytes, list, tuple, dict, set, type(None))
_NUMBERS = {int: numbers.Integral, float: numbers.Real}


def typed(function: Callable[..., Any], package: str, public: str) -> Callable[..., Any]:
    """Return the function as `package.public`, which raises InputError for an argument of another type than annotated."""

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        from inspect import signature  # here: it takes longer to import than this package

        given = signature(function).bind(*args, **kwargs).arguments
        for name, value in given.items():
            hint = _hints(function).get(name, Any)
            if isinstance(value, _PLAIN) and not _accepts(value, hint):  # of other objects the function says more
                found = f"{value!r:.60} ({type(value).__name__})"
                raise InputError(f"{name} of {public} is {found}: expected {_shown(hint)}")
        return function(*args, **kwargs)

    checked.__module__, checked.__qualname__ = package, public  # so that it can be pickled
    return checked


@functools.cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except NameError:  # a type that is imported for type checkers alone
        return {}


def _accepts(value: Any, hint: Any) -> bool:
    """Return whether a value has a type, as far as that is told by the value alone."""
    kind = typing.get_origin(hint) or hint
    if kind in (typing.Union, types.UnionType):
        return any(_accepts(value, one) for one in typing.get_args(hint))
    if kind is typing.Literal:  # whose values the function names itself
        return any(isinstance(value, type(one)) for one in typing.get_args(hint))
    if not isinstance(kind, type) or kind is object or hasattr(value, "__array__"):
        return True
    if kind in _NUMBERS:
        return isinstance(value, _NUMBERS[kind]) and not isinstance(value, bool)
    try:
        return isinstance(value, kind)
    except TypeError:  # a protocol
        return True


def _shown(hint: Any) -> str:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return " or ".join(dict.fromkeys(map(_shown, typing.get_args(hint))))
    name = getattr(typing.get_origin(hint) or hint, "__name__", str(hint))
    return {"NoneType": "None", "PathLike": "a path", "Path": "a path", "str": "a text"}.get(name, name)
