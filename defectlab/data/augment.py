"""Augmentation of a whole batch on its device, every image with its own draw.

The parameters of an image depend on the seed, the epoch and its place in the data set alone, so the batch size
and the number of processes change none of them (only the pixels of Gaussian noise are drawn a batch). All geometry is one resampling: `(x, y)` of the output is mapped to
the input by one 2×3 matrix an image, and the grid is built from two outer sums, which costs a fifth of
`torch.nn.functional.affine_grid`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from defectlab.errors import InputError

__all__ = ["Augmentation", "augment", "draw", "mix"]

_DRAWS = 19  # uniform numbers an image and an epoch; a new operation takes new columns


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a training image. A zero (or false) switches an operation off.

    Args:
        horizontal_flip: probability.
        vertical_flip: probability.
        rotation: degrees; the angle is uniform in ±rotation.
        translation: share of the side; the shift is uniform in ±translation, along x and y each.
        scale: the zoom is log-uniform in [1 / (1 + scale), 1 + scale].
        shear: degrees; uniform in ±shear.
        crop: smallest share of the side that a random square crop keeps, in (0, 1]; 1 keeps everything.
        brightness: added to pixels in [0, 1], uniform in ±brightness.
        contrast: factor about the image's mean, uniform in 1 ± contrast.
        noise: largest standard deviation of Gaussian noise on [0, 1]; each image draws its own below it.
        erasing: probability that a rectangle of 2 to 20 % of the area is filled with the image's mean
            (Zhong et al. 2020, Random Erasing).
        interpolation: `nearest` is faster, `bilinear` smoother.
        mixup: Beta(mixup, mixup) of MixUp (Zhang et al. 2018); a batch's pairs share one share.
        cutmix: Beta(cutmix, cutmix) of CutMix (Yun et al. 2019). With both on, each batch takes one at random.
    """

    horizontal_flip: float = 0.0
    vertical_flip: float = 0.0
    rotation: float = 0.0
    translation: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    crop: float = 1.0
    brightness: float = 0.0
    contrast: float = 0.0
    noise: float = 0.0
    erasing: float = 0.0
    interpolation: Literal["bilinear", "nearest"] = "bilinear"
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        for name in ("horizontal_flip", "vertical_flip", "erasing", "translation", "brightness", "noise"):
            _within(name, getattr(self, name), 0.0, 1.0)
        for name in ("scale", "mixup", "cutmix"):
            _within(name, getattr(self, name), 0.0, math.inf)
        _within("rotation", self.rotation, 0.0, 180.0)
        _within("shear", self.shear, 0.0, 60.0)
        _within("contrast", self.contrast, 0.0, 1.0)
        _within("crop", self.crop, 0.05, 1.0)

    @property
    def moves_pixels(self) -> bool:
        """Whether any geometric operation is on."""
        return self.crop < 1 or any(
            (self.horizontal_flip, self.vertical_flip, self.rotation, self.translation, self.scale, self.shear)
        )


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InputError(f"data.augmentation.{name} is {value}: expected a number from {low} to {high}")


def draw(count: int, seed: Sequence[int]) -> Tensor:
    """Uniform numbers in [0, 1), shape `(count, 19)`, one row an image; `seed` is (seed, epoch)."""
    generator = torch.Generator().manual_seed(_mix(seed))
    return torch.rand(count, _DRAWS, generator=generator)


def _mix(numbers: Sequence[int]) -> int:
    state = 0
    for number in numbers:
        state = (state * 6364136223846793005 + number + 1442695040888963407) % 2**63
    return state


def augment(images: Tensor, draws: Tensor, settings: Augmentation) -> Tensor:
    """Augment images `(N, C, H, W)` in [0, 1] with the rows `(N, 19)` of `draw`; returns the same range."""
    u = draws.to(images.device)
    if settings.moves_pixels:
        images = _resample(images, _matrices(u, settings), settings.interpolation)
    if settings.contrast or settings.brightness:
        factor = 1 + settings.contrast * (2 * u[:, 8] - 1)
        shift = settings.brightness * (2 * u[:, 9] - 1)
        mean = images.mean(dim=(1, 2, 3)) if settings.contrast else torch.zeros_like(factor)
        images = torch.addcmul(_per_image(mean * (1 - factor) + shift), images, _per_image(factor))
    if settings.noise:
        seed = int(draws[0, 13].item() * 2**24) if len(draws) else 0
        images = images + _noise(images, seed) * _per_image(settings.noise * u[:, 10])
    if settings.erasing:
        images = _erase(images, u, settings.erasing)
    return images.clamp(0, 1)


