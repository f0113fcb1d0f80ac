"""Augmentation of a whole batch on its device, every image with its own draw.

What happens to an image depends on the seed, the epoch and its index in the data set alone, not on the batch size or
the number of processes. All geometry is one resampling by a 2×3 output-to-input matrix per image.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from defectlab.errors import InputError

# One uniform number each per image and epoch.
COLUMNS = (
    "angle", "shear", "zoom", "side", "flip_x", "flip_y", "shift_x", "shift_y", "brightness", "contrast",
    "crop_x", "crop_y", "noise", "noise_seed", "erase", "area", "ratio", "top", "left",
)  # fmt: skip
MIXING = ("mixup", "cutmix")  # operations on a batch, which change labels too
QUIET = 60.0  # dB, where noise is a thousandth of the signal


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes of training images. A zero (or a crop of 1) switches an operation off.

    Args:
        horizontal_flip: probability of exchanging left and right.
        vertical_flip: probability of exchanging top and bottom.
        rotation: degrees; the angle is uniform in ±rotation.
        translation: fraction of the side; the shift is uniform in ±translation, along x and y each.
        scale: the zoom is log-uniform in [1 / (1 + scale), 1 + scale].
        shear: degrees; uniform in ±shear.
        crop: smallest fraction of the side that a random square crop keeps, in [0.05, 1]; 1 keeps everything.
        brightness: added to pixels in [0, 1], uniform in ±brightness.
        contrast: factor about the image's mean, uniform in 1 ± contrast.
        noise: largest standard deviation of Gaussian noise on [0, 1]; each image draws its own below it.
        snr: lowest signal-to-noise ratio, in dB, of Gaussian noise; each image's is uniform from there to 60 dB. Signal is
            the mean square of the image on [0, 1]. None for no such noise.
        erasing: probability that a rectangle of 2 to 20 % of the area is filled with the image's mean
            (Zhong et al. 2020, Random Erasing).
        interpolation: `nearest` is faster, `bilinear` smoother.
        mixup: alpha of the Beta(alpha, alpha) distribution of MixUp's weight, one per batch (Zhang et al. 2018).
        cutmix: alpha of CutMix (Yun et al. 2019). With both on, each batch takes one at random.
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
    snr: float | None = None
    erasing: float = 0.0
    interpolation: Literal["bilinear", "nearest"] = "bilinear"
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        for name in ("horizontal_flip", "vertical_flip", "erasing", "translation", "brightness", "noise"):
            _within(name, getattr(self, name), 0.0, 1.0)
        for name in ("scale", "mixup", "cutmix"):
            _within(name, getattr(self, name), 0.0, 100.0)
        if self.snr is not None:
            _within("snr", self.snr, -10.0, 60.0)
            if self.noise:
                raise InputError(
                    "data.augmentation has noise and snr: give one of them, they are two ways to say the same"
                )
        _within("rotation", self.rotation, 0.0, 180.0)
        _within("shear", self.shear, 0.0, 60.0)
        _within("contrast", self.contrast, 0.0, 1.0)
        _within("crop", self.crop, 0.05, 1.0)
        if self.interpolation not in ("bilinear", "nearest"):
            raise InputError(f"data.augmentation.interpolation is {self.interpolation!r}: expected bilinear or nearest")

    @property
    def operations(self) -> list[str]:
        """Return the names of the arguments that are switched on, in their order."""
        off = Augmentation()
        return [name for name in self.names() if getattr(self, name) != getattr(off, name)]

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of the arguments that switch an operation on, in their order."""
        return [field.name for field in fields(cls) if field.name != "interpolation"]

    @property
    def resamples(self) -> bool:
        """Return whether pixels are interpolated; flips alone are exact."""
        return self.crop < 1 or any((self.rotation, self.translation, self.scale, self.shear))


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InputError(f"data.augmentation.{name} is {value}: expected a number from {low:g} to {high:g}")


def random_generator(*numbers: int) -> torch.Generator:
    """Return a CPU generator seeded by whole numbers of at least 0; other numbers give unrelated draws."""
    # torch uses 32 bits of a seed alone, so the numbers are hashed, not added up.
    return torch.Generator().manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))


def draw(count: int, seed: Sequence[int]) -> Tensor:
    """Draw uniform numbers in [0, 1), `(count, 19)`, one row per image; `seed` is (seed, epoch).

    A row depends on the seed and its index alone: a longer table begins with a shorter one.
    """
    return torch.rand(count, len(COLUMNS), generator=random_generator(*seed))


def augment(images: Tensor, draws: Tensor, settings: Augmentation) -> Tensor:
    """Augment square images `(N, C, S, S)` in [0, 1] by the rows `(N, 19)` of `draw`, in the same range.

    MixUp and CutMix are done by `mix`. The given tensor is not changed.
    """
    u = dict(zip(COLUMNS, draws.to(images.device).unbind(dim=1), strict=True))
    given = images
    if settings.resamples:
        images = _resample(images, _matrices(u, settings), settings.interpolation)
    else:
        images = _flip(images, u, settings)
    if settings.contrast or settings.brightness:
        factor = 1 + settings.contrast * (2 * u["contrast"] - 1)
        offset = settings.brightness * (2 * u["brightness"] - 1)
        if settings.contrast:
            offset = offset + images.mean(dim=(1, 2, 3)) * (1 - factor)
        images = images.mul(_per_image(factor)).add_(_per_image(offset))
    if settings.noise or settings.snr is not None:
        deviation = settings.noise * u["noise"]
        if settings.snr is not None:
            decibel = settings.snr + (QUIET - settings.snr) * u["noise"]
            deviation = (images.square().mean(dim=(1, 2, 3)) / 10 ** (decibel / 10)).sqrt()
        # Seeds are read from `draws` on the CPU, so that no GPU waits.
        noise = _noise(images, draws[:, COLUMNS.index("noise_seed")])
        images = noise.mul_(_per_image(deviation)).add_(images)
    if settings.erasing:
        images = _erase(images, u, settings.erasing)
    return images if images is given else images.clamp_(0, 1)


