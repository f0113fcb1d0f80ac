"""What the documentation shows has to work."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("name", [path.name for path in (DOCS / "notebooks").glob("*.ipynb")])
def test_the_notebook_runs(name: str, tmp_path: Path) -> None:
    notebook = nbformat.read(DOCS / "notebooks" / name, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in cells:
        cell.outputs = []
    # An error in a cell is one here.
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = [output.text for cell in cells for output in cell.outputs if output.output_type == "stream"]
    assert sum("accuracy" in text for text in printed) == 2
    assert not list(tmp_path.iterdir())
