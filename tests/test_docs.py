"""What the documentation shows has to work."""

import importlib.util
import pkgutil
import re
import shlex
from glob import glob
from pathlib import Path

import nbformat
import pytest
from conftest import write_class_folders
from helpers import write_config
from nbclient import NotebookClient
from PIL import Image
from test_layers import FLOORS

import defectlab
from defectlab.cli.main import COMMANDS, main

DOCS = Path(__file__).parents[1] / "docs"
README = DOCS.parent / "README.md"
HOWTO = sorted((DOCS / "howto").glob("*.md"))


@pytest.mark.parametrize("name", [path.name for path in (DOCS / "notebooks").glob("*.ipynb")])
def test_the_notebook_runs(name: str, tmp_path: Path) -> None:
    notebook = nbformat.read(DOCS / "notebooks" / name, as_version=4)  # type: ignore[no-untyped-call]
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in cells:
        cell.outputs = []
    # An error in a cell is one here.
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [str(output.get("data", {}).get("text/html", "")) for cell in cells for output in cell.outputs]
    assert sum("SYNTHETIC images" in text for text in shown) == 2  # the runs
    assert any("better than" in text and "<table>" in text for text in shown)  # their comparison
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "strip"}


def tutorial() -> list[str]:
    """The commands, in order."""
    blocks = re.findall(r"```sh\n(.*?)```", (DOCS / "tutorial.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def test_every_command_of_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For an epoch, where one will do: what the figures are is not what is tested."""
    monkeypatch.chdir(tmp_path)
    shorter = {
        "--trainer.max_epochs 15": "--trainer.max_epochs 1",
        "fit --config neu_feature_extraction.yaml": "fit --config neu_feature_extraction.yaml --trainer.max_epochs 8",
        "--folds 5": "--folds 2 --trainer.max_epochs 1",
    }
    commands = tutorial()
    assert len(commands) >= 12
    text = "\n".join(commands)
    for long, short in shorter.items():
        assert long in text
        text = text.replace(long, short)
    for command in text.splitlines():
        program, *words = shlex.split(command)
        assert program == "defectlab"
        expanded = [file for word in words for file in (sorted(glob(word)) if "*" in word else [word])]
        assert main(expanded) == 0, command
    for file in ("upright.png", "answer.png", "out.csv", "again.csv", "classifier.ckpt"):
        assert (tmp_path / file).stat().st_size > 0


@pytest.mark.parametrize("page", [README, *HOWTO], ids=lambda page: page.stem)
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Block by block, in a folder with `images/`, three classes of grey images, and for some a run."""
    blocks = re.findall(r"```python(?: title=\"(.*?)\")?\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    images = write_class_folders(tmp_path / "images", 10)
    if page.stem == "read_a_run":
        assert main(["fit", "--config", str(write_config(tmp_path, images)), "--trainer.max_epochs", "1"]) == 0
        (run,) = (tmp_path / "runs" / "tiny").iterdir()
        run.rename(tmp_path / "runs" / "first")
    if page.stem == "run_an_export":
        assert main(["fit", "--config", str(write_config(tmp_path, images)), "--trainer.max_epochs", "1"]) == 0
        assert main(["export", str(next((tmp_path / "runs" / "tiny").iterdir())), "--output", "DIR"]) == 0
    if page == README:
        Image.open(images / "hole" / "0.png").save(images / "x.png")
    names: dict[str, object] = {"__name__": "page"}
    for title, block in blocks:
        missing = [name for name in ("pandas",) if f"import {name}" in block and not importlib.util.find_spec(name)]
        if "dl." in block and not hasattr(defectlab, "fit"):
            missing.append("defectlab.fit")
        if title:
            (tmp_path / title).write_text(block, encoding="utf-8")
        elif not missing:
            exec(compile(block, str(page), "exec"), names)


def test_every_command_of_a_page_exists() -> None:
    for page in [README, *DOCS.rglob("*.md")]:
        blocks = re.findall(r"```sh\n(.*?)```|^((?: {4}.*\n)+)", page.read_text(encoding="utf-8"), re.DOTALL | re.M)
        for command in re.findall(r"^\s*defectlab (\S+)", "\n".join("".join(block) for block in blocks), re.M):
            assert command in COMMANDS, f"{page.name}: {command}"


def test_every_page_is_in_the_contents_and_every_picture_is_there() -> None:
    contents = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    for page in DOCS.rglob("*.md"):
        assert page.relative_to(DOCS).as_posix() in contents
        for name in re.findall(r"!\[.*?\]\((.*?)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / name).is_file(), f"{page.name}: {name}"


def test_every_room_has_a_page_of_reference() -> None:
    rooms = {module.name for module in pkgutil.iter_modules(defectlab.__path__)} - {"__main__", "cli"}
    shown = {
        name
        for page in (DOCS / "reference").glob("*.md")
        for name in re.findall(r"^::: defectlab\.(\w+)$", page.read_text(encoding="utf-8"), re.M)
    }
    assert shown == rooms


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/design.md"])
def test_the_floors_are_those_that_are_enforced(page: str) -> None:
    rows = re.findall(r"^\| \d+ \| (.*?) \|", (DOCS.parent / page).read_text(encoding="utf-8"), flags=re.M)
    shown = [{re.sub(r"/$|\.py$", "", room) for room in re.findall(r"`(.*?)`", row)} for row in rows]
    assert shown == [rooms for rooms in reversed(FLOORS) if rooms != {"__main__"}]
