"""Names of a package that are imported when one of them is asked for, and not before."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["lazy_names"]


def lazy_names(package: dict[str, Any], homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Give the `__getattr__` of a package.

    The first name imports all: a config may name any class of the package, and is searched among those imported.

    Args:
        package: `globals()` of its `__init__`.
        homes: module of each name, below the package.
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package['__name__']!r} has no attribute {name!r}")
        package.update(
            {key: getattr(import_module(f"{package['__name__']}.{home}"), key) for key, home in homes.items()}
        )
        return package[name]

    return find
