"""What a checkpoint keeps of a task: plain hyper-parameters, its class and class weights."""

import inspect
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from defectlab.errors import InputError
from defectlab.networks.novelty import NoveltyScorer
from defectlab.tasks.contents import scorer_of, thresholds_of
from defectlab.tasks.hparams import NOT_PLAIN, class_path, is_found_again, module_spec, to_plain_values
from defectlab.tasks.loss import check_class_weights

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule as _Module
else:
    _Module = object

log = logging.getLogger(__name__)


class PlainCheckpoints(_Module):
    """The part of a task that keeps tensors and plain values alone in its checkpoints, and checks that they can be loaded."""

    network: nn.Module
    num_classes: int
    thresholds: list[float] | None = None  # of a multi-label task
    novelty: NoveltyScorer | None
    training_only: ClassVar[tuple[str, ...]] = ()  # arguments that a checkpoint leaves out: it has the tensors

    def __init__(self) -> None:
        super().__init__()
        self.novelty = None
        self.restored = False  # whether the tensors came from a checkpoint
        self._maker: Any = None  # class or function that made the network; None of a ready one
        self._weights: Tensor | None = None

    def check_saving(self) -> None:
        """Raise InputError before training for what no checkpoint could make again; warn of a ready network of that kind."""
        maker = None if isinstance(self.hparams.get("network"), Mapping) else self._maker  # a config names it already
        made = {"the task": type(self), "model.network": getattr(maker, "func", maker)}
        for name, value in made.items():
            if value is not None and (not hasattr(value, "__qualname__") or not is_found_again(value)):
                found = class_path(value) if hasattr(value, "__qualname__") else type(value).__name__
                raise InputError(
                    f"{name} is {found}, which nothing could load again: expected a class or a function of a module, not a "
                    "lambda or what is defined within a function"
                )
        if maker is not None and to_plain_values(maker) is NOT_PLAIN:
            raise InputError(
                "model.network has arguments that no checkpoint can keep: expected numbers, strings and lists by keyword"
            )
        if self._network_spec() is None:
            log.warning(
                "the class %s alone does not make this network: predict, explain and resume need it given as a class or "
                "function that does", type(self.network).__name__,
            )  # fmt: skip

    def _network_spec(self) -> dict[str, Any] | None:
        """Return what a checkpoint keeps to make the network again, None if nothing would."""
        if "network" not in inspect.signature(type(self)).parameters:
            return {"class_path": class_path(type(self))}  # the task makes it
        given = to_plain_values(self.hparams.get("network"))
        if isinstance(given, dict):
            return given
        if self._maker is not None:  # Lightning keeps no lambda
            kept = to_plain_values(self._maker)
            return kept if isinstance(kept, dict) else None
        return module_spec(self.network, self.num_classes, self.hparams["in_channels"], self.hparams["image_size"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep hyper-parameters as plain values and the class by name, so that loading runs no code of the file."""
        given = {name: to_plain_values(value) for name, value in checkpoint.get("hyper_parameters", {}).items()}
        values = {name: value for name, value in given.items() if value is not NOT_PLAIN and name[0] != "_"}
        values.update({name: None for name in self.training_only if name in values})
        if "network" in inspect.signature(type(self)).parameters:
            values["network"] = self._network_spec()
        checkpoint["hyper_parameters"] = values
        if self.thresholds is not None:
            checkpoint["thresholds"] = list(self.thresholds)
        if self.novelty is not None:
            checkpoint["novelty"] = self.novelty.state()
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
        if self.thresholds is not None:
            self.thresholds = thresholds_of(checkpoint, self.num_classes)
        self.novelty = scorer_of(checkpoint)
        weights = checkpoint.get("class_weights")
        check_class_weights(weights, self.num_classes)
        self._weights = None if weights is None else torch.tensor(weights, device=self.device)
        self.restored = True
