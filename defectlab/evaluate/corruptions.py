"""Corrupt float images (N, C, H, W) in [0, 1] as a camera or a surface may, in steps.

Every function takes images and a level and returns images of the same shape and range; noise is seeded by its level.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from defectlab.data.pipeline import imaging
from defectlab.data.pipeline.augment import COLUMNS, QUIET, Augmentation, augment

_ANGLE = math.pi / 6  # of motion and of the light, anticlockwise from the right


@dataclass(frozen=True)
class Corruption:
    """A kind of corruption: how it is applied, the unit of its levels, and the levels, the mildest first.

    `setting` of Augmentation shows it in training; `strength` is its value for a level of images (N, C, H, W) in [0, 1].
    """

    name: str
    unit: str
    levels: tuple[float, ...]
    apply: Callable[[Tensor, float], Tensor]
    setting: str
    strength: Callable[[float, Tensor], float] = lambda level, images: abs(level)


def noise_by_power(images: Tensor, decibel: float) -> Tensor:
    """Add white Gaussian noise; SNR is 10 log10 of mean(x²) over the noise's variance, image by image."""
    return _noise(images, images.square().mean(dim=(1, 2, 3), keepdim=True), decibel)


def noise_by_variance(images: Tensor, decibel: float) -> Tensor:
    """Add white Gaussian noise; SNR is 10 log10 of the image's variance over the noise's."""
    return _noise(images, images.var(dim=(1, 2, 3), keepdim=True, correction=0), decibel)


def _noise(images: Tensor, signal: Tensor, decibel: float) -> Tensor:
    generator = torch.Generator(images.device).manual_seed(round(100 * decibel))
    noise = torch.randn(images.shape, generator=generator, device=images.device)
    return (images + noise * (signal / 10 ** (decibel / 10)).sqrt()).clamp(0, 1)


def _by_power(decibel: float, images: Tensor) -> float:
    """Return the SNR of power of the median image where that of variance is `decibel`."""
    shares = images.square().mean(dim=(1, 2, 3)) / images.var(dim=(1, 2, 3), correction=0).clamp(min=1e-6)
    return min(round(decibel + 10 * math.log10(max(float(shares.median()), 1)), 1), QUIET)


def _each(images: Tensor, value: float) -> Tensor:
    return images.new_full((len(images),), value)


def _brightness(images: Tensor, change: float) -> Tensor:
    return (images + change).clamp(0, 1)


def _jpeg(images: Tensor, quality: float) -> Tensor:
    """Compress; channels other than grey and RGB each by itself."""
    one = images if images.shape[1] in (1, 3) else images.flatten(0, 1)[:, None]
    pixels: Tensor = transforms.jpeg((one * 255).round().to(torch.uint8).cpu(), int(quality))
    return pixels.view(images.shape).to(images.device).float() / 255


def _rotation(images: Tensor, degrees: float) -> Tensor:
    """Rotate; corners show the mirrored surface."""
    draws = torch.full((len(images), len(COLUMNS)), 0.5)
    draws[:, COLUMNS.index("angle")] = 1
    return augment(images, draws, Augmentation(rotation=degrees))


CORRUPTIONS: tuple[Corruption, ...] = (
    Corruption("noise, SNR of power", "dB", (50, 45, 40, 35, 30, 25, 20), noise_by_power, "snr"),
    Corruption("noise, SNR of variance", "dB", (50, 40, 30, 20, 15, 10, 5), noise_by_variance, "snr", _by_power),
    Corruption("blur", "px", (0.5, 1, 1.5, 2, 3), lambda x, sd: imaging.gaussian_blur(x, _each(x, sd), sd), "blur"),
    Corruption("defocus", "px radius", (1, 2, 3, 4), lambda x, r: imaging.defocus(x, _each(x, r), r), "defocus"),
    Corruption(
        "motion blur", "px", (2, 4, 6, 8),
        lambda x, length: imaging.motion_blur(x, _each(x, length), _each(x, _ANGLE), length), "motion_blur",
    ),
    Corruption("darker", "of full scale", (-0.05, -0.1, -0.2, -0.3), _brightness, "brightness"),
    Corruption("brighter", "of full scale", (0.05, 0.1, 0.2, 0.3), _brightness, "brightness"),
    Corruption(
        "light from one side", "± share", (0.1, 0.2, 0.4, 0.6),
        lambda x, a: imaging.tilt_light(x, _each(x, a), _each(x, _ANGLE), _each(x, x.shape[3] / x.shape[2])).clamp(0, 1),
        "illumination",
    ),
    Corruption(
        "gamma", "exponent", (1.2, 1.5, 2, 3), lambda x, g: imaging.adjust_gamma(x, _each(x, g)),
        "gamma", lambda level, images: level - 1,
    ),
    Corruption(
        "contrast", "times", (0.8, 0.6, 0.4, 0.2, 0.1),
        lambda x, f: imaging.adjust_contrast(x, _each(x, f), _each(x, 0)).clamp(0, 1), "lowest_contrast",
    ),
    Corruption("JPEG", "quality", (90, 70, 50, 30, 10), _jpeg, "jpeg"),
    Corruption("rotation", "degrees", (2, 5, 10, 20, 45, 90), _rotation, "rotation"),
)  # fmt: skip
