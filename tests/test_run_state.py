"""A run knows its best checkpoint, its split and how far it has come; nothing that was trained is lost or replaced."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import yaml
from conftest import striped
from helpers import read, refusal, start, wait_for, write_config
from PIL import Image

import defectlab as dl
from defectlab.cli.main import main
from defectlab.data.pipeline.split_table import SplitTable
from defectlab.engine.loggers import EventsLogger
from defectlab.networks import CompactCNN
from defectlab.runs import RunFolder
from defectlab.runs.lock import RunLocked, locked
from defectlab.runs.state import read_state, write_state
from defectlab.utils.progress import later_rank

CHECKPOINT = "lightning.pytorch.callbacks.ModelCheckpoint"


@pytest.fixture
def config(tmp_path: Path, class_folders: Path) -> Path:
    return write_config(tmp_path, class_folders)


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run of one epoch, and of its images."""
    folder = tmp_path / "runs" / "tiny" / finished.name
    shutil.copytree(finished, folder)
    shutil.copytree(finished.parents[2] / "images", tmp_path / "images", dirs_exist_ok=True)
    text = (folder / "config.yaml").read_text().replace(str(finished.parents[2]), str(tmp_path))
    (folder / "config.yaml").write_text(text)
    return folder


def fit(config: Path, output: Path, *words: str) -> Path:
    assert main(["fit", "--config", str(config), "--output", str(output), "--trainer.max_epochs=1", *words]) == 0
    return output


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def with_callbacks(config: Path, *callbacks: dict[str, Any]) -> Path:
    sections = yaml.safe_load(config.read_text())
    sections["trainer"]["callbacks"] = list(callbacks)
    config.write_text(yaml.safe_dump(sections))
    return config


# The best checkpoint


@pytest.mark.parametrize("place", ["", "elsewhere"])
def test_the_best_checkpoint_is_found_by_any_name_and_place(place: str, config: Path, tmp_path: Path) -> None:
    arguments = {"monitor": "val/accuracy", "mode": "max", "filename": "top-{epoch}"}
    if place:
        arguments["dirpath"] = str(tmp_path / place)
    with_callbacks(config, {"class_path": CHECKPOINT, "init_args": arguments})
    run = RunFolder(fit(config, tmp_path / "run", "--trainer.max_epochs=3"))
    assert run.best.name.startswith("top-epoch=")
    assert run.best.is_file()
    assert not (run.checkpoints / "best.ckpt").exists()
    before, fingerprint = read(run.path), run.fingerprint
    assert before["run"]["checkpoint"] == fingerprint == run.read_predictions().checkpoint
    assert main(["test", str(run.path)]) == 0
    assert read(run.path)["test"] == before["test"]
    assert dl.load(run).name == str(run.path)
    weights = torch.load(run.best, weights_only=True)["state_dict"]
    assert all(torch.equal(value, weights[name]) for name, value in dl.load(run).tasks[0].state_dict().items())
    moved = RunFolder(run.path.rename(tmp_path / "moved"))
    assert moved.fingerprint == fingerprint
    state = read_state(moved.path)
    assert state is not None
    assert state.phase == "finished"
    run.best.unlink(missing_ok=True)
    moved.best.unlink(missing_ok=True)
    refusal(lambda: dl.load(moved), "is not there")  # never last.ckpt in its place


def test_another_best_checkpoint_is_refused(run: Path) -> None:
    best = RunFolder(run).best
    torch.save({**torch.load(best, weights_only=True), "epoch": 7}, best)
    refusal(lambda: dl.load(run), "best.ckpt", "SHA-256")
    (run / "state.json").unlink()  # as a run of an earlier version
    assert dl.load(run).card.class_names == ("good", "hole", "scratch")


