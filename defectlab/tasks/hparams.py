"""Hyper-parameters as values that a checkpoint can hold without holding code, and the classes that they name."""

import dataclasses
import functools
import importlib
import inspect
import sys
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

import torch
from torch import nn

from defectlab.errors import InputError
from defectlab.networks.base import build_network

NOT_PLAIN: Final = object()  # of `to_plain_values`: the value is neither plain nor a class


class NetworkSpec:
    """A network by its import path, as in a config; it is imported when `load` is called.

    Args:
        class_path: of a class, or of a function that returns a network.
        init_args: its arguments besides those of `build_network`.
    """

    def __init__(self, class_path: str, init_args: Mapping[str, Any] | None = None) -> None:
        self.class_path, self.init_args = class_path, dict(init_args or {})

    def as_dict(self) -> dict[str, Any]:
        """Return it as in a config."""
        return {"class_path": self.class_path, "init_args": self.init_args}

    def load(self) -> functools.partial[nn.Module]:
        """Import it; see `find_network`."""
        return find_network(self.as_dict(), {self.class_path})


def add_import_folders(folders: Iterable[str]) -> None:
    """Add these folders to the end of Python's import path."""
    sys.path.extend(folder for folder in folders if folder not in sys.path)


def to_plain_values(value: Any) -> Any:
    """Turn a value into None, numbers, strings, lists and dicts, a class into its `class_path`; else `NOT_PLAIN`."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if inspect.isclass(value) or inspect.isfunction(value):
        return {"class_path": class_path(value)}
    if isinstance(value, NetworkSpec):
        return value.as_dict()
    if isinstance(value, functools.partial):
        return {**to_plain_values(value.func), "init_args": to_plain_values(value.keywords)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): to_plain_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain_values(item) for item in value]
    return NOT_PLAIN


def named_classes(config: Any) -> set[str]:
    """Collect the class paths in a config, at any depth."""
    if isinstance(config, list):
        return set().union(*map(named_classes, config))
    if not isinstance(config, Mapping):
        return set()
    own = {value for key, value in config.items() if key in ("class_path", "network") and isinstance(value, str)}
    return own.union(*map(named_classes, config.values()))


def class_path(cls: Any) -> str:
    """Return the import path of a class or function; of defectlab's, its public one: `defectlab.tasks.PretrainedTask`."""
    module, name = str(cls.__module__), str(cls.__qualname__)
    room = ".".join(module.split(".")[:2])
    public = room.startswith("defectlab.") and getattr(sys.modules.get(room), name, None) is cls
    return f"{room if public else module}.{name}"


def find_class(path: str, base: type, trusted: Collection[str] = ()) -> Any:
    """Find the class of a path in a checkpoint: one of defectlab's, one that is imported already, or one of `trusted`.

    A checkpoint is data, so nothing else is imported for it. A function has to be among `trusted`.

    Raises:
        InputError: it is none of these, cannot be imported, or is no subclass of `base`.
    """
    module, _, name = path.rpartition(".")
    package = module.partition(".")[0]
    try:
        if package == "defectlab":
            room = importlib.import_module(".".join(module.split(".")[:2]))
            # The public path first: modules within a package may move.
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


def module_spec(
    network: nn.Module, num_classes: int, in_channels: int | None, image_size: int | None
) -> dict[str, Any] | None:
    """Return the class path of a module if its class alone makes one of the same tensors, else None."""
    try:
        with torch.device("meta"):
            again = build_network(type(network), num_classes, in_channels, image_size)
    except Exception:  # of any constructor
        return None
    shapes = [{name: value.shape for name, value in net.state_dict().items()} for net in (again, network)]
    path = class_path(type(network))
    return {"class_path": path} if shapes[0] == shapes[1] and "<" not in path else None
