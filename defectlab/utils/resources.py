"""Files that come with the package: configs, weights, classifiers; in a wheel or beside it in a checkout."""

from pathlib import Path

__all__ = ["SHIPPED", "shipped_configs", "shipped_files"]


_PACKAGE = Path(__file__).resolve().parents[1]


SHIPPED = (_PACKAGE / "checkpoints", _PACKAGE.parent / "checkpoints")  # in a wheel; in the repository


def shipped_files(pattern: str) -> list[Path]:
    """The files that come with this package whose name fits the glob pattern."""
    return [path for folder in SHIPPED for path in sorted(folder.glob(pattern)) if path.is_file()]


_COURSE = "course"  # the folder, below that of all configs, of configs that each show one option


def shipped_configs() -> dict[str, Path]:
    """Name and path of every shipped YAML, those of the course last, in a checkout and in an installed wheel."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "configs", package.parent / "configs"):
        if folder.is_dir():
            paths = [*sorted(folder.glob("*.yaml")), *sorted((folder / _COURSE).glob("*.yaml"))]
            return {path.name: path for path in paths}
    return {}
