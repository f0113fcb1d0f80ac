"""Curves, areas and operating points of one class against the others."""

from pathlib import Path

import numpy as np
import pytest
from helpers import read, refusal
from scipy.stats import binom

import defectlab as dl
from defectlab.cli.main import main
from defectlab.metrics.operating import (
    auroc_interval,
    average_precision_interval,
    choose_false_alarms,
    choose_recall,
    images_for_bound,
    rates_at,
)
from defectlab.metrics.ranking import curve
from defectlab.networks import CompactCNN


def test_areas_agree_with_scikit_learn() -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    random = np.random.default_rng(0)
    for n, decimals in ((50, 1), (400, 6)):  # with many equal scores, and with none
        positive = random.random(n) < 0.2
        scores = np.round(random.normal(size=n) + positive, decimals)
        found = curve(scores, positive)
        assert found.auroc == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
        assert found.average_precision == pytest.approx(average_precision_score(positive, scores), abs=1e-12)


def test_points_by_hand() -> None:
    found = curve(np.array([0.9, 0.8, 0.8, 0.3]), np.array([True, True, False, False]))
    assert found.flagged.tolist() == [0, 1, 2, 2]
    assert found.alarms.tolist() == [0, 0, 1, 2]
    assert found.precision.tolist() == [1, 1, 2 / 3, 1 / 2]
    assert found.auroc == 0.875  # one of four pairs is a tie
    assert found.average_precision == 0.5 + 0.5 * 2 / 3
    assert found.recall_at(0.49) == 0.5
    assert found.recall_at(0.5) == 1


def test_intervals_keep_their_level() -> None:
    """Of areas whose true values are known, at sizes as small as a line's."""
    random = np.random.default_rng(1)
    kept = 0
    for _ in range(1000):
        scores = np.append(random.normal(1.5, 1, 20), random.normal(0, 1, 200))
        found = curve(scores, np.arange(220) < 20).auroc
        low, high = auroc_interval(found, 20, 200)
        kept += low <= 0.8555778168 <= high  # the normal distribution at 1.5 / sqrt(2)
    assert kept >= 930
    assert auroc_interval(1.0, 20, 200)[0] < 0.99
    assert auroc_interval(1.0, 20, 200)[1] == 1
    assert average_precision_interval(1.0, 20)[0] == pytest.approx(1 / (1 + 1.959964**2 / 20), abs=1e-6)


def shares(scores: np.ndarray, decimals: int) -> np.ndarray:
    """The probability that a uniform score, rounded to so many decimals, is below each of these."""
    step = 10.0**-decimals
    return np.clip(scores - step / 2, 0, 1)


@pytest.mark.parametrize("decimals", [2, 9])
@pytest.mark.parametrize("n", [10, 30, 100, 300, 1000])
@pytest.mark.parametrize("rate", [0.3, 0.05, 0.01])
def test_a_promise_is_missed_at_most_as_often_as_promised(n: int, rate: float, decimals: int) -> None:
    """10,000 draws of validation images, whose scores are uniform, so that the true rate of a threshold is known."""
    random, draws, level = np.random.default_rng(n), 10_000, 0.95
    allowed = binom.ppf(0.999, draws, 1 - level)
    scores = np.round(random.random((draws, n)), decimals)
    everything, nothing = np.ones(n, bool), np.zeros(n, bool)
    if n < images_for_bound(rate, level):
        refusal(lambda: choose_recall(scores[0], everything, 1 - rate, level), str(images_for_bound(rate, level)))
        refusal(lambda: choose_false_alarms(scores[0], nothing, rate, level), str(images_for_bound(rate, level)))
        return
    distinct = (1 + np.arange(n)) / (n + 1)  # tells the place of the threshold among n scores
    place = int(np.flatnonzero(distinct == choose_recall(distinct, everything, 1 - rate, level).threshold)[0])
    thresholds = np.partition(scores, place, axis=1)[:, place]
    assert (shares(thresholds, decimals) > rate).sum() <= allowed
    place = int((distinct < choose_false_alarms(distinct, nothing, rate, level).threshold).sum()) - 1
    thresholds = np.partition(scores, place, axis=1)[:, place]  # flagged are those above
    assert (1 - shares(thresholds + 10.0**-decimals, decimals) > rate).sum() <= allowed
    # Not by flagging everything or nothing: with a hundred times the images half of the promise is used.
    many = (1 + np.arange(100 * n)) / (100 * n + 1)
    assert choose_recall(many, np.ones(100 * n, bool), 1 - rate, level).threshold > rate / 2


