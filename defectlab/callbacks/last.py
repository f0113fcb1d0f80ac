"""The checkpoint that a resumed run goes on from, written between two epochs and restored there exactly."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from defectlab.errors import InputError
from defectlab.tasks import ClassificationTask, OptimizerSettings
from defectlab.utils._compat import limit_steps


class LastCheckpoint(ModelCheckpoint):
    """Write last.ckpt at the end of every epoch, however rarely or finely it is validated.

    Lightning's loops can be taken up between two epochs, not within one. A resumed run equals an unbroken one because
    this also keeps what Lightning does not: whether training had been told to stop, and the figures that callbacks and
    schedules look at. Changed settings of optimiser, schedule and early stopping take effect: Lightning would replace
    them by the checkpoint's.

    Args:
        folder: of last.ckpt.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, filename="last", enable_version_counter=False, save_on_train_epoch_end=True)
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
        self._trainer, self._seen, self._rate = trainer, {}, None

    def state_dict(self) -> dict[str, Any]:
        """Return Lightning's state, whether training is to stop, and the figures that callbacks see."""
        if self._trainer is None:
            return super().state_dict()
        seen = {name: value.detach().cpu() for name, value in self._trainer.callback_metrics.items()}
        return {**super().state_dict(), "stopped": self._trainer.should_stop, "seen": seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the figures, which `on_train_start` restores."""
        super().load_state_dict(state_dict)
        self._seen = state_dict.get("seen", {})

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
        if self._rate is None:
            return
        limit_steps(trainer, self._max_steps)
        trainer.callback_metrics.update(self._seen)
        trainer.should_stop = self._stopped
        if isinstance(pl_module, ClassificationTask):
            (optimizer,) = trainer.optimizers
            _apply(pl_module, self._rate, optimizer, [config.scheduler for config in trainer.lr_scheduler_configs])


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
