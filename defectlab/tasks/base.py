"""The one LightningModule between Lightning and every task: step, loss, metrics, optimiser."""

import dataclasses
import inspect
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from defectlab.errors import InputError
from defectlab.metrics.classification import SplitMetrics, evaluate_predictions
from defectlab.networks.base import build_network
from defectlab.tasks.hparams import NetworkSpec, class_path, find_network, plain
from defectlab.tasks.loss import weighted_cross_entropy
from defectlab.tasks.optimization import OptimizerSettings, SchedulerSettings, decayed
from defectlab.tasks.tta import Views, check_tta, tta_logits

if TYPE_CHECKING:
    from typing_extensions import Self

log = logging.getLogger(__name__)

# Logged for each evaluation, beside its loss and the accuracy of each class.
_LOGGED = ("accuracy", "balanced_accuracy", "macro_f1", "cross_entropy", "ece")
_MOST_CLASSES = 100  # whose accuracies are logged one by one: more curves than that nobody reads

ExtraLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@runtime_checkable
class NamedData(Protocol):
    """A datamodule that names its classes."""

    @property
    def class_names(self) -> Sequence[str]:
        """In the order of the labels."""


@runtime_checkable
class CountedData(Protocol):
    """A datamodule that knows how many images a class has."""

    def class_counts(self, part: Literal["train", "val", "test"]) -> list[int]:
        """Images a class."""


