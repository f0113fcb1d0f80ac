"""Knowledge distillation through the front door: what a student learns, keeps, and does not need any more."""

import csv
import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import striped, write_class_folders
from helpers import interrupt, read, write_config
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from torch import nn

from defectlab.callbacks import EMA, Distillation, RateFinder
from defectlab.callbacks.distillation import distillation_loss
from defectlab.cli.main import main
from defectlab.data import ImageFolderDataModule
from defectlab.networks import CompactCNN
from defectlab.runs import read_prediction_table
from defectlab.tasks import OptimizerSettings, SmallCNNTask
from defectlab.tasks.checkpoint import load_task, read_checkpoint

NAMES = ("good", "hole", "scratch")


@pytest.fixture
def config(tmp_path: Path, class_folders: Path) -> Path:
    return write_config(tmp_path, class_folders)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learned the stripes of images like those of `class_folders`."""
    folder = tmp_path_factory.mktemp("teachers")
    config = write_config(folder, write_class_folders(folder / "images", 12))
    assert main(["fit", "--config", str(config), "--trainer.max_epochs", "12"]) == 0
    (run,) = (folder / "runs" / "tiny").iterdir()
    return run


@pytest.fixture
def teacher(trained: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(trained, tmp_path / "teachers" / "teacher")


def _taught(teacher: Path | str) -> list[str]:
    return ["--trainer.callbacks+=defectlab.callbacks.Distillation", f"--trainer.callbacks.teacher={teacher}"]


def fit(config: Path, teacher: Path, *words: str) -> Path:
    """A student's run."""
    assert main(["fit", "--config", str(config), *_taught(teacher), *words]) == 0
    return sorted((config.parent / "runs" / "tiny").iterdir())[-1]


def answers(run: Path, pictures: Path, folder: Path) -> list[str]:
    """The predicted class of each image."""
    assert main(["predict", str(run), str(pictures), "--output", str(folder / "out.csv")]) == 0
    table = read_prediction_table(folder / "out.csv")
    return [table.class_names[index] for index in table.predicted]


def test_the_teacher_outvotes_wrong_labels(config: Path, teacher: Path, tmp_path: Path) -> None:
    """With all the weight a student takes over what the teacher knows; with none of it, what the labels say."""
    wrong = tmp_path / "wrong"
    for label in range(3):
        (wrong / NAMES[label]).mkdir(parents=True)
        for index in range(16):  # each class's folder has the next one's stripes
            Image.fromarray(striped((label + 1) % 3, index)).save(wrong / NAMES[label] / f"{index}.png")
    fresh = write_class_folders(tmp_path / "fresh", 30)
    truth = answers(teacher, fresh, tmp_path)
    assert np.mean([Path(name).parent.name for name in _files(tmp_path)] == np.array(truth)) > 0.9
    agreement = {}
    for weight in (0.0, 1.0):
        words = ["--data.root", str(wrong), "--trainer.callbacks.weight", str(weight), "--trainer.max_epochs", "12"]
        run = fit(config, teacher, *words, "--data.augmentation", '{"horizontal_flip": 0.5}')
        # Not the best one: validation has wrong labels, too.
        agreement[weight] = np.mean(np.array(answers(run / "checkpoints" / "last.ckpt", fresh, tmp_path)) == truth)
    assert agreement[1.0] > 0.8
    assert agreement[0.0] < 0.3


def _files(folder: Path) -> list[str]:
    return read_prediction_table(folder / "out.csv").files


def test_the_loss_is_that_of_the_paper() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 4, requires_grad=True), torch.randn(5, 4)
    for temperature in (1.0, 4.0):
        p, q = (torch.softmax(logits / temperature, dim=1) for logits in (teacher, student))
        expected = temperature**2 * (p * (p / q).log()).sum(dim=1).mean()
        torch.testing.assert_close(distillation_loss(student, teacher, temperature), expected)
    assert float(distillation_loss(teacher, teacher, 2.0)) == pytest.approx(0, abs=1e-6)
    # Its gradient by the logits is that of the paper's equation 2, times the temperature squared.
    (gradient,) = torch.autograd.grad(distillation_loss(student, teacher, 4.0), student)
    torch.testing.assert_close(gradient, 4.0 * (torch.softmax(student / 4, 1) - torch.softmax(teacher / 4, 1)) / 5)


