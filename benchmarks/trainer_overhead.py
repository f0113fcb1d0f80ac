"""Seconds an epoch: `defectlab fit` beside a hand-written PyTorch loop.

CompactCNN on MNIST, 55,000 training and 5,000 validation images, batch 64. Both have the same threads,
allocator settings, memory format, fused AdamW, one-cycle schedule, and validation at the end of every epoch.
defectlab's side is what `fit --config mnist_compact.yaml` builds: checkpoints, early stopping, TensorBoard,
metrics.csv, learning-rate monitor, progress bar.
"""

import logging
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from measure import Measurement, Side, load, take_turns
from torch import Tensor, nn
from torch.nn import functional

from defectlab.data import MNISTDataModule
from defectlab.engine.configs import find_config
from defectlab.engine.experiment import DefectCLI
from defectlab.networks import CompactCNN
from defectlab.utils.cpu import CPUSettings

__all__ = ["measure_trainer"]

BATCH_SIZE = 64
EVAL_BATCH_SIZE = 1000
VAL_SHARE = 1 / 12  # 5,000 of 60,000
LR, WEIGHT_DECAY, WARMUP = 0.005, 0.05, 0.25  # of configs/mnist_compact.yaml
BAR = 1.15


def measure_trainer(mnist: str, runs: Path, epochs: int, repeats: int, threads: int) -> Measurement:
    """Median seconds an epoch of each fit; run folders go to `runs`."""
    CPUSettings(threads=threads).apply()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    before = load()
    data = MNISTDataModule(root=mnist, val_size=VAL_SHARE)
    data.prepare_data()
    data.setup()
    images, labels = data.data.images, data.data.labels
    normalised = images.float().div_(255).sub_(data.card.mean[0]).div_(data.card.std[0])
    train, val = (torch.from_numpy(part) for part in (data.parts.train, data.parts.val))

    whole: dict[str, list[float]] = {"defectlab": [], "plain loop": []}

    def ours() -> float:
        began = time.perf_counter()
        seconds = _lightning(mnist, runs, epochs, threads)
        whole["defectlab"].append(time.perf_counter() - began)
        return statistics.median(seconds)

    def theirs() -> float:
        began = time.perf_counter()
        seconds = _plain(normalised, labels, train, val, epochs)
        whole["plain loop"].append(time.perf_counter() - began)
        return statistics.median(seconds)

    values = take_turns({"defectlab": ours, "plain loop": theirs}, repeats)
    sides = [
        Side("defectlab", "fit --config mnist_compact.yaml, all its callbacks and loggers", values["defectlab"]),
        Side(
            "plain loop",
            "float images normalised beforehand, batches by index, nothing logged",
            values["plain loop"],
        ),
    ]
    for side in sides:
        seconds = statistics.median(whole[side.name])
        side.remarks = [f"the whole fit of {epochs} epochs, set-up included, took {seconds:.1f} s in the median"]
    return Measurement(
        f"Trainer, CompactCNN on {len(train):,} MNIST images, {threads} threads", "s/epoch",
        sides[0], sides[1:], "ours / theirs", BAR, "at most", [before, load()],
    )  # fmt: skip


class _EpochClock(pl.Callback):
    """Times from the start of one epoch to the start of the next: validation and checkpoints are inside."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.marks.append(time.perf_counter())

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.marks.append(time.perf_counter())


def _lightning(mnist: str, runs: Path, epochs: int, threads: int) -> list[float]:
    words = ["--config", str(find_config("mnist_compact.yaml")), "--data.root", mnist]
    words += ["--data.val_size", str(VAL_SHARE), "--data.batch_size", str(BATCH_SIZE)]
    words += ["--trainer.max_epochs", str(epochs), "--trainer.default_root_dir", str(runs)]
    words += ["--cpu.threads", str(threads), "--trainer.accelerator", "cpu"]
    cli = DefectCLI("fit", words)
    clock = _EpochClock()
    trainer: Any = cli.trainer
    trainer.callbacks.append(clock)
    trainer.fit(cli.model, datamodule=cli.datamodule)
    return [end - start for start, end in zip(clock.marks, clock.marks[1:], strict=False)]


def _plain(images: Tensor, labels: Tensor, train: Tensor, val: Tensor, epochs: int) -> list[float]:
    torch.manual_seed(0)
    network = CompactCNN(num_classes=10, in_channels=1, image_size=28)
    network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=WEIGHT_DECAY, fused=True)
    steps = epochs * -(-len(train) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=max(steps, 4), pct_start=WARMUP)
    seconds = []
    for _ in range(epochs):
        began = time.perf_counter()
        network.train()
        total = torch.zeros(())
        for batch in train[torch.randperm(len(train))].split(BATCH_SIZE):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            loss = functional.cross_entropy(network(_batch(images, batch)), labels[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += loss.detach() * len(batch)
        _accuracy(network, images, labels, val)
        seconds.append(time.perf_counter() - began)
    return seconds


def _batch(images: Tensor, indices: Tensor) -> Tensor:
    return images[indices].contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def _accuracy(network: nn.Module, images: Tensor, labels: Tensor, indices: Tensor) -> float:
    network.eval()
    hits = 0
    for batch in indices.split(EVAL_BATCH_SIZE):  # type: ignore[no-untyped-call]
        hits += int((network(_batch(images, batch)).argmax(dim=1) == labels[batch]).sum())
    return hits / len(indices)
