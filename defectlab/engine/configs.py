"""Find configs: the path as given first, then the ones that come with defectlab; an overlay brings its base."""

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from defectlab.errors import InputError
from defectlab.utils.resources import shipped_configs

__all__ = ["base_of", "config_sections", "find_config", "resolve_config_arguments"]

_BASE = "base"


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


def base_of(path: Path) -> Path | None:
    """Find the config that an overlay changes: the one its key `base` names, beside it or shipped.

    Raises:
        InputError: the base cannot be found, or is an overlay itself.
    """
    return _base_of(path, _read(path))


def _base_of(path: Path, content: dict[str, Any]) -> Path | None:
    if _BASE not in content:
        return None
    name = content[_BASE]
    beside = path.parent / str(name)
    found = beside if beside.is_file() else shipped_configs().get(str(name))
    if not isinstance(name, str) or found is None:
        raise InputError(f"{path}: base is {name}: expected the name of a YAML file beside it, or of a shipped one")
    if _BASE in _read(found):
        raise InputError(f"{path}: its base {name} has a base itself: expected a config that stands alone")
    return found


def resolve_config_arguments(words: list[str]) -> tuple[list[str], str | None]:
    """Replace the value of every `--config`; also the name of the first one, which names the run.

    An overlay becomes two: the path of its base, and its own sections as text.

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
            if expecting:
                resolved.pop()
            content = _read(path)
            base = _base_of(path, content)
            if base is None:
                resolved += ["--config", str(path)]
            else:
                del content[_BASE]
                if "callbacks" in (content.get("trainer") or {}):
                    raise InputError(f"{path}: trainer.callbacks would drop those of its base: write callbacks+ to add")
                resolved += ["--config", str(base), "--config", yaml.safe_dump(content)]
            first = first or _name(path)
            expecting = False
        else:
            resolved.append(word)
            expecting = word in ("--config", "-c")
    return resolved, first


def config_sections(words: list[str]) -> list[Any]:
    """Read every `--config` of words that `resolve_config_arguments` returned, files and texts alike."""
    given = [value for option, value in zip(words, words[1:], strict=False) if option == "--config"]
    return [yaml.safe_load(value if "\n" in value else Path(value).read_text(encoding="utf-8")) for value in given]


def _name(path: Path) -> str:
    """A run's own config.yaml goes by the name that its run has."""
    is_of_run = path.name == "config.yaml" and (path.parent / "metrics.json").is_file()
    return path.resolve().parent.parent.name if is_of_run else path.stem


def _read(path: Path) -> dict[str, Any]:
    """Sections by name; jsonargparse would not say in which file a mistake is."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        found = "nothing" if content is None else f"a {type(content).__name__}"
        raise InputError(f"{path} holds {found}: expected sections such as model, data and trainer")
    return content
