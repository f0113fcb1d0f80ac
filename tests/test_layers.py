"""Imports go one way (CONTRIBUTING.md), and the front door is light."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "defectlab"
FLOORS = (  # a room imports from the floors below its own
    {"errors"},
    {"utils"},
    {"metrics"},
    {"figures", "networks"},
    {"data"},
    {"runs"},
    {"tasks"},
    {"callbacks", "report"},
    {"engine"},
    {"inference"},
    {"deploy"},
    {"evaluate", "explain", "summary"},
    {"course"},
    {"cli"},
    {"__main__"},
)
APART = {("tasks", "data"), ("callbacks", "data")}  # they meet as an (images, labels) batch


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_imports_go_downwards() -> None:
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    for file in PACKAGE.rglob("*.py"):
        room = room_of(file)
        if room == "__init__":
            continue
        assert room in floor, f"{file} is on no floor"
        ours = {name.split(".")[1] for name in imported(file) if name.startswith("defectlab.")} & set(floor) - {room}
        for other in ours:
            assert floor[other] < floor[room], f"{file} imports {other}"
            assert (room, other) not in APART, f"{file} imports {other}"


def test_no_module_imports_itself_by_way_of_others() -> None:
    names = {
        ".".join(("defectlab", *file.relative_to(PACKAGE).with_suffix("").parts)): file
        for file in PACKAGE.rglob("*.py")
    }
    graph = {name: imported(file) & set(names) - {name} for name, file in names.items()}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" imports ".join(error.args[1][::-1]))


def test_networks_know_no_lightning() -> None:
    for file in (PACKAGE / "networks").rglob("*.py"):
        assert not [name for name in imported(file) if name.split(".")[0] in ("lightning", "torchmetrics")], file


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from defectlab.cli.main import main; main(['--help']); "
        "print(sorted({'torch', 'lightning', 'matplotlib', 'jsonargparse'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "usage: defectlab COMMAND" in result.stdout
    assert result.stdout.splitlines()[-1] == "[]"


def test_the_runtime_knows_no_torch() -> None:
    """Nor anything else that an exported folder does not ask for."""
    waiting, closure = [PACKAGE / "deploy" / "program.py"], set()
    while waiting:
        file = waiting.pop()
        if file in closure:
            continue
        closure.add(file)
        for node in ast.parse(file.read_text(encoding="utf-8")).body:  # the rest is imported where it is used
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("defectlab."):
                waiting.append(PACKAGE.joinpath(*str(node.module).split(".")[1:]).with_suffix(".py"))
            elif isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [str(node.module)]
                packages = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
                assert packages <= {"numpy", "PIL"}, f"{file} imports {packages}"
    assert len(closure) > 10
