"""A researcher's own parts, by YAML from the current folder and from Python; the run knows them from another folder."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import yaml
from helpers import read, refusal, write_config
from torch.utils.data import DataLoader, TensorDataset

from defectlab.cli.main import main
from defectlab.data import DatasetDataModule
from defectlab.networks import CompactCNN
from defectlab.networks.base import build_network
from defectlab.tasks import ClassificationTask, SmallCNNTask

OWN = """
import torch
from lightning.pytorch import Callback
from torch import nn
from defectlab.tasks import SmallCNNTask

class OwnNet(nn.Module):
    def __init__(self, num_classes: int, width: int = 4) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU())
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))

    def forward(self, images):
        return self.head(self.features(images))

def create_model(model_name: str, pretrained: bool = False, **kwargs) -> nn.Module:
    assert model_name == "small" and kwargs["in_chans"] == 1, kwargs
    return OwnNet(kwargs["num_classes"], 6)

class OwnTask(SmallCNNTask):
    pass

class Mark(Callback):
    def __init__(self, file: str) -> None:
        self.file = file

    def on_train_end(self, trainer, pl_module) -> None:
        open(self.file, "w").close()
"""


def elsewhere(folder: Path, *words: object) -> str:
    """What `defectlab` prints, in a process of its own, from this folder, without it among Python's."""
    code = "import sys; sys.path = [p for p in sys.path if p]; from defectlab.cli.main import main; sys.exit(main())"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, cwd=folder, env=environment
    )
    assert not done.returncode, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "network",
    [
        {"class_path": "ownparts.OwnNet", "init_args": {"width": 5}},
        {"class_path": "ownparts.create_model", "init_args": {"model_name": "small"}},
    ],
)
def test_by_yaml(network: dict[str, Any], class_folders: Path, tmp_path: Path) -> None:
    home, away = tmp_path / "home", tmp_path / "away"
    for folder in (home, away):
        folder.mkdir()
    (home / "ownparts.py").write_text(OWN)
    config = write_config(home, class_folders)
    content = yaml.safe_load(config.read_text())
    content["model"] |= {"class_path": "ownparts.OwnTask"}
    content["model"]["init_args"]["network"] = network
    content["trainer"]["callbacks"].append({"class_path": "ownparts.Mark", "init_args": {"file": str(home / "mark")}})
    config.write_text(yaml.safe_dump(content))
    elsewhere(home, "fit", "--config", config.name)
    assert (home / "mark").is_file()
    (run,) = (home / "runs" / "tiny").iterdir()
    assert yaml.safe_load((run / "config.yaml").read_text())["python_path"] == [str(home)]
    elsewhere(away, "predict", run, class_folders, "--output", "out.csv")
    if network["class_path"] == "ownparts.OwnNet":  # both are built by the same mechanism
        elsewhere(away, "resume", run, "--trainer.max_epochs", "3")
        elsewhere(away, "explain", run)
        assert read(run)["run"]["epochs"] == 3
    # Moved away from its run, a checkpoint names what nobody vouches for.
    alone = (run / "checkpoints" / "best.ckpt").rename(away / "alone.ckpt")
    assert main(["predict", str(alone), str(class_folders), "--output", str(away / "x.csv")]) == 1


