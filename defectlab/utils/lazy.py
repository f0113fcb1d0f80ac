"""Names of a package that are imported when one of them is first used."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def name_places(modules: Mapping[str, str]) -> dict[str, str]:
    """Return `module:attribute` by name, from the names in each module; `name=attribute` where the two differ."""
    pairs = [(module, *name.partition("=")[::2]) for module, names in modules.items() for name in names.split()]
    return {name: f"{module}:{attribute or name}" for module, name, attribute in pairs}


def resolve(package: str, place: str) -> Any:
    """Import `module:attribute`, the module being relative to the package."""
    module, _, attribute = place.partition(":")
    return getattr(import_module(f"{package}.{module}"), attribute)


def lazy_names(
    package: dict[str, Any],
    places: Mapping[str, str],
    together: bool = True,
    wrap: Callable[[str, Any], Any] = lambda name, value: value,
) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package.

    Args:
        package: `globals()` of its `__init__`.
        places: see `name_places`.
        together: the first name imports all: a config may name any class, and is searched among those imported.
        wrap: applied to each name and object.
    """

    def find(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package['__name__']!r} has no attribute {name!r}")
        for key in places if together else (name,):
            value = wrap(key, resolve(package["__name__"], places[key]))
            package.setdefault(key, value)  # a subpackage of the same name stays: the face makes it callable
        return package[name]

    return find
