"""`defectlab ensemble`: averaged probabilities as a run folder that other commands take, and what is refused."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from helpers import read, write_config

from defectlab.cli.main import main
from defectlab.evaluate.ensemble import ensemble
from defectlab.runs import RunFolder, read_prediction_table, write_prediction_table

NAMES = ["a", "b", "c"]
LABELS = np.arange(60) % 3
FILES = [f"{index}.png" for index in range(60)]


def shares_of(seed: int, labels: npt.NDArray[np.int64] = LABELS) -> npt.NDArray[np.float64]:
    """Probabilities (N, 3) that favour the truth, with noise of its own for each seed."""
    scores = 1.5 * np.eye(3)[labels] + np.random.default_rng(seed).normal(0, 1.2, (len(labels), 3))
    shares: npt.NDArray[np.float64] = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return shares


def make(
    path: Path, seed: int, files: list[str] = FILES, labels: npt.NDArray[np.int64] = LABELS,
    names: list[str] = NAMES, split_hash: str = "abc",
) -> str:  # fmt: skip
    """A run folder with predictions of test and validation images."""
    path.mkdir(parents=True)
    (path / "config.yaml").write_text("seed_everything: 0\n")
    run = RunFolder(path)
    order = np.random.default_rng(seed).permutation(len(files))
    mixed = [files[index] for index in order]
    run.write_predictions(mixed, labels[order], shares_of(seed)[order], names)
    write_prediction_table(
        run.val_predictions_csv, [f"v{f}" for f in mixed], labels[order], shares_of(seed + 50)[order], names
    )
    run.write_metrics({"data": {"source": "real", "class_names": names, "split_hash": split_hash}, "run": {}})
    return str(path)


def test_probabilities_are_averaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make(tmp_path / "runs" / "x" / str(seed), seed) for seed in range(3)]
    assert main(["ensemble", *runs]) == 0
    said = capsys.readouterr().out
    (folder,) = (tmp_path / "runs" / "ensemble").iterdir()
    mean = np.mean([shares_of(seed) for seed in range(3)], axis=0)
    for path, expected in (
        (folder / "predictions.csv", mean),
        (folder / "val_predictions.csv", np.mean([shares_of(seed + 50) for seed in range(3)], axis=0)),
    ):
        table = read_prediction_table(path)
        place = [int(name.strip("v").removesuffix(".png")) for name in table.files]
        np.testing.assert_allclose(table.probabilities, expected[place], atol=1e-6)
        np.testing.assert_array_equal(table.predicted, expected[place].argmax(axis=1))
    metrics = read(folder)
    accuracies = [float(np.mean(shares_of(seed).argmax(axis=1) == LABELS)) for seed in range(3)]
    assert metrics["test"]["accuracy"] == np.mean(mean.argmax(axis=1) == LABELS) > max(accuracies)
    assert metrics["test"]["loss"] == pytest.approx(-np.log(mean[np.arange(60), LABELS]).mean(), abs=1e-4)
    assert metrics["val"]["n"] == 60
    assert 0 < metrics["calibration"]["temperature"] < 1, "an average is less sure than it is right"
    assert metrics["run"]["members"] == runs
    assert metrics["run"]["member_accuracy"] == pytest.approx(accuracies)
    assert f"member       {accuracies[0]:.2%}" in said
    with (tmp_path / "runs" / "test_reads.csv").open(newline="") as file:
        (line,) = csv.DictReader(file)
    assert (line["split_hash"], line["run"]) == ("abc", folder.name)
    assert metrics["run"]["test_split_read"] == 1
    assert (folder / "report.html").is_file()
    assert main(["compare", str(folder), *runs]) == 0
    assert main(["report", str(folder)]) == 0
    again = ensemble([RunFolder(run) for run in runs], tmp_path / "again")
    assert again.read_metrics()["test"] == metrics["test"]
    assert again.predictions_csv.read_bytes() == (folder / "predictions.csv").read_bytes()


def test_other_validation_images_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make(tmp_path / "x" / str(seed), seed, split_hash=str(seed)) for seed in range(2)]
    assert main(["ensemble", *runs, "--output", str(tmp_path / "both")]) == 0
    assert "validation   left out" in capsys.readouterr().out
    assert not (tmp_path / "both" / "val_predictions.csv").exists()
    assert set(read(tmp_path / "both")) == {"data", "test", "environment", "run"}
    reads = (tmp_path / "test_reads.csv").read_text().splitlines()
    assert [line.split(",")[1] for line in reads[1:]] == ["0", "1"]


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (make(tmp_path / "x" / name, seed) for seed, name in enumerate(("first", "second")))
    others = {
        "different test images": make(tmp_path / "x" / "files", 2, files=[f"{index + 7}.png" for index in range(60)]),
        "different labels": make(tmp_path / "x" / "labels", 3, labels=np.roll(LABELS, 1)),
        "knows the classes a, c, b": make(
            tmp_path / "x" / "names", 4, labels=np.array([0, 2, 1])[LABELS], names=["a", "c", "b"]
        ),
        "does not exist": str(tmp_path / "x" / "none"),
    }
    output = tmp_path / "out"
    assert main(["ensemble", first, second, "--output", str(output)]) == 0
    cases = [([first, other], words) for words, other in others.items()]
    cases += [([first], "expected at least two"), ([first, f"{first}/."], "is named twice")]
    cases += [([first, str(output)], "is an ensemble itself: name its members")]
    for runs, words in cases:
        assert main(["ensemble", *runs, "--output", str(tmp_path / "no")]) == 1
        assert words in capsys.readouterr().err
    assert main(["ensemble", first, second, "--output", str(output)]) == 1
    assert "is there already: expected a new folder" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
    assert len((tmp_path / "test_reads.csv").read_text().splitlines()) == 2, "a refusal reads no test split"


def test_predict_averages_the_members(tmp_path: Path, class_folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever size of image each was trained on; commands for one network say what to give."""
    config = write_config(tmp_path, class_folders)
    for seed, size in ((0, 16), (1, 20)):
        words = ["--seed_everything", str(seed), "--data.image_size", str(size), "--trainer.max_epochs", "1"]
        assert main(["fit", "--config", str(config), *words]) == 0
    first, second = sorted((tmp_path / "runs" / "tiny").iterdir())
    ensemble = tmp_path / "both"
    assert main(["ensemble", str(first), str(second), "--output", str(ensemble)]) == 0
    tables = {}
    for name, run in (("1", first), ("2", second), ("mean", ensemble)):
        assert main(["predict", str(run), str(class_folders), "--output", str(tmp_path / name)]) == 0
        tables[name] = read_prediction_table(tmp_path / name)
    assert tables["mean"].files == tables["1"].files
    mean = (tables["1"].probabilities + tables["2"].probabilities) / 2
    np.testing.assert_allclose(tables["mean"].probabilities, mean, atol=2e-6)
    assert not np.allclose(tables["1"].probabilities, tables["2"].probabilities, atol=1e-3)
    # What `ensemble` says of the test images is what `predict` makes of them.
    whole = dict(zip((Path(f).name + Path(f).parent.name for f in tables["mean"].files), mean, strict=True))
    judged = RunFolder(ensemble).read_predictions()
    for file, row in zip(judged.files, judged.probabilities, strict=True):
        np.testing.assert_allclose(row, whole[Path(file).name + Path(file).parent.name], atol=2e-6)
    capsys.readouterr()
    for words in (["test"], ["validate"], ["resume"], ["robustness"], ["export"]):
        more = ["--output", str(tmp_path / "no.ckpt")] if words == ["export"] else []
        assert main([*words, str(ensemble), *more]) == 1
        assert (
            f"is an ensemble, which has no network of its own: give a member, such as {first}"
            in capsys.readouterr().err
        )
    shutil.rmtree(second)
    assert main(["predict", str(ensemble), str(class_folders), "--output", str(tmp_path / "no.csv")]) == 1
    assert f"its member {second} is not there" in capsys.readouterr().err
    assert main(["report", str(ensemble)]) == 0, "which needs the figures alone"
    assert json.loads((ensemble / "metrics.json").read_text())["run"]["members"] == [str(first), str(second)]
