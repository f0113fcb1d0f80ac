"""Find configs, and turn nested Python values into the words that a command takes."""

import json
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from defectlab.errors import InputError
from defectlab.utils.resources import shipped_configs

__all__ = ["config_sections", "find_config", "override_words", "resolve_config_arguments"]


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
    stems = {Path(config).stem: config for config in shipped}
    near = get_close_matches(Path(name).stem, stems, n=1, cutoff=0.7)  # the suffix is alike in all
    hint = f"did you mean {stems[near[0]]}?" if near else "`defectlab configs` lists those"
    raise InputError(f"no config {name}: expected a YAML file or the name of a shipped one; {hint}")


def resolve_config_arguments(words: list[str]) -> tuple[list[str], str | None]:
    """Replace the value of every `--config`; also the name of the first one, which names the run.

    Raises:
        InputError: a config that cannot be found.
    """
    resolved: list[str] = []
    first: str | None = None
    expecting = False
    for word in words:
        option, equals, value = word.partition("=")
        if expecting or (option in ("--config", "-c") and equals):
            path = find_config(word if expecting else value)
            resolved += [str(path)] if expecting else ["--config", str(path)]
            first = first or _name(path)
            expecting = False
        else:
            resolved.append(word)
            expecting = word in ("--config", "-c")
    return resolved, first


def _name(path: Path) -> str:
    """A run's own config.yaml goes by the name that its run has."""
    is_of_run = path.name == "config.yaml" and (path.parent / "metrics.json").is_file()
    return path.resolve().parent.parent.name if is_of_run else path.stem


def config_sections(words: list[str]) -> list[dict[str, Any]]:
    """Read every `--config` of words that `resolve_config_arguments` returned: a file, or YAML text of several lines.

    Raises:
        InputError: no YAML of sections; jsonargparse would not say in which file the mistake is.
    """
    given = [value for option, value in zip(words, words[1:], strict=False) if option == "--config"]
    found = [_read(value) for value in given]
    for content in found:
        _check_class_sections(content)
    return found


def _check_class_sections(content: Any, *place: str) -> None:
    """Refuse a setting that stands beside class_path; jsonargparse would not say which."""
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


def override_words(**sections: Mapping[str, Any] | int | None) -> list[str]:
    """Turn nested overrides into the command's words: `data={"root": "NEU"}` into `--data.root NEU`."""
    return [word for name, values in sections.items() if values is not None for word in _words(name, values)]


def _words(key: str, value: Any) -> list[str]:
    if not isinstance(value, Mapping) or not value:
        return [f"--{key}={value if isinstance(value, str) else json.dumps(value, default=str)}"]
    words = [f"--{key}={value['class_path']}"] if "class_path" in value else []
    inner = {name: item for name, item in value.items() if name not in ("class_path", "init_args")}
    for name, item in {**inner, **(value.get("init_args") or {})}.items():
        words += _words(f"{key}.{name}", item)
    return words
