"""The script of a researcher, in a project outside this repository, is strictly typed, runs, and prints nothing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "words",
    [
        # This repository's settings are strict, and its cache saves most of a minute.
        ["-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")],
        [],
    ],
    ids=["typed", "runs"],
)
def test_researcher(words: list[str], tmp_path: Path) -> None:
    shutil.copy(ROOT / "tests" / "researcher.py", tmp_path / "script.py")
    done = subprocess.run(
        [sys.executable, *words, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300,
        env={**os.environ, "MYPYPATH": str(ROOT), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    # Nothing is printed, but that images are drawn.
    told = [line for line in done.stderr.splitlines() if "images are SYNTHETIC" not in line]
    assert words or (done.stdout, told) == ("", [])
