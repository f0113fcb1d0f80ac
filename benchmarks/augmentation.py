"""Images a second through batch augmentation: defectlab's, torchvision's v2 and, if it is installed, kornia's.

All get the same float batch and do the same operations at the same strengths: flips, rotation, blur, contrast, gamma,
noise and JPEG; every image has its own draw. torchvision draws once a call, so it is called image by image; beside that
stands the whole batch with one draw for all, which is less than the others do. A second table has everything that
defectlab does, beside kornia with what it has of that: no defocus and no shot noise.
"""

import functools
import importlib
import importlib.util
import math
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from measure import Measurement, Side, load, take_turns
from torch import Tensor, nn
from torchvision.transforms import v2

from defectlab.data import Augmentation
from defectlab.data.pipeline.augment import augment, draw
from defectlab.utils.cpu import CPUSettings

__all__ = ["measure_augmentation"]

COMMON = Augmentation(
    horizontal_flip=0.5, vertical_flip=0.5, rotation=5, blur=2, contrast=0.9, gamma=0.5, noise=0.05, jpeg=20
)
EVERYTHING = replace(COMMON, noise=0, snr=20, shot_snr=20, defocus=2, motion_blur=5, illumination=0.3)
BATCH_SIZE = 32
BAR = 1.0
AT_LEAST = 1.0  # seconds a turn

_Transform = Callable[[Tensor], Tensor]


def measure_augmentation(image_size: int, repeats: int, threads: int) -> list[Measurement]:
    """The operations that all have, then all that defectlab has; RGB, since kornia's JPEG takes nothing else."""
    CPUSettings(threads=threads).apply()
    images = torch.rand(BATCH_SIZE, 3, image_size, image_size)
    compose = v2.Compose(_torchvision(COMMON))
    sides: dict[str, _Transform] = {
        "defectlab": functools.partial(_defectlab, settings=COMMON),
        "torchvision v2, image by image": lambda batch: torch.stack([compose(image) for image in batch]),
        "torchvision v2, one draw a batch": compose,
    }
    found = []
    title = f"{image_size} px, RGB, batch {BATCH_SIZE}, {threads} threads"
    if importlib.util.find_spec("kornia") is not None:
        sides["kornia"] = _kornia(COMMON)
        more: dict[str, _Transform] = {
            "defectlab": functools.partial(_defectlab, settings=EVERYTHING),
            "kornia": _kornia(EVERYTHING),
        }
        found.append(_measure(f"Augmentation, everything on, {title}", more, EVERYTHING, images, repeats))
    return [_measure(f"Augmentation, what all have, {title}", sides, COMMON, images, repeats), *found]


def _measure(
    title: str, sides: dict[str, _Transform], settings: Augmentation, images: Tensor, repeats: int
) -> Measurement:
    before = load()
    for side in sides.values():
        side(images)
    runs = {name: functools.partial(_images_a_second, side, images) for name, side in sides.items()}
    values = take_turns(runs, repeats)
    ours, *others = (Side(name, "", values[name]) for name in sides)
    ours.settings = ", ".join(settings.operations)
    return Measurement(title, "images/s", ours, others, "ours / theirs", BAR, "at least", [before, load()])


def _images_a_second(transform: _Transform, images: Tensor) -> float:
    batches = 0
    began = time.perf_counter()
    while (seconds := time.perf_counter() - began) < AT_LEAST:
        transform(images)
        batches += 1
    return batches * len(images) / seconds


def _defectlab(images: Tensor, settings: Augmentation) -> Tensor:
    return augment(images, draw(len(images), (0, 0)), settings)


def _uniform(low: float, high: float) -> float:
    return float(torch.empty(()).uniform_(low, high))


def _kernel(sigma: float) -> int:
    return 2 * math.ceil(3 * sigma) + 1


def _torchvision(a: Augmentation) -> list[_Transform]:
    """v2 has no transform that draws gamma or the noise's strength."""
    assert a.jpeg is not None
    return [
        v2.RandomHorizontalFlip(a.horizontal_flip),
        v2.RandomVerticalFlip(a.vertical_flip),
        v2.RandomRotation(a.rotation, v2.InterpolationMode.BILINEAR),
        v2.GaussianBlur(_kernel(a.blur), (0.01, a.blur)),
        v2.ColorJitter(contrast=a.contrast),
        lambda x: v2.functional.adjust_gamma(x, math.exp(math.log1p(a.gamma) * _uniform(-1, 1))),
        lambda x: v2.functional.gaussian_noise(x, sigma=_uniform(0, a.noise)),
        v2.ToDtype(torch.uint8, scale=True),
        v2.JPEG((int(a.jpeg), 100)),
        v2.ToDtype(torch.float32, scale=True),
    ]


class _Noise(nn.Module):
    """kornia's has one strength for all images."""

    def __init__(self, largest: float) -> None:
        super().__init__()
        self.largest = largest

    def forward(self, images: Tensor) -> Tensor:
        return images + torch.randn_like(images) * (self.largest * torch.rand(len(images), 1, 1, 1))


def _kornia(a: Augmentation) -> _Transform:
    k = importlib.import_module("kornia.augmentation")

    assert a.jpeg is not None
    operations: list[nn.Module] = [
        k.RandomHorizontalFlip(p=a.horizontal_flip),
        k.RandomVerticalFlip(p=a.vertical_flip),
        k.RandomRotation(a.rotation, p=1.0),
    ]
    if a.illumination:
        operations.append(k.RandomLinearIllumination((0.0, a.illumination), p=1.0))
    operations.append(k.RandomGaussianBlur(_kernel(a.blur), (0.01, a.blur), p=1.0))
    if a.motion_blur:
        side = int(a.motion_blur) | 1
        operations.append(
            k.RandomMotionBlur(side, (0.0, 180.0), 0.0, border_type="reflect", resample="bilinear", p=1.0)
        )
    operations += [
        k.RandomContrast((1 - a.contrast, 1 + a.contrast), p=1.0),
        k.RandomGamma((1 / (1 + a.gamma), 1 + a.gamma), p=1.0),
        _Noise(a.noise or 0.05),
        k.RandomJPEG((a.jpeg, 100.0), p=1.0),
    ]
    return nn.Sequential(*operations)
