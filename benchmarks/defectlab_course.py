"""The course's two tasks with defectlab, as fast as it gets to the course's accuracy.

The settings below were chosen on validation images held out of the training part, never on test images.
The test images are read after every epoch here because a stopwatch has to know when the target is met:
nothing is chosen by them, and no weights are kept. One image a class is held out for validation, the fewest
that a datamodule takes, and not looked at.

    python benchmarks/defectlab_course.py features FOLDER --weights FILE    NEU-CLS, frozen MobileNetV2
    python benchmarks/defectlab_course.py neu FOLDER                        NEU-CLS, the course's own network
    python benchmarks/defectlab_course.py mnist FOLDER                      MNIST, the course's own network

Prints the same JSON lines as plain_course.py.
"""

import argparse
import functools
import json
import logging
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from defectlab.data import Augmentation, ImageDataModule, MNISTDataModule, NEUDataModule
from defectlab.data.sources.layouts import NEU_CLASSES
from defectlab.networks import BipyramidalCNN
from defectlab.tasks import (
    ClassificationTask,
    OptimizerSettings,
    PretrainedTask,
    SchedulerSettings,
    SmallCNNTask,
)
from defectlab.utils.cpu import CPUSettings

__all__ = ["FEATURES", "MNIST", "NEU", "Recipe", "main"]


@dataclass(frozen=True)
class Recipe:
    """What training is run with; one-cycle, fused AdamW, channels_last and the kept allocator everywhere."""

    image_size: int
    batch_size: int
    epochs: int
    lr: float
    weight_decay: float
    warmup: float
    label_smoothing: float
    augmentation: Augmentation | None

    def words(self, precision: str) -> str:
        """For the table."""
        augmented = "flips" if self.augmentation else "no augmentation"
        return (
            f"{self.image_size} px, batch {self.batch_size}, AdamW {self.lr:g}, one-cycle over {self.epochs} "
            f"epochs, label smoothing {self.label_smoothing:g}, {augmented}, {precision}, channels_last"
        )


# Label smoothing is worth two epochs on MNIST. Shifts and rotations cost the course's network on NEU more epochs
# than they give accuracy; flips are free.
FEATURES = Recipe(128, 32, 5, 3e-3, 0.05, 0.25, 0.05, None)
NEU = Recipe(200, 16, 10, 1e-3, 0.05, 0.25, 0.1, Augmentation(horizontal_flip=0.5, vertical_flip=0.5))
MNIST = Recipe(28, 128, 2, 6e-3, 0.05, 0.25, 0.1, None)


class Stopwatch(pl.Callback):
    """Reads the test images after every epoch, prints time and accuracy, stops at the target."""

    def __init__(self, data: ImageDataModule, began: float, target: float) -> None:
        self.data = data
        self.began = began
        self.target = target
        self._batches: Iterable[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take the test images; those of a frozen backbone are encoded once, like the training images."""
        self._batches = self.data.test_dataloader()
        if isinstance(pl_module, PretrainedTask) and pl_module.cache_features:
            network = pl_module.network.eval()
            loader = self._batches
            self._batches = [(network.embed(x.contiguous(memory_format=torch.channels_last)), y) for x, y in loader]
            network.train()

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, ClassificationTask)
        pl_module.eval()
        hits = count = 0
        with trainer.precision_plugin.forward_context():
            for inputs, labels in self._batches:
                hits += int((pl_module(inputs).argmax(dim=1) == labels).sum())
                count += len(labels)
        pl_module.train()
        seconds = round(time.perf_counter() - self.began, 2)
        accuracy = hits / count
        print(
            json.dumps({"epoch": trainer.current_epoch + 1, "seconds": seconds, "accuracy": accuracy}),
            flush=True,
        )
        trainer.should_stop = accuracy >= self.target


def run_features(folder: str, weights: str, recipe: Recipe, precision: str, seed: int, target: float) -> None:
    """NEU-CLS: MobileNetV2 with weights, frozen; every image goes through it once."""
    began = time.perf_counter()
    data = _neu_data(folder, recipe, seed)
    task = PretrainedTask(
        data.num_classes, data.channels, data.image_size, "mobilenet_v2",
        weights=weights, cache_features=True,
        optimizer=OptimizerSettings(lr=recipe.lr, weight_decay=recipe.weight_decay),
        scheduler=SchedulerSettings(warmup=recipe.warmup), label_smoothing=recipe.label_smoothing,
    )  # fmt: skip
    _fit(task, data, recipe, precision, target, began)


def run_neu(folder: str, recipe: Recipe, precision: str, seed: int, target: float) -> None:
    """NEU-CLS: the course's 32-64-128 network with its 10,333,574 parameters at 200 px."""
    began = time.perf_counter()
    data = _neu_data(folder, recipe, seed)
    _fit(_small_task(data, recipe, depth=3), data, recipe, precision, target, began)


def run_mnist(folder: str, recipe: Recipe, precision: str, seed: int, target: float) -> None:
    """MNIST: the course's 32-64 network with its 421,642 parameters, on all 60,000 training images."""
    began = time.perf_counter()
    data = MNISTDataModule(
        root=folder, val_size=10, batch_size=recipe.batch_size, seed=seed, augmentation=recipe.augmentation
    )
    _fit(_small_task(data, recipe, depth=2), data, recipe, precision, target, began)


def _neu_data(folder: str, recipe: Recipe, seed: int) -> NEUDataModule:
    return NEUDataModule(
        root=folder, source="real", image_size=recipe.image_size, batch_size=recipe.batch_size,
        val_size=len(NEU_CLASSES), seed=seed, augmentation=recipe.augmentation,
    )  # fmt: skip


def _small_task(data: ImageDataModule, recipe: Recipe, depth: int) -> SmallCNNTask:
    return SmallCNNTask(
        functools.partial(BipyramidalCNN, depth=depth), data.num_classes, data.channels, data.image_size,
        optimizer=OptimizerSettings(lr=recipe.lr, weight_decay=recipe.weight_decay),
        scheduler=SchedulerSettings(warmup=recipe.warmup), label_smoothing=recipe.label_smoothing,
    )  # fmt: skip


def _fit(
    task: ClassificationTask,
    data: ImageDataModule,
    recipe: Recipe,
    precision: Any,
    target: float,
    began: float,
) -> None:
    """Like the plain program it writes no logs and no checkpoints."""
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=recipe.epochs, precision=precision, limit_val_batches=0,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[Stopwatch(data, began, target)],
    )  # fmt: skip
    trainer.fit(task, datamodule=data)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one program."""
    parser = argparse.ArgumentParser(description="The course's tasks with defectlab.")
    parser.add_argument("course", choices=("features", "neu", "mnist"))
    parser.add_argument("folder")
    parser.add_argument("--weights", help="of features: a .pth file of torchvision's mobilenet_v2")
    parser.add_argument("--precision", default="32-true", help="bf16-mixed on processors that multiply bfloat16")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--target", type=float, default=1.0, help="accuracy at which to stop")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int)
    given = parser.parse_args(arguments)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    CPUSettings(threads=given.threads).apply()
    pl.seed_everything(given.seed, verbose=False)
    if given.course == "features":
        run_features(given.folder, given.weights, FEATURES, given.precision, given.seed, given.target)
    elif given.course == "neu":
        run_neu(given.folder, NEU, given.precision, given.seed, given.target)
    else:
        run_mnist(given.folder, MNIST, given.precision, given.seed, given.target)


if __name__ == "__main__":
    main()
