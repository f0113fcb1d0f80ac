"""Knowledge distillation: train a network on labels and on a trained network's predictions."""

import logging
import math
from pathlib import Path

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.nn import functional

from defectlab.errors import InputError
from defectlab.runs.locate import checkpoint_of
from defectlab.tasks import ClassificationTask
from defectlab.tasks.checkpoint import load_task
from defectlab.utils.card import DataCard

log = logging.getLogger(__name__)

_TOLERANCE = 0.02  # of the ratio of the sides


class Distillation(pl.Callback):
    """Train a network on a teacher's predictions besides the labels (Hinton, Vinyals & Dean 2015).

    The teacher is no part of the task: neither the optimiser nor a checkpoint sees it, and only `fit` loads it.

    Args:
        teacher: .ckpt file, or a run folder, whose best checkpoint is used; images are enlarged where it needs that.
        temperature: of both networks' logits, above 0; at 2 and more the teacher also tells similar classes.
        weight: of the teacher in the loss, in [0, 1]; the labels have the rest.

    Raises:
        InputError: an argument out of range; in `fit` also a teacher that cannot be used, or one of other classes.
    """

    def __init__(self, teacher: str | Path | None = None, temperature: float = 4.0, weight: float = 0.7) -> None:
        if not 0 < temperature < math.inf:
            raise InputError(f"Distillation.temperature is {temperature}: expected a number above 0")
        if not 0 <= weight <= 1:
            raise InputError(f"Distillation.weight is {weight}: expected a number from 0 to 1")
        self.teacher, self.temperature, self.weight = teacher, temperature, weight
        self._task: ClassificationTask | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Load the teacher, and add its loss before any other callback computes the task's."""
        if stage != "fit":
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(pl_module, ClassificationTask) or not isinstance(getattr(data, "card", None), DataCard):
            raise InputError("Distillation is for defectlab's tasks on defectlab's datamodules: leave it out")
        if getattr(pl_module, "cache_features", False):
            raise InputError("model.cache_features leaves a teacher no images: set it to false, or drop Distillation")
        if not self.teacher:
            raise InputError(
                "Distillation has no teacher: give trainer.callbacks.teacher, a run folder or a .ckpt file"
            )
        path = checkpoint_of(str(Path(self.teacher).expanduser()))
        task, card = load_task(path)
        if card.class_names != data.card.class_names:
            raise InputError(
                f"Distillation.teacher {path} knows the classes {', '.join(card.class_names)}, the data has "
                f"{', '.join(data.card.class_names)}: expected the same in the same order"
            )
        if card.multilabel != data.card.multilabel:
            raise InputError(f"Distillation.teacher {path} is of another kind of task: one class an image, or several")
        if card.split_hash != data.card.split_hash:
            log.warning(
                "the teacher was trained with another split of the data (%s, here %s): unless the test set is an "
                "official one, images evaluated here may be among those it was trained on",
                card.split_hash, data.card.split_hash,
            )  # fmt: skip
        ratio = card.shape[1] * data.card.shape[2] / (card.shape[2] * data.card.shape[1])
        if card.fit != data.card.fit or (card.fit != "stretch" and abs(ratio - 1) > _TOLERANCE):
            raise InputError(
                f"Distillation.teacher {path} takes images of {card.geometry}, here they are of {data.card.geometry}: "
                "expected the same data.fit and ratio of the sides"
            )
        self._task = task.to(trainer.strategy.root_device).requires_grad_(False)
        self._card, self._data = card, data
        pl_module.extra_losses.append(self._blend)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Drop the teacher."""
        if self._task is not None and isinstance(pl_module, ClassificationTask):
            pl_module.extra_losses.remove(self._blend)
        self._task = None

    @torch.no_grad()
    def teacher_logits(self, images: Tensor) -> Tensor:
        """Compute the teacher's logits `(N, num_classes)` of a student's normalised images `(N, C, H, W)`.

        Raises:
            InputError: outside of `fit`, where there is no teacher.
        """
        if self._task is None:
            raise InputError("the teacher is loaded by fit alone")
        pixels = self._card.convert_channels(self._data.card.denormalise(images))
        size = self._card.shape[1:]
        if pixels.shape[2:] != size:
            pixels = functional.interpolate(pixels, size, mode="bilinear", antialias=True)
        logits: Tensor = self._task(self._card.normalise(pixels))
        return logits

    def _blend(self, loss: Tensor, images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the weighted mean of the loss on labels and the one on the teacher's predictions."""
        student, teacher = logits.float(), self.teacher_logits(images).float()
        if self._card.multilabel:  # yes and no of each class
            student, teacher = (torch.stack((z, torch.zeros_like(z)), dim=-1).flatten(0, 1) for z in (student, teacher))
        soft = distillation_loss(student, teacher, self.temperature)
        return (1 - self.weight) * loss + self.weight * soft


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Compute the divergence of the student's softened probabilities from the teacher's, in nats, mean over the batch.

    Times the square of the temperature, so that its gradient keeps its size beside that of the labels (Hinton et al.
    2015, section 2). Both logits are `(N, C)`.
    """
    expected = functional.log_softmax(teacher / temperature, dim=1)
    found = functional.log_softmax(student / temperature, dim=1)
    return temperature**2 * functional.kl_div(found, expected, reduction="batchmean", log_target=True)
