"""`defectlab fit --help`: the options of the data and the task that a config names, by group."""

import dataclasses
import importlib
import inspect
import json
import re
import shutil
import textwrap
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from defectlab.engine.configs import read_arguments
from defectlab.engine.start_choice import StartSettings
from defectlab.utils.cpu import CPUSettings

_USAGE = """usage: defectlab fit --config CONFIG [--output DIR] [--data.NAME VALUE] [--model.NAME VALUE] [--trainer.NAME VALUE]

Train as a config says, then test the best checkpoint once. Every setting of the config can be changed by an option.

  --config CONFIG           YAML file, or a name that `defectlab configs` lists; a second one lies over the first
  --output DIR              path of the run folder (default: runs/<config>/<time>)
  --ckpt_path FILE          checkpoint to go on from; `defectlab resume RUN` is shorter
  --seed_everything N       seed of weights and dropout (the split and the order have --data.seed)
  --print_config            print the whole config and stop

Options of the trainer are Lightning's; the ones that are used most:

  --trainer.max_epochs N    --trainer.accelerator cpu|gpu    --trainer.devices N    --trainer.precision bf16-mixed
  --trainer.default_root_dir DIR    --trainer.callbacks+=EMA    --trainer.enable_progress_bar false

All of them: defectlab fit --help trainer"""
_LINKED = ("self", "num_classes", "in_channels")  # from the data


def fit_help(words: list[str]) -> str:
    """Return the help of fit: of the trainer's options if asked for, else with those of the config's classes."""
    from defectlab import callbacks, data, networks, tasks

    if "trainer" in words:
        from lightning.pytorch import Trainer

        return _group("trainer", Trainer, {})
    asked = [word for word in words if word not in ("-h", "--help")]
    sections = read_arguments(asked).sections
    if not sections:
        classes = ", ".join(cls for cls in data.__all__ if cls.endswith("Module"))
        return (
            f"{_USAGE}\n\nWith a config, its own options too: defectlab fit --config neu_mobilenet.yaml --help\n"
            f"Data: {classes}\nTasks: {', '.join(cls for cls in tasks.__all__ if cls.endswith('Task'))}\n"
            f"Callbacks: {', '.join(callbacks.__all__)}"
        )
    parts = [_USAGE]
    for section, package in (("data", data), ("model", tasks)):
        given = [content[section] for content in sections if isinstance(content.get(section), dict)]
        paths = [content["class_path"] for content in given if "class_path" in content]
        arguments = {key: value for content in given for key, value in (content.get("init_args") or {}).items()}
        cls = _find(paths[-1], package) if paths else None
        if cls is None:
            continue
        parts.append(_group(section, cls, arguments))
        network = arguments.get("network")
        inner = _find(network["class_path"] if isinstance(network, dict) else str(network), networks)
        if network is not None and inner is not None:
            own = network.get("init_args") if isinstance(network, dict) else None
            parts.append(_group(f"{section}.network", inner, own or {}))
    return "\n\n".join([*parts, _group("choose", StartSettings, {}), _group("cpu", CPUSettings, {})])


def _find(path: str, package: Any) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module) if module else package, name, None)
    except ImportError:
        return None


def _group(prefix: str, cls: Any, given: Mapping[str, Any]) -> str:
    """One class: its first sentence, then its options."""
    summary = (inspect.getdoc(cls) or "").partition("\n\n")[0].replace("\n", " ")
    width = min(shutil.get_terminal_size().columns, 120)
    head = f"{prefix}: {cls.__name__}"
    lines = [head, *textwrap.wrap(summary, width)] if prefix != "trainer" else [head]
    for option, text in _options(prefix, cls, given):
        wrapped = textwrap.wrap(text, max(40, width - 30)) or [""]
        first = f"  {option:<27} {wrapped[0]}" if len(option) <= 27 else f"  {option}\n{'':30}{wrapped[0]}"
        lines += [first, *(f"{'':30}{line}" for line in wrapped[1:])]
    return "\n".join(lines)


def _options(prefix: str, cls: Any, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every option of a class, and what it does; those of settings in groups follow their group."""
    texts = _argument_texts(cls)
    hints = typing.get_type_hints(cls.__init__)
    for name, parameter in inspect.signature(cls.__init__).parameters.items():
        if name in _LINKED or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if name == "image_size" and prefix.startswith("model"):
            continue
        hint = hints.get(name)
        kinds = (hint, *typing.get_args(hint)) if typing.get_origin(hint) is not list else ()
        inner = next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)
        text, value = texts.get(name, ""), given.get(name, parameter.default)
        if isinstance(inner, type):
            yield f"--{prefix}.{name}", text
            yield from _options(f"{prefix}.{name}", inner, value if isinstance(value, dict) else {})
            continue
        origin = "config" if name in given else "default"
        shown = "has to be given" if value is parameter.empty else f"{origin}: {_shown(value)}"
        yield f"--{prefix}.{name}", f"{text} ({shown})".strip()


def _shown(value: Any) -> str:
    if isinstance(value, dict) and "class_path" in value:
        return str(value["class_path"])
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _argument_texts(cls: Any) -> dict[str, str]:
    """First sentence by name from the `Args:` of a class and of those it inherits from."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        for doc in (base.__doc__, base.__init__.__doc__):
            block = inspect.cleandoc(doc or "").partition("Args:\n")[2]
            block = re.split(r"\n(?=\S)", block)[0]
            for name, text in re.findall(r"^ {4}(\w+): (.*?)(?=^ {4}\S|\Z)", block + "\n", re.M | re.S):
                found[name] = re.split(r"\. (?=[A-Z])", " ".join(text.replace("``", "`").split()))[0].rstrip(".")
    return found
