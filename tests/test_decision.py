"""Sets of classes with a coverage, and decisions by cost."""

import csv
from pathlib import Path

import numpy as np
import pytest
from helpers import write_config

from defectlab.cli.main import main
from defectlab.errors import InputError
from defectlab.inference.decision import conformal_quantile, min_expected_cost, prediction_sets, read_costs


def draws(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Overconfident probabilities of four classes, and truths that do not follow them."""
    scores = rng.normal(0, 1, (count, 4))
    truth = np.array([rng.choice(4, p=np.exp(s) / np.exp(s).sum()) for s in scores])
    sharp = np.exp(3 * scores)
    return sharp / sharp.sum(axis=1, keepdims=True), truth


def test_sets_hold_the_truth_as_often_as_promised() -> None:
    """Coverage over 200 calibration sets of 100 images, although the probabilities are wrong."""
    rng = np.random.default_rng(0)
    judged, truth = draws(4000, rng)
    covered = [(judged[np.arange(4000), truth] >= conformal_quantile(*draws(100, rng), 0.9)).mean() for _ in range(200)]
    assert 0.89 < np.mean(covered) < 0.93


def test_sets_by_hand() -> None:
    shares = np.array([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.34, 0.33, 0.33]])
    assert prediction_sets(shares, 0.3, "abc") == (("a",), ("b", "c"), ("a", "b", "c"))
    assert prediction_sets(shares, 0.6, "abc") == (("a",), (), ())
    four = np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.3, 0.7]])
    assert conformal_quantile(four, np.zeros(4, int), 0.6) == pytest.approx(0.6), "the third of four, as 5 × 0.6 is 3"
    with pytest.raises(InputError, match="takes at least 19 validation images, found 4"):
        conformal_quantile(four, np.zeros(4, int), 0.95)


def test_a_dear_mistake_moves_the_decision(tmp_path: Path) -> None:
    shares = np.array([[0.95, 0.05], [0.85, 0.15]])
    (tmp_path / "costs.csv").write_text("truth,scratch,good\nscratch,0,10\ngood,1,0\n")
    costs = read_costs(tmp_path / "costs.csv", ["good", "scratch"])
    assert costs.tolist() == [[0, 1], [10, 0]]
    assert min_expected_cost(shares, costs).tolist() == [0, 1], "0.15 × 10 is above 0.85 × 1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("truth,good\ngood,0\n", "expected one row and one column for each of good, scratch"),
        ("truth,good,scratch\ngood,0,x\nscratch,1,0\n", "expected a number in every cell"),
        ("truth,good,scratch\ngood,0,-1\nscratch,1,0\n", "expected finite costs of at least 0"),
        ("", "expected one row and one column"),
    ],
)
def test_unusable_costs(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "costs.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_costs(tmp_path / "costs.csv", ["good", "scratch"])


def test_predict_writes_sets_and_decisions(
    tmp_path: Path, class_folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--config", str(write_config(tmp_path, class_folders))]) == 0
    run = next((tmp_path / "runs" / "tiny").iterdir())
    costs = tmp_path / "costs.csv"
    costs.write_text("truth,good,hole,scratch\ngood,0,1,1\nhole,1000,0,1\nscratch,1000,1,0\n")
    words = ["predict", str(run), str(class_folders), "--output", str(tmp_path / "out.csv")]
    assert main([*words, "--sets", "0.8", "--costs", str(costs)]) == 0
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert not any(row["decision"] == "good" for row in rows), "a missed defect costs a thousand false alarms"
    assert all(set(row["set"].split("|")) <= {"good", "hole", "scratch", ""} for row in rows)
    assert "sets of " in capsys.readouterr().out
    assert main([*words, "--costs", str(costs), "--max-error", "0.1"]) == 1
    assert "both decide: give one of them" in capsys.readouterr().err
    assert main([*words, "--sets", "0.99"]) == 1
    assert "takes at least 99 validation images, found 6" in capsys.readouterr().err
