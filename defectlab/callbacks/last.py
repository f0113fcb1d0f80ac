"""The checkpoint that a resumed run goes on from, written between epochs and within long ones, and restored exactly."""

import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from defectlab.errors import InputError
from defectlab.tasks import ClassificationTask, OptimizerSettings
from defectlab.utils._compat import limit_steps

_BATCHES_BETWEEN_QUESTIONS = 20  # of several processes, whether it is time


class LastCheckpoint(ModelCheckpoint):
    """Write last.ckpt at the end of every epoch, however rarely or finely it is validated, and within one that is long.

    A resumed run equals an unbroken one because this also keeps what Lightning does not: whether training had been told
    to stop, the figures that callbacks and schedules look at, and within an epoch the random numbers of dropout and what
    the epoch has come to. Changed settings of optimiser, schedule and early stopping take effect: Lightning would replace
    them by the checkpoint's.

    Args:
        folder: of last.ckpt; None for that of the run.
        minutes: after which it is written within an epoch, where the loader can be taken up there; inf for never.
    """

    def __init__(self, folder: Path | None = None, minutes: float = 10.0) -> None:
        super().__init__(folder, filename="last", enable_version_counter=False, save_on_train_epoch_end=True)
        if not minutes >= 0:
            raise InputError(f"trainer.callbacks LastCheckpoint.minutes is {minutes}: expected a number from 0")
        self.minutes = minutes
        self._written = 0.0  # when
        self._within: list[dict[str, Any]] = []  # what the epoch has come to, by process
        self._trainer: pl.Trainer | None = None
        self._seen: dict[str, Tensor] = {}
        self._stopped = False
        self._rate: float | None = None  # of the checkpoint
        self._max_steps = -1

    @property
    def state_key(self) -> str:
        """Return a name of its own: a user's ModelCheckpoint may have the same settings."""
        return type(self).__name__

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begin a fit."""
        super().setup(trainer, pl_module, stage)
        self._trainer, self._seen, self._rate, self._within = trainer, {}, None, []

    def state_dict(self) -> dict[str, Any]:
        """Return Lightning's state, whether training is to stop, and the figures that callbacks see."""
        if self._trainer is None:
            return super().state_dict()
        seen = {name: value.detach().cpu() for name, value in self._trainer.callback_metrics.items()}
        kept = {"stopped": self._trainer.should_stop, "seen": seen, "within": self._within}
        return {**super().state_dict(), **kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the figures, which `on_train_start` restores."""
        super().load_state_dict(state_dict)
        self._seen, self._within = state_dict.get("seen", {}), state_dict.get("within", [])

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the new patience, which EarlyStopping would replace by the checkpoint's, and note the old rate."""
        for stopping, state in _stoppings(trainer.callbacks, checkpoint):  # type: ignore[attr-defined]
            state["patience"] = stopping.patience
        self._rate = trained_settings(checkpoint).lr
        self._stopped = stays_stopped(trainer.callbacks, checkpoint)  # type: ignore[attr-defined]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hide the limit of steps while the loops are restored: with one, Lightning takes any epoch for unfinished."""
        self._max_steps = trainer.max_steps
        if self._rate is not None:
            limit_steps(trainer, -1)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore what Lightning does not, and let changed settings take effect."""
        super().on_train_start(trainer, pl_module)
        self._written = time.monotonic()
        if self._rate is None:
            return
        limit_steps(trainer, self._max_steps)
        trainer.callback_metrics.update(self._seen)
        trainer.should_stop = self._stopped
        if isinstance(pl_module, ClassificationTask):
            (optimizer,) = trainer.optimizers
            _apply(pl_module, self._rate, optimizer, [config.scheduler for config in trainer.lr_scheduler_configs])
        if self._within:
            # Lightning takes up an epoch without its beginning, and a loader that a schedule asked for too late.
            loader: Any = trainer.train_dataloader
            loader.load_state_dict(self._within[trainer.global_rank]["loader"])
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                callback.on_train_epoch_start(trainer, pl_module)
            pl_module.on_train_epoch_start()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Restore what the epoch had come to, before its first batch."""
        if self._within:
            mine, self._within = self._within[trainer.global_rank], []
            torch.set_rng_state(mine["rng"])
            if "device_rng" in mine:
                torch.cuda.set_rng_state(mine["device_rng"], pl_module.device)
            if isinstance(pl_module, ClassificationTask):
                pl_module.load_epoch_state(mine["epoch"])

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write within an epoch, once it is time."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if not self._may_write(trainer, batch_idx):
            return
        loader: Any = trainer.train_dataloader
        late = time.monotonic() - self._written >= 60 * self.minutes
        if trainer.strategy.broadcast(late):
            mine: dict[str, Any] = {
                "rng": torch.get_rng_state(),
                "batches": (batch_idx + 1, trainer.num_training_batches),
                "loader": loader.state_dict(),
            }
            if pl_module.device.type == "cuda":
                mine["device_rng"] = torch.cuda.get_rng_state(pl_module.device)
            if isinstance(pl_module, ClassificationTask):
                mine["epoch"] = pl_module.epoch_state()
            self._within = [mine] * trainer.world_size
            if trainer.world_size > 1:
                torch.distributed.all_gather_object(self._within, mine)
            trainer.save_checkpoint(Path(str(self.dirpath), f"{self.filename}.ckpt"))
            self._within, self._written = [], time.monotonic()

    def _may_write(self, trainer: pl.Trainer, batch_idx: int) -> bool:
        """Return whether training can be taken up after this batch: no gradients are kept, no validation is due."""
        if (
            self.minutes == math.inf
            or trainer.is_last_batch
            or not hasattr(trainer.train_dataloader, "load_state_dict")
        ):
            return False
        each = trainer.val_check_batch
        if each is None or 0 in ((batch_idx + 1) % each, (trainer.fit_loop.total_batch_idx + 1) % each):
            return False
        several = _BATCHES_BETWEEN_QUESTIONS if trainer.world_size > 1 else 1
        return (batch_idx + 1) % (several * trainer.accumulate_grad_batches) == 0


def stays_stopped(callbacks: Iterable[Callback], checkpoint: Mapping[str, Any]) -> bool:
    """Return whether a run was told to stop, and no EarlyStopping among the callbacks has more patience now."""
    stopped = checkpoint.get("callbacks", {}).get(LastCheckpoint.__name__, {}).get("stopped", False)
    return bool(stopped) and not any(
        state.get("stopping_reason") == EarlyStoppingReason.PATIENCE_EXHAUSTED.value
        and state["wait_count"] < stopping.patience
        for stopping, state in _stoppings(callbacks, checkpoint)
    )


def trained_settings(checkpoint: Mapping[str, Any]) -> OptimizerSettings:
    """Return the settings of the optimiser that a checkpoint was trained with; InputError where it names others."""
    given = checkpoint["hyper_parameters"].get("optimizer") or {}
    try:
        return OptimizerSettings(**given)
    except TypeError:
        raise InputError(
            f"the checkpoint's optimizer is {given}: expected name, lr and more, as fit writes them"
        ) from None


def _stoppings(
    callbacks: Iterable[Callback], checkpoint: Mapping[str, Any]
) -> list[tuple[EarlyStopping, dict[str, Any]]]:
    """Return the early stoppings of a trainer that the checkpoint has a state of, with that state."""
    states = checkpoint.get("callbacks", {})
    ours = [callback for callback in callbacks if isinstance(callback, EarlyStopping)]
    return [(callback, states[callback.state_key]) for callback in ours if callback.state_key in states]


def _apply(
    task: ClassificationTask, before: float, optimizer: Optimizer, schedulers: Iterable[LRScheduler | ReduceLROnPlateau]
) -> None:
    """Set what was loaded to the task's settings; every schedule's rates are multiples of the one that is set."""
    fresh = task.optimizer.build_for(task.parameter_modules())
    factor = 1.0 if task.optimizer.lr == before else task.optimizer.lr / before
    for group, wanted in zip(optimizer.param_groups, fresh.param_groups, strict=True):
        group["weight_decay"] = wanted["weight_decay"]
        for name in ("lr", "initial_lr", "max_lr", "min_lr"):
            if name in group:
                group[name] = _scaled(group[name], factor)
    for scheduler in schedulers:
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.factor, scheduler.patience = task.scheduler.factor, task.scheduler.patience
        else:
            scheduler.base_lrs = [_scaled(rate, factor) for rate in scheduler.base_lrs]


def _scaled(rate: float | Tensor, factor: float) -> float | Tensor:
    return rate if factor == 1 else rate * factor
