"""The data card: how the images of a network are prepared, and its class names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from defectlab.errors import InputError
from defectlab.utils.image_format import ImageFormat

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow makes grey of RGB


@dataclass(frozen=True, kw_only=True)
class DataCard(ImageFormat):
    """How images are prepared for one network; part of every checkpoint, and the only place that normalises.

    The other fields are those of `ImageFormat`.

    Args:
        class_names: in the order of the logits.
        mean: one value per channel, for images in [0, 1].
        std: one value per channel, above 0.
        source: `real`, `synthetic`, or `imagenet` for a network of torchvision's.
        split_hash: of the split; None without one.
        multilabel: whether an image may have several of the classes, or none.

    Raises:
        InputError: a value out of range, or of another length than the others.
    """

    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str = "real"
    split_hash: str | None = None
    multilabel: bool = False

    def __post_init__(self) -> None:
        try:
            super().__post_init__()
        except InputError as error:
            raise InputError(f"data card: {error}") from None
        names = self.class_names
        if len(names) < 2 or len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
            raise InputError(
                f"data card: class_names are {list(self.class_names)}, expected two or more different ones"
            )
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != self.channels or not all(math.isfinite(value) for value in values):
                raise InputError(f"data card: {name} is {list(values)}, expected {self.channels} finite numbers")
        if min(self.std) <= 0:
            raise InputError(f"data card: std is {list(self.std)}, expected numbers above 0")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DataCard:
        """Make a card of plain values such as a checkpoint's; other keys are ignored.

        Raises:
            InputError: a key is missing, or a value of another type or out of range.
        """
        known = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        try:
            for name in ("class_names", "mean", "std"):
                known[name] = tuple(known[name])
            known["mean"], known["std"] = (tuple(float(value) for value in known[name]) for name in ("mean", "std"))
            return cls(**known)
        except KeyError as error:
            raise InputError(f"data card: no {error.args[0]}, expected class_names, mean, std and more") from None
        except (TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"data card: {error}") from None

    def constants(self) -> tuple[Tensor, Tensor]:
        """Return mean and 1 / sd `(1, C, 1, 1)` by which uint8 images are normalised: `(images - mean) * scale`."""
        return _constants.__wrapped__(self.mean, self.std, 255, torch.device("cpu"))

    def normalise(self, images: Tensor) -> Tensor:
        """Normalise images: mean 0 and sd 1 over the training set.

        Args:
            images: `(N, C, H, W)`, uint8 or floats in [0, 1]; C of 1 is expanded to `channels`.

        Returns:
            float32 `(N, channels, H, W)`, on the device of `images`; a new tensor.
        """
        if images.dtype == torch.uint8:
            mean, scale = _constants(self.mean, self.std, 255, images.device)
            images = images.float()
            if images.shape[1] == self.channels:
                return images.sub_(mean).mul_(scale)
        else:
            mean, scale = _constants(self.mean, self.std, 1, images.device)
        return images.sub(mean).mul_(scale)

    def denormalise(self, images: Tensor) -> Tensor:
        """Undo `normalise`: floats `(N, channels, H, W)` in [0, 1]."""
        mean, scale = _constants(self.mean, self.std, 1, images.device)
        return images / scale + mean

    def convert_channels(self, images: Tensor) -> Tensor:
        """Convert floats `(N, C, H, W)` in [0, 1] to `channels` channels by their grey, which is luma of RGB."""
        count = images.shape[1]
        if count not in (1, self.channels):
            share = images.new_tensor(_LUMA if count == 3 else [1 / count] * count)
            images = (images * share.view(1, -1, 1, 1)).sum(dim=1, keepdim=True)
        return images.expand(-1, self.channels, -1, -1)


@lru_cache(maxsize=64)
def _constants(
    mean: tuple[float, ...], std: tuple[float, ...], largest: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return mean and 1 / sd `(1, C, 1, 1)` for images in [0, largest]."""
    shift = torch.tensor(mean, device=device).view(1, -1, 1, 1) * largest
    scale = 1 / torch.tensor(std, device=device).view(1, -1, 1, 1) / largest
    return shift, scale
