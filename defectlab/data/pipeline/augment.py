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

from defectlab.data.pipeline import imaging
from defectlab.errors import InputError

# One uniform number each per image and epoch.
COLUMNS = (
    "angle", "shear", "zoom", "side", "flip_x", "flip_y", "shift_x", "shift_y", "brightness", "contrast",
    "crop_x", "crop_y", "noise", "noise_seed", "erase", "area", "ratio", "top", "left",
    "illumination", "light_angle", "blur", "defocus", "motion", "motion_angle", "lowest_contrast", "gamma", "shot",
    "jpeg",
)  # fmt: skip
_FIRST = COLUMNS.index("illumination")  # of the columns drawn by a generator of their own, so that the others stay
MIXING = ("mixup", "cutmix")  # operations on a batch, which change labels too
QUIET = 60.0  # dB, where noise is a thousandth of the signal
_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("horizontal_flip", "vertical_flip", "erasing", "translation"), (0.0, 1.0)),
    **dict.fromkeys(("brightness", "contrast", "noise", "illumination"), (0.0, 1.0)),
    **dict.fromkeys(("scale", "mixup", "cutmix"), (0.0, 100.0)),
    **dict.fromkeys(("snr", "shot_snr"), (-10.0, QUIET)),
    **dict.fromkeys(("crop", "lowest_contrast"), (0.05, 1.0)),
    **dict.fromkeys(("blur", "defocus"), (0.0, 20.0)),
    **dict.fromkeys(("shear", "motion_blur"), (0.0, 60.0)),
    "rotation": (0.0, 180.0), "gamma": (0.0, 9.0), "jpeg": (1.0, 100.0), "chance": (0.01, 1.0),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes of training images. A zero, a crop or lowest_contrast of 1, and None switch an operation off.

    Args:
        horizontal_flip: probability of exchanging left and right.
        vertical_flip: probability of exchanging top and bottom.
        rotation: degrees; the angle is uniform in ±rotation.
        translation: fraction of width and height; the shift is uniform in ±translation, along x and y each.
        scale: the zoom is log-uniform in [1 / (1 + scale), 1 + scale].
        shear: degrees; uniform in ±shear.
        crop: smallest fraction of the sides that a random crop of the image's own shape keeps, in [0.05, 1]; 1 keeps everything.
        brightness: added to pixels in [0, 1], uniform in ±brightness.
        contrast: factor about the image's mean, uniform in 1 ± contrast.
        noise: largest standard deviation of Gaussian noise on [0, 1]; each image draws its own below it.
        snr: lowest signal-to-noise ratio, in dB, of Gaussian noise; each image's is uniform from there to 60 dB. Signal is
            the mean square of the image on [0, 1]. None for no such noise.
        illumination: share; the light is a linear ramp from 1 + a to 1 - a across the image, in any direction, with a
            uniform in [0, illumination].
        blur: largest standard deviation, in pixels of `image_size`, of a Gaussian blur; uniform from 0.
        defocus: largest radius, in pixels, of the disk that an unfocused lens makes of a point; uniform from 0, without
            effect below 0.5.
        motion_blur: longest path, in pixels, of the image during exposure, in any direction; uniform from 0.
        lowest_contrast: smallest factor about the image's mean, in [0.05, 1]; log-uniform up to 1, and times that of
            `contrast`.
        gamma: the exponent of pixels in [0, 1] is log-uniform in [1 / (1 + gamma), 1 + gamma].
        shot_snr: as snr, in dB, of shot noise: its variance is in proportion to the pixel. It adds to the other noise.
        jpeg: lowest JPEG quality, in [1, 100]; each image's is uniform from there to 100. Blocks of 8×8 are quantised by
            the luminance table, each channel by itself; colour is not subsampled. None for no such loss.
        chance: probability, from 0.01, with which an image gets each of the operations from snr to jpeg.
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
    illumination: float = 0.0
    blur: float = 0.0
    defocus: float = 0.0
    motion_blur: float = 0.0
    lowest_contrast: float = 1.0
    gamma: float = 0.0
    shot_snr: float | None = None
    jpeg: float | None = None
    chance: float = 1.0
    erasing: float = 0.0
    interpolation: Literal["bilinear", "nearest"] = "bilinear"
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InputError(f"data.augmentation.{name} is {value}: expected a number from {low:g} to {high:g}")
        if self.snr is not None and self.noise:
            raise InputError("data.augmentation has noise and snr: give one of them, they are two ways to say the same")
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
        return [field.name for field in fields(cls) if field.name not in ("interpolation", "chance")]

    @property
    def resamples(self) -> bool:
        """Return whether pixels are interpolated; flips alone are exact."""
        return self.crop < 1 or any((self.rotation, self.translation, self.scale, self.shear))


