"""`defectlab crossval`: every image tested once a repeat, the same table after a kill."""

import csv
import json
import os
import shutil
import signal
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import read, start, wait_for, write_config, write_teacher
from torch import Tensor

from defectlab.cli.main import main
from defectlab.data.pipeline.splits import fold_split
from defectlab.engine.configs import override_words
from defectlab.engine.jobs import Job
from defectlab.errors import InputError
from defectlab.evaluate.comparison import compare
from defectlab.evaluate.crossval import Fold, cross_validate, plan
from defectlab.evaluate.crossval_result import pool
from defectlab.metrics.statistics import corrected_interval
from defectlab.networks import PretrainedNetwork
from defectlab.runs import PredictionTable, RunFolder


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "runs.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_folds_are_disjoint_balanced_and_whole() -> None:
    labels = np.repeat([0, 1, 2], [10, 13, 20])
    folds = [fold_split(labels, fold, 4, 4, seed=1) for fold in range(1, 5)]
    assert sorted(np.concatenate([split.test for split in folds])) == list(range(43))
    for split in folds:
        assert 10 <= len(split.test) <= 11
        assert sorted(np.concatenate([split.train, split.val, split.test])) == list(range(43))
        assert len(split.val) == 4
        assert all(abs(np.bincount(labels[split.test]) - np.array([10, 13, 20]) / 4) < 1)
    again, other = fold_split(labels, 1, 4, 4, seed=1), fold_split(labels, 1, 4, 4, seed=2)
    assert np.array_equal(again.test, folds[0].test)
    assert not np.array_equal(other.test, folds[0].test)
    with pytest.raises(InputError, match="smallest class has 10 images, too few for 11 folds"):
        fold_split(labels, 1, 11, 4, seed=1)


