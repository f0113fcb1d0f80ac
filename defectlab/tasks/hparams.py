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
from defectlab.utils.image_format import Size
from defectlab.utils.typed import check_arguments

NOT_PLAIN: Final = object()  # of `to_plain_values`: the value is neither plain nor a class
_ROOMS = ("defectlab.tasks", "defectlab.networks")
# Arguments of torchvision's and timm's networks, and what they are without pretrained weights.
_NO_WEIGHTS: Final = {
    "weights": None, "weights_backbone": None, "pretrained": False, "checkpoint_path": "", "pretrained_cfg": None,
    "pretrained_cfg_overlay": None, "cache_dir": None,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class NetworkSpec:
    """A network by its import path, as in a config; it is imported when `load` is called.

    Args:
        class_path: of a class, or of a function that returns a network.
        init_args: its arguments besides those of `build_network`; None for none.
    """

    class_path: str
    init_args: Mapping[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it as in a config."""
        return {"class_path": self.class_path, "init_args": dict(self.init_args or {})}

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
        made, given = to_plain_values(value.func), to_plain_values(value.keywords)
        plain = isinstance(made, dict) and given is not NOT_PLAIN and not value.args
        return {**made, "init_args": given} if plain else NOT_PLAIN
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Mapping):
        items = {str(key): to_plain_values(item) for key, item in value.items()}
        return NOT_PLAIN if NOT_PLAIN in items.values() else items
    if isinstance(value, list | tuple):
        parts = [to_plain_values(item) for item in value]
        return NOT_PLAIN if NOT_PLAIN in parts else parts
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


def find_class(path: str, base: type, allowed: Collection[str] = ()) -> Any:
    """Find the class of a path in a checkpoint: a public one of ours, one that is imported already, or one of `allowed`.

    A checkpoint is data, so nothing else is imported for it. A function has to be among `allowed`.

    Raises:
        InputError: it is none of these, cannot be imported, or is no subclass of `base`.
    """
    module, _, name = path.rpartition(".")
    room = ".".join(module.split(".")[:2])
    try:
        if room in _ROOMS:
            found = getattr(importlib.import_module(room), name)  # modules within a room may move
        elif path in allowed:
            found = getattr(importlib.import_module(module), name)
        else:
            found = getattr(sys.modules[module], name)
    except KeyError:
        raise InputError(
            f"{path} is neither defectlab's nor imported: import {module or 'its module'} first, give the run folder, "
            "whose config.yaml names it, or allow it by name"
        ) from None
    except (ImportError, AttributeError, ValueError) as error:
        if module == "__main__":
            raise InputError(
                f"{path} was defined in a program or notebook that does not run now: put it into a module, and import "
                "it from there in the program that trains"
            ) from None
        raise InputError(f"{path} cannot be imported: {error}") from None
    other = base is nn.Module and hasattr(found, "training_step")  # a task, whose arguments may name files
    if inspect.isclass(found) and issubclass(found, base) and not other:
        return found
    if path in allowed and base is nn.Module and inspect.isfunction(found):
        return found
    raise InputError(f"{path} is no {base.__name__}: expected a subclass")


def find_network(spec: Mapping[str, Any], allowed: Collection[str] = ()) -> functools.partial[nn.Module]:
    """Find the class or function of `{"class_path": ..., "init_args": {...}}`, its further arguments filled in.

    Raises:
        InputError: as `find_class`, or arguments of other types than it is annotated with.
    """
    path, given = spec.get("class_path"), spec.get("init_args") or {}
    if not isinstance(path, str) or not isinstance(given, Mapping):
        raise InputError("model.network is no class with init_args: expected its import path")
    found = find_class(path, nn.Module, allowed)
    check_arguments(found, given)
    return functools.partial(found, **given)


def without_downloads(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the spec of a network without the arguments that would download or open pretrained weights."""
    given = spec.get("init_args")
    kept = {k: _NO_WEIGHTS.get(k, v) for k, v in given.items()} if isinstance(given, Mapping) else given
    return {**spec, "init_args": kept}


def is_found_again(value: Any) -> bool:
    """Return whether a class or function is what its `class_path` names in this process."""
    module, _, name = class_path(value).rpartition(".")
    return getattr(sys.modules.get(module), name, None) is value


def module_spec(
    network: nn.Module, num_classes: int, in_channels: int | None, image_size: Size | None
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