@pytest.mark.parametrize(("channels", "size"), [(3, 16), (1, 24)])
def test_batches_are_converted_for_the_teacher(
    channels: int, size: int, config: Path, teacher: Path, class_folders: Path
) -> None:
    """Of another size, in colour, normalised otherwise: it sees what it would have read itself."""
    own = ImageFolderDataModule(str(class_folders), image_size=16, channels=1, val_size=6, test_size=7)
    students = ImageFolderDataModule(
        str(class_folders), image_size=size, channels=channels, val_size=6, test_size=7,
        mean=[0.3] * channels, std=[0.7] * channels,
    )  # fmt: skip
    task, card = load_task(teacher / "checkpoints" / "best.ckpt")
    own.load_state_dict(dataclasses.asdict(card))
    for data in (own, students):
        data.setup()
    found = Distillation(teacher)
    trainer: Any = SimpleNamespace(datamodule=students, strategy=SimpleNamespace(root_device=torch.device("cpu")))
    found.setup(trainer, SmallCNNTask(CompactCNN, 3, channels, size), "fit")
    pairs = zip(own.test_dataloader(), students.test_dataloader(), strict=True)
    for (expected, _), (images, _) in pairs:
        assert images.shape[1:] == (channels, size, size)
        with torch.no_grad():
            torch.testing.assert_close(
                found.teacher_logits(images).softmax(1),
                task(expected).softmax(1),
                rtol=0,
                atol=1e-5 if size == 16 else 0.05,
            )