def random_generator(*numbers: int) -> torch.Generator:
    """Return a CPU generator seeded by whole numbers of at least 0; other numbers give unrelated draws."""
    # torch uses 32 bits of a seed alone, so the numbers are hashed, not added up.
    return torch.Generator().manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))


def draw(count: int, seed: Sequence[int]) -> Tensor:
    """Draw uniform numbers in [0, 1), `(count, 29)`, one row per image; `seed` is (seed, epoch).

    A row depends on the seed and its index alone: a longer table begins with a shorter one.
    """
    first = torch.rand(count, _FIRST, generator=random_generator(*seed))
    others = torch.rand(count, len(COLUMNS) - _FIRST, generator=random_generator(*seed, _FIRST))
    return torch.cat((first, others), dim=1)


def augment(images: Tensor, draws: Tensor, settings: Augmentation, aspects: Tensor | None = None) -> Tensor:
    """Augment images `(N, C, H, W)` in [0, 1] by the rows `(N, 29)` of `draw`, in the same range.

    `aspects` `(N,)` are width by height of what the camera saw, where images were stretched: a rotation, a shear, a
    direction of light and an erased rectangle are then those of the camera. None takes H and W. MixUp and CutMix are done
    by `mix`. The given tensor is not changed.
    """
    if not len(images):
        return images
    if aspects is None:
        aspects = torch.full((len(images),), images.shape[3] / images.shape[2])
    aspects = aspects.to(images)
    u = dict(zip(COLUMNS, draws.to(images.device).unbind(dim=1), strict=True))
    if settings.chance < 1:
        u |= _seldom(u, settings)
    given = images
    if settings.resamples:
        images = imaging.resample(images, _matrices(u, settings, aspects), settings.interpolation)
    else:
        images = _flip(images, u, settings)
    images = _expose(images, u, settings, aspects)
    if settings.noise or settings.snr is not None or settings.shot_snr is not None:
        deviation = imaging.per_image(settings.noise * u["noise"])
        if settings.snr is not None:
            decibel = settings.snr + (QUIET - settings.snr) * u["noise"]
            deviation = imaging.per_image(imaging.noise_variance(images, decibel).sqrt())
        if settings.shot_snr is not None:
            decibel = settings.shot_snr + (QUIET - settings.shot_snr) * u["shot"]
            deviation = (deviation.square() + imaging.shot_variance(images, decibel)).sqrt_()
        # Seeds are read from `draws` on the CPU, so that no GPU waits.
        noise = imaging.normal_like(images, draws[:, COLUMNS.index("noise_seed")])
        images = noise.mul_(deviation).add_(images)
    if settings.jpeg is not None:
        images = imaging.jpeg(images, (100 - (100 - settings.jpeg) * u["jpeg"]).round())
    if settings.erasing:
        images = _erase(images, u, settings.erasing, aspects)
    return images if images is given else images.clamp_(0, 1)


