"""Imports go one way (CONTRIBUTING.md), and the front door is light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "defectlab"
ROOMS = {
    "data": {"errors"},
    "networks": {"errors"},
    "tasks": {"errors", "networks", "metrics"},
    "callbacks": {"errors", "report", "tasks"},
    "evaluate": {"errors", "metrics", "runs"},
    "report": {"errors", "metrics", "runs"},
    "course": {"errors", "runs"},
    "explain": {"errors", "metrics", "networks", "report", "runs"},
    "metrics": {"errors"},
    "runs": {"errors"},
    "runtime": {"errors"},
    "errors": set(),
}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    files = [PACKAGE / f"{room}.py"] if (PACKAGE / f"{room}.py").is_file() else list((PACKAGE / room).glob("*.py"))
    assert files
    rooms = {part.stem for part in PACKAGE.iterdir()}
    for file in files:
        ours = {name.split(".")[1] for name in imported(file) if name.startswith("defectlab.")} & rooms
        assert ours <= ROOMS[room] | {room}, file


def test_networks_know_no_lightning() -> None:
    for file in (PACKAGE / "networks").glob("*.py"):
        assert not [name for name in imported(file) if name.split(".")[0] in ("lightning", "torchmetrics")], file


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from defectlab.cli.main import main; main(['--help']); "
        "print(sorted({'torch', 'lightning', 'matplotlib', 'jsonargparse'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "usage: defectlab COMMAND" in result.stdout
    assert result.stdout.splitlines()[-1] == "[]"
