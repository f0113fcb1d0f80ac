"""Tasks without the command line, and what each of their settings does."""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from defectlab.cli.main import main
from defectlab.data import Augmentation, ImageFolderDataModule
from defectlab.errors import InputError
from defectlab.networks import LabCNN, LeNet5, PretrainedNetwork
from defectlab.tasks import OptimizerSettings, PretrainedTask, SchedulerSettings, SmallCNNTask
from defectlab.tasks.checkpoint import load_task, read_checkpoint
from defectlab.tasks.optimization import parameter_groups

Data = Callable[..., ImageFolderDataModule]


class Record(Callback):
    """Learning rates of all groups at every step, and whether the backbone learns at every epoch."""

    def __init__(self) -> None:
        self.rates: list[list[float]] = []
        self.learning: list[bool] = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        network = pl_module.network
        if isinstance(network, PretrainedNetwork):
            self.learning.append(all(parameter.requires_grad for parameter in network.features.parameters()))


@pytest.fixture
def data(class_folders: Path) -> Data:
    """29 images to train on, 3 and 4 held out."""

    def make(**arguments: Any) -> ImageFolderDataModule:
        settings: dict[str, Any] = {"image_size": 16, "channels": 1, "batch_size": 8, "val_size": 3, "test_size": 4}
        return ImageFolderDataModule(str(class_folders), **{**settings, **arguments})

    return make


@pytest.fixture(autouse=True)
def seeded(recwarn: pytest.WarningsRecorder) -> None:
    pl.seed_everything(0)


def trainer(folder: Path, epochs: int = 2, *callbacks: Callback, **arguments: Any) -> pl.Trainer:
    settings: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    return pl.Trainer(
        max_epochs=epochs, default_root_dir=folder, callbacks=list(callbacks), enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, **{**settings, **arguments},
    )  # fmt: skip


def lab(**arguments: Any) -> SmallCNNTask:
    return SmallCNNTask(LabCNN, num_classes=3, in_channels=1, image_size=16, **arguments)


def test_a_researcher_needs_no_command_line(data: Data, tmp_path: Path) -> None:
    task, keep = lab(), ModelCheckpoint(tmp_path, filename="best", monitor="val/loss")
    loop = trainer(tmp_path, 2, keep, enable_checkpointing=True)
    module = data()
    loop.fit(task, datamodule=module)
    loop.test(task, datamodule=module, verbose=False)
    assert task.results["test"]["n"] == 4
    logits, labels = task.predictions["test"]
    assert logits.shape == (4, 3)
    assert float((logits.argmax(dim=1) == labels).double().mean()) == task.results["test"]["accuracy"]

    again = SmallCNNTask.load_from_checkpoint(tmp_path / "best.ckpt", weights_only=True)
    assert isinstance(again.network, LabCNN)
    loaded, card = load_task(tmp_path / "best.ckpt")
    assert list(card.class_names) == ["good", "hole", "scratch"]
    images = torch.rand(2, 1, 16, 16)
    assert torch.equal(loaded(images), again.eval()(images))
    words = ["predict", str(tmp_path / "best.ckpt"), module.root, "--output", str(tmp_path / "out.csv")]
    assert main(words) == 0
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 37


def test_plain_loaders_and_a_network_of_ones_own(tmp_path: Path) -> None:
    pictures, labels = torch.rand(20, 1, 16, 16), torch.arange(20) % 3
    loader: DataLoader[Any] = DataLoader(TensorDataset(pictures, labels), batch_size=6)
    task = lab(class_weights=[1.0, 2.0, 1.0], label_smoothing=0.1)
    loop = trainer(tmp_path)
    loop.fit(task, loader, loader)
    loop.test(task, loader, verbose=False)
    assert list(task.results["test"]["per_class"]) == ["0", "1", "2"]
    (probabilities, *_) = loop.predict(task, loader) or []
    assert isinstance(probabilities, Tensor)
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(6))
    with pytest.raises(InputError, match="balanced"):
        trainer(tmp_path).fit(lab(class_weights="balanced"), loader, loader)


def test_a_network_that_is_no_classifier_is_refused() -> None:
    for network, message in ((nn.Linear, "cannot take images"), (lambda *shape: nn.Identity(), "expected logits")):
        with pytest.raises(InputError, match=message):
            SmallCNNTask(network, num_classes=3, in_channels=1, image_size=16)


def test_balanced_weights_make_up_for_rare_classes(data: Data, class_folders: Path, tmp_path: Path) -> None:
    for file in sorted((class_folders / "hole").iterdir())[4:]:
        file.unlink()
    task, module = lab(class_weights="balanced"), data()
    trainer(tmp_path, 1).fit(task, datamodule=module)
    counts = torch.tensor(module.class_counts("train"), dtype=torch.float32)
    assert task._weights is not None
    assert torch.allclose(task._weights * counts, (counts.sum() / 3).expand(3))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "rmsprop"])