def _seldom(u: dict[str, Tensor], settings: Augmentation) -> dict[str, Tensor]:
    """Return strengths of which all but a share of `chance` lie where the operation does nothing."""

    def seldom(strengths: Tensor) -> Tensor:
        return ((strengths + settings.chance - 1) / settings.chance).clamp(min=0)

    from_zero = ("illumination", "blur", "defocus", "motion", "lowest_contrast", "jpeg")
    from_one = ("shot",) if settings.snr is None else ("shot", "noise")
    both_ways = 2 * u["gamma"] - 1
    return {
        **{name: seldom(u[name]) for name in from_zero},
        **{name: 1 - seldom(1 - u[name]) for name in from_one},
        "gamma": (1 + both_ways.sign() * seldom(both_ways.abs())) / 2,
    }


def _expose(images: Tensor, u: dict[str, Tensor], settings: Augmentation, aspects: Tensor) -> Tensor:
    """Apply what happens before the sensor's noise: the light, the lens, then the sensor's response."""
    if settings.illumination:
        slope, angle = settings.illumination * u["illumination"], 2 * math.pi * u["light_angle"]
        images = imaging.tilt_light(images, slope, angle, aspects)
    if settings.blur:
        images = imaging.gaussian_blur(images, settings.blur * u["blur"], settings.blur)
    if settings.defocus:
        images = imaging.defocus(images, settings.defocus * u["defocus"], settings.defocus)
    if settings.motion_blur:
        length, angle = settings.motion_blur * u["motion"], math.pi * u["motion_angle"]
        images = imaging.motion_blur(images, length, angle, settings.motion_blur)
    if settings.contrast or settings.brightness or settings.lowest_contrast < 1:
        factor = 1 + settings.contrast * (2 * u["contrast"] - 1)
        factor = factor * settings.lowest_contrast ** u["lowest_contrast"]
        images = imaging.adjust_contrast(images, factor, settings.brightness * (2 * u["brightness"] - 1))
    if settings.gamma:
        images = imaging.adjust_gamma(images, torch.exp(math.log1p(settings.gamma) * (2 * u["gamma"] - 1)))
    return images


def _matrices(u: dict[str, Tensor], settings: Augmentation, aspects: Tensor) -> Tensor:
    """Return output-to-input maps in coordinates of [-1, 1], y downwards, `(N, 2, 3)`.

    They flip, then shear, then zoom, then rotate; positive angles are anticlockwise. 1 along x is `aspects` times as long
    as 1 along y.
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
    row_x = torch.stack((cos * flip_x, (shear * cos - sin) * flip_y / aspects, centre_x), dim=1)
    row_y = torch.stack((sin * flip_x * aspects, (shear * sin + cos) * flip_y, centre_y), dim=1)
    return torch.stack((row_x, row_y), dim=1)


def _flip(images: Tensor, u: dict[str, Tensor], settings: Augmentation) -> Tensor:
    """Flip exactly, where resampling would round."""
    if settings.horizontal_flip:
        images = torch.where(imaging.per_image(u["flip_x"] < settings.horizontal_flip), images.flip(3), images)
    if settings.vertical_flip:
        images = torch.where(imaging.per_image(u["flip_y"] < settings.vertical_flip), images.flip(2), images)
    return images


def _erase(images: Tensor, u: dict[str, Tensor], probability: float, aspects: Tensor) -> Tensor:
    area = 0.02 + 0.18 * u["area"]
    ratio = torch.exp(math.log(3.0) * (2 * u["ratio"] - 1)) * aspects
    ratio = ratio.clamp(area, 1 / area)  # no side is longer than the image's
    tall, wide = (area * ratio).sqrt(), (area / ratio).sqrt()
    top, left = u["top"] * (1 - tall), u["left"] * (1 - wide)
    return imaging.fill_rectangle(images, u["erase"] < probability, (top, top + tall), (left, left + wide))


def mix(
    images: Tensor, labels: Tensor, num_classes: int, settings: Augmentation, seed: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Apply MixUp or CutMix to a batch and its permutation: labels `(N,)`, or probabilities, become probabilities `(N, num_classes)`.

    `seed` is that of the batch. The given tensors are not changed.
    """
    targets = labels if labels.ndim == 2 else torch.nn.functional.one_hot(labels, num_classes).to(images.dtype)
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
