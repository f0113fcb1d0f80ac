"""Versions and hardware of this machine."""

import os
import platform
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from defectlab import __version__


def environment() -> dict[str, Any]:
    """Return versions and hardware, None where unknown.

    `cores` are the logical ones this process may use; `commit` is that of defectlab's own repository, if it was not
    installed from a package, `working_commit` that of the working folder's.
    """
    import torch  # here: most commands that read a run folder do not need it

    return {
        "python": platform.python_version(),
        "defectlab": __version__,
        **{name: _version(name) for name in ("torch", "torchvision", "lightning")},
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "commit": commit_of([Path(__file__).resolve().parents[2]]),
        "working_commit": commit_of([Path.cwd(), *Path.cwd().parents]),
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str | None:
    with suppress(OSError):
        if found := re.search("^model name.*?:(.*)", Path("/proc/cpuinfo").read_text("utf-8", "replace"), re.MULTILINE):
            return found[1].strip()
    return platform.processor() or platform.machine() or None


def commit_of(folders: Sequence[Path]) -> str | None:
    """Read the commit that is checked out in the first of these folders that is a Git repository; None without one.

    Only files are read: Git itself would run programs that a repository's configuration names.
    """
    try:
        git = next((path / ".git" for path in folders if (path / ".git").exists()), None)
        if git is None:
            return None
        if git.is_file():  # of a worktree or a submodule
            git = git.parent / _text(git).removeprefix("gitdir: ")
        head = _text(git / "HEAD")
        if not head.startswith("ref: refs/"):
            return _hash(head)
        name = head.removeprefix("ref: ")
        common = git / _text(git / "commondir") if (git / "commondir").is_file() else git
        if ".." in name.split("/"):
            return None
        for place in (git, common):
            if (place / name).is_file():
                return _hash(_text(place / name))
        packed = (line.partition(" ") for line in _text(common / "packed-refs").splitlines())
        return next((_hash(commit) for commit, _, ref in packed if ref == name), None)
    except (OSError, UnicodeDecodeError):
        return None


def _text(path: Path) -> str:
    """Read a regular file: a pipe would be waited for."""
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


def _hash(text: str) -> str | None:
    return text if re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", text) else None