def test_two_checkpoints_of_one_file_are_refused(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_callbacks(config, {"class_path": CHECKPOINT, "init_args": {"monitor": "val/accuracy", "filename": "last"}})
    assert main(["fit", "--config", str(config)]) == 1
    assert "last.ckpt" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_mode_that_takes_the_lowest_accuracy_is_told(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_callbacks(config, {"class_path": CHECKPOINT, "init_args": {"monitor": "val/accuracy", "filename": "a"}})
    fit(config, tmp_path / "run")
    assert "mode: max" in capsys.readouterr().err


def test_a_callback_of_ones_own_leaves_best_and_what_is_dropped_is_told(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overlay = tmp_path / "over.yaml"
    every = {"class_path": CHECKPOINT, "init_args": {"filename": "each-{epoch}", "save_top_k": -1}}
    overlay.write_text(yaml.safe_dump({"trainer": {"callbacks": [every]}}))
    run = fit(config, tmp_path / "a", "--config", str(overlay))
    names = [callback["class_path"].rpartition(".")[2] for callback in
             yaml.safe_load((run / "config.yaml").read_text())["trainer"]["callbacks"]]  # fmt: skip
    assert names == ["ModelCheckpoint", "EarlyStopping", "ModelCheckpoint"]
    assert RunFolder(run).best.name == "best.ckpt"
    assert "drops" not in capsys.readouterr().err
    run = fit(config, tmp_path / "b", "--trainer.callbacks", json.dumps([every]))
    assert RunFolder(run).best.name == "best.ckpt"
    assert "drops EarlyStopping" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--trainer.check_val_every_n_epoch=5"], ["--trainer.enable_checkpointing=false"]])
def test_what_was_trained_is_kept_without_a_validation(words: list[str], config: Path, tmp_path: Path) -> None:
    if "checkpointing" in words[0]:
        with_callbacks(config)
    run = RunFolder(fit(config, tmp_path / "run", *words, "--trainer.max_epochs=3"))
    assert run.best == run.last
    assert torch.load(run.best, weights_only=True)["epoch"] in (2, 3)
    assert read(run.path)["val"]["n"] == 6
    before = read(run.path)["test"]
    assert main(["test", str(run.path)]) == 0
    assert read(run.path)["test"] == before


# The split


def test_new_images_stay_out_of_the_split(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = read(run)
    assert len(SplitTable.read(run / "split.csv").rows) == 36
    for name in ("good/000.png", "hole/zz.png"):
        Image.fromarray(striped(1, 77)).save(tmp_path / "images" / name)
    assert main(["test", str(run)]) == 0
    assert "2 images" in capsys.readouterr().err
    after = read(run)
    assert after["test"] == before["test"]
    assert after["data"]["counts"] == before["data"]["counts"]
    assert main(["validate", str(run)]) == 0
    assert f"{before['val']['accuracy']:.2%}" in capsys.readouterr().out
    assert main(["resume", str(run), "--trainer.max_epochs=2"]) == 0
    assert read(run)["data"]["split_hash"] == before["data"]["split_hash"]


@pytest.mark.parametrize("command", ["test", "validate", "resume"])
def test_missing_and_changed_images_are_refused(
    command: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(run)
    words = ["--trainer.max_epochs=2"] if command == "resume" else []
    for name in ("good", "hole"):  # the same names
        for index in range(12):
            Image.fromarray(striped(2, 50 + index)).save(tmp_path / "images" / name / f"{index}.png")
    assert main([command, str(run), *words]) == 1
    assert "24 changed" in capsys.readouterr().err
    (tmp_path / "images/scratch/3.png").unlink()
    assert main([command, str(run), *words]) == 1
    assert "1 missing (scratch/3.png)" in capsys.readouterr().err
    assert contents(run) == before


def test_a_resumed_run_refuses_another_split(run: Path) -> None:
    before = contents(run)
    refusal(lambda: dl.resume(run, data={"seed": 1}, trainer={"max_epochs": 2}), "data.seed")
    assert contents(run) == before


# A labelled set as a whole


def test_a_labelled_set_is_evaluated_whole(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(run)
    new = tmp_path / "new"
    for label, name in ((2, "scratch"), (0, "good")):  # no hole
        (new / name).mkdir(parents=True)
        for index in range(15):
            Image.fromarray(striped(label, 100 + index)).save(new / name / f"{index}.png")
    with zipfile.ZipFile(tmp_path / "new.zip", "w") as archive:
        for file in sorted(new.rglob("*.png")):
            archive.write(file, file.relative_to(tmp_path))
    found = []
    for words in (["--data.root", str(new)], ["--on", str(new)], [f"--on={tmp_path / 'new.zip'}"]):
        assert main(["test", str(run), *words]) == 0
        place = Path(capsys.readouterr().out.splitlines()[-1].removeprefix("written to").strip())
        assert place.parent == run
        metrics = read(place)
        assert metrics["test"]["n"] == 30
        assert metrics["data"]["class_names"] == ["good", "hole", "scratch"]
        assert metrics["data"]["counts"]["test"] == {"good": 15, "hole": 0, "scratch": 15}
        assert metrics["data"]["mean"] == read(run)["data"]["mean"]
        table = RunFolder(place).read_predictions()
        assert table.checkpoint == RunFolder(run).fingerprint == RunFolder(place).fingerprint
        found.append(metrics["test"]["accuracy"])
    assert found[0] == found[1] == found[2]
    predictions = dl.predict(run, [str(new)])
    right = [
        Path(file).parent.name == name for file, name in zip(predictions.files, predictions.predicted, strict=True)
    ]
    assert found[0] == np.mean(right)
    evaluation = dl.test(run, on=new)
    assert evaluation.n == 30
    assert evaluation.accuracy == found[0]
    assert evaluation.run is not None
    assert dl.test(evaluation.run).accuracy == found[0], "the folder of a whole set stays one"
    assert dl.validate(run, on=new).accuracy == found[0]
    assert {name: content for name, content in contents(run).items() if not name.startswith("test-")} == before
    refusal(lambda: dl.test(run, on=tmp_path / "nowhere"), "nowhere")


def test_one_class_alone_is_evaluated(run: Path, tmp_path: Path) -> None:
    (tmp_path / "new/hole").mkdir(parents=True)
    for index in range(4):
        Image.fromarray(striped(1, 100 + index)).save(tmp_path / "new/hole" / f"{index}.png")
    found = dl.test(run, on=tmp_path / "new")
    assert found.n == 4
    assert found.metrics["per_class"]["hole"]["support"] == 4


def test_images_of_the_training_part_in_a_set_are_told(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = shutil.copytree(tmp_path / "images", tmp_path / "moved")
    assert main(["test", str(run), "--on", str(moved)]) == 0
    printed = capsys.readouterr()
    assert "its test part is evaluated" in printed.err
    assert f"{read(run)['test']['accuracy']:.2%}" in printed.out
    (moved / "good/0.png").unlink()
    assert main(["test", str(run), "--on", str(moved)]) == 0
    used = sum(row.part != "test" and row.file != "good/0.png" for row in SplitTable.read(run / "split.csv").rows)
    assert f"{used} of the 35 images" in capsys.readouterr().err


# Finished is finished


def test_a_finished_run_is_not_resumed(run: Path) -> None:
    before = contents(run)
    refusal(lambda: dl.resume(run), "finished after 1 epochs")
    refusal(lambda: dl.resume(run, trainer={"max_epochs": 1}), "finished after 1 epochs")
    refusal(lambda: dl.resume(run, data={"batch_size": 4}), "finished after 1 epochs")
    (run / "checkpoints/last.ckpt").unlink()
    del before["checkpoints/last.ckpt"]
    refusal(lambda: dl.resume(run), "last.ckpt", "put it back")
    (run / "state.json").unlink()
    del before["state.json"]
    refusal(lambda: dl.resume(run, trainer={"max_epochs": 2}), "last.ckpt", "put it back")
    assert contents(run) == before


def test_early_stopping_ends_a_run_for_good(config: Path, tmp_path: Path) -> None:
    stop = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss", "patience": 1, "min_delta": 9.0}}
    with_callbacks(config, stop)
    run = fit(config, tmp_path / "run", "--trainer.max_epochs=9")
    assert read(run)["run"]["epochs"] == 2
    before = contents(run)
    for words in ([], ["--trainer.max_epochs=20"]):
        assert main(["resume", str(run), *words]) == 1
    assert contents(run) == before
    more = json.dumps([{**stop, "init_args": {**stop["init_args"], "patience": 3}}])  # type: ignore[dict-item]
    assert main(["resume", str(run), "--trainer.callbacks", more]) == 0
    assert read(run)["run"]["epochs"] == 4


def test_a_run_that_was_trained_is_not_begun_anew(run: Path) -> None:
    (run / "metrics.json").unlink()
    (run / "checkpoints/last.ckpt").unlink()
    best = run / "checkpoints/best.ckpt"
    torch.save({**torch.load(best, weights_only=True), "epoch": 1}, best)
    write_state(run, "stopped", run / "checkpoints/best.ckpt")
    before = contents(run)
    refusal(lambda: dl.resume(run), "last.ckpt")
    assert contents(run) == before


# Nothing that was made is removed


class Meddler(pl.Callback):
    """Call something in the run folder when the second epoch begins."""

    def __init__(self, meddle: Callable[[Path], object]) -> None:
        self.meddle = meddle

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 1:
            self.meddle(Path(trainer.default_root_dir))


@pytest.fixture
def meddling(config: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def fit_while(meddle: Callable[[Path], object], output: Path) -> int:
        monkeypatch.setattr("defectlab.engine.trainer.EpochLines", lambda: Meddler(meddle))
        return main(["fit", "--config", str(config), "--output", str(output)])

    return fit_while


def test_a_removed_config_is_written_again(meddling: Callable[..., int], tmp_path: Path) -> None:
    output = tmp_path / "run"
    assert meddling(lambda run: (run / "config.yaml").unlink(), output) == 0
    assert (output / "config.yaml").is_file()
    assert read(output)["run"]["epochs"] == 2
    assert RunFolder(output).best.is_file()


def test_a_run_that_is_moved_while_it_trains_keeps_all(meddling: Callable[..., int], tmp_path: Path) -> None:
    status = meddling(lambda run: run.rename(tmp_path / "moved"), tmp_path / "run")
    assert (tmp_path / "moved/checkpoints/best.ckpt").is_file()
    assert (tmp_path / "run/checkpoints/last.ckpt").is_file()
    assert (status == 0) == (tmp_path / "run/metrics.json").is_file()


def test_logs_that_cannot_be_written_do_not_end_a_training(
    meddling: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def break_logs(run: Path) -> None:
        (run / "metrics.csv").unlink()
        (run / "metrics.csv").mkdir()

        def fail(self: object, *arguments: object, **more: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", fail)

    assert meddling(break_logs, tmp_path / "run") == 0
    told = capsys.readouterr().err
    assert told.count("metrics.csv cannot be written") == 1
    assert told.count("EventsLogger cannot log any more (No space left") == 1 or "No space left" in told
    assert read(tmp_path / "run")["run"]["epochs"] == 2


def test_a_broken_table_of_epochs_is_told_before_training(run: Path) -> None:
    for text in ("epoch,seconds\nx,1\n", "epoch,seconds\n0,1,2\n", "seconds\n1\n", "epoch,seconds\n0,soon\n", "\0"):
        (run / "metrics.csv").write_text(text)
        before = contents(run)
        refusal(lambda: dl.resume(run, trainer={"max_epochs": 2}), "metrics.csv")
        assert contents(run) == before


# Two writers


def test_one_writer_at_a_time(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, config = contents(run), write_config(tmp_path, tmp_path / "images")
    holder = start("fit", "--config", str(config), "--trainer.max_epochs=100000", "--output", str(tmp_path / "busy"))
    try:
        wait_for("busy/checkpoints/last.ckpt", tmp_path, holder)
        for command in ("resume", "test"):
            assert main([command, str(tmp_path / "busy")]) == 1
            assert f"process {holder.pid}" in capsys.readouterr().err
    finally:
        holder.kill()
        holder.communicate()
    assert (tmp_path / "busy/run.lock").is_file(), "left by the killed process, and taken over"
    assert (
        main(["resume", str(tmp_path / "busy"), "--trainer.max_epochs=100000", "--trainer.max_time=00:00:00:01"]) == 0
    )
    assert not (tmp_path / "busy/run.lock").exists()
    with locked(run):
        with pytest.raises(RunLocked, match=f"process {os.getpid()}"), locked(run):
            pass
        assert main(["test", str(run)]) == 1
    assert contents(run) == before
    assert main(["test", str(run)]) == 0


def test_sigterm_after_training_says_a_word_and_leaves_the_state_right(
    config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("defectlab.engine.fit.write_outcome", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", str(config), "--output", str(tmp_path / "run")])
    assert stop.value.code == 143
    assert "terminated" in capfd.readouterr().err
    state = read_state(tmp_path / "run")
    assert state is not None
    assert state.phase == "stopped"
    monkeypatch.undo()
    assert main(["resume", str(tmp_path / "run")]) == 0
    assert read(tmp_path / "run")["run"]["epochs"] == 2


def test_sigterm_before_training_says_a_word_and_leaves_nothing(
    config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dl.ImageFolderDataModule, "load", lambda self: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", str(config)])
    assert stop.value.code == 143
    assert "terminated" in capfd.readouterr().err
    assert not (tmp_path / "runs").exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


# What several processes leave


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork"])
def test_a_strategy_that_loses_the_results_is_refused(
    strategy: str, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config", str(config), "--trainer.strategy", strategy, "--trainer.devices=2"]
    assert main(["fit", *words]) == 1
    assert "trainer.strategy" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("variable", ["RANK", "LOCAL_RANK", "SLURM_PROCID"])
def test_a_rank_is_known_by_its_variable(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert later_rank() is None
    monkeypatch.setenv(variable, "0")
    assert later_rank() is None
    monkeypatch.setenv(variable, "1")
    assert later_rank() == variable


def test_a_rank_that_is_left_over_is_told(config: Path, tmp_path: Path) -> None:
    variable = "LOCAL_RANK"
    code = f"import sys; from defectlab.cli.main import main; sys.exit(main(['fit', '--config', {str(config)!r}]))"
    environment = {**os.environ, variable: "1"}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=100)
    assert ended.returncode == 1
    assert f"unset {variable}" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "runs").exists()


# Logs


def test_own_loggers_stand_beside_ours(config: Path, tmp_path: Path) -> None:
    own = {"class_path": "CSVLogger", "init_args": {"save_dir": str(tmp_path / "own")}}
    run = fit(config, tmp_path / "run", "--trainer.logger", json.dumps([own]))
    assert list(run.glob("events.out.tfevents.*"))
    with (run / "metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["train/loss"]) > 0
    assert float(row["val/loss"]) > 0
    assert read(run)["run"]["train_seconds"] > 0
    (table,) = (tmp_path / "own").rglob("metrics.csv")
    assert "train/loss" in table.read_text()
    (hparams,) = (tmp_path / "own").rglob("hparams.yaml")
    assert "optimizer" in hparams.read_text()


def test_a_run_without_loggers_knows_its_time(config: Path, tmp_path: Path) -> None:
    assert read(fit(config, tmp_path / "run", "--trainer.logger=false"))["run"]["train_seconds"] > 0


def test_the_epoch_is_no_curve_and_both_losses_share_a_card(finished: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(next(finished.glob("events.out.tfevents.*"))))
    events.Reload()
    assert "epoch" not in events.Tags()["scalars"]
    assert {"train/loss", "val/loss"} <= set(events.Tags()["scalars"])
    assert events.PluginTagToContent("custom_scalars")


def test_a_log_that_fails_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    logger = EventsLogger(tmp_path / "file", "", "run")
    logger.log_metrics({"train/loss": 1.0}, 0)
    logger.log_metrics({"train/loss": 1.0}, 1)
    logger.save()
    logger.finalize("success")
    assert logger.failed


# One image a training


def test_overfit_batches_takes_the_same_images(class_folders: Path) -> None:
    data = dl.ImageFolderDataModule(root=str(class_folders), image_size=16, channels=1, batch_size=4)
    seen = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, task: Any, batch: Any, batch_idx: int) -> None:
            seen.append(batch[0].clone())

    task = dl.SmallCNNTask(CompactCNN, num_classes=3, in_channels=1, image_size=16)
    trainer = pl.Trainer(overfit_batches=1, max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, callbacks=[Watch()])  # fmt: skip
    trainer.fit(task, datamodule=data)
    assert len(seen) == 3
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])