def test_every_optimizer_learns(name: Any, fused: bool, data: Data, tmp_path: Path) -> None:
    task = lab(optimizer=OptimizerSettings(name, lr=0.003, fused=fused), scheduler=SchedulerSettings("constant"))
    before = [parameter.detach().clone() for parameter in task.parameters()]
    loop = trainer(tmp_path, 1, gradient_clip_val=1.0)
    loop.fit(task, datamodule=data())
    assert type(loop.optimizers[0]).__name__.lower() == name
    assert not any(torch.equal(old, new) for old, new in zip(before, task.parameters(), strict=True))


def test_biases_and_normalisation_are_not_decayed() -> None:
    groups = parameter_groups([(LeNet5(3, 1, 32), 0.5)], OptimizerSettings(lr=0.2, weight_decay=0.1))
    assert [(group["weight_decay"], group["lr"]) for group in groups] == [(0.1, 0.1), (0.0, 0.1)]
    assert all(parameter.ndim > 1 for parameter in groups[0]["params"])
    assert all(parameter.ndim == 1 for parameter in groups[1]["params"])


def curve(name: Any, data: Data, folder: Path, epochs: int = 5, **settings: Any) -> list[float]:
    record = Record()
    task = lab(optimizer=OptimizerSettings(lr=0.01), scheduler=SchedulerSettings(name, **settings))
    trainer(folder, epochs, record).fit(task, datamodule=data())
    return [rates[0] for rates in record.rates]


def test_learning_rates(data: Data, tmp_path: Path) -> None:
    steps = 5 * 4  # 29 images in batches of 8
    assert curve("constant", data, tmp_path) == [0.01] * steps
    cosine = curve("cosine", data, tmp_path, warmup=0.25)
    assert cosine[:5] == pytest.approx([0.002, 0.004, 0.006, 0.008, 0.01])
    assert cosine[5:] == pytest.approx([0.005 * (1 + math.cos(math.pi * step / 15)) for step in range(15)])
    once = curve("onecycle", data, tmp_path, warmup=0.25)
    assert once.index(max(once)) == 4
    assert max(once) == pytest.approx(0.01)
    assert once[0] == pytest.approx(0.01 / 25)
    assert once[-1] < 1e-5
    assert all(earlier > later for earlier, later in pairwise(once[4:]))
    # Accuracy on three images cannot rise for ever: every epoch without a rise halves the rate.
    plateau = curve("plateau", data, tmp_path, monitor="val/accuracy", factor=0.5, patience=0)[::4]
    assert plateau[0] == 0.01
    assert plateau[-1] < 0.01
    assert all(later in (earlier, earlier / 2) for earlier, later in pairwise(plateau))


def test_schedules_of_the_shortest_runs(tmp_path: Path) -> None:
    for total_steps in range(1, 8):
        for name in ("onecycle", "cosine"):
            optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
            block = SchedulerSettings(name, warmup=0.0).build(optimizer, total_steps)
            assert block is not None
            for _ in range(total_steps):
                optimizer.step()
                assert 0 <= optimizer.param_groups[0]["lr"] <= 0.1
                block["scheduler"].step()


def mobilenet(**arguments: Any) -> PretrainedTask:
    settings: dict[str, Any] = {"num_classes": 3, "in_channels": 1, "image_size": 16, "width": 0.25}
    return PretrainedTask(**{**settings, **arguments})


def test_the_head_first_then_all_with_a_lower_rate_below(data: Data, tmp_path: Path) -> None:
    record = Record()
    task = mobilenet(
        trainable="head_then_all", unfreeze_epoch=1, backbone_lr_factor=0.1,
        optimizer=OptimizerSettings(lr=0.01), scheduler=SchedulerSettings("constant"),
    )  # fmt: skip
    backbone = {name: tensor.clone() for name, tensor in task.network.features.state_dict().items()}
    trainer(tmp_path, 1, record).fit(task, datamodule=data())
    after = task.network.features.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in backbone.items()), "BatchNorm included"
    trainer(tmp_path, 2, record).fit(task, datamodule=data())
    assert record.learning == [False, False, True]
    assert record.rates[0] == pytest.approx([0.01, 0.01, 0.001, 0.001])  # weights and the rest, head and backbone
    assert not all(torch.equal(after[name], tensor) for name, tensor in backbone.items())


