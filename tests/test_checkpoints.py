"""Checkpoints: what they name is looked up, never imported at their word; those of older versions load."""

import os
import random
import sys
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from helpers import refusal
from torch import nn

from defectlab.data import ImageFolderDataModule
from defectlab.errors import InputError
from defectlab.inference.predictor import load
from defectlab.networks import CompactCNN, PretrainedNetwork
from defectlab.networks.weights import load_backbone_weights, save_backbone_weights
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


SHAPE = {"num_classes": 3, "in_channels": 1, "image_size": 16}
SMALL = {"task": "defectlab.tasks.SmallCNNTask"}
COMPACT = {"class_path": "defectlab.networks.CompactCNN"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network": {"class_path": "defectlab.tasks.PretrainedTask", "init_args": {"weights": "imagenet"}}}, "is no Module"),
        ({"network": {"class_path": "defectlab.networks.load_backbone_weights"}}, "is no Module"),
        ({"network": {"class_path": "defectlab.networks.weights.torch"}}, "cannot be imported"),
        ({"network": {"class_path": "defectlab.cli.main.main"}}, "is no Module"),
        ({"network": {"class_path": 3}}, "expected its import path"),
        ({"network": {**COMPACT, "init_args": {"dropout": "0.5"}}}, "dropout is '0.5'"),
        ({"network": {**COMPACT, "init_args": {"dropout": float("nan")}}}, "dropout is 'nan'"),
        ({"network": {"class_path": "defectlab.networks.SmallResNet", "init_args": {"widths": [2**15] * 5}}}, "32768"),
        ({"network": {"class_path": "defectlab.networks.BipyramidalCNN", "init_args": {"depth": 2**30}}}, "image_size"),
        ({"image_size": 60_000}, "image_size is 16"),
        ({"num_classes": 2**30}, "num_classes is 3"),
        ({"image_size": "16"}, "image_size is 16"),
        ({"label_smoothing": float("nan")}, "label_smoothing is 'nan'"),
        ({"optimizer": {"name": "adamw", "callback": "x"}}, "optimizer is"),
        ({"tta": "evil"}, "tta is 'evil'"),
    ],
)  # fmt: skip
def test_values_are_typed_and_bounded(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    values = {**SHAPE, "network": COMPACT, **changes}
    file = written(tmp_path / "a.ckpt", SmallCNNTask(CompactCNN, 3, 1, 16), **SMALL, hyper_parameters=values)
    refusal(lambda: load_task(file), "a.ckpt", words)


def test_a_checkpoint_opens_no_weights_and_starts_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("defectlab.tasks.pretrained.load_backbone_weights", lambda *_: pytest.fail("opened"))
    monkeypatch.setattr(nn.Module, "compile", lambda *_: pytest.fail("compiled"))
    task = PretrainedTask(3, 1, 16)
    for weights in ("imagenet", "/etc/passwd"):
        values = {**SHAPE, "weights": weights, "compile": True}
        file = written(tmp_path / "a.ckpt", task, task="defectlab.tasks.PretrainedTask", hyper_parameters=values)
        found, _ = load_task(file)
        assert load(file, "cpu").card.class_names == ("a", "b", "c")
        for name, tensor in task.state_dict().items():
            assert torch.equal(found.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("mean", [float("nan")], "mean"),
        ("std", [float("inf")], "std"),
        ("std", [0.0], "std"),
        ("image_size", 10**6, "image_size"),
        ("class_names", ["a", "b", 3], "class_names"),
        ("class_names", ["a", "b", "c", "d"], "num_classes is 4"),
        ("channels", 3, "mean"),
    ],
)
def test_cards_that_cannot_be_used(key: str, value: Any, words: str, tmp_path: Path) -> None:
    task, values = SmallCNNTask(CompactCNN, 3, 1, 16), {**SHAPE, "network": COMPACT}
    card = {**CARD, key: value}
    file = written(tmp_path / "a.ckpt", task, **SMALL, hyper_parameters=values, ImageFolderDataModule=card)
    for door in (load_task, lambda path: load(path, "cpu")):
        refusal(partial(door, file), "a.ckpt", words)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers(value: float, tmp_path: Path) -> None:
    task = SmallCNNTask(CompactCNN, 3, 1, 16)
    with torch.no_grad():
        list(task.parameters())[-1][0] = value
    file = written(tmp_path / "a.ckpt", task, **SMALL, hyper_parameters={**SHAPE, "network": COMPACT})
    for door in (load_task, read_checkpoint, lambda path: load(path, "cpu")):
        refusal(partial(door, file), "no finite numbers")
    refusal(lambda: load_backbone_weights(PretrainedNetwork(3, 1, 16), str(file)), "no finite numbers")


