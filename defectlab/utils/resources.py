"""Files that come with the package: configs, weights, classifiers; in a wheel or beside it in a checkout."""

import hashlib
from pathlib import Path

from defectlab.errors import InputError

_PACKAGE = Path(__file__).resolve().parents[1]
SHIPPED = (_PACKAGE / "checkpoints", _PACKAGE.parent / "checkpoints")  # in a wheel; in the repository


def shipped_files(pattern: str) -> list[Path]:
    """Return the shipped checkpoints and weights whose name fits the glob pattern."""
    return [path for folder in SHIPPED for path in sorted(folder.glob(pattern)) if path.is_file()]


def check_card(path: Path) -> Path:
    """Return a shipped file whose SHA-256 is in one of the cards beside it.

    Raises:
        InputError: it is in none.
    """
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if not any(digest in card.read_text(encoding="utf-8") for card in path.parent.glob("*.md")):
        raise InputError(
            f"{path} has the SHA-256 {digest}, which no card beside it has: it was damaged or changed; install defectlab anew, "
            "or name a file of your own by another path"
        )
    return path


def shipped_configs() -> dict[str, Path]:
    """Return name and path of every shipped YAML, those of the course last."""
    for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs"):
        if folder.is_dir():
            return {path.name: path for pattern in ("*.yaml", "course/*.yaml") for path in sorted(folder.glob(pattern))}
    return {}