def _per_image(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _matrices(u: dict[str, Tensor], settings: Augmentation) -> Tensor:
    """Return output-to-input maps in coordinates of [-1, 1], y downwards, `(N, 2, 3)`.

    They flip, then shear, then zoom, then rotate; positive angles are anticlockwise.
    """
    angle = math.radians(settings.rotation) * (2 * u["angle"] - 1)
    shear = torch.tan(math.radians(settings.shear) * (2 * u["shear"] - 1))
    zoom = torch.exp(-math.log1p(settings.scale) * (2 * u["zoom"] - 1))
    side = settings.crop + (1 - settings.crop) * u["side"]
    flip_x = torch.where(u["flip_x"] < settings.horizontal_flip, -1.0, 1.0)
    flip_y = torch.where(u["flip_y"] < settings.vertical_flip, -1.0, 1.0)
    centre_x, centre_y = (
        (1 - side) * (2 * u[crop] - 1) + 2 * settings.translation * (2 * u[shift] - 1)
        for crop, shift in (("crop_x", "shift_x"), ("crop_y", "shift_y"))
    )
    cos, sin = torch.cos(angle) * zoom * side, torch.sin(angle) * zoom * side
    row_x = torch.stack((cos * flip_x, (shear * cos - sin) * flip_y, centre_x), dim=1)
    row_y = torch.stack((sin * flip_x, (shear * sin + cos) * flip_y, centre_y), dim=1)
    return torch.stack((row_x, row_y), dim=1)


def _resample(images: Tensor, matrices: Tensor, interpolation: str) -> Tensor:
    height, width = images.shape[-2:]
    # Pixel centres, as grid_sample with align_corners=False counts them.
    xs = (torch.arange(width, device=images.device) * 2 + 1) / width - 1
    ys = (torch.arange(height, device=images.device) * 2 + 1) / height - 1
    along_x = matrices[:, :, 0:1] * xs
    along_y = matrices[:, :, 1:2] * ys + matrices[:, :, 2:3]
    # Two outer sums take a fiftieth of affine_grid's time.
    grid = (along_y[:, :, :, None] + along_x[:, :, None, :]).permute(0, 2, 3, 1)
    # Reflection at rotated corners: a black wedge would be a feature.
    return torch.nn.functional.grid_sample(
        images, grid.to(images.dtype), mode=interpolation, padding_mode="reflection", align_corners=False
    )


def _flip(images: Tensor, u: dict[str, Tensor], settings: Augmentation) -> Tensor:
    """Flip exactly, where resampling would round."""
    if settings.horizontal_flip:
        images = torch.where(_per_image(u["flip_x"] < settings.horizontal_flip), images.flip(3), images)
    if settings.vertical_flip:
        images = torch.where(_per_image(u["flip_y"] < settings.vertical_flip), images.flip(2), images)
    return images


def _noise(images: Tensor, seeds: Tensor) -> Tensor:
    """Draw standard normal numbers, each image from its own seed in [0, 1)."""
    noise = torch.empty(images.shape, dtype=images.dtype, device=images.device)
    generator = torch.Generator(device=images.device)
    for field, seed in zip(noise, seeds.mul(2**24).long().tolist(), strict=True):
        field.normal_(generator=generator.manual_seed(seed))
    return noise


def _erase(images: Tensor, u: dict[str, Tensor], probability: float) -> Tensor:
    height, width = images.shape[-2:]
    area = 0.02 + 0.18 * u["area"]
    ratio = torch.exp(math.log(3.0) * (2 * u["ratio"] - 1))
    tall, wide = (area * ratio).sqrt(), (area / ratio).sqrt()
    top, left = u["top"] * (1 - tall), u["left"] * (1 - wide)
    ys = (torch.arange(height, device=images.device) + 0.5) / height
    xs = (torch.arange(width, device=images.device) + 0.5) / width
    rows = (ys >= top[:, None]) & (ys < (top + tall)[:, None])
    columns = (xs >= left[:, None]) & (xs < (left + wide)[:, None])
    hit = (u["erase"] < probability)[:, None, None] & rows[:, :, None] & columns[:, None, :]
    return torch.where(hit[:, None], images.mean(dim=(1, 2, 3), keepdim=True), images)


def mix(
    images: Tensor, labels: Tensor, num_classes: int, settings: Augmentation, seed: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Apply MixUp or CutMix to a batch and its permutation: labels `(N,)` become probabilities `(N, num_classes)`.

    `seed` is that of the batch. The given tensors are not changed.
    """
    targets = torch.nn.functional.one_hot(labels, num_classes).to(images.dtype)
    rng = np.random.default_rng(list(seed))
    use_cutmix = settings.cutmix > 0 and (settings.mixup == 0 or rng.random() < 0.5)
    alpha = settings.cutmix if use_cutmix else settings.mixup
    weight = float(rng.beta(alpha, alpha))
    partner = torch.from_numpy(rng.permutation(len(images))).to(images.device)
    if use_cutmix:
        height, width = images.shape[-2:]
        tall, wide = (round(side * math.sqrt(1 - weight)) for side in (height, width))
        top, left = int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1))
        images = images.clone()
        window = images[..., top : top + tall, left : left + wide]
        window.copy_(window.index_select(0, partner))
        weight = 1 - tall * wide / (height * width)
    else:
        images = torch.lerp(images.index_select(0, partner), images, weight)
    return images, torch.lerp(targets.index_select(0, partner), targets, weight)
