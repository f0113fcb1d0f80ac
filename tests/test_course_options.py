"""Each option of the course does what it is for; EMA and SWA have a file of their own."""

import json
from pathlib import Path
from typing import Any, TypeVar

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from helpers import read, write_config
from lightning.pytorch.callbacks import Callback
from sklearn.preprocessing import StandardScaler as ScikitLearnScaler
from torch import Tensor, nn

from defectlab.callbacks import EMA, RateFinder
from defectlab.callbacks.rate_finder import suggested
from defectlab.cli.main import main
from defectlab.data import ImageFolderDataModule, MNISTDataModule
from defectlab.errors import InputError
from defectlab.networks import LabCNN, LeNet5, PretrainedNetwork
from defectlab.runs import RunFolder, read_prediction_table
from defectlab.tasks import ClassificationTask, OptimizerSettings, PretrainedTask, SchedulerSettings, SmallCNNTask
from defectlab.tasks.checkpoint import load_task, read_checkpoint
from defectlab.tasks.tta import tta_logits


def lab(**arguments: Any) -> SmallCNNTask:
    pl.seed_everything(0)
    return SmallCNNTask(LabCNN, num_classes=3, in_channels=1, image_size=16, **arguments)


Task = TypeVar("Task", bound=ClassificationTask)


def fit(task: Task, pictures: Path, folder: Path, epochs: int = 2, *callbacks: Callback) -> Task:
    """Train without the command line."""
    data = ImageFolderDataModule(str(pictures), image_size=16, channels=1, batch_size=8, val_size=3, test_size=4)
    pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=list(callbacks),
        default_root_dir=folder, num_sanity_val_steps=0, enable_progress_bar=False, enable_model_summary=False,
    ).fit(task, datamodule=data)  # fmt: skip
    return task


def run_of(words: list[str], pictures: Path, folder: Path) -> Path:
    """Through the front door; the run folder."""
    before = set((folder / "runs").glob("tiny/*"))
    assert main(["fit", "--config", str(write_config(folder, pictures)), *words]) == 0
    (run,) = set((folder / "runs").glob("tiny/*")) - before
    return run


# L1 and L2


def test_l1_and_l2_shrink_weights_and_leave_biases_alone(class_folders: Path, tmp_path: Path) -> None:
    def sizes(**settings: Any) -> tuple[float, float, float]:
        """Sum of absolute weights, share of those near 0, and the sum of absolute biases."""
        optimizer = OptimizerSettings(**{"name": "adam", "lr": 0.01, "weight_decay": 0.0, **settings})
        task = fit(lab(optimizer=optimizer, scheduler=SchedulerSettings("constant")), class_folders, tmp_path, 5)
        weights = torch.cat([p.detach().flatten() for p in task.parameters() if p.ndim > 1]).abs()
        biases = sum(float(p.detach().abs().sum()) for p in task.parameters() if p.ndim == 1)
        return float(weights.sum()), float((weights < 1e-3).float().mean()), biases

    plain, l1 = sizes(), sizes(l1=0.01)
    assert l1[0] < 0.5 * plain[0]
    assert l1[1] > 5 * plain[1], "zero, or nearly"
    assert l1[2] > 0.5 * plain[2]
    coupled, decoupled = sizes(weight_decay=0.1), sizes(name="adamw", weight_decay=0.1)
    assert coupled[0] < 0.8 * plain[0]
    assert coupled[0] < decoupled[0] < plain[0], "adam's own scaling undoes none of adamw's decay, which is lr * 0.1"


def test_the_l1_penalty_is_trained_on_and_not_logged(class_folders: Path, tmp_path: Path) -> None:
    images, labels = torch.rand(4, 1, 16, 16), torch.tensor([0, 1, 2, 0])
    task = fit(lab(optimizer=OptimizerSettings(l1=0.5)), class_folders, tmp_path, 1)
    task.eval()
    weights = sum(float(p.detach().abs().sum()) for p in task.parameters() if p.ndim > 1)
    loss = task.training_step((images, labels), 0)
    logged = task._steps[-1][0]
    assert float(loss.detach()) == pytest.approx(float(logged) + 0.5 * weights, rel=1e-5)
    assert float(logged) == pytest.approx(float(nn.functional.cross_entropy(task(images), labels)))


# Test-time augmentation


def test_views_are_averaged_as_probabilities() -> None:
    torch.manual_seed(0)
    network = LeNet5(3, 1, 28).eval()
    images = torch.randn(4, 1, 28, 28)
    with torch.no_grad():
        both = (network(images).softmax(1) + network(images.flip(3)).softmax(1)) / 2
        torch.testing.assert_close(tta_logits(network, images, "flip").exp(), both)
        plain = network(images).softmax(1)
        torch.testing.assert_close(tta_logits(network, images, "none").softmax(1), plain)
        for kind in ("flip", "dihedral", "shift"):
            shares = tta_logits(network, images, kind).exp()
            torch.testing.assert_close(shares.sum(dim=1), torch.ones(4))
            assert not torch.allclose(shares, plain, atol=1e-4)


