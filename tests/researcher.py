"""A researcher's script: what every command of the README does, through the package alone, and parts of one's own.

`test_researcher.py` type-checks it and runs it in an empty folder, where it may print nothing.
"""

import logging
import os
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import defectlab as dl
from defectlab.data import DatasetDataModule

Batches = DataLoader[tuple[Tensor, ...]]


class Net(nn.Module):
    """A strided convolution and the mean of its maps."""

    def __init__(self, num_classes: int, in_channels: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(in_channels, 8, 3, stride=2), nn.ReLU())
        self.head = nn.Linear(8, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images).mean(dim=(2, 3)))
        return logits


class OwnTask(dl.ClassificationTask):
    """A task with a loss of its own."""

    def training_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return 2 * super().training_loss(logits, labels)


class Items(Dataset[tuple[npt.NDArray[np.uint8], int]]):
    """Thirty grey images of three classes."""

    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.uint8], int]:
        if index >= 30:
            raise IndexError(index)
        return np.random.default_rng(index).integers(0, 256, (20, 20), dtype=np.uint8), index % 3


class Noise(pl.LightningDataModule):
    """Two classes of noise."""

    class_names = ("dark", "light")

    def train_dataloader(self) -> Batches:
        labels = torch.arange(20) % 2
        return DataLoader(
            TensorDataset(torch.randn(20, 1, 16, 16) + labels[:, None, None, None], labels), batch_size=10
        )

    val_dataloader = test_dataloader = train_dataloader


class Count(Callback):
    """Count epochs."""

    epochs = 0

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.epochs += 1


def refused(call: Callable[[], object], words: str) -> None:
    with pytest.raises(dl.InputError) as caught:
        call()
    message = str(caught.value)
    assert words in message
    assert "\n" not in message


def commands() -> None:
    drawn = Path("drawn")
    assert dl.synthesize(drawn, per_class=10, seed=0, size=32) == 60
    data: dict[str, object] = {"root": str(drawn), "image_size": 32, "val_size": 12}
    trainer = {"max_epochs": 1, "accelerator": "cpu"}
    words = [f"--data.{key}={value}" for key, value in data.items()]

    run: dl.RunFolder = dl.fit("neu_simple_cnn.yaml", data=data, trainer=trainer, output="runs/a")
    other: dl.RunFolder = dl.fit("neu_depthwise.yaml", data=data, trainer=trainer, output="runs/b")
    assert dl.test(run).accuracy == run.metrics["test"]["accuracy"]
    assert dl.validate(run).metrics["n"] == 12
    assert dl.resume(run, trainer={"max_epochs": 2}).metrics["run"]["epochs"] == 2
    assert dl.open_run("runs/a").path.samefile(run)
    page: Path = dl.report(run)
    assert page.is_file()

    image = next(drawn.rglob("*.png"))
    model: dl.Predictor = dl.load(run)
    found = dl.predict(run, [image])
    assert model(image).predicted == found.predicted
    assert model(np.zeros((32, 32), np.uint8)).probabilities.shape == (1, 6)
    task, card = dl.load_task(run.best)
    assert (type(task), card.class_names[0]) == (dl.SmallCNNTask, "crazing")
    assert dl.load(dl.export(run, "small.ckpt"))(image).predicted == found.predicted

    folds = dl.cross_validate(
        "neu_simple_cnn.yaml", folds=2, repeats=1, overrides={"data": data, "trainer": trainer}, output="runs/folds"
    )
    assert 0 <= folds.mean <= 1
    assert len(dl.compare([run, other]).pairs) == 1
    assert dl.ensemble([run, other], output="runs/both").metrics["test"]["n"] == run.metrics["test"]["n"]
    assert dl.robustness(run).rows
    assert dl.label_budget("neu_mobilenet.yaml", per_class=[1, 2], draws=2, overrides=words).rows
    assert sum(dl.inspect_data(drawn, output="inspection").counts.values()) == 60
    assert dl.explain(run, [image], output="explained").page.is_file()
    figure: Figure = dl.explain_kernels(image)
    assert figure.axes
    assert dl.summarize(task, (1, 32, 32)).parameters > 0
    assert dl.compare_networks([run], turns=1)[0].parameters > 0
    strip = dl.NEUDataModule(root=str(drawn), image_size=32, augmentation=dl.Augmentation(rotation=5))
    assert dl.preview(strip).axes
    assert sum(dl.augment_to_folder(strip, "more", copies=1).values()) > 60


def own_parts() -> None:
    count, settings = Count(), {"max_epochs": 1, "accelerator": "cpu"}
    data = DatasetDataModule(Items(), image_size=16, channels=1)
    run = dl.fit(task=OwnTask(Net, 3), data=data, trainer={**settings, "callbacks": [count]}, output="runs/own")
    assert count.epochs == 1
    assert dl.predict(run, Items()[0][0]).probabilities.shape == (1, 3)
    assert dl.explain(run.best, "drawn", output="explained").page.is_file()  # the data set is in this process alone

    task, noise = dl.ClassificationTask(Net(2), num_classes=2), Noise()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # Lightning's own remarks
    warnings.simplefilter("ignore")
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(task, datamodule=noise)
    assert dl.record_run(trainer, task, noise, "runs/plain").metrics["test"]["n"] == 20


def bad_input() -> None:
    gone = dl.RunFolder("gone")
    for call in (dl.open_run, dl.resume, dl.test, dl.validate, dl.load, dl.robustness, dl.explain):
        refused(lambda call=call: call(gone), "gone")  # type: ignore[misc]
    for read in (lambda: gone.metrics, lambda: dl.report(gone)):
        refused(read, "not there any more")
    refused(lambda: dl.fit("neu_simple_cnn.yaml", trainer={"max_epoch": 1}), "did you mean max_epochs?")
    three, short = dl.ClassificationTask(Net(3), 3), {"max_epochs": 1, "accelerator": "cpu"}
    refused(lambda: dl.fit(task=three, data=Noise(), trainer=short, output="x"), "num_classes 3, the data 2")
    refused(lambda: dl.fit(task=Net(2), data=Noise()), "expected LightningModule")  # type: ignore[arg-type]
    refused(lambda: dl.predict("runs/a", torch.rand(3, 32, 32)), "given as Tensor")  # type: ignore[arg-type]
    refused(lambda: dl.predict("runs/a", [torch.rand(3, 32, 32)]), "given as Tensor")  # type: ignore[arg-type]
    refused(lambda: dl.open_run(None), "NoneType")  # type: ignore[arg-type]
    refused(lambda: dl.explain("runs/own"), "give it as data")
    refused(lambda: dl.fetch("fetched", "file:///nowhere.zip"), "nowhere.zip")
    refused(lambda: dl.course("mnist_lenet5"), "did you mean mnist-lenet5?")
    assert not {"x", "fetched"} & set(os.listdir())


def main() -> None:
    def state() -> tuple[object, ...]:
        # scikit-learn sets KMP_... when it is imported.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("KMP_")}
        return environment, list(warnings.filters), torch.get_num_threads(), torch.get_rng_state().tolist()

    before = state()
    commands()
    assert state() == before
    own_parts()
    bad_input()
    assert [thread.name for thread in threading.enumerate() if not thread.daemon] == ["MainThread"]


if __name__ == "__main__":
    main()
