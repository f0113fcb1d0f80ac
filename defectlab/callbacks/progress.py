"""Progress on the terminal: a line per epoch, and a bar for the current pass."""

import math
import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class EpochLines(ProgressBar):
    """Print a line per epoch; on a terminal, draw a bar for the current pass.

    Lightning's own bars read every logged value at every step, and a GPU waits for each.
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
        """Show nothing, as in all processes but the first."""
        self._enabled = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the last epoch's line, and start a bar."""
        self._end_epoch(trainer, trainer.current_epoch - 1)
        self._began = time.monotonic()
        self._start(f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}", self.total_train_batches)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar."""
        self._move(batch_idx)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the last epoch's line."""
        self._end_epoch(trainer, trainer.current_epoch - 1)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start a bar, but not within an epoch."""
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
        """Remove the bar."""
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the bar."""
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