def test_the_dihedral_views_know_no_up(class_folders: Path) -> None:
    task = lab(tta="dihedral").eval()
    images = torch.randn(5, 1, 16, 16)
    with torch.no_grad():
        judged = task.predict_logits(images)
        for turned in (images.flip(3), images.flip(2), images.rot90(1, (2, 3)), images.transpose(2, 3)):
            torch.testing.assert_close(task.predict_logits(turned), judged)
            assert not torch.allclose(task(turned), task(images), atol=1e-3)


def test_the_shifted_views_are_shifted_by_one_pixel_of_28() -> None:
    seen: list[Tensor] = []

    def network(images: Tensor) -> Tensor:
        seen.append(images)
        return torch.zeros(len(images), 2)

    images = torch.rand(1, 1, 28, 28)
    tta_logits(network, images, "shift")
    assert torch.equal(seen[0], images)
    inner = images[..., 2:-2, 2:-2]
    moved = [image[..., 2 + y : 26 + y, 2 + x : 26 + x] for image, (y, x) in zip(
        seen[1:], ((1, 0), (-1, 0), (0, 1), (0, -1)), strict=True
    )]  # fmt: skip
    assert all(torch.equal(image, inner) for image in moved)


def test_every_command_judges_by_the_views(class_folders: Path, tmp_path: Path) -> None:
    run = run_of(["--model.tta", "dihedral"], class_folders, tmp_path)
    table = read_prediction_table(RunFolder(run).predictions_csv)
    out = tmp_path / "out.csv"
    assert main(["predict", str(run), *(str(class_folders / file) for file in table.files), "--output", str(out)]) == 0
    predicted = read_prediction_table(out)
    order = [[Path(file).name + Path(file).parent.name for file in predicted.files].index(
        Path(file).name + Path(file).parent.name) for file in table.files]  # fmt: skip
    np.testing.assert_allclose(predicted.probabilities[order], table.probabilities, atol=2e-5)
    assert main(["test", str(run), "--model.tta", "none"]) == 0
    (plain,) = run.glob("test-*")
    assert abs(read_prediction_table(RunFolder(plain).predictions_csv).probabilities - table.probabilities).max() > 1e-4


# StandardScaler


def flat(images: Tensor) -> np.ndarray:
    return (images.double() / 255).flatten(1).numpy()


def test_the_scaler_is_scikit_learns(idx_folder: Path, tmp_path: Path) -> None:
    data = MNISTDataModule(str(idx_folder), val_size=50, batch_size=64)
    data.setup()
    data.data.images[..., 3:5, 7] = 17  # pixels that never change
    pl.seed_everything(0)
    task = SmallCNNTask(LabCNN, 10, 1, 28, standard_scaler=True)
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[EMA()],
        default_root_dir=tmp_path, num_sanity_val_steps=0, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(task, datamodule=data)  # with EMA, which leaves an average of the scaler, too: the scaler
    train, test = (data.data.images[torch.from_numpy(part)] for part in (data.parts.train, data.parts.test))
    test = test.clone()
    test[0, 0, 3, 7] = 200  # but does now
    expected = ScikitLearnScaler().fit(flat(train))
    assert isinstance(task.network, LabCNN)
    assert task.network.scaler is not None
    mean, std = (torch.tensor(values) for values in (data.card.mean, data.card.std))
    for images in (train, test):
        scaled = task.network.scaler((images / 255 - mean) / std)
        np.testing.assert_allclose(scaled.flatten(1).numpy(), expected.transform(flat(images)), atol=1e-5)


def test_a_scaler_travels_with_the_checkpoint(class_folders: Path, tmp_path: Path) -> None:
    run = run_of(["--model.standard_scaler", "true"], class_folders, tmp_path)
    assert len((run / "metrics.json").read_text()) < 10_000, "no image of means in it"
    assert len(json.dumps(read(run)["data"]["mean"])) < 30
    task, _ = load_task(run / "checkpoints" / "best.ckpt")
    assert isinstance(task.network, LabCNN | nn.Module)
    scaler = task.network.scaler
    assert isinstance(scaler, nn.Module)
    assert scaler.mean.shape == (1, 16, 16)
    assert scaler.mean.std() > 1e-3  # type: ignore[operator]
    table = read_prediction_table(RunFolder(run).predictions_csv)
    out = tmp_path / "out.csv"
    assert main(["predict", str(run), str(class_folders / table.files[0]), "--output", str(out)]) == 0
    np.testing.assert_allclose(read_prediction_table(out).probabilities[0], table.probabilities[0], atol=2e-5)
    before = read(run)["test"]
    assert main(["test", str(run)]) == 0
    assert read(run)["test"] == before


def test_a_scaler_needs_what_it_can_measure(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="standard_scaler"):
        SmallCNNTask(PretrainedNetwork, 3, 1, 32, standard_scaler=True)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.rand(4, 1, 16, 16), torch.zeros(4).long())
    )
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", logger=False, default_root_dir=tmp_path)
    with pytest.raises(InputError, match="standard_scaler"):
        trainer.fit(lab(standard_scaler=True), loader, loader)


