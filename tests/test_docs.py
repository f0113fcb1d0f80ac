"""What the documentation shows has to work."""

import re
import shlex
from glob import glob
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from defectlab.cli.main import main

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("name", [path.name for path in (DOCS / "notebooks").glob("*.ipynb")])
def test_the_notebook_runs(name: str, tmp_path: Path) -> None:
    notebook = nbformat.read(DOCS / "notebooks" / name, as_version=4)  # type: ignore[no-untyped-call]
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in cells:
        cell.outputs = []
    # An error in a cell is one here.
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = [output.text for cell in cells for output in cell.outputs if output.output_type == "stream"]
    assert sum("accuracy" in text for text in printed) == 2
    assert not list(tmp_path.iterdir())


def tutorial() -> list[str]:
    """The commands, in order."""
    blocks = re.findall(r"```sh\n(.*?)```", (DOCS / "tutorial.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def test_every_command_of_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    commands = tutorial()
    assert len(commands) >= 12
    for command in commands:
        program, *words = shlex.split(command)
        assert program == "defectlab"
        expanded = [file for word in words for file in (sorted(glob(word)) if "*" in word else [word])]
        assert main(expanded) == 0, command
    for file in ("upright.png", "answer.png", "out.csv", "again.csv", "classifier.ckpt"):
        assert (tmp_path / file).stat().st_size > 0


def test_every_picture_of_the_pages_is_there() -> None:
    for page in DOCS.rglob("*.md"):
        for name in re.findall(r"!\[.*?\]\((.*?)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / name).is_file(), f"{page.name}: {name}"
