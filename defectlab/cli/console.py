"""What is seen of a run while it runs: a line an epoch, on a terminal a bar, and no one else's remarks."""

import logging
import math
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

__all__ = ["EpochLines", "print_wide", "quieten", "shown_path"]

_KNOWN_WARNINGS = (
    r".*isinstance\(treespec, LeafSpec\).*",  # Lightning's own affair with torch
    r".*smaller than the logging interval.*",  # curves have a point an epoch in any case
    r".*module\(s\) in eval mode at the start.*",  # a frozen backbone
    r".*does not have many workers.*",  # the loader has none and needs none
    r".*Checkpoint directory .* exists and is not empty.*",  # resume goes on in its run folder
    r".*lr_scheduler\.step\(\).*before.*optimizer\.step\(\).*",  # a step that the gradient scaler left out
    r".*recommended to use `self\.log\(.*sync_dist=True.*",  # every process computes the same from all images
    r".*GPU available but not used.*",  # asked for
    r".*The dirpath has changed from.*",  # fit --ckpt_path goes on in a folder of its own
    r".*callbacks used to create the checkpoint need to be provided.*",  # test needs none of fit's
)


def quieten() -> None:
    """Lightning's notes on devices and tips go; warnings that call for action stay."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in _KNOWN_WARNINGS:
        warnings.filterwarnings("ignore", message=text)


def shown_path(path: Path) -> str:
    """The path as one would type it here: relative if it is below the working folder."""
    here = Path(os.path.realpath(os.curdir))
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def print_wide(table: Table) -> None:
    """Print a table as wide as it is: a number that is cut off is worse than a line that is folded."""
    console = Console()
    endless = console.options.update(width=10_000)
    Console(width=max(console.width, Measurement.get(console, endless, table).maximum)).print(table)


class EpochLines(ProgressBar):
    """A line an epoch on standard output; if that is a terminal, a bar for the pass that runs.

    Lightning's own bars read every logged value at every step, which on a GPU waits for each.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._stride = 1
        self._began = 0.0

    def enable(self) -> None:
        """Show."""
        self._enabled = True

    def disable(self) -> None:
        """Show nothing: Lightning asks for this in all processes but the first."""
        self._enabled = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say how the last epoch went, and start a bar."""
        self._end_epoch(trainer, trainer.current_epoch - 1)
        self._began = time.monotonic()
        self._start(f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}", self.total_train_batches)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar."""
        self._move(batch_idx)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say how the last epoch went."""
        self._end_epoch(trainer, trainer.current_epoch - 1)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start a bar, unless the one of the epoch is there."""
        if trainer.state.fn == "validate":
            self._start("validating", sum(trainer.num_val_batches))

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Move the bar."""
        if trainer.state.fn == "validate":
            self._move(batch_idx)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start a bar."""
        self._start("testing", sum(trainer.num_test_batches))

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Move the bar."""
        self._move(batch_idx)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave no bar behind, however it ended."""
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave no bar behind."""
        self._stop()

    def _start(self, description: str, total: float) -> None:
        self._stop()
        if not self._enabled or not sys.stdout.isatty() or not math.isfinite(total):
            return
        self._stride = max(1, int(total) // 100)
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), transient=True
        )
        self._task = self._bar.add_task(description, total=total)
        self._bar.start()

    def _move(self, batch_idx: int) -> None:
        if self._bar is not None and (batch_idx + 1) % self._stride == 0:
            self._bar.update(self._task, completed=batch_idx + 1)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _end_epoch(self, trainer: Trainer, epoch: int) -> None:
        self._stop()
        if not self._enabled or not self._began:
            return
        parts = [f"epoch {epoch + 1:>{len(str(trainer.max_epochs))}}/{trainer.max_epochs}"]
        metrics = trainer.callback_metrics
        names = [name for name in ("train/loss", "val/loss") if name in metrics]
        parts += [f"{name.replace('/', ' ')} {float(metrics[name]):.4f}" for name in names]
        if "val/accuracy" in metrics:
            parts.append(f"val accuracy {float(metrics['val/accuracy']):7.2%}")
            if "val/balanced_accuracy" in metrics:
                parts[-1] += f" (balanced {float(metrics['val/balanced_accuracy']):7.2%})"
        if "val/accuracy_raw" in metrics:  # of the current weights, where the others are of their average
            parts[-1] += f" (raw {float(metrics['val/accuracy_raw']):7.2%})"
        print("   ".join([*parts, f"{time.monotonic() - self._began:.1f} s"]), flush=True)
