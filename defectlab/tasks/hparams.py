"""Hyper-parameters as values that a checkpoint can hold without holding code, and the classes that they name."""

import dataclasses
import functools
import importlib
import inspect
import sys
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import nn

from defectlab.errors import InputError


class NetworkSpec:
    """Name a network of one's own as a config does; what it names is imported when `load` is called.

    Args:
        class_path: of a class, or of a function that returns a network.
        init_args: its arguments besides those that `build_network` gives.
    """

    def __init__(self, class_path: str, init_args: Mapping[str, Any] | None = None) -> None:
        self.class_path, self.init_args = class_path, dict(init_args or {})

    def as_dict(self) -> dict[str, Any]:
        """As in a config."""
        return {"class_path": self.class_path, "init_args": self.init_args}

    def load(self) -> functools.partial[nn.Module]:
        """Find it; see `find_network`."""
        return find_network(self.as_dict(), {self.class_path})


def add_import_folders(folders: Iterable[str]) -> None:
    """Let Python find modules in these folders, after everything that is installed."""
    sys.path.extend(folder for folder in folders if folder not in sys.path)


def plain(value: Any) -> Any:
    """The value as None, numbers, strings, lists and dicts, a class as its `class_path`; `...` if it is neither."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if inspect.isclass(value) or inspect.isfunction(value):
        return {"class_path": class_path(value)}
    if isinstance(value, NetworkSpec):
        return value.as_dict()
    if isinstance(value, functools.partial):
        return {**plain(value.func), "init_args": plain(value.keywords)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return ...


def named_classes(config: Any) -> set[str]:
    """Collect the class paths in a config, at any depth."""
    if isinstance(config, list):
        return set().union(*map(named_classes, config))
    if not isinstance(config, Mapping):
        return set()
    own = {value for key, value in config.items() if key in ("class_path", "network") and isinstance(value, str)}
    return own.union(*map(named_classes, config.values()))


def class_path(cls: Any) -> str:
    """The path that a class or function is imported by; of defectlab's, that of the room: `defectlab.tasks.PretrainedTask`."""
    module, name = str(cls.__module__), str(cls.__qualname__)
    room = ".".join(module.split(".")[:2])
    public = room.startswith("defectlab.") and getattr(sys.modules.get(room), name, None) is cls
    return f"{room if public else module}.{name}"


def find_class(path: str, base: type, trusted: Collection[str] = ()) -> Any:
    """Find the class of a path in a checkpoint: one of defectlab's, one that is imported already, or one of `trusted`.

    A checkpoint is data, and what it names must not be run for that: nothing else is imported. A function, which builds
    what it returns with the checkpoint's arguments, has to be trusted by name.

    Raises:
        InputError: it is none of these, cannot be imported, or is no subclass of `base`.
    """
    module, _, name = path.rpartition(".")
    package = module.partition(".")[0]
    try:
        if package == "defectlab":
            room = importlib.import_module(".".join(module.split(".")[:2]))
            # Where a class lies within its room is nobody's business, and has changed.
            found = getattr(room, name, None) or getattr(importlib.import_module(module), name)
        elif package in {other.partition(".")[0] for other in trusted}:
            found = getattr(importlib.import_module(module), name)
        else:
            found = getattr(sys.modules[module], name)
    except KeyError:
        raise InputError(
            f"{path} is neither defectlab's nor imported: import {module or 'its module'} first, or give the run folder, "
            "whose config.yaml names it"
        ) from None
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"{path} cannot be imported: {error}") from None
    if inspect.isclass(found) and issubclass(found, base):
        return found
    if path in trusted and base is nn.Module and inspect.isfunction(found):
        return found
    raise InputError(f"{path} is no {base.__name__}: expected a subclass")


def find_network(spec: Mapping[str, Any], trusted: Collection[str] = ()) -> functools.partial[nn.Module]:
    """Find the class or function of `{"class_path": ..., "init_args": {...}}`, its further arguments filled in.

    Raises:
        InputError: as `find_class`.
    """
    return functools.partial(find_class(str(spec["class_path"]), nn.Module, trusted), **spec.get("init_args") or {})
