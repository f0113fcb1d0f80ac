"""`defectlab compare` on run folders whose answers are known."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from defectlab.cli.main import main
from defectlab.errors import InputError
from defectlab.evaluate.comparison import compare
from defectlab.evaluate.naming import config_differences, read_settings, short_names
from defectlab.metrics.statistics import corrected_interval
from defectlab.runs import RunFolder

LABELS = np.arange(300) % 3
FILES = [f"{index}.png" for index in range(300)]


def make(path: Path, wrong: range, files: list[str] = FILES, labels: np.ndarray = LABELS) -> str:
    """A run folder that has the images of `wrong` wrong."""
    path.mkdir(parents=True)
    (path / "config.yaml").write_text("seed_everything: 0\n")
    shares = np.eye(3)[labels]
    shares[list(wrong)] = np.roll(shares[list(wrong)], 1, axis=1)
    RunFolder(path).write_predictions(files, labels, shares, ["a", "b", "c"])
    return str(path)


def test_a_better_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = make(tmp_path / "x" / "good", range(3)), make(tmp_path / "x" / "bad", range(20))
    assert main(["compare", bad, good, "--output", str(tmp_path / "pairs.csv")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "good is better than bad (p < .001)" in out
    assert "right alone: 0 and 17" in out
    assert "99.00%" in out
    with (tmp_path / "pairs.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["first"], row["second"], row["n"], row["second_only"]) == ("bad", "good", "300", "17")
    assert float(row["p"]) == pytest.approx(2 / 2**17)


def test_a_small_difference_is_not_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make(tmp_path / "neu" / "1", range(3)), make(tmp_path / "neu" / "2", range(1, 6))]
    assert main(["compare", *runs]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "1 and 2 cannot be told apart with 300 images (p = .625); " in out
    assert "you would need about" in out


def test_equal_runs_and_many_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make(tmp_path / name / "run", wrong) for name, wrong in (("a", range(6)), ("b", range(6)), ("c", range(0)))]
    assert main(["compare", *runs]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "a/run and b/run cannot be told apart with 300 images (p = 1.000): both have the same number right" in out
    assert "a/run and c/run cannot be told apart with 300 images (p = .094)" in out, "alone it would be p = .031"
    assert "p before Holm 0.0312" in out


def test_images_in_another_order_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turned = make(tmp_path / "turned", range(290, 300), FILES[::-1], LABELS[::-1].copy())
    assert main(["compare", make(tmp_path / "straight", range(10)), turned]) == 0
    assert "both have the same number right" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("files", "labels", "message"),
    [
        ([f"{i + 100}.png" for i in range(300)], LABELS, "different test images (300 and 300, 200 of them shared)"),
        (FILES, np.roll(LABELS, 1), "give 0.png different labels"),
        (["0.png"] * 300, LABELS, "names a file twice"),
    ],
)
def test_other_test_sets_are_refused(
    files: list[str], labels: np.ndarray, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = make(tmp_path / "first", range(3)), make(tmp_path / "second", range(3), files, labels)
    assert main(["compare", first, second]) == 1
    assert message in capsys.readouterr().err


def test_bad_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make(tmp_path / "run", range(3))
    for words, message in (
        ([run], "expected at least two"),
        ([run, run], "is named twice"),
        ([run, str(tmp_path / "none")], "does not exist"),
        ([run, run, "--level", "5"], "--level is 5.0"),
    ):
        assert main(["compare", *words]) == 1
        assert message in capsys.readouterr().err


def crossval(path: Path, scores: list[float], seed: int = 0) -> str:
    runs = [{"run": f"r{i}", "accuracy": score, "split_hash": f"{seed}-{i}"} for i, score in enumerate(scores)]
    low, high = corrected_interval(scores, 0.25)
    summary = {"accuracy": float(np.mean(scores)), "sd": float(np.std(scores, ddof=1)), "low": low, "high": high}
    path.mkdir()
    saved = {"arguments": {}, "fit": [], "summary": {**summary, "test_to_train": 0.25, "runs": runs}}
    (path / "crossval.json").write_text(json.dumps(saved))
    return str(path)


def test_cross_validations_are_compared_by_their_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    base = 0.9 + 0.01 * rng.standard_normal(10)
    first = crossval(tmp_path / "first", base.tolist())
    much = crossval(tmp_path / "much", (base + 0.04 + 0.005 * rng.standard_normal(10)).tolist())
    hardly = crossval(tmp_path / "hardly", (base + 0.002 * rng.standard_normal(10)).tolist())
    assert main(["compare", first, much, hardly, "--output", str(tmp_path / "pairs.csv")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "much is better than first: " in out
    assert "first and hardly cannot be told apart" in out
    assert (tmp_path / "pairs.csv").read_text().splitlines()[0] == "first,second,splits,difference,p,p_holm"
    other = crossval(tmp_path / "other", base.tolist(), seed=1)
    assert main(["compare", first, other]) == 1
    assert "made on different splits (10 and 10)" in capsys.readouterr().err
    (tmp_path / "run").mkdir()
    assert main(["compare", first, str(tmp_path / "run")]) == 1
    assert "is no folder of a cross-validation" in capsys.readouterr().err


def test_a_comparison_is_a_value(tmp_path: Path) -> None:
    runs = [
        RunFolder(make(tmp_path / name, wrong)) for name, wrong in (("a", range(6)), ("b", range(40)), ("c", range(5)))
    ]
    (runs[0].config).write_text("model: {class_path: x.Task, init_args: {norm: batch, lr: 0.1}}\n")
    (runs[1].config).write_text("model: {class_path: x.Task, init_args: {norm: null, lr: 0.1}}\n")
    result = compare(runs[:2])
    assert result.verdicts == ["a is better than b (norm: batch vs none; p < .001)"]
    assert [score["name"] for score in result.scores] == ["a", "b"]
    assert result.scores[0]["accuracy"] == 0.98
    assert result.rows[0]["first_only"] == 34
    assert result.verdicts[0] in repr(result)
    three = compare(runs, level=0.99)
    assert len(three.rows) == 3
    assert three.matrix[1] == {"name": "a", "c": "-0.33", "a": "", "b": "+11.33*"}
    with pytest.raises(InputError, match=r"level is 0\.05: expected a confidence"):
        compare(runs, level=0.05)
    with pytest.raises(InputError, match="one run is named"):
        compare(str(runs[0].path))


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["r/bn/20260101-090000", "r/dropout/20260102-090000"], ["bn", "dropout"]),
        (["r/neu/20260101-090000", "r/neu/20260102-090000"], ["20260101-090000", "20260102-090000"]),
        (["r/course/a/seed-0", "r/course/b/seed-0"], ["a/seed-0", "b/seed-0"]),
        (["r/a", "r/a/test-20260101-090000"], ["a", "a/test-20260101-090000"]),
    ],
)
def test_runs_are_named_by_where_their_paths_differ(paths: list[str], names: list[str], tmp_path: Path) -> None:
    assert short_names([tmp_path / path for path in paths]) == names


def test_settings_are_named_by_what_differs(tmp_path: Path) -> None:
    texts = (
        "{seed_everything: 0, model: {class_path: a.Task, init_args: {network: {class_path: b.CNN, init_args: {norm: batch}}}},"
        " data: {class_path: N, init_args: {root: x, augmentation: {flip: true}}}, trainer: {callbacks: [{class_path: c.EMA}]}}",
        "{seed_everything: 1, model: {class_path: a.Task, init_args: {network: {class_path: b.LeNet}}},"
        " data: {class_path: N, init_args: {root: y, augmentation: {flip: false}}}, trainer: {callbacks: null}}",
    )
    settings = []
    for place, text in enumerate(texts):
        run = RunFolder(make(tmp_path / str(place), range(1)))
        run.config.write_text(text)
        settings.append(read_settings(run))
    assert config_differences(settings) == {
        "seed_everything": ["0", "1"], "network": ["CNN", "LeNet"], "flip": ["true", "false"], "EMA": ["EMA", "none"],
    }  # fmt: skip
    assert config_differences([*settings, {}]) == {}, "what an ensemble has none of"
