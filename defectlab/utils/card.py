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

_LARGEST = 2**14  # pixels of a side: a card from elsewhere must not ask for all memory
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow makes grey of RGB


@dataclass(frozen=True, kw_only=True)
class DataCard:
    """How images are prepared for one network; part of every checkpoint, and the only place that normalises.

    Args:
        class_names: in the order of the logits.
        mean: one value per channel, for images in [0, 1].
        std: one value per channel, above 0.
        image_size: side in pixels of the square that the network sees.
        channels: 1 (grey) or 3 (RGB).
        source: `real`, `synthetic`, or `imagenet` for a network of torchvision's.
        split_hash: of the split; None without one.
        resize_size: of the shorter side before a centre crop; None stretches the image to the square.
        white_level: what is white in images of more than 8 bits, such as 4095; None where the network knows none.

    Raises:
        InputError: a value out of range, or of another length than the others.
    """

    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    channels: int
    source: str = "real"
    split_hash: str | None = None
    resize_size: int | None = None
    white_level: float | None = None

    def __post_init__(self) -> None:
        for name, low in (("image_size", 1), ("channels", 1), ("resize_size", self.image_size)):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not (whole and low <= value <= _LARGEST) and not (name == "resize_size" and value is None):
                raise InputError(
                    f"data card: {name} is {value!r}, expected a whole number of at least {low}, at most {_LARGEST}"
                )
        if self.channels not in (1, 3):
            raise InputError(f"data card: channels is {self.channels}, expected 1 (grey) or 3 (RGB)")
        names = self.class_names
        if len(names) < 2 or len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
            raise InputError(
                f"data card: class_names are {list(self.class_names)}, expected two or more different ones"
            )
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != self.channels or not all(math.isfinite(value) for value in values):
                raise InputError(f"data card: {name} is {list(values)}, expected {self.channels} finite numbers")
        white = self.white_level
        if white is not None and (
            isinstance(white, bool) or not isinstance(white, int | float) or not 0 < white < 2**32
        ):
            raise InputError(f"data card: white_level is {white!r}, expected a number above 0, such as 4095")
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
        """Convert floats `(N, 1 or 3, H, W)` in [0, 1] to `channels` channels: grey by luma, RGB by repetition."""
        if images.shape[1] == 3 and self.channels == 1:
            return (images * images.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
        return images.expand(-1, self.channels, -1, -1)


@lru_cache(maxsize=64)
def _constants(
    mean: tuple[float, ...], std: tuple[float, ...], largest: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return mean and 1 / sd `(1, C, 1, 1)` for images in [0, largest]."""
    shift = torch.tensor(mean, device=device).view(1, -1, 1, 1) * largest
    scale = 1 / torch.tensor(std, device=device).view(1, -1, 1, 1) / largest
    return shift, scale
