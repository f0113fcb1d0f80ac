"""`defectlab budget`: more labels help, and chosen ones no less than random ones."""

import csv
from pathlib import Path

import numpy as np
import pytest

from defectlab.cli.main import main
from defectlab.evaluate.budget import STRATEGIES, accuracy_by_labels


def blobs(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Three classes on a line, the middle one narrow: its borders are what is worth labelling."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    features = np.stack([4.0 * labels + rng.normal(0, 1.2, count), rng.normal(0, 1, count)], axis=1)
    return features.astype(np.float32), labels


def test_more_labels_help_and_every_strategy_begins_alike() -> None:
    rows = accuracy_by_labels(blobs(600, 0), blobs(600, 1), [1, 5, 50], 6, 0)
    by = {(row.strategy, row.per_class): row for row in rows}
    assert len({by[strategy, 1].mean for strategy in STRATEGIES}) == 1
    for strategy in STRATEGIES:
        assert by[strategy, 50].mean > by[strategy, 1].mean
        assert by[strategy, 50].labelled == 150
    assert by["random", 50].sd < by["random", 1].sd
    assert accuracy_by_labels(blobs(600, 0), blobs(600, 1), [1, 5, 50], 6, 0) == rows


def test_all_of_the_pool_is_the_same_for_everybody() -> None:
    rows = accuracy_by_labels(blobs(60, 0), blobs(300, 1), [2, 20], 3, 0)
    assert len({round(row.mean, 3) for row in rows if row.per_class == 20}) == 1


def test_from_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    data = ["--data.source", "synthetic", "--data.synthetic_per_class", "12", "--data.image_size", "48"]
    words = ["budget", "--config", "neu_mobilenet.yaml", "--draws", "2", "--per-class", "1", "4", "50"]
    assert main([*words, "--output", "out", *data]) == 0
    assert "SYNTHETIC" in capsys.readouterr().out
    with (tmp_path / "out" / "budget.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["per_class"] for row in rows[:2]] == ["1", "4"]
    assert len(rows) == 9, "what the smallest class has takes the place of 50"
    assert (tmp_path / "out" / "budget.png").read_bytes()[:4] == b"\x89PNG"
    assert not (tmp_path / "runs").exists(), "it is no run"
    for more, message in (
        (["--model.weights", "null"], "needs a pretrained backbone"),
        (["--per-class", "0"], "per_class has to be at least 1"),
        (["--per-class", "500"], "per_class begins at 500"),
        (["--output", "out/budget.csv/inside"], "expected a folder"),
    ):
        assert main(["budget", "--config", "neu_mobilenet.yaml", *data, *more]) == 1
        assert message in capsys.readouterr().err
