"""From fit to predict, as a user goes."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from defectlab.cli.main import main

TINY = """
seed_everything: 0
model:
  class_path: SmallCNNTask
  init_args:
    network: {class_path: CompactCNN}
    optimizer: {name: adamw, lr: 0.003}
data:
  class_path: ImageFolderDataModule
  init_args: {root: ROOT, image_size: 16, channels: 1, batch_size: 8, eval_batch_size: 4, val_size: 6, test_size: 7}
trainer:
  max_epochs: 2
  accelerator: cpu
  default_root_dir: RUNS
  callbacks:
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {monitor: val/loss, mode: min, filename: best, save_last: true, enable_version_counter: false}
    - class_path: lightning.pytorch.callbacks.EarlyStopping
      init_args: {monitor: val/loss, mode: min, patience: 50}
"""

Fit = Callable[..., Path]


@pytest.fixture
def config(tmp_path: Path, class_folders: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY.replace("ROOT", str(class_folders)).replace("RUNS", str(tmp_path / "runs")))
    return path


@pytest.fixture
def fit(config: Path, tmp_path: Path) -> Fit:
    """Run fit in this process; gives the new run folder."""

    def run(*words: str) -> Path:
        before = set((tmp_path / "runs").glob("tiny/*"))
        assert main(["fit", "--config", str(config), *words]) == 0
        (new,) = set((tmp_path / "runs").glob("tiny/*")) - before
        return new

    return run


def read(run: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return metrics


def start(*words: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "defectlab", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


def test_fit_leaves_the_run_folder_of_the_contract(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    run = fit()
    said = capsys.readouterr().out
    for words in ("accuracy", "macro F1", "worst class", "tensorboard --logdir", run.name):
        assert words in said
    metrics = read(run)
    assert list(metrics) == ["data", "val", "test", "environment", "run"]
    assert metrics["data"]["class_names"] == ["good", "hole", "scratch"]
    assert metrics["test"]["n"] == 7
    assert metrics["run"]["config"] == "tiny"
    assert len(list(run.glob("events.out.tfevents.*"))) >= 1
    assert not (run / "hparams.yaml").exists()
    with (run / "metrics.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0", "1"]
    with (run / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "label", "predicted", "confidence", "p_good", "p_hole", "p_scratch"]
    right = sum(row["label"] == row["predicted"] for row in rows)
    assert right / 7 == metrics["test"]["accuracy"]
    assert "<html" in (run / "report.html").read_text()
    for name in ("best", "last"):
        checkpoint = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert not [key for key in checkpoint["state_dict"] if "_orig_mod" in key]


def test_the_saved_config_repeats_the_run(fit: Fit, tmp_path: Path) -> None:
    first = fit("--model.network.dropout", "0.5")
    assert main(["fit", "--config", str(first / "config.yaml")]) == 0
    second = max((run for run in (tmp_path / "runs").glob("*/*")), key=lambda run: run.stat().st_mtime_ns)
    assert second != first
    assert read(second)["test"] == read(first)["test"]
    saved = yaml.safe_load((second / "config.yaml").read_text())
    assert saved["model"]["init_args"]["network"]["init_args"]["dropout"] == 0.5


def test_test_gives_the_same_figures_again_and_other_data_leave_the_run_alone(
    fit: Fit, tmp_path: Path, split_folders: Path
) -> None:
    run = fit()
    before = read(run)
    assert main(["test", str(run)]) == 0
    assert read(run)["test"] == before["test"]
    kept = (run / "predictions.csv").read_bytes()
    assert main(["test", str(run), "--data.root", str(split_folders)]) == 0
    assert (run / "predictions.csv").read_bytes() == kept
    assert main(["validate", str(run)]) == 0


def test_a_finished_run_goes_on(fit: Fit) -> None:
    run = fit()
    assert main(["resume", str(run), "--trainer.max_epochs", "4"]) == 0
    with (run / "metrics.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0", "1", "2", "3"]
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 3


def test_ctrl_c_and_resume(config: Path, tmp_path: Path) -> None:
    process = start("fit", "--config", str(config), "--trainer.max_epochs", "400", "--model.scheduler.name", "constant")
    last: list[Path] = []
    deadline = time.monotonic() + 90
    while not last and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
        last = list((tmp_path / "runs").glob("tiny/*/checkpoints/last.ckpt"))
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "defectlab resume" in complaint
    assert "Traceback" not in complaint
    (run,) = (tmp_path / "runs" / "tiny").iterdir()
    reached = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["epoch"]
    assert main(["resume", str(run), "--trainer.max_epochs", str(reached + 3)]) == 0
    with (run / "metrics.csv").open() as file:
        assert [int(row["epoch"]) for row in csv.DictReader(file)] == list(range(reached + 3))
    assert read(run)["test"]["n"] == 7


def test_predict_writes_a_sorted_table(fit: Fit, class_folders: Path, tmp_path: Path) -> None:
    run = fit()
    output = tmp_path / "out.csv"
    folder = class_folders / "hole"
    assert (
        main(["predict", str(run), str(folder), str(class_folders / "good" / "1*.png"), "--output", str(output)]) == 0
    )
    with output.open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "predicted", "confidence", "p_good", "p_hole", "p_scratch"]
    assert len(rows) == 12 + 3
    names = [Path(row["file"]).name for row in rows if "hole" in row["file"]]
    assert names == [f"{index}.png" for index in range(12)]
    again = tmp_path / "again.csv"
    assert main(["predict", str(run / "checkpoints" / "best.ckpt"), str(folder), "--output", str(again)]) == 0
    with again.open() as file:
        assert [row["predicted"] for row in csv.DictReader(file)] == [
            r["predicted"] for r in rows if "hole" in r["file"]
        ]


def test_two_processes_count_each_test_image_once(fit: Fit, config: Path, tmp_path: Path) -> None:
    alone = fit()
    words = ("--trainer.devices", "2", "--trainer.strategy", "ddp")
    test = start("test", str(alone), *words)
    assert test.wait(timeout=120) == 0, test.communicate()
    two = read(alone)["test"]
    assert main(["test", str(alone)]) == 0
    assert two == read(alone)["test"]
    process = start("fit", "--config", str(config), *words)
    _, complaint = process.communicate(timeout=120)
    assert process.returncode == 0, complaint
    runs = set((tmp_path / "runs" / "tiny").iterdir()) - {alone}
    assert len(runs) == 1
    assert read(runs.pop())["test"]["n"] == 7


def test_bf16_trains(fit: Fit) -> None:
    assert read(fit("--trainer.precision", "bf16-mixed", "--trainer.max_epochs", "1"))["test"]["n"] == 7


def test_cached_features_train_the_head_alone(config: Path, fit: Fit, tmp_path: Path) -> None:
    from defectlab.networks import MobileNet

    torch.manual_seed(0)
    donor = MobileNet(3, 1, 16, stages="middle")
    torch.save(donor.state_dict(), tmp_path / "donor.pth")
    text = yaml.safe_load(config.read_text())
    text["model"] = {
        "class_path": "MobileNetTask",
        "init_args": {"weights": str(tmp_path / "donor.pth"), "stages": "middle", "cache_features": True},
    }
    config.write_text(yaml.safe_dump(text))
    run = fit()
    (tmp_path / "donor.pth").unlink()  # the checkpoint has the tensors
    state = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    for name, tensor in donor.features.state_dict().items():
        assert torch.equal(state[f"network.features.{name}"], tensor), name
    assert not torch.equal(state["network.head.2.weight"], donor.head.state_dict()["2.weight"])
    before = read(run)["test"]
    assert main(["test", str(run)]) == 0
    assert read(run)["test"] == before
