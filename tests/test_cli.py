"""From fit to predict, as a user goes."""

import csv
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from conftest import write_class_folders
from helpers import read, start, wait_for, write_config
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

import defectlab
from defectlab.cli.main import COMMANDS, main
from defectlab.networks import PretrainedNetwork

Fit = Callable[..., Path]
FILES = {
    "checkpoints", "config.yaml", "confusion_matrix.csv", "confusion_matrix.png", "curves.png", "metrics.csv",
    "metrics.json", "misclassified.png", "per_class.png", "predictions.csv", "novelty.png", "ranking.png", "reliability.png", "report.html",
    "split.csv", "state.json", "steps.png", "val_predictions.csv",
}  # fmt: skip


@pytest.fixture
def config(tmp_path: Path, class_folders: Path) -> Path:
    return write_config(tmp_path, class_folders)


@pytest.fixture
def fit(config: Path, tmp_path: Path) -> Fit:
    """Run fit in this process; gives the new run folder."""

    def run(*words: str) -> Path:
        before = set((tmp_path / "runs").glob("tiny/*"))
        assert main(["fit", "--config", str(config), *words]) == 0
        (new,) = set((tmp_path / "runs").glob("tiny/*")) - before
        return new

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run for tests that change nothing in it."""
    folder = tmp_path_factory.mktemp("finished")
    pictures = write_class_folders(folder / "images", 12)
    augmented = ["--data.augmentation.rotation", "10", "--trainer.log_every_n_steps", "2"]
    assert main(["fit", "--config", str(write_config(folder, pictures)), *augmented]) == 0
    (run,) = (folder / "runs" / "tiny").iterdir()
    return run


def epochs(run: Path) -> list[int]:
    return [int(row["epoch"]) for row in rows_of(run / "metrics.csv")]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_help_version_and_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"\n  {command} " in said for command in COMMANDS)
    assert main([]) == 2
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"defectlab {defectlab.__version__}"
    for command in COMMANDS:
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert not stop.value.code
        assert f"defectlab {command}" in capsys.readouterr().out.replace("[options] ", "")


def test_fit_leaves_the_run_folder_of_the_contract(finished: Path) -> None:
    metrics = read(finished)
    assert list(metrics) == ["data", "val", "test", "calibration", "operating", "environment", "run"]
    assert metrics["data"]["class_names"] == ["good", "hole", "scratch"]
    assert metrics["test"]["n"] == 7
    assert metrics["run"]["config"] == "tiny"
    names = {path.name for path in finished.iterdir() if not path.name.startswith("events.out.tfevents.")}
    assert FILES - {"misclassified.png"} <= names <= FILES
    assert sum(path.name.startswith("events.out.tfevents.") for path in finished.iterdir()) == 1
    assert {path.name for path in (finished / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    curves = rows_of(finished / "metrics.csv")
    assert [row["epoch"] for row in curves] == ["0", "1"]
    assert {"train/loss", "train/accuracy", "val/loss", "val/accuracy", "lr", "seconds"} <= set(curves[0])
    rows = rows_of(finished / "predictions.csv")
    columns = ["file", "label", "predicted", "confidence", "p_good", "p_hole", "p_scratch", "novelty", "checkpoint"]
    assert list(rows[0]) == columns
    assert sum(row["label"] == row["predicted"] for row in rows) / 7 == metrics["test"]["accuracy"]
    assert "<html" in (finished / "report.html").read_text()
    for name in ("best", "last"):
        checkpoint = torch.load(finished / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert checkpoint["hyper_parameters"]["num_classes"] == 3
    assert checkpoint["epoch"] == 1, "last.ckpt is of the last epoch, whichever was the best"


def test_what_tensorboard_shows(finished: Path) -> None:
    events = EventAccumulator(str(finished))
    events.Reload()
    tags = events.Tags()
    curves = {"train/loss", "train/loss_step", "val/loss", "val/accuracy", "lr", "val/accuracy/hole", "test/accuracy"}
    assert curves <= set(tags["scalars"])
    pictures = {"val/confusion_matrix", "test/confusion_matrix", "val/ranking", "test/ranking", "images/augmented"}
    assert pictures <= set(tags["images"]) <= {*pictures, "images/misclassified"}
    assert ("images/misclassified" in tags["images"]) == (finished / "misclassified.png").exists()
    assert [event.step for event in events.Scalars("train/loss_step")] == [1, 3, 5]
    assert events.Scalars("hp/test_accuracy")[0].value == pytest.approx(read(finished)["test"]["accuracy"])
    packed = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert HParamsPluginData.FromString(packed).session_start_info.hparams["model.optimizer.lr"].number_value == 0.003


def test_what_is_said_where_nobody_watches(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    run = fit()
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert [line.split("   ")[0] for line in lines[:2]] == ["epoch 1/2", "epoch 2/2"]
    assert all(words in said.out for words in ("accuracy", "macro F1", "worst class"))
    assert lines[-1] == f"TensorBoard  tensorboard --logdir {run}"
    assert "\x1b" not in said.out
    assert "\r" not in said.out
    assert max(len(line) for line in lines[2:-2]) <= 80
    assert said.err == ""


def test_the_saved_config_repeats_the_run_from_anywhere(
    config: Path, class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--data.root", class_folders.name, "--trainer.default_root_dir", "runs", "--model.network.dropout", "0.5"]
    assert main(["fit", "--config", config.name, *words]) == 0
    (first,) = (tmp_path / "runs" / "tiny").iterdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["fit", "--config", str(first / "config.yaml")]) == 0
    (second,) = (tmp_path / "elsewhere" / "runs" / "tiny").iterdir()
    assert [read(second)[part] for part in ("data", "val", "test")] == [
        read(first)[part] for part in ("data", "val", "test")
    ]
    assert (second / "config.yaml").read_text() == (first / "config.yaml").read_text()
    saved = yaml.safe_load((second / "config.yaml").read_text())
    assert saved["model"]["init_args"]["network"]["init_args"]["dropout"] == 0.5


def test_test_repeats_the_figures_and_other_pictures_leave_the_run_alone(
    finished: Path, tmp_path: Path, split_folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read(finished)
    assert main(["test", str(finished)]) == 0
    after = read(finished)
    assert after["run"].pop("test_split_read") == before["run"].pop("test_split_read") + 1
    assert after == before
    kept = (finished / "predictions.csv").read_bytes()
    assert main(["test", str(finished), "--data.root", str(split_folders)]) == 0
    after = read(finished)
    del after["run"]["test_split_read"]
    assert after == before
    assert (finished / "predictions.csv").read_bytes() == kept
    other = Path(capsys.readouterr().out.splitlines()[-1].removeprefix("written to").strip())
    assert read(other)["test"]["n"] == 33, "all images, however they are divided"
    assert read(other)["data"]["mean"] == before["data"]["mean"], "of the images that it was trained on"
    shutil.rmtree(other)
    best = str(finished / "checkpoints" / "best.ckpt")
    capsys.readouterr()
    assert main(["test", "--config", str(finished / "config.yaml"), "--ckpt_path", best]) == 0
    assert f"{before['test']['accuracy']:.2%}" in capsys.readouterr().out
    assert main(["validate", str(finished)]) == 0
    assert f"{before['val']['accuracy']:.2%}" in capsys.readouterr().out
    (finished / "report.html").unlink()
    assert main(["report", str(finished)]) == 0
    assert (finished / "report.html").is_file()


def test_predict_writes_a_sorted_table(finished: Path, class_folders: Path, tmp_path: Path) -> None:
    output, folder = tmp_path / "new" / "out.csv", class_folders / "hole"
    words = [str(folder), str(class_folders / "good" / "1*.png"), "--output", str(output)]
    assert main(["predict", str(finished), *words]) == 0
    rows = rows_of(output)
    assert list(rows[0]) == ["file", "predicted", "confidence", "p_good", "p_hole", "p_scratch"]
    assert len(rows) == 12 + 3
    names = [Path(row["file"]).name for row in rows if "hole" in row["file"]]
    assert names == [f"{index}.png" for index in range(12)]
    (folder / "2.png").write_text("not an image")
    words = [str(folder), "--output", str(tmp_path / "again.csv"), "--on_bad_image", "skip"]
    assert main(["predict", str(finished / "checkpoints" / "best.ckpt"), *words]) == 0
    again = rows_of(tmp_path / "again.csv")
    assert [row["p_hole"] for row in again] == [
        row["p_hole"] for row in rows if "hole" in row["file"] and not row["file"].endswith("/2.png")
    ]


def test_a_finished_run_goes_on_where_it_was_moved_to(fit: Fit, tmp_path: Path) -> None:
    run = fit().rename(tmp_path / "moved")
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["epoch"]
    # A rate of almost nothing: no later epoch is better by luck alone.
    words = ["--trainer.max_epochs", "4", "--trainer.callbacks.min_delta", "0.1"]
    assert main(["resume", str(run), *words]) == 0
    assert epochs(run) == [0, 1, 2, 3]
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["epoch"] == 3
    (state,) = (s for name, s in last["callbacks"].items() if name.startswith("ModelCheckpoint{'monitor': 'val/loss'"))
    assert state["best_model_path"] == str((run / "checkpoints" / "best.ckpt").resolve())
    losses = [float(row["val/loss"]) for row in rows_of(run / "metrics.csv")]
    assert float(state["best_model_score"]) == pytest.approx(min(losses), rel=1e-4)
    assert read(run)["run"]["best_epoch"] == losses.index(min(losses)) >= best
    assert read(run)["run"]["config"] == "tiny"


def test_a_run_stopped_in_its_first_epoch_begins_anew(fit: Fit) -> None:
    run = fit()
    for path in [*run.iterdir()]:
        if path.name != "config.yaml":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert main(["resume", str(run)]) == 0
    assert epochs(run) == [0, 1]
    assert read(run)["test"]["n"] == 7


def test_ctrl_c_and_resume(config: Path, tmp_path: Path) -> None:
    process = start("fit", "--config", str(config), "--trainer.max_epochs", "400", "--model.scheduler.name", "constant")
    wait_for("runs/tiny/*/checkpoints/last.ckpt", tmp_path, process)
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130
    (run,) = (tmp_path / "runs" / "tiny").iterdir()
    assert complaint == f"defectlab: stopped; go on with: defectlab resume {os.path.realpath(run)}\n"
    reached = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["epoch"]
    assert main(["resume", str(run), "--trainer.max_epochs", str(reached + 3)]) == 0
    assert epochs(run) == list(range(reached + 3))
    assert read(run)["test"]["n"] == 7


def test_bf16_and_clipping_train(fit: Fit) -> None:
    words = ["--trainer.precision", "bf16-mixed", "--trainer.gradient_clip_val", "1", "--trainer.max_epochs", "1"]
    assert read(fit(*words))["test"]["n"] == 7


def test_cached_features_need_their_weights_once(config: Path, fit: Fit, tmp_path: Path) -> None:
    torch.manual_seed(0)
    donor = PretrainedNetwork(3, 1, 16, stages="middle")
    weights = tmp_path / "donor.pth"
    torch.save(donor.state_dict(), weights)
    text = yaml.safe_load(config.read_text())
    text["model"] = {
        "class_path": "PretrainedTask",
        "init_args": {"weights": str(weights), "stages": "middle", "cache_features": True},
    }
    config.write_text(yaml.safe_dump(text))
    run = fit()
    weights.unlink()  # the checkpoint has the tensors
    before = read(run)
    assert before["run"]["weights"] == str(weights)
    assert main(["test", str(run)]) == 0
    assert read(run)["test"] == before["test"]
    assert main(["resume", str(run), "--trainer.max_epochs", "3"]) == 0
    assert read(run)["run"]["weights"] == str(weights)
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    for name, tensor in donor.features.state_dict().items():
        assert torch.equal(state[f"network.features.{name}"], tensor), name
    assert not torch.equal(state["network.head.2.weight"], donor.state_dict()["head.2.weight"])


def test_synthetic_pictures_are_called_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data.source", "synthetic", "--data.synthetic_per_class", "8", "--data.image_size", "32"]
    words += ["--data.val_size", "6", "--data.test_size", "12"]
    words += ["--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.default_root_dir", str(tmp_path)]
    assert main(["fit", "--config", "neu_simple_cnn.yaml", *words]) == 0
    said = capsys.readouterr()
    (warning,) = said.err.splitlines()
    assert "SYNTHETIC" in warning
    assert "SYNTHETIC" in said.out
    (run,) = (tmp_path / "neu_simple_cnn").iterdir()
    assert read(run)["data"]["source"] == "synthetic"
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["init_args"]["source"] == "synthetic"
    assert main(["data", "synthesize", str(tmp_path / "strip"), "--per-class", "1"]) == 0
    assert main(["predict", str(run), str(tmp_path / "strip"), "--output", str(tmp_path / "out.csv")]) == 0
    assert "SYNTHETIC" in capsys.readouterr().out
    assert len(rows_of(tmp_path / "out.csv")) == 6


def test_data_fetch_says_where_the_pictures_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def fetch(folder: Path, url: str) -> Path:
        asked.append(url)
        return folder

    monkeypatch.setattr("defectlab.data.sources.fetch.fetch_neu", fetch)
    assert main(["data", "fetch", str(tmp_path / "neu"), "--url", "http://127.0.0.1/neu.zip"]) == 0
    assert capsys.readouterr().out == f"NEU-CLS is in {tmp_path / 'neu'}\n"
    assert main(["data", "fetch"]) == 0
    assert asked[0] == "http://127.0.0.1/neu.zip"
    assert asked[1].startswith("https://github.com/")


def test_configs_lists_and_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert any(line.startswith("neu_mobilenet.yaml ") and len(line.split()) > 3 for line in listed)
    heading = next(number for number, line in enumerate(listed) if "docs/course.md" in line)
    assert any(line.startswith("mnist_plain.yaml ") for line in listed[heading:])
    assert main(["configs", "gpu"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["trainer"]["accelerator"] == "gpu"


def test_a_reader_that_has_enough_is_no_error() -> None:
    process = start("fit", "--config", "neu_mobilenet.yaml", "--help")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 141
