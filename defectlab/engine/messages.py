"""Shorten the page that jsonargparse writes about an argument to one line: which one, what is wrong, what is right."""

import dataclasses
import importlib
import inspect
import typing
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import jsonargparse
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer, callbacks

import defectlab.data
import defectlab.networks
import defectlab.tasks
from defectlab.data import ImageDataModule
from defectlab.errors import InputError
from defectlab.networks import Network
from defectlab.tasks import ClassificationTask
from defectlab.utils._compat import ArgumentMessage
from defectlab.utils.cpu import CPUSettings

_WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "NoneType": "null",
          "tuple": "[height, width]"}  # fmt: skip
_BY_NAME = "expected its arguments, each with a name: {name: value, ...}"
_TRIED = {  # words of other programs, and what they are called here
    "epochs": "trainer.max_epochs", "max_epochs": "trainer.max_epochs", "gpus": "trainer.devices",
    "device": "trainer.accelerator", "lr": "model.optimizer.lr", "learning_rate": "model.optimizer.lr",
    "weight_decay": "model.optimizer.weight_decay", "momentum": "model.optimizer.momentum",
    "dropout": "model.network.dropout", "batch_size": "data.batch_size", "image_size": "data.image_size",
    "data_dir": "data.root", "flip": "data.augmentation.horizontal_flip", "hflip": "data.augmentation.horizontal_flip",
    "vflip": "data.augmentation.vertical_flip", "seed": "seed_everything", "checkpoint": "ckpt_path",
    "resume": "ckpt_path", "size": "data.image_size", "img_size": "data.image_size", "bs": "data.batch_size",
    "rot": "data.augmentation.rotation", "rotate": "data.augmentation.rotation", "wd": "model.optimizer.weight_decay",
    "augment": "data.augmentation", "augmentation": "data.augmentation", "optimizer": "model.optimizer",
    "network": "model.network", "patience": "trainer.callbacks.EarlyStopping.patience", "root": "data.root",
}  # fmt: skip
_LISTED = 14  # more names than this nobody reads
_LONGEST = 300


def explain(message: str) -> str:
    """Return what `message` of jsonargparse says in one line that names the argument and the nearest right value."""
    said = ArgumentMessage(message)
    place, classes = said.place, said.class_paths
    holder = _import(classes[-1]) if classes else None
    if place == "trainer.callbacks" and holder is not None:
        place = f"trainer.callbacks.{holder.__name__}"
    if key := said.unknown_key:
        return _follow_unknown(place, key, holder)
    if name := said.missing_class:
        name = classes[-1] if holder is None and classes and not name[0].isupper() else name
        wanted = _class_names(place)
        if not wanted and place.startswith(("model.", "data.")):
            return f"{place} is {name}: {_BY_NAME}"
        return f"{place}: there is no class {name}{_near(name.rpartition('.')[2], wanted)}"
    if wrong := said.wrong_subclass:
        return f"{place} is {wrong[0]}: expected a subclass of {wrong[1]}"
    if missing := said.missing_arguments:
        if not place:
            parts = [name.rpartition(".")[2] for name in missing]
            return f"the config has no {' and no '.join(parts)}: expected sections with class_path and init_args"
        return f"{place}.{', '.join(missing)} is missing: give it in the config, or as --{place}.{missing[0]}"
    if given := said.no_sections:
        return f"{place} is {given}: {_BY_NAME}"
    if expected := said.expected_types:
        useful = [kind for kind in expected if kind != "<class 'NoneType'>"]
        return f"{place} is {said.given_value}: " + (f"expected {_readable(expected)}" if useful else _BY_NAME)
    if given := said.no_class_spec:
        return f"{place} is {given}: expected the name of a class"
    if said.head.endswith("expected one argument"):
        option = said.head.split()[1].rstrip(":")
        return f"{option}: expected one argument; one that begins with a dash is written {option}.NAME=VALUE"
    if words := said.stray_words:
        return f"unexpected words {words}: options begin with --, values follow their option"
    return said.head if len(said.head) <= _LONGEST else f"{said.head[:_LONGEST]}…"


