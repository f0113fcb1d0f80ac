"""Where a config is: the path as given first, then the ones that come with defectlab."""

import importlib.util
import inspect
import itertools
import re
import sys
import sysconfig
import traceback
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from defectlab.errors import InputError
from defectlab.tasks.hparams import NetworkSpec, add_import_folders, named_classes
from defectlab.utils.resources import shipped_configs

__all__ = ["check_imports", "find_config", "import_folders", "own_network", "resolve_config_arguments", "upgraded"]

_CLASS = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+"
_FIRST = ["num_classes", "in_channels", "image_size"]
_DISTILLATION = (
    "model.distillation is now a callback: write {class_path: defectlab.callbacks.Distillation, init_args: {teacher: RUN}} "
    "as the last of trainer.callbacks, or --trainer.callbacks+=defectlab.callbacks.Distillation "
    "--trainer.callbacks.teacher=RUN"
)


def find_config(name: str) -> Path:
    """The file that `name` means.

    Raises:
        InputError: there is none; names the nearest.
    """
    if Path(name).is_file():
        return Path(name)
    if Path(name).is_dir():
        raise InputError(f"{name} is a folder: expected a YAML file; for a run folder use resume or test")
    shipped = shipped_configs()
    for candidate in (name, f"{name}.yaml"):
        if candidate in shipped:
            return shipped[candidate]
    near = get_close_matches(Path(name).name, shipped, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"shipped are {', '.join(shipped)}"
    raise InputError(f"no config {name}: expected a YAML file or the name of a shipped one; {hint}")


def resolve_config_arguments(words: list[str]) -> tuple[list[str], str | None]:
    """Replace the value of every `--config`; also the name of the first one, which names the run.

    Raises:
        InputError: a config that cannot be found, or is no YAML of sections.
    """
    resolved: list[str] = []
    first: str | None = None
    expecting = False
    for word in words:
        option, equals, value = word.partition("=")
        if expecting or (option in ("--config", "-c") and equals):
            path = find_config(word if expecting else value)
            _check_yaml(path)
            resolved += [str(path)] if expecting else ["--config", str(path)]
            first = first or _name(path)
            expecting = False
        else:
            resolved.append(word)
            expecting = word in ("--config", "-c")
    return resolved, first


def upgraded(words: list[str]) -> list[str]:
    """Join the callbacks of several configs, and answer what configs no longer have.

    A later config's callback takes the place of an earlier one of its class, a checkpoint of its file name; any other is
    added. An unused `model.distillation` is dropped.

    Raises:
        InputError: a teacher is given the old way.
    """
    result = list(words)
    callbacks: list[Any] = []
    for place, word in enumerate(words):
        if word.partition("=")[0].startswith("--model.distillation"):
            raise InputError(_DISTILLATION)
        if place and words[place - 1] == "--config":
            content = yaml.safe_load(Path(word).read_text(encoding="utf-8"))
            add_import_folders(content.get("python_path") or [])
            arguments = (content.get("model") or {}).get("init_args") or {}
            if arguments.get("distillation") is not None:
                raise InputError(f"{word}: {_DISTILLATION}")
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
    """The callbacks of two configs."""

    def key(callback: Any) -> tuple[str, str]:
        spec = callback if isinstance(callback, dict) else {"class_path": callback}
        name = str(spec.get("class_path")).rpartition(".")[2]
        return name, str((spec.get("init_args") or {}).get("filename") if name == "ModelCheckpoint" else "")

    places = {key(callback): callback for callback in earlier}
    return list((places | {key(callback): callback for callback in later}).values())


def import_folders(config: Any) -> list[str]:
    """Find the folders that a config's own modules were imported from: not those of installed packages."""
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
    """Tell what is wrong within an own module that a command names.

    Raises:
        InputError: it cannot be imported; holds its own error, file and line.
    """
    classes = {word.rpartition("=")[2] for word in words if re.fullmatch(_CLASS, word.rpartition("=")[2])}
    for option, word in itertools.pairwise(words):
        if option == "--config":
            classes |= named_classes(yaml.safe_load(Path(word).read_text(encoding="utf-8")))
    for path in sorted(classes):
        module = path.rpartition(".")[0]
        try:
            if module and importlib.util.find_spec(module.split(".")[0]):
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
    """Take the network that a config names for one to be built by `build_network`.

    Raises:
        ValueError: it is one of defectlab's, or a class with the same three first arguments, which the parser knows.
    """
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
    """A run's own config.yaml goes by the name that its run has."""
    is_of_run = path.name == "config.yaml" and (path.parent / "metrics.json").is_file()
    return path.resolve().parent.parent.name if is_of_run else path.stem


def _check_yaml(path: Path) -> None:
    """jsonargparse would not say in which file the mistake is."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        found = "nothing" if content is None else f"a {type(content).__name__}"
        raise InputError(f"{path} holds {found}: expected sections such as model, data and trainer")
