"""Images through one trained network or several: probabilities, averaged over the networks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from defectlab.data.sources.images import read_images
from defectlab.errors import InputError
from defectlab.runs.locate import checkpoints_of, imagenet_name
from defectlab.tasks import ClassificationTask
from defectlab.tasks.checkpoint import load_task
from defectlab.tasks.imagenet import load_imagenet_classifier
from defectlab.utils.card import DataCard
from defectlab.utils.progress import progress_bar

__all__ = ["Predictor", "load_predictors", "predict_files", "read_images_for"]

_BLOCK = 128  # images in memory at a time


@dataclass(frozen=True)
class Predictor:
    """A task in evaluation mode on its device, and the data card of its checkpoint."""

    task: ClassificationTask
    card: DataCard

    def __call__(self, pixels: Tensor) -> Tensor:
        """Probabilities (N, num_classes), float64 on the CPU, of uint8 images (N, C, H, W) as the card wants them."""
        images = self.card.normalise(pixels.to(self.task.device))
        return torch.softmax(self.task.predict_logits(images).double(), dim=1).cpu()


def load_predictors(name: str, device: str, weights: Path | None = None) -> list[Predictor]:
    """One for a run folder, a .ckpt file or `imagenet/NETWORK`; one for each member of an ensemble.

    Raises:
        InputError: what cannot be used, a device that is not there, or other classes.
    """
    network = imagenet_name(name, weights)
    paths = checkpoints_of(name) if network is None else [Path(name)]
    found: list[Predictor] = []
    for path in paths:
        task, card = load_task(path) if network is None else load_imagenet_classifier(network, weights)
        try:
            task.to(device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"--device {device}: {str(error).splitlines()[0]}; use cpu") from None
        found.append(Predictor(task, card))
        if card.class_names != found[0].card.class_names:
            raise InputError(f"{path} and {paths[0]} know other classes: expected an ensemble of the same")
    return found


def read_images_for(
    card: DataCard, files: Sequence[Path], on_bad_image: Literal["error", "skip"] = "error"
) -> tuple[Tensor, list[int], list[str]]:
    """Images (M, C, H, W) uint8 as a data card wants them, their indices, and who was left out: see `read_images`."""
    return read_images(files, card.image_size, card.channels, on_bad_image, resize_size=card.resize_size)


def predict_files(
    predictors: Sequence[Predictor], files: Sequence[Path], on_bad_image: Literal["error", "skip"]
) -> tuple[list[str], np.ndarray, list[str]]:
    """Names of the images that can be read, their mean probabilities (N, C), and who was left out, with the reason.

    Raises:
        InputError: a bad image, or with `skip` none that is good.
    """
    names: list[str] = []
    tables: list[Tensor] = []
    skipped: list[str] = []
    cards = {_fit(predictor.card): predictor.card for predictor in predictors}
    first = predictors[0].card
    with torch.inference_mode(), progress_bar("predicting", len(files)) as advance:
        for start in range(0, len(files), _BLOCK):
            block = list(files[start : start + _BLOCK])
            try:
                pixels, kept, bad = read_images_for(first, block, on_bad_image)
            except InputError:
                if on_bad_image == "error":
                    raise
                pixels, kept, bad = torch.empty(0), [], [str(file) for file in block]
            if kept:
                good = [block[index] for index in kept]
                others = {fit: read_images_for(card, good)[0] for fit, card in cards.items() if fit != _fit(first)}
                by_fit = {_fit(first): pixels, **others}
                shares = [one(by_fit[_fit(one.card)]) for one in predictors]
                tables.append(torch.stack(shares).mean(dim=0))
            names += [str(block[index]) for index in kept]
            skipped += bad
            advance(len(block))
    if not names:
        raise InputError(f"none of {len(files)} images can be read, the first is {files[0]}: nothing was written")
    return names, torch.cat(tables).numpy(), skipped


def _fit(card: DataCard) -> tuple[int, int, int | None]:
    """What the pixels that a network wants depend on."""
    return card.image_size, card.channels, card.resize_size