def test_a_student_needs_its_teacher_for_training_alone(
    config: Path, teacher: Path, class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """It is neither in the checkpoint nor counted; config.yaml knows where it is, wherever it is read."""
    monkeypatch.chdir(teacher.parent)
    run = fit(config, Path(teacher.name))
    best = teacher / "checkpoints" / "best.ckpt"
    saved = yaml.safe_load((run / "config.yaml").read_text())["trainer"]["callbacks"][-1]
    assert saved["init_args"] == {"teacher": str(best.resolve()), "temperature": 4.0, "weight": 0.7}
    checkpoint = read_checkpoint(run / "checkpoints" / "last.ckpt")
    assert set(checkpoint["state_dict"]) == set(SmallCNNTask(CompactCNN, 3, 1, 16).state_dict())
    assert read(run)["run"]["parameters"] == read(teacher)["run"]["parameters"]
    assert main(["resume", str(run), "--trainer.max_epochs", "3"]) == 0
    before = read(run)["test"]
    best.rename(best.with_suffix(".away"))
    assert main(["test", str(run)]) == 0
    assert read(run)["test"] == before
    assert len(answers(run, class_folders, tmp_path)) == 36
    capsys.readouterr()
    assert main(["resume", str(run), "--trainer.max_epochs", "4"]) == 1
    assert f"there is no checkpoint {best.resolve()}" in capsys.readouterr().err


def test_a_resumed_student_ends_like_an_unbroken_one(
    config: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--trainer.max_epochs", "4", "--data.augmentation", '{"rotation": 10, "mixup": 0.2}']
    unbroken = fit(config, teacher, *words)
    interrupt(monkeypatch, ["fit", "--config", str(config), *_taught(teacher), *words], batch=0)
    (broken,) = set(unbroken.parent.iterdir()) - {unbroken}
    assert main(["resume", str(broken)]) == 0
    tables = []
    for run in (unbroken, broken):
        with (run / "metrics.csv").open() as file:
            tables.append([{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)])
    assert tables[0] == tables[1]


def test_teachers_that_cannot_teach(
    config: Path, teacher: Path, tmp_path: Path, class_folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    renamed = shutil.copytree(class_folders, tmp_path / "renamed")
    (renamed / "hole").rename(renamed / "pit")
    best = str(teacher / "checkpoints" / "best.ckpt")
    for words, expected in (
        (["--trainer.callbacks+=defectlab.callbacks.Distillation"], "has no teacher: give trainer.callbacks.teacher"),
        (_taught("nowhere"), "run folder nowhere does not exist"),
        ([*_taught(best), "--trainer.callbacks.weight", "1.5"], "weight is 1.5"),
        ([*_taught(best), "--trainer.callbacks.temperature", "0"], "temperature is 0.0"),
        ([*_taught(best), "--data.root", str(renamed)], "knows the classes good, hole, scratch"),
        (["--model.distillation.teacher", best], "model.distillation is now a callback"),
    ):
        assert main(["fit", "--config", str(config), *words]) == 1, words
        (line,) = capsys.readouterr().err.splitlines()
        assert expected in line
    assert not (tmp_path / "runs").exists()
    assert main(["fit", "--config", str(config), *_taught(best), "--data.seed", "1"]) == 0
    assert "the teacher was trained with another split of the data" in capsys.readouterr().err


def test_the_teacher_is_no_part_of_the_student(teacher: Path, class_folders: Path) -> None:
    """It is in evaluation mode, and neither learns nor keeps statistics."""
    data = ImageFolderDataModule(str(class_folders), image_size=16, channels=1, val_size=6, test_size=7, batch_size=8)
    task = SmallCNNTask(CompactCNN, 3, 1, 16)
    names = {name for name, _ in task.named_parameters()}
    networks: list[nn.Module] = []

    class Keep(Distillation):
        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            assert self._task is not None
            networks.append(self._task)

    Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        callbacks=[Keep(teacher), EMA()],
    ).fit(task, datamodule=data)  # fmt: skip
    assert names == {name for name, _ in task.named_parameters()}
    assert not task.extra_losses
    taught, _ = load_task(teacher / "checkpoints" / "best.ckpt")
    (network,) = networks
    assert not network.training
    assert all(torch.equal(value, taught.state_dict()[name]) for name, value in network.state_dict().items())


def test_the_rate_finder_searches_on_the_loss_that_trains(
    teacher: Path, class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the teacher and the L1 penalty, whatever the order of the callbacks; the teacher is loaded once."""
    loaded: list[Path] = []
    firsts: list[float] = []

    def load(path: Path) -> Any:
        loaded.append(path)
        return load_task(path)

    def suggest(rates: list[float], losses: list[float]) -> float:
        firsts.append(losses[0])
        return 1e-3

    monkeypatch.setattr("defectlab.callbacks.distillation.load_task", load)
    monkeypatch.setattr("defectlab.callbacks.rate_finder.suggested", suggest)
    for l1, taught in ((0.0, False), (0.0, True), (1.0, True)):
        torch.manual_seed(0)
        data = ImageFolderDataModule(
            str(class_folders), image_size=16, channels=1, val_size=6, test_size=7, batch_size=8
        )
        callbacks = [RateFinder(steps=30), *([Distillation(teacher)] if taught else [])]
        Trainer(
            max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            callbacks=callbacks, default_root_dir=tmp_path,
        ).fit(SmallCNNTask(CompactCNN, 3, 1, 16, optimizer=OptimizerSettings(l1=l1)), datamodule=data)  # fmt: skip
    assert firsts[0] != firsts[1]
    assert firsts[2] > firsts[1] + 10  # the sum of all absolute weights
    assert len(loaded) == 2


def test_an_unused_key_of_older_configs_is_passed_over(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = config.with_name("old.yaml")
    content = yaml.safe_load(config.read_text())
    content["model"]["init_args"]["distillation"] = None
    old.write_text(yaml.safe_dump(content))
    assert main(["fit", "--config", str(old), "--trainer.max_epochs", "1"]) == 0
    content["model"]["init_args"]["distillation"] = {"teacher": "runs/x"}
    old.write_text(yaml.safe_dump(content))
    assert main(["fit", "--config", str(old)]) == 1
    assert "defectlab.callbacks.Distillation" in capsys.readouterr().err
