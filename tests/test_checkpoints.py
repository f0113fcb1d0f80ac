"""Checkpoints: what they name is looked up, never imported at their word; those of older versions load."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from helpers import refusal
from torch import nn

from defectlab.data import ImageFolderDataModule
from defectlab.networks import CompactCNN
from defectlab.tasks import ClassificationTask, PretrainedTask, SmallCNNTask
from defectlab.tasks.checkpoint import load_task, read_checkpoint

CARD = {"class_names": ["a", "b", "c"], "mean": [0.5], "std": [0.2], "image_size": 16, "channels": 1}


class Flat(nn.Module):
    """Takes the number of classes alone."""

    def __init__(self, num_classes: int, width: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(256, width), nn.Linear(width, num_classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(images)
        return logits


def written(path: Path, module: pl.LightningModule, **changes: Any) -> Path:
    """A checkpoint of the form that every version writes."""
    content = {"state_dict": module.state_dict(), "epoch": 0, "global_step": 1, "ImageFolderDataModule": CARD}
    torch.save({**content, "pytorch-lightning_version": "2.6.0", **changes}, path)
    return path


def test_the_deep_paths_of_older_versions_are_read(tmp_path: Path) -> None:
    old = {"optimizer": {"name": "adamw", "lr": 0.1}, "distillation": None, "channels_last": True}
    shape = {"num_classes": 3, "in_channels": 1, "image_size": 16}
    network = {"class_path": "defectlab.networks.small_cnn.CompactCNN", "init_args": {"dropout": 0.1}}
    images = torch.randn(2, 1, 16, 16)
    values: dict[str, Any]
    task: ClassificationTask
    for task, path, values in (
        (SmallCNNTask(CompactCNN, 3, 1, 16), "defectlab.tasks.small_cnn.SmallCNNTask", {"network": network}),
        (PretrainedTask(3, 1, 16), "defectlab.tasks.pretrained.PretrainedTask", {"weights": None}),
    ):
        file = written(tmp_path / "old.ckpt", task, task=path, hyper_parameters={**shape, **old, **values})
        found, card = load_task(str(file))
        assert card.class_names == ("a", "b", "c")
        with torch.no_grad():
            assert torch.equal(found(images), task.eval()(images))


def fitted(task: ClassificationTask, folder: Path, tmp_path: Path) -> Path:
    """Its checkpoint after an epoch."""
    data = ImageFolderDataModule(str(folder), image_size=16, channels=1, batch_size=8)
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, default_root_dir=tmp_path, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(task, datamodule=data)
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    return tmp_path / "own.ckpt"


def test_new_ones_name_public_classes_and_load_whatever_made_the_network(class_folders: Path, tmp_path: Path) -> None:
    for task in (
        SmallCNNTask(CompactCNN, 3, 1, 16),
        SmallCNNTask(Flat, 3, 1, 16),
        SmallCNNTask(CompactCNN(3, 1, 16), 3, 1, 16),
        ClassificationTask(Flat, 3),
        ClassificationTask(Flat(3), num_classes=3),
    ):
        path = fitted(task, class_folders, tmp_path)
        assert read_checkpoint(path)["task"] == f"defectlab.tasks.{type(task).__name__}"
        found, _ = load_task(path)
        for name, tensor in task.state_dict().items():
            assert torch.equal(found.state_dict()[name], tensor)


def test_a_network_that_nothing_could_load_again(class_folders: Path, tmp_path: Path) -> None:
    class Local(Flat):
        pass

    for task in (ClassificationTask(lambda num_classes: Flat(num_classes), 3), ClassificationTask(Local, 3)):
        refusal(partial(fitted, task, class_folders, tmp_path), "lambda")
    # A ready one trains; to load it is another matter.
    path = fitted(ClassificationTask(Flat(3, width=7), num_classes=3), class_folders, tmp_path)
    refusal(lambda: load_task(path), "given as a module")


def test_what_a_checkpoint_names_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'proof')!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    task = SmallCNNTask(CompactCNN, 3, 1, 16)
    shape = {"num_classes": 3, "in_channels": 1, "image_size": 16}
    file = written(tmp_path / "a.ckpt", task, task="evil.Task", hyper_parameters=shape)
    refusal(lambda: load_task(file), "evil.Task")
    spec: dict[str, Any]
    for spec in ({"class_path": "evil.Net"}, {"class_path": "os.system", "init_args": {"command": "true"}}):
        values = {**shape, "network": spec}
        file = written(tmp_path / "b.ckpt", task, task="defectlab.tasks.SmallCNNTask", hyper_parameters=values)
        refusal(partial(load_task, file), str(spec["class_path"]))
    assert not (tmp_path / "proof").exists()
    assert "evil" not in sys.modules