def test_cached_features_train_the_same_head_as_a_frozen_backbone(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("defectlab.tasks.pretrained._PASSES", 1)
    torch.manual_seed(1)
    torch.save(PretrainedNetwork(3, 1, 16, width=0.25).state_dict(), tmp_path / "donor.pth")
    heads, results = [], []
    for cached in (False, True):
        pl.seed_everything(0)
        task = mobilenet(weights=str(tmp_path / "donor.pth"), trainable="head", cache_features=cached, dropout=0.5)
        module, loop = data(), trainer(tmp_path, 3)
        loop.fit(task, datamodule=module)
        assert next(iter(module.train_dataloader()))[0].ndim == 4, "images again after fit"
        loop.test(task, datamodule=module, verbose=False)
        heads.append(task.network.head.state_dict())
        results.append(task.results["test"])
    for name, tensor in heads[0].items():
        assert torch.allclose(tensor, heads[1][name], atol=1e-5), name
    assert results[0]["loss"] == pytest.approx(results[1]["loss"], abs=1e-5)


def test_what_cannot_go_together_is_refused() -> None:
    for arguments in (
        {"cache_features": True, "trainable": "head_then_all"}, {"backbone_lr_factor": 0.0}, {"unfreeze_epoch": -1},
        {"label_smoothing": 1.0}, {"class_weights": [1.0, 2.0]}, {"class_weights": [-1.0, 2.0, 3.0]},
        {"class_weights": [0.0, 0.0, 0.0]},
    ):  # fmt: skip
        with pytest.raises(InputError, match=rf"model\.{next(iter(arguments))} "):
            mobilenet(**arguments)
    for wrong in ({"lr": -1.0}, {"lr": math.nan}, {"weight_decay": -0.1}, {"momentum": -0.1}):
        with pytest.raises(InputError, match=r"expected a (finite )?number"):
            OptimizerSettings(**wrong)  # type: ignore[arg-type]
    for wrong in ({"warmup": 1.0}, {"factor": 1.0}, {"factor": 0.0}):
        with pytest.raises(InputError, match=rf"model\.scheduler\.{next(iter(wrong))} is"):
            SchedulerSettings(**wrong)  # type: ignore[arg-type]


def test_mixup_and_smoothing_change_the_loss(data: Data, tmp_path: Path) -> None:
    losses = []
    for augmentation, smoothing in ((None, 0.0), (None, 0.2), (Augmentation(mixup=0.4), 0.0)):
        pl.seed_everything(0)
        task, loop = lab(label_smoothing=smoothing), trainer(tmp_path, 1)
        loop.fit(task, datamodule=data(augmentation=augmentation))
        losses.append((float(loop.callback_metrics["train/loss"]), float(loop.callback_metrics["val/loss"])))
    assert len(set(losses)) == 3
    task, loop = lab(label_smoothing=0.2), trainer(tmp_path, 1, limit_train_batches=0)
    module = data()
    loop.validate(task, datamodule=module, verbose=False)
    logits, labels = task.predictions["val"]
    assert task.results["val"]["loss"] == pytest.approx(float(nn.functional.cross_entropy(logits, labels)))
    smoothed = float(nn.functional.cross_entropy(logits, labels, label_smoothing=0.2))
    assert task.results["val"]["training_loss"] == pytest.approx(smoothed)
    assert float(loop.callback_metrics["val/loss"]) == pytest.approx(smoothed)


def test_validation_has_the_loss_that_trains(tmp_path: Path) -> None:
    """Class weights too, also where a checkpoint is judged without training before; numbers are scaled to a mean of 1."""
    images, labels = torch.rand(20, 1, 16, 16), torch.tensor([0] * 14 + [1] * 4 + [2] * 2)
    loader: DataLoader[Any] = DataLoader(TensorDataset(images, labels), batch_size=6)
    task, keep = lab(class_weights=[1.0, 2.0, 6.0], label_smoothing=0.1), ModelCheckpoint(tmp_path, filename="best")
    loop = trainer(tmp_path, 1, keep, enable_checkpointing=True)
    loop.fit(task, loader, loader)
    logged = float(loop.callback_metrics["val/loss"])
    logits, _ = task.predictions["val"]
    weights = torch.tensor([1.0, 2.0, 6.0]) / 3
    terms = nn.functional.cross_entropy(logits, labels, reduction="none", label_smoothing=0.1)
    assert logged == pytest.approx(float((weights[labels] * terms).mean()), rel=1e-5)
    again = lab(class_weights=[1.0, 2.0, 6.0], label_smoothing=0.1)
    (found,) = trainer(tmp_path).validate(again, loader, keep.best_model_path, verbose=False, weights_only=True)
    assert found["val/loss"] == pytest.approx(logged, rel=1e-5)
    assert found["val/balanced_accuracy"] == pytest.approx(again.results["val"]["macro_recall"])


def test_a_compiled_network_saves_plain_names(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = nn.Module.compile
    # Traced as always, but run without a C++ compiler, which needs half a minute.
    monkeypatch.setattr(nn.Module, "compile", lambda module: whole(module, backend="eager"))
    task = lab(compile=True)
    keep = ModelCheckpoint(tmp_path, filename="best")
    trainer(tmp_path, 1, keep, enable_checkpointing=True).fit(task, datamodule=data())
    assert task.network._compiled_call_impl is not None
    names = read_checkpoint(tmp_path / "best.ckpt")["state_dict"]
    assert set(names) == set(lab().state_dict())
