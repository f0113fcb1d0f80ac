"""EMA and SWA: what they average, what validation and checkpoints hold, and where a resumed run goes on."""

import csv
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from helpers import read, write_config
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn

from defectlab.callbacks import EMA, SWA
from defectlab.cli.main import main
from defectlab.data import ImageFolderDataModule
from defectlab.errors import InputError
from defectlab.tasks import OptimizerSettings, SchedulerSettings, SmallCNNTask
from defectlab.tasks.checkpoint import read_checkpoint

State = dict[str, Tensor]


class Record(Callback):
    """The task's own state after each step, and its validation loss as it was logged."""

    def __init__(self) -> None:
        self.states: list[State] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.states.append({name: tensor.clone() for name, tensor in pl_module.state_dict().items()})


def normalised(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(in_channels, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, num_classes),
    )  # fmt: skip


def fit(averaging: Callback, pictures: Path, folder: Path, epochs: int = 4) -> tuple[Record, SmallCNNTask, State]:
    """The states of all steps, the task afterwards, and what the last checkpoint holds."""
    pl.seed_everything(0)
    record, keep = Record(), ModelCheckpoint(folder, filename="last", enable_version_counter=False)
    data = ImageFolderDataModule(str(pictures), image_size=16, channels=1, batch_size=8, val_size=3, test_size=4)
    task = SmallCNNTask(
        normalised, 3, 1, 16, optimizer=OptimizerSettings("sgd", lr=0.5), scheduler=SchedulerSettings("constant"),
    )  # fmt: skip
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, callbacks=[record, averaging, keep],
        default_root_dir=folder, num_sanity_val_steps=0, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(task, datamodule=data)
    checkpoint = read_checkpoint(folder / "last.ckpt")
    assert_equal(checkpoint["current_model_state"], record.states[-1])
    return record, task, checkpoint["state_dict"]


def assert_equal(found: State, expected: State, tolerance: float = 0.0) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        if found[name].is_floating_point():  # not a counter of batches
            torch.testing.assert_close(found[name], tensor, rtol=tolerance, atol=tolerance, msg=name)


def test_ema_follows_its_formula_batch_norm_included(class_folders: Path, tmp_path: Path) -> None:
    decay = 0.5
    record, task, saved = fit(EMA(decay), class_folders, tmp_path)
    assert len(record.states) == 16
    # Of the first weights nothing is left but a product of decays: 2/11, 3/12, ... and 0.5 from the eighth on.
    expected = {name: torch.zeros_like(tensor) for name, tensor in record.states[0].items()}
    left = 1.0
    for step, state in enumerate(record.states, start=1):
        kept = min(decay, (1 + step) / (10 + step))
        expected = {name: kept * expected[name] + (1 - kept) * tensor for name, tensor in state.items()}
        left *= kept
    assert left < 1e-5
    assert_equal(saved, expected, tolerance=1e-4)
    assert_equal(dict(task.state_dict()), saved)
    assert (saved["network.1.running_mean"] - record.states[-1]["network.1.running_mean"]).abs().max() > 1e-3


def test_swa_is_the_mean_of_epochs_with_statistics_of_its_own(class_folders: Path, tmp_path: Path) -> None:
    record, task, saved = fit(SWA(start=0.5), class_folders, tmp_path)
    third, fourth = record.states[11], record.states[15]
    mean = {name: (third[name] + fourth[name]) / 2 for name in saved if name.endswith(("weight", "bias"))}
    assert_equal({name: tensor for name, tensor in saved.items() if name in mean}, mean, tolerance=1e-6)
    # A pass over the training images: with 29 of them in batches of 8, the mean over batches is nearly that over all.
    data = ImageFolderDataModule(str(class_folders), image_size=16, channels=1, val_size=3, test_size=4)
    data.setup()
    images = torch.cat([images for images, _ in data.train_eval_dataloader()])
    task.eval()
    with torch.no_grad():
        maps = task.network[0](images)  # type: ignore[index]
    torch.testing.assert_close(saved["network.1.running_mean"], maps.mean(dim=(0, 2, 3)), rtol=0, atol=0.03)
    half = (third["network.1.running_mean"] + fourth["network.1.running_mean"]) / 2
    assert (half - maps.mean(dim=(0, 2, 3))).abs().max() > 0.03, "the mean of statistics would have done"


def test_frozen_batch_norm_stays_frozen_under_swa(class_folders: Path, tmp_path: Path) -> None:
    words = [
        "fit",
        "--config",
        str(write_config(tmp_path, class_folders)),
        "--trainer.callbacks+=defectlab.callbacks.SWA",
    ]
    words += ["--model", "PretrainedTask", "--model.width", "0.25", "--model.freeze_batch_norm", "true"]
    assert main(words) == 0
    (run,) = (tmp_path / "runs" / "tiny").iterdir()
    state = read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"]
    frozen = [tensor for name, tensor in state.items() if "features" in name and name.endswith("running_mean")]
    assert frozen
    assert not any(tensor.any() for tensor in frozen), "as they were made, for there were no weights"
    assert state["network.head.0.running_mean"].any()


@pytest.mark.parametrize("averaging", ["EMA", "SWA"])
def test_a_run_is_judged_by_its_average(
    averaging: str, class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:  # fmt: skip
    words = ["fit", "--config", str(write_config(tmp_path, class_folders)), "--trainer.max_epochs", "4"]
    words += [f"--trainer.callbacks+=defectlab.callbacks.{averaging}"]
    words += ["--model.network.norm", "batch"]
    assert main(words) == 0
    assert not [warning for warning in recwarn if "WeightAveraging" in str(warning.message)]
    assert "(raw " in capsys.readouterr().out
    (run,) = (tmp_path / "runs" / "tiny").iterdir()
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    begins = 0 if averaging == "EMA" else 3
    assert [bool(row["val/loss_raw"]) for row in rows] == [epoch >= begins for epoch in range(4)]
    assert rows[-1]["val/loss"] != rows[-1]["val/loss_raw"] or averaging == "SWA"  # a mean of one epoch
    metrics = read(run)
    best = rows[metrics["run"]["best_epoch"]]
    assert metrics["val"]["loss"] == pytest.approx(float(best["val/loss"]), rel=1e-4)
    assert main(["test", str(run)]) == 0
    assert read(run)["test"] == metrics["test"]
    assert main(["predict", str(run), str(class_folders), "--output", str(tmp_path / "out.csv")]) == 0


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match=r"EMA\.decay is 1\.0"):
        EMA(1.0)
    with pytest.raises(InputError, match=r"SWA\.start is -0\.1"):
        SWA(-0.1)
