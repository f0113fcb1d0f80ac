"""Find configs, lay overlays over their bases, and write Python values as words of a command."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from defectlab.errors import InputError
from defectlab.tasks.hparams import add_import_folders
from defectlab.utils.resources import shipped_configs
from defectlab.utils.yamls import parse_yaml, read_yaml

_DISTILLATION = (
    "model.distillation is now a callback: write {class_path: defectlab.callbacks.Distillation, init_args: {teacher: RUN}} "
    "as the last of trainer.callbacks, or --trainer.callbacks+=defectlab.callbacks.Distillation "
    "--trainer.callbacks.teacher=RUN"
)
_BASE = "base"


def find_config(name: str) -> Path:
    """Return the YAML file of this path or shipped name; InputError names the nearest."""
    if Path(name).is_file():
        return Path(name)
    if Path(name).is_dir():
        raise InputError(f"{name} is a folder: expected a YAML file; for a run folder use resume or test")
    shipped = shipped_configs()
    for candidate in (name, f"{name}.yaml"):
        if candidate in shipped:
            return shipped[candidate]
    stems = {Path(config).stem: config for config in shipped}
    near = get_close_matches(Path(name).stem, stems, n=1, cutoff=0.7)  # the suffix is alike in all
    hint = f"did you mean {stems[near[0]]}?" if near else "`defectlab configs` lists those"
    raise InputError(f"no config {name}: expected a YAML file or the name of a shipped one; {hint}")


@dataclass(frozen=True)
class Arguments:
    """Arguments of a command, with every config read.

    Args:
        words: of LightningCLI: the value of each `--config` is YAML text, of a base before that of its overlay.
        sections: of each config, in that order.
        name: of the first config, which names the run; None where none is a file.
    """

    words: list[str]
    sections: list[dict[str, Any]]
    name: str | None


def base_of(path: Path, content: dict[str, Any] | None = None) -> Path | None:
    """Find the config that an overlay (its `content`, if read already) changes, beside it or shipped; it has no base itself."""
    content = _read(str(path)) if content is None else content
    if _BASE not in content:
        return None
    name = content[_BASE]
    beside = path.parent / str(name)
    found = beside if beside.is_file() else shipped_configs().get(str(name))
    if not isinstance(name, str) or found is None:
        raise InputError(f"{path}: base is {name}: expected the name of a YAML file beside it, or of a shipped one")
    if _BASE in _read(str(found)):
        raise InputError(f"{path}: its base {name} has a base itself: expected a config that stands alone")
    return found


def read_arguments(words: Sequence[str]) -> Arguments:
    """Read every `--config` among the arguments of a command: a file, a shipped name, or YAML text of several lines.

    The callbacks of several configs are joined: a later config's replaces an earlier one of its class (a checkpoint: of its
    file name), any other is added.

    Raises:
        InputError: a config that is not there or no valid YAML, or a setting that configs no longer have.
    """
    split = (word.split("=", 1) if word.startswith(("--config=", "-c=")) else [word] for word in words)
    given = iter(part for parts in split for part in parts)
    found: list[str] = []
    sections: list[dict[str, Any]] = []
    name: str | None = None
    for word in given:
        if word.partition("=")[0].startswith("--model.distillation"):
            raise InputError(_DISTILLATION)
        value = next(given, None) if word in ("--config", "-c") else None
        if value is None:
            if word.rpartition("=")[2].startswith("{"):
                parse_yaml(word.rpartition("=")[2] if word.startswith("--") else word, word[:40])
            found.append(word)
            continue
        path = None if "\n" in value else find_config(value)
        content = _read(value if path is None else str(path))
        base = None if path is None else base_of(path, content)
        for layer in [content] if base is None else [_read(str(base)), content]:
            _prepare(layer, sections)
            found += ["--config", yaml.safe_dump(layer, sort_keys=False, allow_unicode=True, width=10_000) + "\n"]
            sections.append(layer)
        name = name or (None if path is None else _name(path))
    return Arguments(found, sections, name)


def _prepare(content: dict[str, Any], earlier: Sequence[dict[str, Any]]) -> None:
    """Check a config, and join its callbacks with those of the configs before it."""
    content.pop(_BASE, None)
    _check_class_sections(content)
    folders = content.get("python_path") or []
    add_import_folders(folders if isinstance(folders, list) else [])
    arguments = _inner(_inner(content, "model"), "init_args")
    if arguments.pop("distillation", None) is not None:
        raise InputError(_DISTILLATION)
    trainer = _inner(content, "trainer")
    lists = [_inner(layer, "trainer").get("callbacks") for layer in earlier]
    before = next((callbacks for callbacks in reversed(lists) if isinstance(callbacks, list)), [])
    if before and isinstance(trainer.get("callbacks"), list):
        joined = {_callback_key(callback): callback for callback in [*before, *trainer["callbacks"]]}
        trainer["callbacks"] = list(joined.values())


def _inner(content: dict[str, Any], key: str) -> dict[str, Any]:
    value = content.get(key)
    return value if isinstance(value, dict) else {}


def _callback_key(callback: Any) -> tuple[str, str]:
    """Return what two callbacks of one kind share: the class, and of a checkpoint the name of its file."""
    spec = callback if isinstance(callback, dict) else {"class_path": callback}
    name = str(spec.get("class_path")).rpartition(".")[2]
    return name, str(_inner(spec, "init_args").get("filename") if name == "ModelCheckpoint" else "")


def _name(path: Path) -> str:
    """Return the name of a config; a run's own config.yaml goes by the name that its run has."""
    is_of_run = path.name == "config.yaml" and (path.parent / "metrics.json").is_file()
    return path.resolve().parent.parent.name if is_of_run else path.stem


