"""The base class of every task: step, loss, metrics, optimiser."""

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from defectlab.errors import InputError, check_at_least
from defectlab.metrics.classification import SplitMetrics, evaluate_predictions
from defectlab.metrics.multilabel import choose_f1_thresholds
from defectlab.networks.base import build_network, embed_and_classify
from defectlab.tasks.hparams import NetworkSpec, find_network, without_downloads
from defectlab.tasks.loss import (
    ClassWeights,
    Loss,
    binary_loss,
    check_class_weights,
    check_loss,
    class_weight_tensor,
    positive_weight_tensor,
    weighted_cross_entropy,
)  # fmt: skip
from defectlab.tasks.optimization import OptimizerSettings, SchedulerSettings, decayed
from defectlab.tasks.saving import PlainCheckpoints
from defectlab.tasks.tta import Views, check_tta, tta_embeddings, tta_logits
from defectlab.utils.image_format import Size

if TYPE_CHECKING:
    from typing_extensions import Self

log = logging.getLogger(__name__)

# Logged for each evaluation, beside its loss and the accuracy of each class.
_LOGGED = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "average_precision", "cross_entropy", "ece")
_RANKED = ("auroc", "average_precision", "recall_at_1_percent")  # of a class
_MAX_LOGGED_CLASSES = 100  # above, the accuracy of each class is not logged: too many curves

ExtraLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class ClassificationTask(PlainCheckpoints, pl.LightningModule):
    """Train and evaluate a network that turns images `(N, C, H, W)` into logits `(N, num_classes)`.

    Batches are `(images, labels)`; labels are int64 `(N,)`, or in training also probabilities `(N, num_classes)`.
    Metrics of an evaluation are computed once, on all its logits in order, equally on every process: `results` holds
    them by stage (`val`, `test`), `predictions` the logits and labels.

    Args:
        network: a module, or a class or function that makes one, see `build_network`; in YAML a `class_path`, with
            further arguments in `init_args`. A run can be loaded again if what makes it can be imported by name; of a
            module, if its class alone makes the same one.
        num_classes: number of logits; from the data on the command line.
        in_channels: channels of the images, for a class or function that takes it; from the data on the command line.
        image_size: side in pixels or (height, width), for a class or function that takes it; from the data on the command line.
        optimizer: see `OptimizerSettings`, or a dict of its values; null for its defaults.
        scheduler: see `SchedulerSettings`, or a dict of its values; null for its defaults.
        label_smoothing: fraction of the target spread over all classes (Szegedy et al. 2016), in [0, 1).
        class_weights: one weight per class in the loss, scaled to a mean of 1 over the training images. `balanced` takes
            the inverse of a class's number of images: all classes count alike, at the price of false alarms.
            `sqrt_balanced` takes its square root (the square-root sampling of Mahajan et al. 2018, section 2.2).
        tta: views of every image whose probabilities are averaged in evaluation: `flip` (2), `dihedral` (8, of rectangles 4) or `shift`
            (5); see `tta_logits`.
        channels_last: memory format of network and images: faster convolutions, same results.
        compile: pass the network through torch.compile; pays on GPUs and in long runs.
        multilabel: whether an image may have several of the classes, or none; from the data on the command line. Labels are
            then `(N, num_classes)` of 0 and 1, and each class is decided by its own threshold, that of the largest F1 on
            the validation images.
        loss: `auto` is `cross_entropy`, or of a multi-label task `binary_cross_entropy`; `focal` makes little of easy images
            (Lin et al. 2017), `asymmetric` of easy negatives of a multi-label task, see `binary_loss`.

    Attributes:
        thresholds: of a multi-label task the probability of each class from which it is decided for; else None.
        novelty: scores how strange an image is to the trained network, see `NoveltyScorer`; None before the end of a fit.
        extra_losses: functions of `(loss, images, logits, labels)` of a training batch that return the loss to use
            instead; callbacks such as `defectlab.callbacks.Distillation` add to them.
    """

    def __init__(
        self,
        network: NetworkSpec | Callable[[int, int, int], nn.Module] | Callable[..., nn.Module] | nn.Module,
        num_classes: int,
        in_channels: int | None = None,
        image_size: Size | None = None,
        optimizer: OptimizerSettings | dict[str, Any] | None = None,
        scheduler: SchedulerSettings | dict[str, Any] | None = None,
        label_smoothing: float = 0.0,
        class_weights: ClassWeights = None,
        tta: Views = "none",
        channels_last: bool = True,
        compile: bool = False,  # noqa: A002 (torch's word)
        multilabel: bool = False,
        loss: Loss = "auto",
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False, ignore=["network"] if isinstance(network, nn.Module) else None)
        check_at_least("num_classes", num_classes, 2)
        if not 0 <= label_smoothing < 1:
            raise InputError(f"model.label_smoothing is {label_smoothing}: expected at least 0 and below 1")
        check_class_weights(class_weights, num_classes)
        check_tta(tta)
        check_loss(loss, multilabel)
        given: Any = network
        if isinstance(given, NetworkSpec):
            given = given.load()
        elif isinstance(given, Mapping):  # from a checkpoint, by Lightning's load_from_checkpoint
            given = find_network(without_downloads(given))
        self._maker = None if isinstance(given, nn.Module) else given
        self.network = build_network(given, num_classes, in_channels, image_size)
        self.num_classes = num_classes
        self.optimizer = optimizer if isinstance(optimizer, OptimizerSettings) else OptimizerSettings(**optimizer or {})
        self.scheduler = scheduler if isinstance(scheduler, SchedulerSettings) else SchedulerSettings(**scheduler or {})
        self.label_smoothing = label_smoothing
        self.class_weights = class_weights
        self.tta: Views = tta
        self.channels_last = channels_last
        self.multilabel = multilabel
        self.loss = loss
        self.thresholds = [0.5] * num_classes if multilabel else None
        self.extra_losses: list[ExtraLoss] = []
        self.results: dict[str, SplitMetrics] = {}
        self.predictions: dict[str, tuple[Tensor, Tensor]] = {}
        self.novelties: dict[str, Tensor | None] = {}
        self._seed = 0
        self._steps: list[tuple[Tensor, Tensor, int]] = []
        self._validated = False  # in this epoch
        self._batches: list[tuple[Tensor, ...]] = []
        if channels_last:
            self.network.to(memory_format=torch.channels_last)
        if compile:
            self.network.compile()  # in place: the names in the state dict stay as they are

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> "Self":
        """Load as Lightning does, for the class that was trained; `load_task` finds that class.

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
        """Compute the logits `(N, num_classes)` of normalised images `(N, C, H, W)`."""
        if self.channels_last and images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.network(images)
        return logits

    def embed_and_classify(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the embeddings `(N, E)` and logits `(N, num_classes)` of one view, see `defectlab.networks.base`."""
        if self.channels_last and images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        return embed_and_classify(self.network, images)

    def predict_logits(self, images: Tensor) -> Tensor:
        """Compute the logits `(N, num_classes)` of an evaluation: of one view or, with `tta`, of several."""
        return tta_logits(self, images, self.tta, self.multilabel)

    def predict_embeddings(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the embeddings `(N, E)`, means over views, and the logits of `predict_logits`, in one pass."""
        return tta_embeddings(self.embed_and_classify, images, self.tta, self.multilabel)

    @property
    def class_names(self) -> Sequence[str]:
        """Return the datamodule's names, or numbers."""
        numbers = [str(index) for index in range(self.num_classes)]
        return getattr(self.trainer.datamodule, "class_names", numbers)  # type: ignore[attr-defined]

    def metric_names(self, class_names: Sequence[str]) -> list[str]:
        """Return what a callback or a scheduler can monitor; a task that logs more adds its own."""
        shared = [f"val/{name}" for name in ("loss", *_LOGGED)] + ["train/loss", "train/accuracy", "lr"]
        by_class = class_names if len(class_names) <= _MAX_LOGGED_CLASSES else ()
        return shared + [f"val/{metric}/{name}" for metric in ("accuracy", *_RANKED) for name in by_class]

    def on_fit_start(self) -> None:
        """Compute the class weights, and refuse data of other classes or a network that could not be loaded again."""
        if len(self.class_names) != self.num_classes:
            raise InputError(
                f"the task has num_classes {self.num_classes}, the data {len(self.class_names)} class names"
            )
        if getattr(self.trainer.datamodule, "multilabel", self.multilabel) != self.multilabel:  # type: ignore[attr-defined]
            found, own = ("one class", "several") if self.multilabel else ("several classes", "one")
            raise InputError(
                f"the data has {found} an image, the task is for {own}: give model.multilabel {str(not self.multilabel).lower()}"
            )
        self.check_saving()
        self.novelty = None  # it is of other weights
        self._seed = torch.initial_seed()  # what seed_everything set
        self._weights = self._find_weights()
        sampling = getattr(self.trainer.datamodule, "sampling", "shuffled")  # type: ignore[attr-defined]
        if isinstance(self.class_weights, str) and sampling != "shuffled":
            log.warning(
                "data.sampling %s and model.class_weights %s both favour rare classes: together they do so twice", sampling,
                self.class_weights,
            )  # fmt: skip
        if self.class_weights is not None and self._weights is None:
            raise InputError(
                f"model.class_weights is {self.class_weights}, but the data has no class counts: give numbers"
            )

    def __getstate__(self) -> dict[str, Any]:
        """Leave the extra losses, such as a teacher's, out of a copy, such as an average of the weights."""
        return {**super().__getstate__(), "extra_losses": []}

    def _find_weights(self) -> Tensor | None:
        """Return the class weights `(C,)`; None without, or if they need counts that the data does not have."""
        if self.class_weights is None:
            return None
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        counts = data.class_counts("train") if hasattr(data, "class_counts") else None
        if self.multilabel and counts is not None:
            return positive_weight_tensor(self.class_weights, counts, len(data.parts.train), self.device)
        return class_weight_tensor(self.class_weights, counts, self.device)

    def on_train_epoch_start(self) -> None:
        """Seed dropout by the run's seed and the epoch alone, so that a resumed run equals an unbroken one."""
        self._steps, self._validated = [], False
        epoch_seed = self._seed * 1_000_003 + self.current_epoch
        torch.manual_seed((epoch_seed * self.trainer.world_size + self.global_rank) % 2**63)

    def epoch_state(self) -> dict[str, Any]:
        """Return what the epoch has come to so far, for a checkpoint within it."""
        losses, hits, sizes = zip(*self._steps, strict=True)
        steps = {"losses": torch.stack(losses), "hits": torch.stack(hits), "sizes": torch.tensor(sizes)}
        return {**{name: values.cpu() for name, values in steps.items()}, "validated": self._validated}

    def load_epoch_state(self, state: Mapping[str, Any]) -> None:
        """Go on from `epoch_state`."""
        losses, hits = (state[name].to(self.device).unbind() for name in ("losses", "hits"))
        self._steps = list(zip(losses, hits, state["sizes"].tolist(), strict=True))
        self._validated = bool(state["validated"])

    def training_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of a batch with class weights and smoothing, also for validation."""
        if self._weights is None:  # no training came before, or has only begun
            self._weights = self._find_weights()
        if logits.shape[1:] != (self.num_classes,):
            raise InputError(
                f"the network gives logits of shape {tuple(logits.shape)}: expected (N, {self.num_classes}), num_classes"
            )
        if self.multilabel:
            if labels.shape != logits.shape:
                raise InputError(
                    f"model.multilabel is true, and labels are of shape {tuple(labels.shape)}: expected {tuple(logits.shape)}"
                )
            targets = labels.to(logits.device, torch.float32)
            return binary_loss(logits.float(), targets, self._weights, self.label_smoothing, self.loss)
        try:
            return weighted_cross_entropy(
                logits.float(), labels, self._weights, self.label_smoothing, self.loss == "focal"
            )
        except IndexError as error:  # on the CPU; a GPU tells no label
            raise InputError(f"labels: {error} Expected whole numbers below num_classes {self.num_classes}") from None

    def batch_loss(self, images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of a training batch: `training_loss`, then `extra_losses`."""
        loss = self.training_loss(logits, labels)
        for extra in self.extra_losses:
            loss = extra(loss, images, logits, labels)
        return loss

    def penalised(self, loss: Tensor) -> Tensor:
        """Add the L1 penalty, which is minimised but not logged."""
        if not self.optimizer.l1:
            return loss
        return loss + self.optimizer.l1 * sum(weight.abs().sum() for weight in decayed(self.parameter_modules()))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Compute the loss that is minimised; epoch means are logged at its end."""
        images, labels = batch
        logits = self(images)
        loss = self.batch_loss(images, logits, labels)
        self._steps.append((loss.detach(), self.count_right(logits.detach(), labels), len(labels)))
        # One call in log_every_n_steps: a log call in each step would cost more than a small network's own.
        if (self.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.log("train/loss_step", loss.detach(), prog_bar=True)
            self.log("lr", self._rate())
        return self.penalised(loss)

    def count_right(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Count the images of a batch that are decided rightly: the likeliest class, or all classes with thresholds of 0.5."""
        if self.multilabel:
            return ((logits > 0) == (labels > 0.5)).all(dim=1).sum()
        hard = labels if labels.ndim == 1 else labels.argmax(dim=1)
        return (logits.argmax(dim=1) == hard).sum()

    def _rate(self) -> float:
        """Return the rate of the first group: of the network, or of the head where a backbone has its own."""
        return float(self.trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_epoch_end(self) -> None:
        """Log the epoch's means, and stop at a loss that is not finite."""
        losses, hits, sizes = zip(*self._steps, strict=True)
        self._steps = []
        weights = torch.tensor(sizes, dtype=torch.float32, device=self.device)
        sums = torch.stack(((torch.stack(losses) * weights).sum(), torch.stack(hits).sum(), weights.sum()))
        # Reduced first, so that all processes stop or none.
        loss, right, count = self.trainer.strategy.reduce(sums, reduce_op="sum").tolist()
        if not math.isfinite(loss):
            raise InputError(
                f"the training loss became {loss} in epoch {self.current_epoch + 1}: lower model.optimizer.lr "
                f"(now {self.optimizer.lr}) or train in full precision"
            )
        self.log_dict({"train/loss": loss / count, "train/accuracy": right / count, "lr": self._rate()})
        for config in self.trainer.lr_scheduler_configs:
            # Without a validation in this epoch there is nothing new to judge by.
            if isinstance(config.scheduler, ReduceLROnPlateau) and (
                self._validated or self.scheduler.monitor[:4] != "val/"
            ):
                config.scheduler.step(self.trainer.callback_metrics[self.scheduler.monitor])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Keep the logits and labels, and the novelty where it is known."""
        images, labels = batch
        if self.novelty is None:
            self._batches.append((self.predict_logits(images).float(), labels))
            return
        embeddings, logits = self.predict_embeddings(images)
        with torch.autocast(self.device.type, enabled=False):
            self._batches.append((logits.float(), labels, self.novelty(embeddings)))

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Keep the logits and labels."""
        self.validation_step(batch, batch_idx)

    def predict_step(self, batch: tuple[Tensor, Tensor] | Tensor, batch_idx: int) -> Tensor:
        """Compute the probabilities `(N, num_classes)`."""
        images = batch if isinstance(batch, Tensor) else batch[0]
        logits = self.predict_logits(images).float()
        return logits.sigmoid() if self.multilabel else logits.softmax(dim=1)

    def on_validation_epoch_end(self) -> None:
        """Compute and log `val/…`."""
        self._finish("val")
        self._validated = True

    def on_test_epoch_end(self) -> None:
        """Compute and log `test/…`."""
        self._finish("test")

    def _finish(self, stage: Literal["val", "test"]) -> None:
        logits, labels, *novelty = _gather(self._batches, self.trainer.world_size)
        self.novelties[stage] = novelty[0] if novelty else None
        self._batches = []
        if self.multilabel and stage == "val":
            self.thresholds = choose_f1_thresholds(logits.double().sigmoid().numpy(), labels.numpy())
        result = evaluate_predictions(logits, labels, self.class_names, self.thresholds)
        loss = float(self.training_loss(logits.to(self.device), labels.to(self.device)))
        result["training_loss"] = loss
        self.results[stage], self.predictions[stage] = result, (logits, labels)
        # The loss that trains, so that best.ckpt and early stopping follow what is minimised.
        self.log(f"{stage}/loss", loss, prog_bar=True)
        for name in _LOGGED:
            value = result["loss"] if name == "cross_entropy" else result[name]  # type: ignore[literal-required]
            if value == value:  # a ranking needs images of two classes
                self.log(f"{stage}/{name}", float(value), prog_bar=name == "accuracy")
        if self.num_classes > _MAX_LOGGED_CLASSES:
            return
        for metric in ("accuracy", *_RANKED):
            by_class = {f"{stage}/{metric}/{name}": row[metric] for name, row in result["per_class"].items()}  # type: ignore[literal-required]
            # A class without images has none. All can be monitored; the accuracy alone is drawn.
            logger = None if metric == "accuracy" else False
            self.log_dict({name: value for name, value in by_class.items() if value == value}, logger=logger)

    def set_rate(self, lr: float) -> None:
        """Change the learning rate of later optimisers; those that are built keep theirs."""
        self.optimizer = dataclasses.replace(self.optimizer, lr=lr)
        if "optimizer" in self.hparams:
            self.hparams["optimizer"] = self.optimizer

    def parameter_modules(self) -> list[tuple[nn.Module, float]]:
        """Return the modules to train, each with the factor of its learning rate."""
        return [(self.network, 1.0)]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build optimiser and schedule; not fused where Lightning clips under mixed precision, which it cannot then."""
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


def _gather(batches: list[tuple[Tensor, ...]], world_size: int) -> list[Tensor]:
    """Return what batches keep, joined, of all processes on the CPU, in the order that one process has it in."""
    own = [tuple(tensor.cpu() for tensor in batch) for batch in batches]
    gathered = [own]
    if world_size > 1:
        gathered = [[] for _ in range(world_size)]
        torch.distributed.all_gather_object(gathered, own)
    turns = [batch for step in zip(*gathered, strict=True) for batch in step]  # the loader deals batches out in turn
    return [torch.cat(tensors) for tensors in zip(*turns, strict=True)]
