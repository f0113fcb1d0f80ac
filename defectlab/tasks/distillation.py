"""Knowledge distillation: a network learns from labels and from what a trained one makes of the same images."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

from defectlab.errors import InputError
from defectlab.utils.card import DataCard

if TYPE_CHECKING:
    from defectlab.tasks.base import ClassificationTask

__all__ = ["DescribedData", "DistillationSettings", "Teacher", "distillation_loss"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DistillationSettings:
    """A trained network that a smaller one learns from (Hinton, Vinyals & Dean 2015).

    Args:
        teacher: .ckpt file, or on the command line a run folder, whose best checkpoint is taken. Only training needs
            it: a student's checkpoint works without. One of larger images sees the student's enlarged, and so blurred.
        temperature: what both networks' logits are divided by, above 0. From 2 on the teacher also tells which wrong
            classes are nearly right.
        weight: share of the teacher in the loss, in [0, 1]; the labels have the rest.
    """

    teacher: str | None = None
    temperature: float = 4.0
    weight: float = 0.7

    def __post_init__(self) -> None:
        if not self.teacher:
            raise InputError("model.distillation has no teacher: give --model.distillation.teacher RUN or FILE.ckpt")
        if not 0 < self.temperature < math.inf:
            raise InputError(f"model.distillation.temperature is {self.temperature}: expected a number above 0")
        if not 0 <= self.weight <= 1:
            raise InputError(f"model.distillation.weight is {self.weight}: expected a share from 0 to 1")


@runtime_checkable
class DescribedData(Protocol):
    """What a student asks of its datamodule."""

    @property
    def card(self) -> DataCard:
        """How batches were normalised, and of which images."""


class Teacher:
    """A trained task that judges a student's batches; no module, so that no checkpoint and no optimiser sees it.

    Args:
        settings: which checkpoint, and how much it counts.
        students: the student's data card.
        device: where the batches are.

    Raises:
        InputError: a checkpoint that cannot be used, or one of other classes.
    """

    def __init__(self, settings: DistillationSettings, students: DataCard, device: torch.device) -> None:
        from defectlab.tasks.checkpoint import load_task  # which needs the tasks, whose base needs this module

        path = Path(str(settings.teacher)).expanduser()
        if path.is_dir():
            raise InputError(f"model.distillation.teacher is the folder {path}: expected its checkpoints/best.ckpt")
        task, card = load_task(path)
        if card.class_names != students.class_names:
            raise InputError(
                f"model.distillation.teacher {path} knows the classes {', '.join(card.class_names)}, the data has "
                f"{', '.join(students.class_names)}: expected the same in the same order"
            )
        if card.split_hash != students.split_hash:
            log.warning(
                "the teacher was trained with another split of the data (%s, here %s): unless the test set is an "
                "official one, images judged here may be among those it has learned",
                card.split_hash, students.split_hash,
            )  # fmt: skip
        self.settings = settings
        self._task: ClassificationTask = task.to(device).requires_grad_(False)
        self._card, self._students = card, students

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """The teacher's logits (N, num_classes), for a student's normalised images (N, C, H, W)."""
        pixels = self._card.convert_channels(self._students.denormalise(images))
        side = self._card.image_size
        if pixels.shape[-1] != side:
            pixels = functional.interpolate(pixels, (side, side), mode="bilinear", antialias=True)
        logits: Tensor = self._task(self._card.normalise(pixels))
        return logits

    def blend(self, loss: Tensor, logits: Tensor, images: Tensor) -> Tensor:
        """The student's loss on labels, joined with the one on the teacher's answers for the same batch."""
        weight, temperature = self.settings.weight, self.settings.temperature
        soft = distillation_loss(logits.float(), self.logits(images).float(), temperature)
        return (1 - weight) * loss + weight * soft


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Divergence of the student's softened probabilities from the teacher's, in nats, mean over the batch.

    Times the square of the temperature, so that its gradient keeps its size beside that of the labels (Hinton et al.
    2015, section 2). Both logits are (N, C).
    """
    expected = functional.log_softmax(teacher / temperature, dim=1)
    found = functional.log_softmax(student / temperature, dim=1)
    return temperature**2 * functional.kl_div(found, expected, reduction="batchmean", log_target=True)