def test_equal_scores_are_on_the_safe_side() -> None:
    scores = np.array([0.0] * 400 + [1.0] * 5)
    point = choose_false_alarms(scores, np.zeros(405, bool), 0.05)
    assert (scores >= point.threshold).sum() == 5
    point = choose_false_alarms(np.ones(400), np.zeros(400, bool), 0.05)
    assert point.threshold > 1  # nothing can be told apart, so nothing is flagged
    assert choose_recall(np.ones(400), np.ones(400, bool), 0.95).threshold == 1


def test_rates_on_a_line() -> None:
    scores, positive = np.array([0.9, 0.4, 0.6, 0.1, 0.2]), np.array([True, True, False, False, False])
    rates = rates_at(scores, positive, 0.5, 0.01)
    assert rates.recall == 0.5
    assert rates.escapes == pytest.approx(5)
    assert rates.false_alarm_rate == pytest.approx(1 / 3)
    assert rates.false_rejects == pytest.approx(330)
    low, high = rates.escapes_interval
    assert 0 < low < 5 < high < 10


def test_refusals() -> None:
    yes, no = np.array([True, False]), np.array([0.3, 0.2])
    refusal(lambda: curve(np.array([0.1, np.nan]), yes), "1 of 2")
    refusal(lambda: curve(no, np.array([True, True])), "2 of 2")
    refusal(lambda: curve(no[:1], yes), "(1,)", "(2,)")
    refusal(lambda: rates_at(no, yes, 0.25, 0.0), "defect_rate")
    refusal(lambda: rates_at(no, yes, 0.25, 1.5), "defect_rate")
    refusal(lambda: choose_recall(no, yes, 1.0), "between 0 and 1")
    refusal(lambda: choose_false_alarms(no, yes, 0.0), "between 0 and 1")


def test_predict_flags_a_class(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = finished.parents[2] / "images"
    words = ["predict", str(finished), str(images), "--output", str(tmp_path / "out.csv")]
    table = dl.open_run(finished).read_predictions()
    first, *others = table.class_names
    assert main([*words, "--positive", first, "--false-alarms", "0.6", "--defect-rate", "0.1"]) == 0
    assert "per 1,000 images" in capsys.readouterr().out
    found = dl.predict(finished, images, flagging=dl.Flagging(positive=first, false_alarms=0.6))
    assert found.flagged is not None
    assert found.decision is not None
    scores = found.probabilities[:, 0].astype(np.float32).astype(float)  # as tables keep them
    assert (found.flagged.flags == (scores >= found.flagged.point.threshold)).all()
    assert [name == first for name in found.decision] == found.flagged.flags.tolist()
    turned = dl.predict(finished, images, flagging=dl.Flagging(good=others[0], recall=0.4)).decision
    assert turned is not None
    assert set(turned) <= set(table.class_names)
    for more, said in (
        (["--positive", "nothing", "--recall", "0.5"], "positive is nothing"),
        (["--positive", first, "--recall", "0.99"], "299"),
        (["--positive", first], "recall"),
        (["--recall", "0.5"], "positive"),
        (["--positive", first, "--recall", "0.4", "--defect-rate", "2"], "defect_rate is 2"),
        (["--positive", first, "--recall", "0.4", "--max-error", "0.1"], "both decide"),
    ):
        (tmp_path / "out.csv").unlink(missing_ok=True)
        assert main([*words, *more]) == 1
        assert said in capsys.readouterr().err
        assert not (tmp_path / "out.csv").exists()


def test_rankings_are_reported_and_monitored(finished: Path) -> None:
    """In metrics.json, in the page, and for a callback's monitor."""
    per_class = read(finished)["test"]["per_class"]
    table = dl.open_run(finished).read_predictions()
    assert table.labels is not None
    for index, (name, row) in enumerate(per_class.items()):
        by_hand = curve(table.probabilities[:, index], table.labels == index)
        assert row["auroc"] == pytest.approx(by_hand.auroc, abs=1e-6), name
        assert row["average_precision"] == pytest.approx(by_hand.average_precision, abs=1e-6)
    assert "recall at 1 % false alarms" in (finished / "report.html").read_text(encoding="utf-8")
    assert (finished / "ranking.png").stat().st_size > 1000
    task = dl.SmallCNNTask(CompactCNN, 3, 1, 16)
    assert {"val/auroc", "val/average_precision/crack"} <= set(task.metric_names(["crack", "dent", "ok"]))