def test_every_image_is_tested_once_a_repeat(
    tmp_path: Path, class_folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, class_folders)
    out = tmp_path / "cv"
    words = ["crossval", "--config", str(config), "--folds", "3", "--repeats", "2", "--output", str(out)]
    assert main([*words, "--data.val_size", "6", "--trainer.max_epochs", "1"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    pooled = RunFolder(out).read_predictions()
    assert len(pooled.files) == 36
    assert len(rows(out)) == 6
    folds = [RunFolder(out / f"repeat1-fold{fold}") for fold in (1, 2, 3)]
    assert sorted(file for run in folds for file in run.read_predictions().files) == pooled.files
    scores = [read(out / row["run"])["test"]["accuracy"] for row in rows(out)]
    assert [float(row["accuracy"]) for row in rows(out)] == pytest.approx(scores, abs=1e-6)
    low, high = corrected_interval(scores, 12 / 18)
    assert f"{np.mean(scores):.2%} ± {np.std(scores, ddof=1):.2%} (mean ± sd of 6 runs, 3 folds × 2)" in printed
    assert f"95 % interval {low:.2%} to {high:.2%}" in printed
    assert len({read(run.path)["data"]["split_hash"] for run in folds}) == 3
    # A fold's own config repeats it.
    assert main(["fit", "--config", str(folds[0].config), "--trainer.default_root_dir", str(tmp_path / "again")]) == 0
    (again,) = (tmp_path / "again").glob("*/*/")
    tables = [RunFolder(again).read_predictions(), folds[0].read_predictions()]
    assert tables[0].files == tables[1].files
    assert np.array_equal(tables[0].probabilities, tables[1].probabilities)


def test_the_same_table_after_a_kill(tmp_path: Path, class_folders: Path) -> None:
    config = write_config(tmp_path, class_folders)
    words = ["crossval", "--config", str(config), "--folds", "3", "--repeats", "1"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main([*words, "--output", str(whole)]) == 0
    process = start(*words, "--output", str(stopped))
    wait_for("repeat1-fold2/config.yaml", stopped, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (stopped / "runs.csv").exists()
    before = (stopped / "repeat1-fold1" / "predictions.csv").stat().st_mtime_ns
    assert main(["crossval", str(stopped)]) == 0
    assert (stopped / "repeat1-fold1" / "predictions.csv").stat().st_mtime_ns == before, "what was done stays"
    assert (stopped / "runs.csv").read_bytes() == (whole / "runs.csv").read_bytes()
    assert (stopped / "predictions.csv").read_bytes() == (whole / "predictions.csv").read_bytes()
    # In two processes, too.
    shutil.rmtree(stopped / "repeat1-fold1")
    shutil.rmtree(stopped / "repeat1-fold3")
    assert main(["crossval", str(stopped), "--processes", "2"]) == 0
    assert [row["split_hash"] for row in rows(stopped)] == [row["split_hash"] for row in rows(whole)]


def test_random_halves(tmp_path: Path, class_folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path, class_folders)
    words = ["crossval", "--config", str(config), "--protocol", "song-yan", "--repeats", "2"]
    assert main([*words, "--output", str(tmp_path / "cv"), "--data.val_size", "3", "--trainer.max_epochs", "1"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "AECLBP + SVM 98.93 ± 0.63 %" in out
    counts = read(tmp_path / "cv" / "repeat001")["data"]["counts"]
    assert sum(counts["test"].values()) == 18


def test_so_many_of_each_class_train(tmp_path: Path, class_folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path, class_folders)
    words = ["crossval", "--config", str(config), "--repeats", "2", "--data.val_size", "3", "--trainer.max_epochs", "1"]
    words += ["--output", str(tmp_path / "cv"), "--train-per-class", "8"]
    assert main(words) == 1
    assert "train_per_class is for the protocol song-yan" in capsys.readouterr().err
    words += ["--protocol", "song-yan"]
    assert main(words) == 0
    counts = read(tmp_path / "cv" / "repeat002")["data"]["counts"]
    assert set(counts["test"].values()) == {4}
    assert sum(counts["train"].values()) + sum(counts["val"].values()) == 24
    shutil.rmtree(tmp_path / "cv" / "repeat002")
    assert main(["crossval", str(tmp_path / "cv")]) == 0
    shutil.rmtree(tmp_path / "cv")
    assert main([*words, "--train-per-class", "12"]) == 1
    assert "train_per_class is 12, the classes have 12 to 12 images" in capsys.readouterr().err
    assert not (tmp_path / "cv").exists()


def test_probabilities_of_repeats_are_averaged() -> None:
    def table(files: list[str], shares: list[list[float]], labels: list[int]) -> PredictionTable:
        probabilities = np.array(shares)
        return PredictionTable(
            files=files, class_names=["a", "b"], labels=np.array(labels), predicted=probabilities.argmax(1),
            probabilities=probabilities,
        )  # fmt: skip

    pooled = pool([table(["y", "x"], [[0.9, 0.1], [0.4, 0.6]], [0, 1]), table(["x"], [[0.8, 0.2]], [1])])
    assert pooled.files == ["x", "y"]
    np.testing.assert_allclose(pooled.probabilities, [[0.6, 0.4], [0.9, 0.1]])
    assert pooled.predicted.tolist() == [0, 0]
    assert pooled.labels is not None
    assert pooled.labels.tolist() == [1, 0]


def test_the_plan() -> None:
    parts = plan("kfold", 2, 2, 7)
    assert [part.name for part in parts] == [f"repeat{r}-fold{f}" for r in (1, 2) for f in (1, 2)]
    assert parts[3] == Fold("repeat2-fold2", "2/2", seed=8)
    assert plan("song-yan", 5, 1, 0, 24) == [Fold("repeat001", "random", seed=0, test_size=24)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "crossval needs a config"),
        (["--config", "tiny", "--folds", "1"], "folds is 1: expected a whole number of at least 2"),
        (["--config", "neu_mobilenet.yaml", "--data.seed", "3"], "data.seed is crossval's own to set"),
        (["--config", "neu_mobilenet.yaml", "--output", "full"], "full is there already"),
        (["full"], "is no folder of a cross-validation"),
        (["--config", "nue_mobilenet.yaml"], "did you mean neu_mobilenet.yaml?"),
        (["--config", "neu_mobilenet.yaml", "--data.roof", "x"], "unknown key data.roof"),
    ],
)
def test_bad_arguments(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    monkeypatch.chdir(tmp_path)
    assert main(["crossval", *words]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("runs/*/*"))


def test_overrides_become_arguments() -> None:
    nested = {
        "data": {"root": Path("NEU"), "split": None},
        "model.tta": "none",
        "trainer": {"max_epochs": 1, "callbacks": []},
    }
    words = ("--data.root", "NEU", "--data.split", "null", "--model.tta", "none")
    assert override_words(nested) == (*words, "--trainer.max_epochs", "1", "--trainer.callbacks", "[]")
    assert override_words(list(words)) == words
    job = Job(name="a", folder=Path("a"), config="c.yaml", seed=0, settings={"data.split": "1/5"}, overrides=words)
    assert job.words[-6:] == ("--seed_everything", "0", "--data.seed", "0", "--data.split", "1/5")


def test_a_cross_validation_is_a_value(tmp_path: Path, class_folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path, class_folders)
    settings = {"data": {"val_size": 6}, "trainer": {"max_epochs": 1}}
    filters = list(warnings.filters)
    result = cross_validate(config, 2, 1, overrides=settings, output=tmp_path / "cv")
    assert list(warnings.filters) == filters
    assert capsys.readouterr() == ("", "")
    assert result.mean == np.mean(result.accuracies)
    assert [row["run"] for row in result.rows] == ["repeat1-fold1", "repeat1-fold2"]
    assert sum(row["right"] for row in result.class_rows) == np.sum(result.pooled.predicted == result.pooled.labels)
    assert "mean ± sd of 2 runs, 2 folds × 1" in repr(result)
    again = cross_validate(resume=result.folder)
    assert again.rows == result.rows
    with pytest.raises(InputError, match="is named twice"):
        compare([result, again])
    with pytest.raises(InputError, match="goes on with what it was begun with"):
        cross_validate(config, resume=result.folder)


def test_data_that_changes_between_folds_is_told(
    tmp_path: Path, class_folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = write_config(tmp_path, class_folders), tmp_path / "cv"
    words = ["crossval", "--config", str(config), "--folds", "3", "--repeats", "1", "--output", str(out)]
    assert main([*words, "--data.val_size", "6", "--trainer.max_epochs", "1"]) == 0
    shutil.rmtree(out / "repeat1-fold3")
    saved = json.loads((out / "crossval.json").read_text(encoding="utf-8"))
    (class_folders / "good" / "3.png").rename(tmp_path / "3.png")
    assert main(["crossval", str(out)]) == 1
    said = capsys.readouterr().err
    assert "other images" in said
    assert "good/3.png" in said
    assert (out / "repeat1-fold1" / "report.html").is_file()
    (tmp_path / "3.png").rename(class_folders / "good" / "3.png")
    shutil.rmtree(out / "repeat1-fold3")
    assert main(["crossval", str(out)]) == 0
    assert json.loads((out / "crossval.json").read_text(encoding="utf-8"))["summary"].keys() == saved["summary"].keys()
    shutil.copyfile(class_folders / "good" / "0.png", class_folders / "good" / "1.png")  # the same name, other content
    shutil.rmtree(out / "repeat1-fold2")
    assert main(["crossval", str(out)]) == 1
    assert "good/1.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("arguments", "folds"), "3"),
        (("arguments", "folds"), 0),
        (("arguments", "repeats"), 10**9),
        (("arguments", "colour"), "red"),
        (("arguments",), []),
        (("fit",), [3]),
        (("summary",), []),
        (("summary", "low"), None),
        (("summary", "runs"), [{}, {}]),
    ],
)
def test_an_edited_record(
    place: tuple[str, ...], value: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [{"run": f"repeat1-fold{k}", "accuracy": 0.5, "macro_f1": 0.5, "n": 4, "split_hash": "a"} for k in (1, 2)]
    summary = {"accuracy": 0.5, "sd": 0.1, "low": 0.4, "high": 0.6, "test_to_train": 0.5, "runs": runs}
    arguments = {"config": "mnist_compact.yaml", "protocol": "kfold", "folds": 2, "repeats": 1, "seed": 0}
    saved: dict[str, Any] = {"arguments": arguments, "fit": [], "summary": summary}
    target = saved
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    (tmp_path / "crossval.json").write_text(json.dumps(saved), encoding="utf-8")
    assert main(["crossval", str(tmp_path)]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "crossval.json is not as it was written" in said[0]


def test_an_image_is_embedded_once_for_all_folds(
    class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    seen: list[int] = []
    forward = PretrainedNetwork.embed

    def embed(network: PretrainedNetwork, images: Tensor) -> Tensor:
        seen.append(len(images))
        return forward(network, images)

    monkeypatch.setattr(PretrainedNetwork, "embed", embed)
    config = write_config(tmp_path, class_folders)
    words = [
        "--config",
        str(config),
        "--model",
        "PretrainedTask",
        "--model.backbone=mobilenet_v2",
        "--model.cache_features",
    ]
    words += ["true", "--model.weights", str(write_teacher(tmp_path)), "--data.image_size=32", "--data.channels=3"]
    words += ["--trainer.max_epochs=2"]
    folder = tmp_path / "cv"
    assert main(["crossval", "--folds=3", "--repeats=1", "--output", str(folder), *words]) == 0
    assert sum(seen) == 36
    runs = [RunFolder(folder / f"repeat1-fold{fold}") for fold in (1, 2, 3)]
    assert len({str(read(run.path)["data"]["mean"]) for run in runs}) == 1
    before = runs[0].read_predictions()
    # The test of its checkpoint looks at images, and agrees.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    assert main(["test", str(runs[0].path)]) == 0
    after = runs[0].read_predictions()
    assert after.files == before.files
    assert np.allclose(after.probabilities, before.probabilities, atol=1e-5)
    # Another backbone, or other images, have other features.
    seen.clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    again = ["fit", *words, "--data.mean=0.5", "--data.std=0.25", "--output"]
    for name, more, count in (("a", [], 36), ("b", [], 0), ("c", ["--model.stages=[3,6]"], 36)):
        assert main([*again, str(tmp_path / name), *more]) == 0
        assert sum(seen) == count
        seen.clear()
