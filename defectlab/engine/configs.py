"""Find configs, lay overlays over their bases, and write Python values as words of a command."""

import importlib.util
import inspect
import itertools
import json
import re
import sys
import sysconfig
import traceback
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from defectlab.errors import InputError
from defectlab.tasks.hparams import NetworkSpec, add_import_folders, named_classes
from defectlab.utils.resources import shipped_configs

_CLASS = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+"
_FIRST = ["num_classes", "in_channels", "image_size"]
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


def resolve_config_arguments(words: list[str]) -> tuple[list[str], str | None]:
    """Replace the value of every `--config` by a path; also return the name of the first one, which names the run.

    An overlay becomes two: the path of its base, and its own sections as text.
    """
    split = (word.split("=", 1) if word.startswith(("--config=", "-c=")) else [word] for word in words)
    given = iter(part for parts in split for part in parts)
    resolved: list[str] = []
    first: str | None = None
    for word in given:
        value = next(given, None) if word in ("--config", "-c") else None
        if value is None:
            resolved.append(word)
            continue
        path = find_config(value)
        content = _read(str(path))
        base = base_of(path, content)
        if base is None:
            resolved += ["--config", str(path)]
        else:
            del content[_BASE]
            if "callbacks" in (content.get("trainer") or {}):
                raise InputError(f"{path}: trainer.callbacks would drop those of its base: write callbacks+ to add")
            resolved += ["--config", str(base), "--config", yaml.safe_dump(content)]
        first = first or _name(path)
    return resolved, first


def upgraded(words: list[str]) -> list[str]:
    """Join the callbacks of several configs, and drop or refuse what configs no longer have.

    A later config's callback replaces an earlier one of its class (a checkpoint: of its file name); any other is added.
    """
    result = list(words)
    callbacks: list[Any] = []
    for place, word in enumerate(words):
        if word.partition("=")[0].startswith("--model.distillation"):
            raise InputError(_DISTILLATION)
        if place and words[place - 1] == "--config":
            content = _read(word)
            add_import_folders(content.get("python_path") or [])
            arguments = (content.get("model") or {}).get("init_args") or {}
            if arguments.get("distillation") is not None:
                raise InputError(_DISTILLATION)
            trainer = content.get("trainer") or {}
            added: Any = trainer.get("callbacks")
            joins = bool(callbacks) and isinstance(added, list)
            if joins:
                added = trainer["callbacks"] = _joined(callbacks, added)
            callbacks = added if isinstance(added, list) else callbacks
            if joins or "distillation" in arguments:
                arguments.pop("distillation", None)
                result[place] = yaml.safe_dump(content, sort_keys=False)  # a text will do in place of a file
    return result


def _joined(earlier: list[Any], later: list[Any]) -> list[Any]:
    """Join the callbacks of two configs."""

    def key(callback: Any) -> tuple[str, str]:
        spec = callback if isinstance(callback, dict) else {"class_path": callback}
        name = str(spec.get("class_path")).rpartition(".")[2]
        return name, str((spec.get("init_args") or {}).get("filename") if name == "ModelCheckpoint" else "")

    places = {key(callback): callback for callback in earlier}
    return list((places | {key(callback): callback for callback in later}).values())


def import_folders(config: Any) -> list[str]:
    """Return the folders that a config's own modules were imported from, without those of installed packages."""
    installed = {Path(folder).resolve() for folder in sysconfig.get_paths().values()}
    found: list[str] = []
    for path in sorted(named_classes(config)):
        file = getattr(sys.modules.get(path.split(".")[0]), "__file__", None)
        if file is None or path.split(".")[0] in ("defectlab", "__main__"):
            continue
        folder = Path(file).resolve().parents[1 if Path(file).name == "__init__.py" else 0]
        if not {folder, *folder.parents} & installed and str(folder) not in found:
            found.append(str(folder))
    return found


def check_imports(words: list[str]) -> None:
    """Raise InputError with the error, file and line of an own module that a command names and that fails to import."""
    classes = {word.rpartition("=")[2] for word in words if re.fullmatch(_CLASS, word.rpartition("=")[2])}
    for option, word in itertools.pairwise(words):
        if option == "--config":
            classes |= named_classes(_read(word))
    for path in sorted(classes):
        module = path.rpartition(".")[0]
        try:
            if module and module not in sys.modules and importlib.util.find_spec(module.split(".")[0]):
                import_module(module)
        except Exception as error:  # whatever a module of somebody's raises
            if isinstance(error, ModuleNotFoundError) and error.name and module.startswith(error.name):
                continue
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{last.filename}, line {last.lineno}"
            if isinstance(error, SyntaxError):
                place = f"{error.filename}, line {error.lineno}"
            raise InputError(f"{module} cannot be imported: {type(error).__name__}: {error} ({place})") from None


def own_network(value: Any) -> NetworkSpec:
    """Parse the network that a config names for `build_network`; ValueError for what the parser builds itself."""
    spec: dict[str, Any] = value if isinstance(value, dict) else {"class_path": value}
    path = str(spec.get("class_path"))
    module, _, name = path.rpartition(".")
    if not module or module.split(".")[0] == "defectlab":
        raise ValueError("one of defectlab's networks")
    found = getattr(import_module(module), name)
    if inspect.isclass(found) and list(inspect.signature(found).parameters)[:3] == _FIRST:
        raise ValueError("the same three first arguments")
    return NetworkSpec(path, spec.get("init_args"))


def _name(path: Path) -> str:
    """Return the name of a config; a run's own config.yaml goes by the name that its run has."""
    is_of_run = path.name == "config.yaml" and (path.parent / "metrics.json").is_file()
    return path.resolve().parent.parent.name if is_of_run else path.stem


def config_sections(words: list[str]) -> list[dict[str, Any]]:
    """Read every `--config` of words that `resolve_config_arguments` returned: a file, or YAML text of several lines."""
    given = [value for option, value in zip(words, words[1:], strict=False) if option == "--config"]
    found = [_read(value) for value in given]
    for content in found:
        _check_class_sections(content)
    return found


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
    name = "the config" if is_text else file_or_text
    try:
        content = yaml.safe_load(file_or_text if is_text else Path(file_or_text).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{name} is no valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        found = "nothing" if content is None else f"a {type(content).__name__}"
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
