"""The promise of abstention, by simulation."""

import csv
from pathlib import Path

import numpy as np
import pytest
from helpers import write_config
from scipy.stats import binom

from defectlab.cli.main import main
from defectlab.errors import InputError
from defectlab.inference.decision import choose_threshold
from defectlab.metrics.operating import images_for_bound
from defectlab.runs import RunFolder, read_prediction_table, write_prediction_table


def test_how_many_images_a_promise_needs() -> None:
    assert images_for_bound(0.01) == 299
    assert images_for_bound(0.05) == 59
    confidence = np.linspace(0.5, 1, 298)
    assert choose_threshold(confidence, np.ones(298, bool), 0.01) is None
    confidence = np.linspace(0.5, 1, 299)
    found = choose_threshold(confidence, np.ones(299, bool), 0.01)
    assert found is not None
    assert (found.share, found.n, found.errors, found.confidence) == (1.0, 299, 0, 0.5)


def test_what_is_wrong_at_low_confidence_is_left_to_a_person() -> None:
    confidence = np.linspace(0.4, 1, 1000)
    right = confidence > 0.55
    found = choose_threshold(confidence, right, 0.02)
    assert found is not None
    assert 0.72 < found.share < 0.78
    assert not found.errors / found.n > 0.02
    assert choose_threshold(confidence, np.random.default_rng(0).random(1000) < 0.8, 0.02) is None


def test_equal_confidences_are_decided_together() -> None:
    confidence = np.repeat([1.0, 0.7], [400, 400])
    right = np.repeat([True, True, False], [400, 250, 150])
    found = choose_threshold(confidence, right, 0.01)
    assert found is not None
    assert (found.confidence, found.n) == (1.0, 400)


def test_the_promise_is_kept() -> None:
    """Of 2,000 calibration sets at most 5 % choose a threshold whose true error is above the promised one."""
    rng, promised, broken, given = np.random.default_rng(0), 0.05, 0, 0
    # Uniform confidence c, wrong with probability 0.3 (1 - c)²: the error above a threshold t is 0.1 (1 - t)².
    for _ in range(2000):
        confidence = rng.random(400)
        right = rng.random(400) >= 0.3 * (1 - confidence) ** 2
        found = choose_threshold(confidence, right, promised)
        if found is not None:
            given += 1
            broken += 0.1 * (1 - found.confidence) ** 2 > promised
    assert given > 1500
    assert broken / 2000 <= 0.05 + 2 * (0.05 * 0.95 / 2000) ** 0.5


@pytest.mark.parametrize("value", [0.0, 1.0, 5.0])
def test_shares_out_of_range(value: float) -> None:
    with pytest.raises(InputError, match=f"max_error is {value}"):
        choose_threshold(np.ones(3), np.ones(3, bool), value)


def test_predict_leaves_some_to_a_person(
    tmp_path: Path, class_folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--config", str(write_config(tmp_path, class_folders))]) == 0
    run = RunFolder(next((tmp_path / "runs" / "tiny").iterdir()))
    table = read_prediction_table(run.val_predictions_csv)
    assert len(table.files) == 6
    assert table.labels is not None
    words = ["predict", str(run.path), str(class_folders), "--output", str(tmp_path / "out.csv")]
    assert main([*words, "--max-error", "0.01"]) == 1
    told = capsys.readouterr().err
    assert "cannot guarantee an error of at most 0.01" in told
    assert "at least 299" in told
    assert not (tmp_path / "out.csv").exists()
    # As if it had been right on 40 validation images, the less sure half of which is no better than guessing.
    top = np.linspace(1.0, 0.34, 40)
    shares = np.stack([top, (1 - top) / 2, (1 - top) / 2], axis=1)
    labels = np.where(np.arange(40) < 20, 0, np.arange(40) % 3)
    files = [f"{index}.png" for index in range(40)]
    write_prediction_table(run.val_predictions_csv, files, labels, shares, table.class_names)
    assert main([*words, "--max-error", "0.2"]) == 0
    assert "at most 0.2 at 95 %" in capsys.readouterr().out
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    limit = choose_threshold(top, labels == 0, 0.2)
    assert limit is not None
    for row in rows:
        assert (row["decision"] == "review") == (float(row["confidence"]) < round(limit.confidence, 6))
    assert main(["predict", str(run.best), str(class_folders), "--output", "x.csv", "--max-error", "0.2"]) == 1
    assert "max_error needs a run folder" in capsys.readouterr().err
    assert len(read_prediction_table(tmp_path / "out.csv").class_names) == 3


def test_the_exact_binomial_test_is_scipys() -> None:
    """The threshold is where SciPy's distribution first refuses, whatever the rate and the errors."""
    rng = np.random.default_rng(4)
    for rate, wrong in ((0.001, 0.0003), (0.02, 0.01), (0.3, 0.25), (0.9, 0.8)):
        confidence, right = np.sort(rng.random(4000))[::-1], rng.random(4000) >= wrong
        errors, n = np.cumsum(~right), np.arange(1, 4001)
        least = images_for_bound(rate)
        refused = binom.cdf(errors[least - 1 :], n[least - 1 :], rate) > 0.05
        last = least - 1 + int(np.argmax(refused)) if refused.any() else 4000
        found = choose_threshold(confidence, right, rate)
        assert (0 if found is None else found.n) == (last if last >= least else 0)
