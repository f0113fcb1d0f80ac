"""The one LightningModule between Lightning and every task: step, loss, metrics, optimiser."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional

from defectlab.errors import InputError
from defectlab.metrics import SplitMetrics, evaluate_predictions
from defectlab.tasks.optimization import OptimizerSettings, SchedulerSettings, parameter_groups

__all__ = ["ClassificationTask", "LabelledData", "plain"]


@runtime_checkable
class LabelledData(Protocol):
    """What a task asks of its datamodule when it has one of that kind."""

    @property
    def class_names(self) -> Sequence[str]:
        """In the order of the labels."""

    def class_counts(self, part: Literal["train", "val", "test"]) -> list[int]:
        """Images a class."""


class ClassificationTask(pl.LightningModule):
    """Train and judge a network that turns images `(N, C, H, W)` into logits `(N, num_classes)`.

    Batches are `(images, labels)`; labels are int64 `(N,)`, or in training also shares `(N, num_classes)`. Metrics
    of an evaluation are computed once, on all its logits in order, on every process alike: `results` holds them
    by stage (`val`, `test`), `predictions` the logits and labels.

    Args:
        network: gives logits.
        num_classes: width of the logits.
        optimizer: see `OptimizerSettings`; a dict of its values will do.
        scheduler: see `SchedulerSettings`; a dict of its values will do.
        label_smoothing: share of the target spread over all classes (Szegedy et al. 2016), in [0, 1).
        class_weights: a weight a class in the training loss; `balanced` takes n / (classes * n of the class).
        channels_last: memory format of network and images: faster convolutions, same results.
        compile: pass the network through torch.compile; pays on GPUs and in long runs.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        optimizer: OptimizerSettings | dict[str, Any],
        scheduler: SchedulerSettings | dict[str, Any],
        label_smoothing: float,
        class_weights: Sequence[float] | Literal["balanced"] | None,
        channels_last: bool,
        compile: bool,  # noqa: A002 (torch's word)
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise InputError(f"model.label_smoothing is {label_smoothing}: expected at least 0 and below 1")
        if class_weights not in (None, "balanced") and len(class_weights) != num_classes:
            raise InputError(
                f"model.class_weights has {len(class_weights)} values: expected one for each of {num_classes} classes"
            )
        self.network = network
        self.num_classes = num_classes
        self.optimizer = OptimizerSettings(**optimizer) if isinstance(optimizer, dict) else optimizer
        self.scheduler = SchedulerSettings(**scheduler) if isinstance(scheduler, dict) else scheduler
        self.label_smoothing = label_smoothing
        self.class_weights = class_weights
        self.channels_last = channels_last
        self.results: dict[str, SplitMetrics] = {}
        self.predictions: dict[str, tuple[Tensor, Tensor]] = {}
        self.restored = False  # whether the tensors came from a checkpoint
        self._weights: Tensor | None = None
        self._steps: list[tuple[Tensor, Tensor, int]] = []
        self._batches: list[tuple[Tensor, Tensor]] = []
        if channels_last:
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if compile:
            self.network.compile()  # in place: the names in the state dict stay as they are

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(N, num_classes)` of normalised images `(N, C, H, W)`."""
        if self.channels_last and images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.network(images)
        return logits

    @property
    def class_names(self) -> Sequence[str]:
        """The datamodule's, or numbers."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        return data.class_names if isinstance(data, LabelledData) else [str(i) for i in range(self.num_classes)]

    def on_fit_start(self) -> None:
        """Find the class weights."""
        if self.class_weights == "balanced":
            data = self.trainer.datamodule  # type: ignore[attr-defined]
            if not isinstance(data, LabelledData):
                raise InputError("model.class_weights is balanced, but the data has no class counts: give numbers")
            counts = torch.tensor(data.class_counts("train"), dtype=torch.float32, device=self.device)
            self._weights = counts.sum() / (len(counts) * counts.clamp(min=1))
        elif self.class_weights is not None:
            self._weights = torch.tensor(list(self.class_weights), dtype=torch.float32, device=self.device)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy; the rest waits for the end of the epoch."""
        images, labels = batch
        logits = self(images)
        loss = functional.cross_entropy(logits, labels, self._weights, label_smoothing=self.label_smoothing)
        hard = labels if labels.ndim == 1 else labels.argmax(dim=1)
        self._steps.append((loss.detach(), (logits.detach().argmax(dim=1) == hard).sum(), len(labels)))
        # One call in log_every_n_steps: a log call in each step would cost more than a small network's own.
        if (self.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.log("train/loss_step", loss.detach(), prog_bar=True)
        return loss

    def on_train_epoch_end(self) -> None:
        """Log the epoch's means, and stop at a loss that is no number."""
        losses, hits, sizes = zip(*self._steps, strict=True)
        self._steps = []
        weights = torch.tensor(sizes, dtype=torch.float32, device=self.device)
        loss = (torch.stack(losses).float() * weights).sum() / weights.sum()
        if not torch.isfinite(loss):
            raise InputError(
                f"the training loss became {loss.item()} in epoch {self.current_epoch}: lower model.optimizer.lr "
                f"(now {self.optimizer.lr}) or train in full precision"
            )
        accuracy = torch.stack(hits).sum() / weights.sum()
        self.log_dict({"train/loss": loss, "train/accuracy": accuracy}, sync_dist=True)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Keep the logits."""
        self._evaluate(batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Keep the logits."""
        self._evaluate(batch)

    def predict_step(self, batch: tuple[Tensor, Tensor] | Tensor, batch_idx: int) -> Tensor:
        """Probabilities `(N, num_classes)`."""
        images = batch if isinstance(batch, Tensor) else batch[0]
        return torch.softmax(self(images).float(), dim=1)

    def _evaluate(self, batch: tuple[Tensor, Tensor]) -> None:
        images, labels = batch
        self._batches.append((self(images).float(), labels))

    def on_validation_epoch_end(self) -> None:
        """Compute and log `val/…`."""
        self._finish("val")

    def on_test_epoch_end(self) -> None:
        """Compute and log `test/…`."""
        self._finish("test")

    def _finish(self, stage: Literal["val", "test"]) -> None:
        mine = [(logits.cpu(), labels.cpu()) for logits, labels in self._batches]
        self._batches = []
        everyone = [mine]
        if self.trainer.world_size > 1:
            everyone = [[] for _ in range(self.trainer.world_size)]
            torch.distributed.all_gather_object(everyone, mine)
        # The loader deals batches out in turn, so reading them in turn restores the order of one process.
        turns = [batch for step in zip(*everyone, strict=True) for batch in step]
        logits, labels = (torch.cat(tensors) for tensors in zip(*turns, strict=True))
        result = evaluate_predictions(logits, labels, self.class_names)
        self.results[stage], self.predictions[stage] = result, (logits, labels)
        values = {f"{stage}/{name}": float(result[name]) for name in ("loss", "accuracy", "macro_f1", "ece")}  # type: ignore[literal-required]
        for name, value in values.items():
            self.log(name, value, prog_bar=name in ("val/loss", "val/accuracy"))
        per_class = {f"{stage}/accuracy/{name}": row["accuracy"] for name, row in result["per_class"].items()}
        self.log_dict({name: value for name, value in per_class.items() if value == value})  # a class without images has none

    def parameter_modules(self) -> list[tuple[nn.Module, float]]:
        """Modules to train, each with the factor of its learning rate."""
        return [(self.network, 1.0)]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """From the two settings; fused kernels cannot unscale and clip, so they give way under 16-mixed."""
        settings = self.optimizer
        if self.trainer.precision == "16-mixed" and self.trainer.gradient_clip_val:
            settings = dataclasses.replace(settings, fused=False)
        optimizer = settings.build(parameter_groups(self.parameter_modules(), settings))
        schedule = self.scheduler.build(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": schedule} if schedule else optimizer  # type: ignore[typeddict-item]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep hyper-parameters as plain values, and the class by name: loading must not run code of the file."""
        given = {name: plain(value) for name, value in checkpoint.get("hyper_parameters", {}).items()}
        values = {name: value for name, value in given.items() if value is not ... and name[0] != "_"}
        # The tensors are in the checkpoint: it must not ask for the file that training began with.
        values.update({"weights": None} if "weights" in values else {})
        checkpoint["hyper_parameters"] = values
        checkpoint["task"] = f"{type(self).__module__}.{type(self).__qualname__}"

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another class count before any tensor is copied."""
        count = checkpoint.get("hyper_parameters", {}).get("num_classes", self.num_classes)
        if count != self.num_classes:
            raise InputError(
                f"the checkpoint has {count} classes, the data has {self.num_classes}: use the data set that the "
                "checkpoint was trained on, or another checkpoint"
            )
        self.restored = True


def plain(value: Any) -> Any:
    """The value as None, numbers, strings, lists and dicts, a class as its `class_path`; `...` if it is neither."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, type):
        return {"class_path": f"{value.__module__}.{value.__qualname__}"}
    if isinstance(value, functools.partial):
        return {**plain(value.func), "init_args": plain(value.keywords)}
    if dataclasses.is_dataclass(value):
        return dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return ...
