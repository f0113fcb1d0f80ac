"""Blocks of the small CNNs of the courses."""

import math
from collections.abc import Callable
from typing import Literal

from torch import nn

from defectlab.errors import InputError

Norm = Literal["none", "batch", "layer", "group"]


def normalisation(norm: Norm, channels: int) -> list[nn.Module]:
    """Return the layer that normalises feature maps (N, channels, h, w), in a list that is empty for `none`.

    - `batch`: each channel over the batch (Ioffe & Szegedy 2015), by running statistics in evaluation;
    - `layer`: each image over all its channels and pixels (Ba et al. 2016), a gain and a shift a channel: what
      torch's GroupNorm does with a single group;
    - `group`: each image over groups of four neighbouring channels, of two or one where the number of channels asks
      for it (Wu & He 2018).

    Raises:
        InputError: there is no such normalisation.
    """
    match norm:
        case "none":
            return []
        case "batch":
            return [nn.BatchNorm2d(channels)]
        case "layer":
            return [nn.GroupNorm(1, channels)]
        case "group":
            return [nn.GroupNorm(channels // math.gcd(channels, 4), channels)]
    raise InputError(f"norm is {norm}: expected none, batch, layer or group; change norm")


def convolution(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    padding: int,
    norm: Norm,
    activation: Callable[[], nn.Module] = nn.ReLU,
) -> list[nn.Module]:
    """Return a convolution, its normalisation, which replaces its bias, and its activation."""
    return [
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, bias=norm == "none"),
        *normalisation(norm, out_channels),
        activation(),
    ]


def activated(activation: Callable[[], nn.Module], dropout: float) -> nn.Module:
    """Return an activation, with dropout if any, as one layer: names of weights do not depend on dropout."""
    return nn.Sequential(activation(), nn.Dropout(dropout)) if dropout else activation()


def pooled_head(channels: int, dropout: float, num_classes: int) -> nn.Sequential:
    """Return global average pooling, dropout and one linear layer."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(channels, num_classes))
