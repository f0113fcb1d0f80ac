"""Name runs by their paths and by what differs in their configs."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from defectlab.errors import InputError
from defectlab.runs import RunFolder
from defectlab.runs.folder import STAMP
from defectlab.utils.yamls import read_yaml

# What does not change a result: where things are, and what is shown.
_ASIDE = ("trainer.default_root_dir", "trainer.enable_progress_bar", "trainer.logger", "data.root", "cpu")
_WIDEST = 40  # characters of a value


def short_names(paths: Sequence[Path]) -> list[str]:
    """Name different absolute paths by their parts below the deepest folder that all share, if possible without time stamps."""
    if len(set(paths)) < len(paths):
        raise InputError(f"{next(path for path in paths if paths.count(path) > 1)} is named twice: name different runs")
    levels = zip(*(path.parent.parts for path in paths), strict=False)
    shared = sum(1 for _ in takewhile(lambda parts: len(set(parts)) == 1, levels))
    whole = [path.parts[shared:] for path in paths]
    timeless = [tuple(part for part in parts if not STAMP.fullmatch(part)) for parts in whole]
    enough = all(timeless) and len(set(timeless)) == len(paths)
    return ["/".join(parts) for parts in (timeless if enough else whole)]


def read_settings(run: RunFolder) -> dict[str, str]:
    """Read the values of a run's config by dotted name, classes by their own names; none of an ensemble's."""
    try:
        config = read_yaml(run.config)
    except InputError:
        return {}
    if not isinstance(config, dict) or "ensemble" in config:
        return {}
    return {
        name: value
        for name, value in _flatten(config, "")
        if not f"{name}.".startswith(tuple(f"{key}." for key in _ASIDE))
    }


def _flatten(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, list) and value and all(isinstance(item, dict) and "class_path" in item for item in value):
        for item in value:  # callbacks, each by its class
            yield from _flatten(item, f"{name}.{_class_name(item)}")
    elif isinstance(value, dict) and "class_path" in value:
        yield name, _class_name(value)
        yield from _flatten(value.get("init_args") or {}, name)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _flatten(item, f"{name}.{key}" if name else str(key))
    else:
        text = "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        yield name, text if len(text) <= _WIDEST else f"{text[: _WIDEST - 1]}…"


def _class_name(value: Mapping[str, Any]) -> str:
    return str(value["class_path"]).rpartition(".")[2]


def config_differences(settings: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """Compare the settings of several runs, as `read_settings` returns them.

    Returns:
        The values of each run, `none` where it has none, by the shortest name of each setting that differs. Where
        classes differ, their arguments are left out. Nothing if the settings of a run are not known.
    """
    if not all(settings):
        return {}
    every = {name: [run.get(name, "none") for run in settings] for run in settings for name in run}
    differing = {name: values for name, values in every.items() if len(set(values)) > 1}
    kept = [name for name in differing if not any(name.startswith(f"{other}.") for other in differing)]
    return {_short(name, kept): differing[name] for name in kept}


def _short(name: str, names: Sequence[str]) -> str:
    parts = name.split(".")
    for length in range(1, len(parts)):
        tail = ".".join(parts[-length:])
        if not any(other != name and f".{other}".endswith(f".{tail}") for other in names):
            return tail
    return name
