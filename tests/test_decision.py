"""Sets of classes with a coverage, and decisions by cost."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import write_config

from defectlab.cli.main import main
from defectlab.errors import InputError
from defectlab.inference.decision import (
    choose_threshold,
    conformal_quantile,
    min_expected_cost,
    prediction_sets,
    read_costs,
    set_scores,
)
from defectlab.inference.predictions import Predictions
from defectlab.inference.promises import calibration_of, choose_promises
from defectlab.runs import PredictionTable, read_prediction_table, write_prediction_table
from defectlab.runs.predictions import as_kept


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
    covered = [
        (judged[np.arange(4000), truth] >= conformal_quantile(set_scores(*draws(100, rng)), 0.9)).mean()
        for _ in range(200)
    ]
    assert 0.89 < np.mean(covered) < 0.93


def kept(probabilities: np.ndarray, truth: np.ndarray, file: Path) -> tuple[np.ndarray, np.ndarray]:
    """What comes back from a table of these."""
    names = [str(k) for k in range(probabilities.shape[1])]
    write_prediction_table(file, [str(i) for i in range(len(truth))], truth, probabilities, names)
    table = read_prediction_table(file)
    assert table.labels is not None
    np.testing.assert_array_equal(table.probabilities, as_kept(probabilities))
    return table.probabilities, table.labels


KINDS: dict[str, tuple[int, Callable[[np.ndarray], np.ndarray]]] = {  # images of a calibration, and logits of scores
    "calibrated": (100, lambda scores: scores),
    "confident": (100, lambda scores: 40 * scores),  # most probabilities are 1 to all digits
    "tied": (100, lambda scores: scores.round()),
    "tiny": (12, lambda scores: scores),
    "flat": (100, lambda scores: 1e-5 * scores),  # all differ in the sixth decimal alone
}


@pytest.mark.parametrize("kind", KINDS)
def test_promises_hold_as_tables_keep_them(kind: str, tmp_path: Path) -> None:
    """Mean coverage of sets, and the share of thresholds whose true error is too large, over calibrations."""
    n, logits = KINDS[kind]
    rng = np.random.default_rng(0)

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        scores = rng.normal(0, 2, (count, 4))
        noise = rng.gumbel(size=scores.shape)
        values = logits(scores)
        values = np.exp(values - values.max(axis=1, keepdims=True))
        return values / values.sum(axis=1, keepdims=True), (scores + noise).argmax(axis=1)

    fresh, truth = draw(20_000)
    fresh = as_kept(fresh)
    confidence, wrong = fresh.max(axis=1), fresh.argmax(axis=1) != truth
    coverage, broken = [], 0
    for _ in range(200):
        probabilities, labels = kept(*draw(n), tmp_path / "t.csv")
        limit = np.float32(conformal_quantile(set_scores(probabilities, labels), 0.9))
        coverage.append((fresh[np.arange(len(truth)), truth] >= limit).mean())
        right = probabilities.argmax(axis=1) == labels
        found = choose_threshold(probabilities.max(axis=1), right, 0.25)
        decided = np.zeros(len(truth), bool) if found is None else confidence >= np.float32(found.confidence)
        broken += int(decided.any() and wrong[decided].mean() > 0.25)
    assert np.mean(coverage) > 0.9 - 3 * np.std(coverage) / 200**0.5
    assert np.mean(coverage) < {"calibrated": 0.93, "flat": 0.93}.get(kind, 1.01)
    assert broken / 200 <= 0.05 + 2 * (0.05 * 0.95 / 200) ** 0.5


def test_sets_by_hand() -> None:
    shares = np.array([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.34, 0.33, 0.33]])
    assert prediction_sets(shares, 0.3, "abc") == (("a",), ("b", "c"), ("a", "b", "c"))
    assert prediction_sets(shares, 0.6, "abc") == (("a",), (), ())
    four = np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.3, 0.7]])
    assert conformal_quantile(set_scores(four, np.zeros(4, int)), 0.6) == pytest.approx(0.6), (
        "the third of four, as 5 × 0.6 is 3"
    )
    with pytest.raises(InputError, match="takes at least 19 validation images, found 4"):
        conformal_quantile(set_scores(four, np.zeros(4, int)), 0.95)


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


def test_the_image_that_a_limit_is_of_keeps_its_side() -> None:
    """Where all numbers are a ten-millionth lower, as on another processor, decisions and sets stay."""
    rng = np.random.default_rng(2)
    probabilities, labels = draws(400, rng)
    table = PredictionTable(
        files=[str(i) for i in range(400)], class_names=list("abcd"), labels=labels,
        predicted=probabilities.argmax(axis=1), probabilities=as_kept(probabilities).astype(np.float64),
        novelty=rng.random(400).astype(np.float32),
    )  # fmt: skip
    promised = choose_promises(calibration_of(table), "abcd", max_error=0.4, sets=0.9, novelty=0.05)
    found = [
        promised.apply(
            Predictions(
                files=tuple(table.files), class_names=tuple("abcd"), probabilities=table.probabilities * factor,
                novelty=None if table.novelty is None else table.novelty * np.float32(factor),
            )
        )
        for factor in (1, 1 - 1e-7, 1 + 1e-7)
    ]  # fmt: skip
    for other in found[1:]:
        assert (other.decision, other.sets) == (found[0].decision, found[0].sets)
        np.testing.assert_array_equal(other.novelty_p, found[0].novelty_p)
    assert "review" in (found[0].decision or ())