class ClassificationTask(pl.LightningModule):
    """Train and judge a network that turns images `(N, C, H, W)` into logits `(N, num_classes)`.

    Batches are `(images, labels)`; labels are int64 `(N,)`, or in training also shares `(N, num_classes)`. Metrics
    of an evaluation are computed once, on all its logits in order, on every process alike: `results` holds them
    by stage (`val`, `test`), `predictions` the logits and labels.

    Args:
        network: gives logits: a module, or a class or function that makes one, see `build_network`. A run can be loaded
            again if what makes it can be imported by name; of a module, if its class alone makes the same one.
        num_classes: width of the logits.
        in_channels: channels of the images, for a class or function that asks.
        image_size: side in pixels, likewise.
        optimizer: see `OptimizerSettings`; a dict of its values will do, None for its defaults.
        scheduler: see `SchedulerSettings`; a dict of its values will do, None for its defaults.
        label_smoothing: share of the target spread over all classes (Szegedy et al. 2016), in [0, 1).
        class_weights: a weight a class in the loss, scaled to a mean of 1 over the training images. `balanced` takes the
            inverse of a class's number of images: all classes count alike, at the price of false alarms. `sqrt_balanced`
            takes its square root, half way to accuracy (the square-root sampling of Mahajan et al. 2018, section 2.2).
        tta: views that every image is judged by in evaluation; see `tta_logits`.
        channels_last: memory format of network and images: faster convolutions, same results.
        compile: pass the network through torch.compile; pays on GPUs and in long runs.

    Attributes:
        extra_losses: each called with `(loss, images, logits, labels)` of a training batch, and returning the loss that
            takes its place; callbacks such as `defectlab.callbacks.Distillation` add to them.
    """

    training_only: ClassVar[tuple[str, ...]] = ()  # arguments that a checkpoint leaves out: it has the tensors

    def __init__(
        self,
        network: NetworkSpec | Callable[[int, int, int], nn.Module] | Callable[..., nn.Module] | nn.Module,
        num_classes: int,
        in_channels: int | None = None,
        image_size: int | None = None,
        optimizer: OptimizerSettings | dict[str, Any] | None = None,
        scheduler: SchedulerSettings | dict[str, Any] | None = None,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | Literal["balanced", "sqrt_balanced"] | None = None,
        tta: Views = "none",
        channels_last: bool = True,
        compile: bool = False,  # noqa: A002 (torch's word)
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False, ignore=["network"] if isinstance(network, nn.Module) else None)
        if not 0 <= label_smoothing < 1:
            raise InputError(f"model.label_smoothing is {label_smoothing}: expected at least 0 and below 1")
        if class_weights is not None and class_weights not in ("balanced", "sqrt_balanced"):
            _check_class_weights(class_weights, num_classes)
        check_tta(tta)
        given: Any = network
        self._given: dict[str, Any] | None = None if isinstance(network, nn.Module) else plain(network)
        if isinstance(given, NetworkSpec):
            given = given.load()
        elif isinstance(given, Mapping):  # from a checkpoint, by Lightning's load_from_checkpoint
            given = find_network(given)
        self.network = build_network(given, num_classes, in_channels, image_size)
        self.num_classes = num_classes
        self.optimizer = optimizer if isinstance(optimizer, OptimizerSettings) else OptimizerSettings(**optimizer or {})
        self.scheduler = scheduler if isinstance(scheduler, SchedulerSettings) else SchedulerSettings(**scheduler or {})
        self.label_smoothing = label_smoothing
        self.class_weights = class_weights
        self.tta: Views = tta
        self.channels_last = channels_last
        self.extra_losses: list[ExtraLoss] = []
        self.results: dict[str, SplitMetrics] = {}
        self.predictions: dict[str, tuple[Tensor, Tensor]] = {}
        self.restored = False  # whether the tensors came from a checkpoint
        self._seed = 0
        self._weights: Tensor | None = None
        self._steps: list[tuple[Tensor, Tensor, int]] = []
        self._batches: list[tuple[Tensor, Tensor]] = []
        if channels_last:
            self.network.to(memory_format=torch.channels_last)
        if compile:
            self.network.compile()  # in place: the names in the state dict stay as they are

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> "Self":
        """Load as Lightning does: for the class that was trained. `load_task` finds that class.

        Raises:
            InputError: this base class was asked for, and the checkpoint is of another.
        """
        try:
            return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)
        except (TypeError, AttributeError):
            if cls is not ClassificationTask:
                raise
            raise InputError(
                f"{checkpoint_path} is of another class than ClassificationTask: use defectlab.load_task, which finds it"
            ) from None

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(N, num_classes)` of normalised images `(N, C, H, W)`."""
        if self.channels_last and images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.network(images)
        return logits

    def predict_logits(self, images: Tensor) -> Tensor:
        """Logits `(N, num_classes)` as every evaluation has them: of one view or, with `tta`, of several."""
        return tta_logits(self, images, self.tta)

    @property
    def class_names(self) -> Sequence[str]:
        """The datamodule's, or numbers."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        return data.class_names if isinstance(data, NamedData) else [str(i) for i in range(self.num_classes)]

    def metric_names(self, class_names: Sequence[str]) -> list[str]:
        """What a callback or a scheduler can watch; a task that logs more adds its own."""
        shared = [f"val/{name}" for name in ("loss", *_LOGGED)] + ["train/loss", "train/accuracy", "lr"]
        return shared + [f"val/accuracy/{name}" for name in class_names if len(class_names) <= _MOST_CLASSES]

    def on_fit_start(self) -> None:
        """Find the class weights, and refuse a network that could not be loaded again."""
        spec = self._network_spec()
        if spec is None:
            log.warning(
                "the class %s alone does not make this network: predict, explain and resume need it given as a class or "
                "function that does", type(self.network).__name__,
            )  # fmt: skip
        elif "<" in spec["class_path"]:
            raise InputError(
                f"model.network is {spec['class_path']}, which nothing could load again: expected a class or a function "
                "of a module, not a lambda or what is defined within a function"
            )
        self._seed = torch.initial_seed()  # what seed_everything set
        self._weights = self._find_weights()
        if self.class_weights is not None and self._weights is None:
            raise InputError(
                f"model.class_weights is {self.class_weights}, but the data has no class counts: give numbers"
            )

    def _network_spec(self) -> dict[str, Any] | None:
        """What a checkpoint keeps to make the network again: of a ready module its class, if that will do."""
        if "network" not in inspect.signature(type(self)).parameters:
            return {"class_path": class_path(type(self))}  # the task makes it
        given = plain(self.hparams.get("network"))
        if isinstance(given, dict) or self._given is not None:  # Lightning keeps no lambda
            return given if isinstance(given, dict) else self._given
        cls = type(self.network)
        try:
            with torch.device("meta"):
                again = build_network(cls, self.num_classes, self.hparams["in_channels"], self.hparams["image_size"])
        except Exception:  # of any constructor
            return None
        shapes = [{name: value.shape for name, value in net.state_dict().items()} for net in (again, self.network)]
        return {"class_path": class_path(cls)} if shapes[0] == shapes[1] and "<" not in class_path(cls) else None

    def __getstate__(self) -> dict[str, Any]:
        """Leave to a copy, such as an average of the weights, what is the task's own: a teacher is none of it."""
        return {**super().__getstate__(), "extra_losses": []}

    def _find_weights(self) -> Tensor | None:
        """Class weights `(C,)` of mean 1 over the training images, as far as their number by class is known."""
        if self.class_weights is None:
            return None
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        counts = None
        if isinstance(data, CountedData):
            counts = torch.tensor(data.class_counts("train"), dtype=torch.float32, device=self.device)
        if isinstance(self.class_weights, str):
            if counts is None:
                return None
            weights = counts.clamp(min=1) ** (-1.0 if self.class_weights == "balanced" else -0.5)
        else:
            weights = torch.tensor(list(self.class_weights), dtype=torch.float32, device=self.device)
        return weights / (weights.mean() if counts is None else (weights * counts).sum() / counts.sum())

    def on_train_epoch_start(self) -> None:
        """Let dropout depend on the seed and the epoch alone, so that a resumed run repeats an unbroken one."""
        self._steps = []
        epoch_seed = self._seed * 1_000_003 + self.current_epoch
        torch.manual_seed((epoch_seed * self.trainer.world_size + self.global_rank) % 2**63)

    def training_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of a batch, with class weights and smoothing; validation has it too."""
        if self._weights is None:  # no training came before, or has only begun
            self._weights = self._find_weights()
        return weighted_cross_entropy(logits.float(), labels, self._weights, self.label_smoothing)

    def batch_loss(self, images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of a training batch: `training_loss` and what `extra_losses` make of it."""
        loss = self.training_loss(logits, labels)
        for extra in self.extra_losses:
            loss = extra(loss, images, logits, labels)
        return loss

    def penalised(self, loss: Tensor) -> Tensor:
        """Add the L1 penalty, if one is set: it is minimised, but not in the loss that is logged."""
        if not self.optimizer.l1:
            return loss
        return loss + self.optimizer.l1 * sum(weight.abs().sum() for weight in decayed(self.parameter_modules()))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Compute the loss that is minimised; the figures wait for the epoch's end."""
        images, labels = batch
        logits = self(images)
        loss = self.batch_loss(images, logits, labels)
        hard = labels if labels.ndim == 1 else labels.argmax(dim=1)
        self._steps.append((loss.detach(), (logits.detach().argmax(dim=1) == hard).sum(), len(labels)))
        # One call in log_every_n_steps: a log call in each step would cost more than a small network's own.
        if (self.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.log("train/loss_step", loss.detach(), prog_bar=True)
            self.log("lr", self._rate())
        return self.penalised(loss)

    def _rate(self) -> float:
        """Of the first group: the network's, or the head's where a backbone has its own."""
        return float(self.trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_epoch_end(self) -> None:
        """Log the epoch's means, and stop at a loss that is no number."""
        losses, hits, sizes = zip(*self._steps, strict=True)
        self._steps = []
        weights = torch.tensor(sizes, dtype=torch.float32, device=self.device)
        sums = torch.stack(((torch.stack(losses) * weights).sum(), torch.stack(hits).sum(), weights.sum()))
        # Over all processes before anything is judged, so that all of them stop or none.
        loss, right, count = self.trainer.strategy.reduce(sums, reduce_op="sum").tolist()
        if not math.isfinite(loss):
            raise InputError(
                f"the training loss became {loss} in epoch {self.current_epoch + 1}: lower model.optimizer.lr "
                f"(now {self.optimizer.lr}) or train in full precision"
            )
        self.log_dict({"train/loss": loss / count, "train/accuracy": right / count, "lr": self._rate()})
        for scheduler in self._plateaus():
            scheduler.step(self.trainer.callback_metrics[self.scheduler.monitor])

    def _plateaus(self) -> list[ReduceLROnPlateau]:
        configs = self.trainer.lr_scheduler_configs
        return [config.scheduler for config in configs if isinstance(config.scheduler, ReduceLROnPlateau)]

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Not for plateau, which Lightning steps after the checkpoint is written: resume would lose the step."""
        if not isinstance(scheduler, ReduceLROnPlateau):
            super().lr_scheduler_step(scheduler, metric)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Keep the logits."""
        self._evaluate(batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Keep the logits."""
        self._evaluate(batch)

    def predict_step(self, batch: tuple[Tensor, Tensor] | Tensor, batch_idx: int) -> Tensor:
        """Probabilities `(N, num_classes)`."""
        images = batch if isinstance(batch, Tensor) else batch[0]
        return torch.softmax(self.predict_logits(images).float(), dim=1)

    def _evaluate(self, batch: tuple[Tensor, Tensor]) -> None:
        images, labels = batch
        self._batches.append((self.predict_logits(images).float(), labels))

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
        loss = float(self.training_loss(logits.to(self.device), labels.to(self.device)))
        result["training_loss"] = loss
        self.results[stage], self.predictions[stage] = result, (logits, labels)
        # The loss that trains, so that best.ckpt and early stopping follow what is minimised.
        self.log(f"{stage}/loss", loss, prog_bar=True)
        for name in _LOGGED:
            value = result["loss"] if name == "cross_entropy" else result[name]  # type: ignore[literal-required]
            self.log(f"{stage}/{name}", float(value), prog_bar=name == "accuracy")
        if self.num_classes > _MOST_CLASSES:
            return
        per_class = {f"{stage}/accuracy/{name}": row["accuracy"] for name, row in result["per_class"].items()}
        # A class without images has no accuracy.
        self.log_dict({name: value for name, value in per_class.items() if value == value})

    def set_rate(self, lr: float) -> None:
        """Take another learning rate; what `configure_optimizers` has built keeps its own."""
        self.optimizer = dataclasses.replace(self.optimizer, lr=lr)
        if "optimizer" in self.hparams:
            self.hparams["optimizer"] = self.optimizer

    def parameter_modules(self) -> list[tuple[nn.Module, float]]:
        """Modules to train, each with the factor of its learning rate."""
        return [(self.network, 1.0)]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """From the two settings; Lightning cannot clip for fused kernels under mixed precision, so they give way."""
        settings = self.optimizer
        if self.trainer.precision.endswith("-mixed") and self.trainer.gradient_clip_val:
            settings = dataclasses.replace(settings, fused=False)
        optimizer = settings.build_for(self.parameter_modules())
        steps = self.trainer.estimated_stepping_batches
        if self.scheduler.needs_end and not math.isfinite(steps):
            raise InputError(
                f"model.scheduler is {self.scheduler.name}, which needs to know the end: give trainer.max_epochs, or "
                "take plateau or constant"
            )
        schedule = self.scheduler.build(optimizer, int(steps) if math.isfinite(steps) else 0)
        if schedule is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": schedule}  # type: ignore[return-value]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep hyper-parameters as plain values, and the class by name: loading must not run code of the file."""
        given = {name: plain(value) for name, value in checkpoint.get("hyper_parameters", {}).items()}
        values = {name: value for name, value in given.items() if value is not ... and name[0] != "_"}
        values.update({name: None for name in self.training_only if name in values})
        if "network" in inspect.signature(type(self)).parameters:
            values["network"] = self._network_spec()
        checkpoint["hyper_parameters"] = values
        checkpoint["class_weights"] = None if self._weights is None else self._weights.tolist()
        checkpoint["task"] = class_path(type(self))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another class count before any tensor is copied."""
        count = checkpoint.get("hyper_parameters", {}).get("num_classes", self.num_classes)
        if count != self.num_classes:
            raise InputError(
                f"the checkpoint has {count} classes, the data has {self.num_classes}: use the data set that the "
                "checkpoint was trained on, or another checkpoint"
            )
        weights = checkpoint.get("class_weights")
        self._weights = None if weights is None else torch.tensor(weights, device=self.device)
        self.restored = True


def _check_class_weights(weights: Sequence[float] | str, num_classes: int) -> None:
    if isinstance(weights, str) or len(weights) != num_classes:
        raise InputError(
            f"model.class_weights is {weights}: expected balanced, sqrt_balanced, or a number for each of {num_classes} classes"
        )
    if min(weights) < 0 or not 0 < max(weights) < math.inf:
        raise InputError(f"model.class_weights is {weights}: expected numbers of at least 0, one of them above 0")
