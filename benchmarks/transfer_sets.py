"""The labelled sets of `transfer.py`, whole and in memory."""

from dataclasses import dataclass
from importlib import import_module

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from defectlab.data import ImageFolderDataModule, NEUDataModule
from defectlab.errors import InputError

__all__ = ["LabelledSet", "load_elpv", "load_neu", "load_tiles"]


@dataclass(frozen=True)
class LabelledSet:
    """`images` (N, 1, S, S) uint8 and `labels` (N,) int64; what is said of them goes under every figure."""

    name: str
    images: Tensor
    labels: np.ndarray


def load_neu(root: str | None, size: int) -> LabelledSet:
    """NEU-CLS from a folder in any layout; the synthetic stand-in, and named so, without one."""
    data = NEUDataModule(root=root, source="synthetic" if root is None else "real", image_size=size).load()
    name = "NEU-CLS" if root is not None else "SYNTHETIC stand-in for NEU-CLS"
    return LabelledSet(name, data.images, data.labels.numpy())


def load_elpv(size: int) -> LabelledSet:
    """Solar cells of the package `elpv-dataset`, defective (probability of a defect above a half) or not.

    Deitsch et al., "Automatic classification of defective photovoltaic module cells in electroluminescence images",
    Solar Energy 185 (2019); the images are under CC BY-NC-SA 4.0.
    """
    try:
        module = import_module("elpv_dataset.utils")
    except ImportError:
        raise InputError("--sets elpv needs the package elpv-dataset: pip install elpv-dataset") from None
    pictures, probabilities, _ = module.load_dataset()
    images = []
    for block in torch.split(torch.from_numpy(pictures).unsqueeze(1), 256):
        small = functional.interpolate(block.float(), (size, size), mode="bilinear", antialias=True)
        images.append(small.round().clamp(0, 255).to(torch.uint8))
    return LabelledSet("elpv", torch.cat(images), (probabilities > 0.5).astype(np.int64))


def load_tiles(root: str | None, size: int) -> LabelledSet:
    """Magnetic tiles, five kinds of defects and none, from a folder a class.

    Huang, Qiu & Yuan, "Surface defect saliency of magnetic tile", The Visual Computer 36 (2020).
    """
    if root is None:
        raise InputError("--sets tiles needs the images: give their folder by --tiles")
    data = ImageFolderDataModule(root=root, image_size=size, fit="stretch", channels=1).load()
    return LabelledSet("magnetic tiles", data.images, data.labels.numpy())
