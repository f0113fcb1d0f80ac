"""Files that come with the package: configs, weights, classifiers; in a wheel or beside it in a checkout."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
SHIPPED = (_PACKAGE / "checkpoints", _PACKAGE.parent / "checkpoints")  # in a wheel; in the repository


def shipped_files(pattern: str) -> list[Path]:
    """Return the shipped checkpoints and weights whose name fits the glob pattern."""
    return [path for folder in SHIPPED for path in sorted(folder.glob(pattern)) if path.is_file()]


def shipped_configs() -> dict[str, Path]:
    """Return name and path of every shipped YAML, those of the course last."""
    for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs"):
        if folder.is_dir():
            return {path.name: path for pattern in ("*.yaml", "course/*.yaml") for path in sorted(folder.glob(pattern))}
    return {}
