"""Averages of the weights during training, which validation, checkpoints and the test use."""

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from defectlab.errors import InputError
from defectlab.tasks import ClassificationTask
from defectlab.utils._compat import add_averaged_step, averaged_model, drop_averaged_model, last_averaged_step

_BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class AveragedWeights(WeightAveraging):
    """Lightning's callback, for runs that end with a test of their best checkpoint.

    A checkpoint holds the average in `state_dict`, which is what was validated and what `predict` loads, and the
    current weights in `current_model_state`, which is where `resume` goes on. Unlike in Lightning's:

    - validation uses the current weights until there is an average, not those from before training;
    - it evaluates the current weights, too: `val/loss_raw` and `val/accuracy_raw`;
    - `validate` after `fit` evaluates the checkpoint that was loaded, not the last average in its place;
    - the average is on the network's device and takes one fused operation per update.
    """

    def __init__(self) -> None:
        super().__init__(use_buffers=True)
        self.updates = 0
        self._averaged: list[Tensor] = []
        self._current: list[Tensor] = []
        self._raw: dict[str, float] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Copy the task."""
        super().setup(trainer, pl_module, stage)
        self.updates = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Move the average to the device and copy the weights again: Lightning copied them before the task's `setup`."""
        average = averaged_model(self)
        assert average is not None
        average.to(pl_module.device)
        both = zip(_tensors(average.module), _tensors(pl_module), strict=True)
        # BatchNorm's counters of batches have no mean, and are not read.
        pairs = [(mean.detach(), now.detach()) for mean, now in both if mean.is_floating_point()]
        self._averaged, self._current = [mean for mean, _ in pairs], [now for _, now in pairs]
        if not self.updates:
            self._mix(1)

    def _mix(self, weight: float) -> None:
        """Give the current weights this weight in the average."""
        get_ema_multi_avg_fn(1 - weight)(self._averaged, self._current, None)  # type: ignore[no-untyped-call]

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Do nothing: an update after the epoch's validation would not have been evaluated."""

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluate the current weights, then put the average in their place."""
        if self.updates:
            if isinstance(pl_module, ClassificationTask):
                self._raw = _evaluate_current(trainer, pl_module)
            super().on_validation_epoch_start(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log, and restore the current weights."""
        if self.updates:
            pl_module.log_dict(self._raw)
            super().on_validation_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the average into the task."""
        if self.updates:
            super().on_train_end(trainer, pl_module)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Drop the average."""
        drop_averaged_model(self)
        self.updates = 0
        self._averaged, self._current = [], []

    def state_dict(self) -> dict[str, Any]:
        """Return Lightning's state and the number of updates."""
        return {**super().state_dict(), "updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the number of updates, too."""
        super().load_state_dict(state_dict)
        self.updates = state_dict["updates"]

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the average as the task's weights, if there is one."""
        if self.updates:
            super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Load both; without an average in the checkpoint, averaging begins with the task's weights."""
        if averaged_model(self) is not None and "current_model_state" in checkpoint:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)


class EMA(AveragedWeights):
    """Exponential moving average of the weights and of BatchNorm's statistics, after every optimiser step.

    The decay of step n is min(decay, (1 + n) / (10 + n)), so that a short run does not keep its first weights.

    Args:
        decay: of the average at each step, at least 0 and below 1.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise InputError(f"trainer.callbacks EMA.decay is {decay}: expected at least 0 and below 1, such as 0.999")
        super().__init__()
        self.decay = decay

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update after an optimiser step, which not every batch ends with."""
        if trainer.global_step == last_averaged_step(self):
            return
        add_averaged_step(self, trainer.global_step)
        self.updates += 1
        self._mix(1 - min(self.decay, (1 + self.updates) / (10 + self.updates)))


class SWA(AveragedWeights):
    """Stochastic weight averaging (Izmailov et al. 2018): the mean of the weights after each of the last epochs.

    It needs a high learning rate to the end: `model.scheduler.name constant`. BatchNorm's statistics are measured anew
    by a pass over the training images. Lightning's StochasticWeightAveraging sets the average after the last
    checkpoint, so that no best.ckpt would hold it.

    Args:
        start: fraction of all epochs before the first that counts, at least 0 and below 1.
    """

    def __init__(self, start: float = 0.75) -> None:
        if not 0 <= start < 1:
            raise InputError(f"trainer.callbacks SWA.start is {start}: expected a fraction of at least 0 and below 1")
        super().__init__()
        self.start = start

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse a run without an end."""
        if trainer.max_epochs is None or trainer.max_epochs < 1:
            raise InputError("SWA begins after a fraction of all epochs: give trainer.max_epochs")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update after the last batch of an epoch, before its validation."""
        assert trainer.max_epochs is not None
        first = min(math.ceil(trainer.max_epochs * self.start), trainer.max_epochs - 1)
        if not trainer.is_last_batch or trainer.current_epoch < first:
            return
        add_averaged_step(self, trainer.global_step)
        self.updates += 1
        self._mix(1 / self.updates)
        average = averaged_model(self)
        assert average is not None
        _measure_batch_norm(trainer, average)


def _tensors(module: nn.Module) -> "itertools.chain[Tensor]":
    return itertools.chain(module.parameters(), module.buffers())


def _first(batches: Iterable[Any], count: int | float) -> Iterator[Any]:
    return itertools.islice(batches, None if count == math.inf else int(count))


def _evaluate_current(trainer: pl.Trainer, task: ClassificationTask) -> dict[str, float]:
    """Compute loss and accuracy of the current weights on the validation images of all processes."""
    sums = torch.zeros(3, device=task.device)
    batches: Any = trainer.val_dataloaders
    for batch in _first(batches, min(trainer.num_val_batches)):
        images, labels = trainer.strategy.batch_to_device(batch)
        with trainer.precision_plugin.val_step_context():
            logits = task.predict_logits(images).float()
        # A process that is one batch short has an empty one, which has no mean.
        loss = task.training_loss(logits, labels) * len(labels) if len(labels) else sums.new_zeros(())
        sums += torch.stack((loss, task.count_right(logits, labels), loss.new_tensor(len(labels))))
    loss_sum, right, count = trainer.strategy.reduce(sums, reduce_op="sum").tolist()
    return {"val/loss_raw": loss_sum / count, "val/accuracy_raw": right / count}


@torch.no_grad()
def _measure_batch_norm(trainer: pl.Trainer, average: nn.Module) -> None:
    """Measure the running statistics over one epoch of training images; frozen ones, unlike by `update_bn`, stay."""
    average.train()  # a network with frozen layers leaves those alone
    layers = [layer for layer in average.modules() if isinstance(layer, _BATCH_NORM) and layer.training]
    momenta = [layer.momentum for layer in layers]
    if layers:
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # the plain mean over batches
        batches: Any = trainer.train_dataloader
        for batch in _first(batches, trainer.num_training_batches):
            images, _ = trainer.strategy.batch_to_device(batch)
            average(images)
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for tensor in average.buffers():  # each process has seen its own images; all go on with the first one's
            tensor.copy_(trainer.strategy.broadcast(tensor))
    average.eval()