# The rate finder


class Rates(Callback):
    """What the optimiser's groups have at every step."""

    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.seen.append([group["lr"] for group in trainer.optimizers[0].param_groups])


@pytest.mark.parametrize("schedule", ["onecycle", "constant"])
def test_the_rate_found_is_the_peak_and_the_search_leaves_no_trace(
    schedule: Any, class_folders: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="defectlab")

    def train(lr: float, *callbacks: Callback) -> tuple[SmallCNNTask, list[list[float]]]:
        rates = Rates()
        task = lab(optimizer=OptimizerSettings(lr=lr), scheduler=SchedulerSettings(schedule))
        return fit(task, class_folders, tmp_path, 3, rates, *callbacks), rates.seen

    finder = RateFinder(steps=40)
    searched, rates = train(1.0, finder)
    assert finder.found is not None
    assert f"learning rate {finder.found:.2g}" in caplog.text
    assert (tmp_path / "lr_finder.png").is_file()
    assert searched.optimizer.lr == searched.hparams["optimizer"].lr == finder.found
    assert max(rates)[0] == pytest.approx(finder.found)
    given, same = train(finder.found)
    assert rates == same
    for name, tensor in given.state_dict().items():
        assert torch.equal(tensor, searched.state_dict()[name]), name


def test_a_rate_is_found_once(class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--trainer.callbacks+=defectlab.callbacks.RateFinder", "--trainer.callbacks.steps=30"]
    run = run_of([*words, "--model.optimizer.lr", "0.5"], class_folders, tmp_path)
    found = read(run)["run"]["lr"]
    assert found < 0.5
    assert (run / "lr_finder.png").is_file()
    assert not list(run.glob(".lr_find*"))

    def refuse(*arguments: Any) -> None:
        raise AssertionError("searched again")

    monkeypatch.setattr(RateFinder, "_try_rates", refuse)
    assert main(["resume", str(run), "--trainer.max_epochs", "3"]) == 0
    assert read(run)["run"]["lr"] == found
    checkpoint = read_checkpoint(run / "checkpoints" / "last.ckpt")
    assert checkpoint["hyper_parameters"]["optimizer"]["lr"] == found
    assert checkpoint["optimizer_states"][0]["param_groups"][0]["max_lr"] == found


def test_the_suggestion() -> None:
    rates = [10 ** (step / 10 - 4) for step in range(60)]
    losses = [2 + (step - 30) ** 2 / 500 for step in range(60)]
    assert suggested(rates, losses) == pytest.approx(rates[30] / 10)
    assert suggested(rates, [*losses[:50], float("nan")]) == pytest.approx(rates[30] / 10)
    for hopeless in (sorted(losses), losses[:5]):
        with pytest.raises(InputError, match="falls at no rate"):
            suggested(rates, hopeless)
    for wrong in ({"lowest": 0.0}, {"lowest": 2.0}, {"steps": 3}):
        with pytest.raises(InputError, match="RateFinder"):
            RateFinder(**wrong)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("LearningRateFinder", ""), ("StochasticWeightAveraging", ".swa_lrs=0.1"), ("EMAWeightAveraging", "")],
)
def test_lightnings_own_are_refused_by_name(
    name: str, arguments: str, class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fit", "--config", str(write_config(tmp_path, class_folders))]
    words += [f"--trainer.callbacks+=lightning.pytorch.callbacks.{name}"]
    words += [f"--trainer.callbacks{arguments}"] if arguments else []
    assert main(words) == 1
    assert "take defectlab.callbacks." in capsys.readouterr().err
    assert not list((tmp_path / "runs").glob("tiny/*"))


# Early stopping


def test_patience_ends_a_run(class_folders: Path, tmp_path: Path) -> None:
    callbacks = json.dumps([
        {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
         "init_args": {"monitor": "val/loss", "filename": "best", "enable_version_counter": False}},
        {"class_path": "lightning.pytorch.callbacks.EarlyStopping",
         "init_args": {"monitor": "val/loss", "patience": 2}},
    ])  # fmt: skip
    words = ["--trainer.max_epochs", "9", "--model.optimizer.lr", "0", "--model.scheduler.name", "constant"]
    run = run_of([*words, "--trainer.callbacks", callbacks], class_folders, tmp_path)
    assert read(run)["run"]["epochs"] == 3, "a first one, and two without anything better"
    assert read(run)["run"]["best_epoch"] == 0


def test_features_are_computed_once_where_a_rate_is_searched(
    class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    fill = ImageFolderDataModule.cache_features

    def count(data: ImageFolderDataModule, *given: Any) -> None:
        calls.append(1)
        fill(data, *given)

    monkeypatch.setattr(ImageFolderDataModule, "cache_features", count)
    task = PretrainedTask(3, 1, 16, cache_features=True)
    task.restored = True  # as if its weights had been read
    for fits in (1, 2):
        fit(task, class_folders, tmp_path, 1, RateFinder(steps=18))
        assert len(calls) == fits