def _check_class_sections(content: Any, *place: str) -> None:
    """Raise InputError for a setting that stands beside class_path; jsonargparse would not say which."""
    if isinstance(content, list):
        for item in content:
            _check_class_sections(item, *place)
    if not isinstance(content, dict):
        return
    if "class_path" in content:
        for key in content.keys() - {"class_path", "init_args", "dict_kwargs"}:
            name = ".".join(place)
            raise InputError(f"{name} has {key} beside class_path: move it one level down, below {name}.init_args")
    for key, value in content.items():
        _check_class_sections(value, *place, key)


def _read(file_or_text: str) -> dict[str, Any]:
    is_text = "\n" in file_or_text
    content = parse_yaml(file_or_text, "the config") if is_text else read_yaml(Path(file_or_text))
    if not isinstance(content, dict):
        found = "nothing" if content is None else f"a {type(content).__name__}"
        name = "the config" if is_text else file_or_text
        raise InputError(f"{name} holds {found}: expected sections such as model, data and trainer")
    return content


def override_words(overrides: Sequence[str] | Mapping[str, Any]) -> tuple[str, ...]:
    """Write overrides of a config as arguments of `fit`.

    Args:
        overrides: such words already, or values by name, dotted (`{"data.root": "NEU"}`) or nested
            (`{"data": {"root": "NEU"}}`); a nested `class_path` chooses a class, `init_args` may be left out. A section
            that is None changes nothing.
    """
    if isinstance(overrides, str):
        raise InputError(f"overrides is the text {overrides!r}: expected a list of words, or values by name")
    if not isinstance(overrides, Mapping):
        return tuple(overrides)
    return tuple(
        word for name, value in overrides.items() if value is not None or "." in name for word in _words(name, value)
    )


def _words(key: str, value: Any) -> list[str]:
    if not isinstance(value, Mapping) or not value:
        text = str(value) if isinstance(value, str | Path) else json.dumps(value, default=str)
        return [f"--{key}={text}"] if text.startswith("-") else [f"--{key}", text]
    words = [f"--{key}", value["class_path"]] if "class_path" in value else []
    inner = {name: item for name, item in value.items() if name not in ("class_path", "init_args")}
    for name, item in {**inner, **(value.get("init_args") or {})}.items():
        words += _words(f"{key}.{name}", item)
    return words
