"""Pictures through one trained network or several: probabilities, averaged over the networks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from defectlab.data.sources.images import read_images
from defectlab.errors import InputError
from defectlab.tasks import ClassificationTask
from defectlab.tasks.checkpoint import load_task
from defectlab.utils.progress import progress_bar

__all__ = ["Labeller", "load_labellers", "probabilities_of"]

_BLOCK = 128  # pictures in memory at a time


@dataclass(frozen=True)
class Labeller:
    """A task in evaluation mode on its device, and the data card of its checkpoint."""

    task: ClassificationTask
    card: dict[str, Any]

    def __call__(self, pixels: Tensor) -> Tensor:
        """Probabilities (N, num_classes), float64 on the CPU, of uint8 pictures (N, C, H, W) as the card wants them."""
        device = self.task.device
        mean, scale = (torch.tensor(self.card[key], device=device).view(1, -1, 1, 1) * 255 for key in ("mean", "std"))
        images = (pixels.to(device).float() - mean) / scale
        return torch.softmax(self.task.judge(images).double(), dim=1).cpu()


def load_labellers(checkpoints: Sequence[Path], device: str) -> list[Labeller]:
    """One for each checkpoint.

    Raises:
        InputError: a checkpoint that cannot be used, a device that is not there, or other classes.
    """
    found = []
    for path in checkpoints:
        task, card = load_task(path)
        try:
            task.to(device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"--device {device}: {str(error).splitlines()[0]}; use cpu") from None
        found.append(Labeller(task, card))
        if card["class_names"] != found[0].card["class_names"]:
            raise InputError(f"{path} and {checkpoints[0]} know other classes: expected an ensemble of the same")
    return found


def probabilities_of(
    labellers: Sequence[Labeller], files: Sequence[Path], on_bad_image: Literal["error", "skip"]
) -> tuple[list[str], np.ndarray, list[str]]:
    """Names of the pictures that can be read, their mean probabilities (N, C), and who was left out, with the reason.

    Raises:
        InputError: a bad picture, or with `skip` none that is good.
    """
    names: list[str] = []
    tables: list[Tensor] = []
    skipped: list[str] = []
    shapes = list(dict.fromkeys((labeller.card["image_size"], labeller.card["channels"]) for labeller in labellers))
    with torch.inference_mode(), progress_bar("predicting", len(files)) as advance:
        for start in range(0, len(files), _BLOCK):
            block = list(files[start : start + _BLOCK])
            try:
                pixels, kept, bad = read_images(block, *shapes[0], on_bad_image)
            except InputError:
                if on_bad_image == "error":
                    raise
                pixels, kept, bad = torch.empty(0), [], [str(file) for file in block]
            if kept:
                good = [block[index] for index in kept]
                by_shape = {shapes[0]: pixels, **{shape: read_images(good, *shape)[0] for shape in shapes[1:]}}
                shares = [one(by_shape[one.card["image_size"], one.card["channels"]]) for one in labellers]
                tables.append(torch.stack(shares).mean(dim=0))
            names += [str(block[index]) for index in kept]
            skipped += bad
            advance(len(block))
    if not names:
        raise InputError(f"none of {len(files)} pictures can be read, the first is {files[0]}: nothing was written")
    return names, torch.cat(tables).numpy(), skipped