def test_flipped_bits_and_files_that_unpack_to_more(tmp_path: Path) -> None:
    file = written(
        tmp_path / "a.ckpt", SmallCNNTask(CompactCNN, 3, 1, 16), **SMALL,
        hyper_parameters={**SHAPE, "network": COMPACT}, zeros=torch.zeros(2**20),
    )  # fmt: skip
    whole, rng = file.read_bytes(), random.Random(0)
    images = torch.randn(2, 1, 16, 16)
    before = load_task(file)[0](images)
    for count in range(1, 21):
        damaged = bytearray(whole)
        for _ in range(count):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        (tmp_path / "b.ckpt").write_bytes(damaged)
        try:
            assert torch.equal(load_task(tmp_path / "b.ckpt")[0](images), before)
        except InputError:
            continue
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(tmp_path / "c.ckpt", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert (tmp_path / "c.ckpt").stat().st_size < len(whole) / 4
    refusal(lambda: load_task(tmp_path / "c.ckpt"), "compressed")
    os.mkfifo(tmp_path / "d.ckpt")
    refusal(lambda: load_task(tmp_path / "d.ckpt"), "no checkpoint")
    weights = tmp_path / "e.safetensors"
    save_backbone_weights(PretrainedNetwork(3, 1, 16), weights, half=False)
    load_backbone_weights(PretrainedNetwork(3, 1, 16), str(weights))
    damaged = bytearray(weights.read_bytes())
    damaged[-1000] ^= 1
    weights.write_bytes(damaged)
    refusal(lambda: load_backbone_weights(PretrainedNetwork(3, 1, 16), str(weights)), "another SHA-256")


def test_an_own_class_can_be_allowed_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "allowed_nets.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Sequential):\n    def __init__(self, num_classes):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(256, num_classes))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    task = ClassificationTask(nn.Sequential(nn.Flatten(), nn.Linear(256, 3)), 3)
    values = {"num_classes": 3, "network": {"class_path": "allowed_nets.Net"}}
    file = written(tmp_path / "a.ckpt", task, task="defectlab.tasks.ClassificationTask", hyper_parameters=values)
    refusal(lambda: load_task(file), "allowed_nets.Net", "allow it by name")
    assert "allowed_nets" not in sys.modules
    found, _ = load_task(file, allow=["allowed_nets.Net"])
    assert torch.equal(found.state_dict()["network.1.weight"], task.state_dict()["network.1.weight"])
    assert load(file, "cpu", allow=["allowed_nets.Net"]).card.class_names == ("a", "b", "c")
    missing = {**values, "network": {"class_path": "__main__.net_of_a_notebook"}}
    file = written(tmp_path / "a.ckpt", task, task="defectlab.tasks.ClassificationTask", hyper_parameters=missing)
    refusal(lambda: load_task(file), "put it into a module")


def make_flat(num_classes: int, width: int = 4) -> nn.Module:
    return Flat(num_classes, width)


def test_a_function_of_a_module_is_kept_and_what_is_not_found_again_is_refused(
    class_folders: Path, tmp_path: Path
) -> None:
    path = fitted(ClassificationTask(partial(make_flat, width=5), 3), class_folders, tmp_path)
    assert read_checkpoint(path)["hyper_parameters"]["network"] == {
        "class_path": f"{__name__}.make_flat", "init_args": {"width": 5},
    }  # fmt: skip
    refusal(lambda: load_task(path), "make_flat")  # a function has to be allowed
    found, _ = load_task(path, allow=[f"{__name__}.make_flat"])
    assert found.state_dict()["network.layers.1.weight"].shape == (5, 256)

    class Maker:
        def __call__(self, num_classes: int) -> nn.Module:
            return Flat(num_classes)

    unplain: Any = torch.tensor(4)
    makers: list[Any] = [
        Maker(),
        partial(make_flat, width=unplain),
        partial(lambda num_classes: Flat(num_classes)),
    ]
    for network in makers:
        with pytest.raises(InputError, match=r"again|keep"):
            ClassificationTask(network, 3).check_saving()