def test_an_own_module_shows_its_own_error(
    class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken_part.py").write_text("import torch\n\nraise RuntimeError('my own mistake')\n")
    config = write_config(tmp_path, class_folders)
    for words in (["--model.network", "broken_part.Net"], ["--trainer.callbacks+=broken_part.Mark"]):
        assert main(["fit", "--config", str(config), *words]) == 1
        error = capsys.readouterr().err
        assert "my own mistake" in error
        assert "broken_part.py, line 3" in error


def test_a_network_is_given_what_it_takes() -> None:
    def three(a: int, b: int, c: int) -> torch.nn.Module:
        assert (a, b, c) == (3, 1, 16)
        return CompactCNN(a, b, c)

    def timms(model_name: str = "x", **kwargs: Any) -> torch.nn.Module:
        assert kwargs == {"num_classes": 3, "in_chans": 1}
        return CompactCNN(3, 1, 16)

    for factory in (CompactCNN, three, timms, lambda num_classes: CompactCNN(num_classes, 1, 16)):
        assert isinstance(build_network(factory, 3, 1, 16), CompactCNN)
    refusal(lambda: build_network(CompactCNN, 3), "CompactCNN", "in_channels")
    assert isinstance(ClassificationTask(CompactCNN(6, 1, 16), num_classes=6).network, CompactCNN)


@pytest.mark.parametrize(
    "network", ["CompactCNN", "{class_path: timm.create_model, init_args: {model_name: resnet10t}}"]
)
def test_a_run_of_the_shortest_config_serves_from_elsewhere(
    network: str, class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "timm" in network:
        pytest.importorskip("timm")
    (tmp_path / "short.yaml").write_text(
        f"""
seed_everything: 0
model: {{class_path: ClassificationTask, init_args: {{network: {network}}}}}
data: {{class_path: ImageFolderDataModule, init_args: {{root: {class_folders}, image_size: 32, channels: 1}}}}
trainer: {{max_epochs: 1, accelerator: cpu}}
""",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", "short.yaml"]) == 0  # no callback, so no best.ckpt by name
    (run,) = (tmp_path / "runs" / "short").iterdir()
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    assert main(["predict", str(run), str(class_folders), "--output", "out.csv"]) == 0
    assert len(Path("out.csv").read_text().splitlines()) == 37
    assert main(["resume", str(run), "--trainer.max_epochs", "2"]) == 0
    assert read(run)["run"]["epochs"] == 2


class Plain(pl.LightningDataModule):
    """Batches and names, no counts."""

    class_names = ("ok", "bad")

    def train_dataloader(self) -> DataLoader[Any]:
        images = torch.rand(24, 1, 16, 16)
        return DataLoader(TensorDataset(images, torch.arange(24) % 2), batch_size=8)

    val_dataloader = train_dataloader


def test_a_plain_datamodule(tmp_path: Path) -> None:
    task = ClassificationTask(CompactCNN, 2, 1, 16)
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path
    )
    trainer.fit(task, datamodule=Plain())
    assert list(task.results["val"]["per_class"]) == ["ok", "bad"]


@pytest.mark.filterwarnings("ignore")
def test_task_network_and_labels_have_to_agree(tmp_path: Path) -> None:
    def fit(outputs: int, num_classes: int, data: pl.LightningDataModule) -> None:
        trainer = pl.Trainer(
            max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path,
            num_sanity_val_steps=0,
        )  # fmt: skip
        trainer.fit(ClassificationTask(CompactCNN(outputs, 1, 16), num_classes), datamodule=data)

    refusal(lambda: fit(3, 3, Plain()), "num_classes 3", "the data 2")
    refusal(lambda: fit(3, 2, Plain()), "logits of shape (8, 3)")
    items = TensorDataset(torch.rand(8, 1, 16, 16), torch.arange(8) % 4)
    unnamed = pl.LightningDataModule.from_datasets(items, items, batch_size=8)
    refusal(lambda: fit(2, 2, unnamed), "labels", "num_classes 2")


def test_a_data_set_or_loaders(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (30, 20, 20, 3), dtype=np.uint8)
    items = [(image, index % 3) for index, image in enumerate(pixels)]
    alone = DatasetDataModule(items, image_size=16, batch_size=8, class_names=("a", "b", "c"))  # type: ignore[arg-type]
    alone.setup()
    assert [len(alone.labels(part)) for part in ("train", "val", "test")] == [20, 4, 6]
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    loader = DataLoader(TensorDataset(images, torch.arange(30) % 3), batch_size=4)
    both = DatasetDataModule(loader, loader, loader)
    both.setup()
    assert both.class_names == ["0", "1", "2"]
    assert both.image_size == 20
    assert torch.equal(both.pixels("val"), torch.from_numpy(pixels).permute(0, 3, 1, 2))
    task = SmallCNNTask(CompactCNN, 3, 3, 20)
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path
    )
    trainer.fit(task, datamodule=both)
    refusal(lambda: DatasetDataModule([(pixels[0] / 255 - 1, 0)]), "data.train[0]")  # type: ignore[arg-type]


def test_callbacks_and_loggers_are_added_to_ours(class_folders: Path, tmp_path: Path) -> None:
    config, overlay = write_config(tmp_path, class_folders), tmp_path / "mine.yaml"
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": str(tmp_path / "csv")}}
    callbacks = [
        {"class_path": "lightning.pytorch.callbacks.ModelSummary"},
        {
            "class_path": "lightning.pytorch.callbacks.EarlyStopping",
            "init_args": {"monitor": "val/loss", "patience": 7},
        },
        {
            "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
            "init_args": {"monitor": "val/accuracy", "mode": "max", "filename": "sharpest"},
        },
    ]
    overlay.write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks, "logger": logger}}))
    assert main(["fit", "--config", str(config), "--config", str(overlay)]) == 0
    (run,) = (tmp_path / "runs" / "tiny").iterdir()
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt", "sharpest.ckpt"}
    assert (run / "metrics.csv").is_file()
    saved = yaml.safe_load((run / "config.yaml").read_text())["trainer"]["callbacks"]
    assert [callback["class_path"].rpartition(".")[2] for callback in saved] == [
        "ModelCheckpoint", "EarlyStopping", "ModelSummary", "ModelCheckpoint",
    ]  # fmt: skip
    assert saved[1]["init_args"]["patience"] == 7
    (table,) = (tmp_path / "csv").rglob("metrics.csv")
    assert "final/test_accuracy" in table.read_text()
    (given,) = (tmp_path / "csv").rglob("hparams.yaml")
    assert "num_classes" in given.read_text() or "batch_size" in given.read_text()


def test_a_best_checkpoint_is_kept_whatever_callbacks_there_are(class_folders: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, class_folders)
    words = ["--trainer.callbacks", '[{"class_path": "lightning.pytorch.callbacks.ModelSummary"}]']
    assert main(["fit", "--config", str(config), *words]) == 0
    (run,) = (tmp_path / "runs" / "tiny").iterdir()
    assert (run / "checkpoints" / "best.ckpt").is_file()