def _per_image(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _matrices(u: Tensor, settings: Augmentation) -> Tensor:
    """Output-to-input maps in coordinates of [-1, 1], shape `(N, 2, 3)`."""
    angle = math.radians(settings.rotation) * (2 * u[:, 0] - 1)
    shear = torch.tan(math.radians(settings.shear) * (2 * u[:, 1] - 1))
    zoom = torch.exp(-math.log1p(settings.scale) * (2 * u[:, 2] - 1))
    side = settings.crop + (1 - settings.crop) * u[:, 3]
    flip_x = torch.where(u[:, 4] < settings.horizontal_flip, -1.0, 1.0)
    flip_y = torch.where(u[:, 5] < settings.vertical_flip, -1.0, 1.0)
    # The crop window may lie anywhere inside the picture; the translation adds to its centre.
    centre = (1 - side)[:, None] * (2 * u[:, 11:13] - 1) + 2 * settings.translation * (2 * u[:, 6:8] - 1)
    size = zoom * side
    cos, sin = torch.cos(angle) * size, torch.sin(angle) * size
    row_x = torch.stack((cos * flip_x, (shear * cos - sin) * flip_y, centre[:, 0]), dim=1)
    row_y = torch.stack((sin * flip_x, (shear * sin + cos) * flip_y, centre[:, 1]), dim=1)
    return torch.stack((row_x, row_y), dim=1)


def _resample(images: Tensor, matrices: Tensor, interpolation: str) -> Tensor:
    height, width = images.shape[-2:]
    # Pixel centres, as grid_sample with align_corners=False counts them.
    xs = (torch.arange(width, device=images.device) * 2 + 1) / width - 1
    ys = (torch.arange(height, device=images.device) * 2 + 1) / height - 1
    along_x = matrices[:, None, :, 0] * xs[None, :, None]
    along_y = matrices[:, None, :, 1] * ys[None, :, None] + matrices[:, None, :, 2]
    grid = along_y[:, :, None, :] + along_x[:, None, :, :]
    # Rotated corners show the mirrored surface: a black wedge would be a feature of its own.
    return torch.nn.functional.grid_sample(
        images, grid.to(images.dtype), mode=interpolation, padding_mode="reflection", align_corners=False
    )


def _noise(images: Tensor, seed: int) -> Tensor:
    generator = torch.Generator(device=images.device).manual_seed(seed)
    return torch.randn(images.shape, generator=generator, device=images.device, dtype=images.dtype)


def _erase(images: Tensor, u: Tensor, probability: float) -> Tensor:
    height, width = images.shape[-2:]
    area = 0.02 + 0.18 * u[:, 14]
    ratio = torch.exp(math.log(3.0) * (2 * u[:, 15] - 1))
    tall, wide = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    top, left = u[:, 17] * (1 - tall), u[:, 18] * (1 - wide)
    ys = (torch.arange(height, device=images.device) + 0.5) / height
    xs = (torch.arange(width, device=images.device) + 0.5) / width
    rows = (ys >= top[:, None]) & (ys < (top + tall)[:, None])
    columns = (xs >= left[:, None]) & (xs < (left + wide)[:, None])
    hit = (u[:, 16] < probability)[:, None, None] & rows[:, :, None] & columns[:, None, :]
    return torch.where(hit[:, None], images.mean(dim=(1, 2, 3), keepdim=True), images)


def mix(
    images: Tensor, labels: Tensor, num_classes: int, settings: Augmentation, seed: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """MixUp or CutMix of a batch with its own shuffle: labels `(N,)` become shares `(N, num_classes)`."""
    targets = torch.nn.functional.one_hot(labels, num_classes).to(images.dtype)
    rng = np.random.default_rng(list(seed))
    use_cutmix = settings.cutmix > 0 and (settings.mixup == 0 or rng.random() < 0.5)
    alpha = settings.cutmix if use_cutmix else settings.mixup
    share = float(rng.beta(alpha, alpha))
    partner = torch.from_numpy(rng.permutation(len(images))).to(images.device)
    if use_cutmix:
        height, width = images.shape[-2:]
        tall, wide = (round(side * math.sqrt(1 - share)) for side in (height, width))
        top, left = int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1))
        images = images.clone()
        box = (..., slice(top, top + tall), slice(left, left + wide))
        images[box] = images[partner][box]
        share = 1 - tall * wide / (height * width)
    else:
        images = torch.lerp(images[partner], images, share)
    return images, torch.lerp(targets[partner], targets, share)