def check_empty_sections(given: Any, config: Any, *place: str) -> None:
    """Raise InputError for an unknown key that holds an empty mapping: jsonargparse passes over it, like over any empty one."""
    if not isinstance(given, dict) or not isinstance(config, jsonargparse.Namespace):
        return
    for key, value in given.items():
        if value == {} and key not in config:
            shown = [part for part in place if part != "init_args"]
            raise InputError(unknown_key(shown, key, list(vars(config))))
        if key in config:
            check_empty_sections(value, config[key], *place, key)


def innermost(error: Exception) -> str:
    """Return what a constructor said, out of the layers of jsonargparse, which keeps the text, not the error."""
    chain: list[BaseException] = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None and inner not in chain:
        chain.append(inner)
    own = [link for link in chain if isinstance(link, InputError | MisconfigurationException | ModuleNotFoundError)]
    if own:
        return " ".join(str(own[0]).split())
    lines = [line.strip(" -") for line in str(error).splitlines() if line.lstrip().startswith("- ")]
    return next((line for line in lines if not line.startswith("Does not validate")), " ".join(str(error).split()))


def _import(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        return None


def _follow_unknown(place: str, key: str, holder: Any) -> str:
    """Follow the key from its holder up to the part that is not known."""
    top = {"trainer": Trainer, "cpu": CPUSettings}
    right = [place] if place else []
    names = (
        _arguments(holder) if holder else ["seed_everything", "trainer", "model", "data", "choose", "cpu", "ckpt_path"]
    )
    for part in key.split("."):
        if part not in names:
            break
        right.append(part)
        holder = _type_of(holder, part) if holder else top.get(part)
        names = _arguments(holder) if holder else []
    return unknown_key(right, part, names)


def unknown_key(place: Sequence[str], key: str, names: list[str]) -> str:
    """Return the message about `key`, found at `place` where only `names` are known."""
    wanted = _TRIED.get(key.replace("-", "_"))
    if wanted is not None and wanted != ".".join([*place, key]):
        return f"unknown key {'.'.join([*place, key])}: did you mean {wanted}?"
    if key in ("num_workers", "workers"):
        return f"unknown key {'.'.join([*place, key])}: images are in memory, and no processes load them"
    return f"unknown key {'.'.join([*place, key])}{_near(key, names)}"


def _arguments(holder: Any) -> list[str]:
    return [name for name in inspect.signature(holder).parameters if name not in ("args", "kwargs")]


def _type_of(holder: Any, name: str) -> Any:
    """Return the dataclass that an argument of a class takes, if it takes one."""
    hint = typing.get_type_hints(holder.__init__).get(name)
    return next((kind for kind in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(kind)), None)


def _class_names(place: str) -> list[str]:
    """Return the names of classes that fit a place."""
    kinds: dict[str, tuple[Any, type]] = {
        "model": (defectlab.tasks, ClassificationTask),
        "data": (defectlab.data, ImageDataModule),
        "network": (defectlab.networks, Network),
        "callbacks": (callbacks, callbacks.Callback),
    }
    package, base = kinds.get(place.split(".")[-1], (None, object))
    found = [getattr(package, name) for name in package.__all__] if package else []
    return [cls.__name__ for cls in found if inspect.isclass(cls) and issubclass(cls, base) and cls is not base]


def _near(name: str, names: list[str]) -> str:
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return f": did you mean {near[0]}?"
    return f": expected one of {', '.join(sorted(names))}" if 0 < len(names) <= _LISTED else ""


def _readable(types: list[str]) -> str:
    """Write types such as `<class 'int'>` and `typing.Literal['a', 'b']` in words."""
    words: list[str] = []
    for kind in dict.fromkeys(types):
        if kind.startswith("typing"):
            words += [value.strip("' ") for value in kind.partition("[")[2].rstrip("]").split(",")]
        else:
            name = kind.split("'")[1].rsplit(".", 1)[-1]
            words.append(_WORDS.get(name, name))
    unique = [word for word in dict.fromkeys(words) if word != "a whole number" or "a number" not in words]
    return f"one of {', '.join(unique)}" if len(unique) > 2 else " or ".join(unique)
