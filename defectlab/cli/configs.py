"""Where a config is: the path as given first, then the ones that come with defectlab."""

import argparse
from difflib import get_close_matches
from pathlib import Path

from defectlab.errors import InputError

__all__ = ["find_config", "resolve_config_arguments", "run", "shipped_configs"]


def shipped_configs() -> dict[str, Path]:
    """Name and path of every shipped YAML, in a checkout and in an installed wheel."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "configs", package.parent / "configs"):
        if folder.is_dir():
            return {path.name: path for path in sorted(folder.glob("*.yaml"))}
    return {}


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
    """Replace the value of every `--config`; also the stem of the first, which names the run."""
    resolved: list[str] = []
    first: str | None = None
    expecting = False
    for word in words:
        name, equals, value = word.partition("=")
        if expecting:
            path = find_config(word)
            resolved.append(str(path))
        elif name in ("--config", "-c") and equals:
            path = find_config(value)
            resolved += ["--config", str(path)]
        else:
            resolved.append(word)
            expecting = word in ("--config", "-c")
            continue
        expecting = False
        first = first or path.stem
    return resolved, first


def run(words: list[str]) -> int:
    """`defectlab configs [NAME]`."""
    parser = argparse.ArgumentParser("defectlab configs", description="List the shipped configs, or print one.")
    parser.add_argument("name", nargs="?", help="of the config to print")
    name = parser.parse_args(words).name
    if name:
        print(find_config(name).read_text(encoding="utf-8"), end="")
        return 0
    for config, path in shipped_configs().items():
        first = path.read_text(encoding="utf-8").splitlines()[0]
        print(f"{config:<26} {first.lstrip('# ')}")
    return 0
