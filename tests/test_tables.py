"""Tables and figures for any name: spreadsheets compute nothing, cells come back, letters are drawn."""

import csv
import logging
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from helpers import refusal

from defectlab.course.table import read_rows
from defectlab.figures import fonts
from defectlab.figures.runs import confusion_matrix_figure
from defectlab.figures.style import save_png
from defectlab.inference.decision import read_costs
from defectlab.runs import read_prediction_table, write_prediction_table
from defectlab.utils.text import csv_text, read_csv

NAMES = [
    "=1+1",
    "+a",
    "-b",
    "@c",
    "'d",
    "'=e",
    "a|b",
    'q"uote',
    "co,mma",
    "line\nbreak",
    "return\rhere",
    "裂纹",
    "plain",
]


@dataclass(frozen=True)
class Named:
    name: str
    value: float


def test_texts_come_back_and_start_no_formula(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(csv_text(Named, [Named(name, -0.5) for name in NAMES]), encoding="utf-8", newline="")
    assert read_csv(path, "") == [["name", "value"], *([name, "-0.5"] for name in NAMES)]
    with path.open(encoding="utf-8", newline="") as file:
        cells = [row[0] for row in csv.reader(file)]
    assert len(cells) == 1 + len(NAMES)
    assert not any(cell.startswith(tuple("=+-@\t\r")) for cell in cells)
    write_prediction_table(path, NAMES, np.arange(len(NAMES)), np.eye(len(NAMES)), NAMES)
    table = read_prediction_table(path)
    assert table.files == NAMES == table.class_names
    assert table.predicted.tolist() == list(range(len(NAMES)))


def test_probabilities_come_back_exactly(tmp_path: Path) -> None:
    exact = np.random.default_rng(0).dirichlet([0.1] * 3, 500)
    write_prediction_table(tmp_path / "a.csv", [str(i) for i in range(500)], None, exact, ["a", "b", "c"])
    np.testing.assert_array_equal(read_prediction_table(tmp_path / "a.csv").probabilities, exact.astype(np.float32))


@pytest.mark.parametrize("text", ["file,predicted,confidence,p_a,p_b\nx,a,1,nan,0\n", "file,predicted,confidence,p_a,p_b\nx,a,1,2,0\n",
                                  "file,predicted,confidence,p_a,p_b\n" + "x" * 200_000 + ",a,1,1,0\n"])  # fmt: skip
def test_tables_that_cannot_be_used(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    refusal(lambda: read_prediction_table(tmp_path / "a.csv"), "a.csv")
    refusal(lambda: read_costs(tmp_path / "a.csv", ["a", "b"]), "a.csv")
    refusal(lambda: read_rows(tmp_path / "a.csv"), "a.csv")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.csv")
    refusal(lambda: read_prediction_table(tmp_path / "a.csv"), "a.csv")
    refusal(lambda: read_costs(tmp_path / "a.csv", ["a", "b"]), "a.csv")


def test_names_in_any_script_are_drawn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fonts._tell.cache_clear()
    fonts._others.cache_clear()
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING, "defectlab.figures"):
        warnings.simplefilter("error")
        save_png(confusion_matrix_figure(np.eye(len(NAMES), dtype=int), NAMES), tmp_path / "a.png")
        save_png(confusion_matrix_figure(np.eye(2, dtype=int), ["\U000f1234", "\U000f1235"]), tmp_path / "b.png")
    assert len(caplog.records) == 1
    assert fonts.drawable("a\U000f1234") == "aU+F1234"
    assert fonts.drawable("é ß ≤") == "é ß ≤"
