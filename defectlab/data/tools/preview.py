"""Preview an augmentation: each operation alone over its range, then all together."""

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from defectlab.data.datamodules.base import ImageDataModule
from defectlab.data.pipeline.augment import COLUMNS, MIXING, QUIET, Augmentation, augment, draw, mix
from defectlab.errors import InputError
from defectlab.figures.tiles import Tile, grey_or_colour, tile_grid
from defectlab.metrics.decisions import NO_CLASS, label_texts

STEPS = 6
_CLASSES = 6  # of which images are shown
_TOGETHER = 4  # rows of all operations together
_LABEL_WIDTH = 32  # letters in a line beside a row
# Usual strengths for surfaces, to show an operation that a config leaves off.
_TYPICAL: dict[str, float] = {
    "horizontal_flip": 0.5, "vertical_flip": 0.5, "rotation": 15, "translation": 0.1, "scale": 0.2, "shear": 10,
    "crop": 0.7, "brightness": 0.15, "contrast": 0.3, "noise": 0.08, "snr": 15, "illumination": 0.4,
    "blur": 2, "defocus": 3, "motion_blur": 8, "lowest_contrast": 0.1, "gamma": 0.8, "shot_snr": 15, "jpeg": 20,
    "erasing": 0.25, "mixup": 0.4, "cutmix": 1.0,
}  # fmt: skip


@dataclass(frozen=True)
class PreviewRow:
    """One row: `images` (n, C, H, W) in [0, 1], the original first, with captions; `detail` describes the range."""

    title: str
    detail: str
    images: Tensor
    captions: list[str]


def preview(data: ImageDataModule, everything: bool = False, title: str = "augmentation") -> Figure:
    """Draw the augmentation: a row per operation, then all together, then MixUp and CutMix.

    Args:
        data: whose augmentation and images are shown; it is set up if it is not.
        everything: show operations that are off too, at a usual strength.
        title: of the figure.

    Raises:
        InputError: nothing is switched on, or data that cannot be read.
    """
    data.prepare_data()
    data.setup("fit")
    settings = data.augmentation or Augmentation()
    if not settings.operations and not everything:
        raise InputError(
            "data.augmentation has nothing switched on: give --all to see every operation, or switch one on, such as "
            "--data.augmentation.rotation 15"
        )
    rows = []
    for row in _rows(data, settings, everything):
        pixels = row.images.mul(255).round().byte().numpy()
        tiles = [Tile(grey_or_colour(image), caption) for image, caption in zip(pixels, row.captions, strict=True)]
        rows.append(("\n".join([row.title, *textwrap.wrap(row.detail, _LABEL_WIDTH)]), tiles))
    return tile_grid(title, rows, tile=1.5, label=2.2)


_SWEEP = tuple(step / (STEPS - 1) for step in range(STEPS))


class _Operation(NamedTuple):
    """How the range of one argument of Augmentation is shown.

    Args:
        columns: of the draws, set to `steps`; the others stay at 0.5, where they do nothing.
        detail: text for the argument's value.
        caption: text for the argument's value and a uniform number.
        random: columns that are drawn at random, such as positions.
        steps: uniform numbers to show.
    """

    columns: tuple[str, ...]
    detail: Callable[[float], str]
    caption: Callable[[float, float], str]
    random: tuple[str, ...] = ()
    steps: tuple[float, ...] = _SWEEP


def _zoom(scale: float, u: float) -> float:
    return math.exp(math.log1p(scale) * (2 * u - 1))


def _decibels(lowest: float, number: float) -> str:
    return f"{lowest + (QUIET - lowest) * number:.0f} dB"


_OPERATIONS: dict[str, _Operation] = {
    "horizontal_flip": _Operation(
        ("flip_x",), lambda p: f"left and right exchanged with probability {p:g}", lambda p, u: "exchanged", steps=(0.0,)),
    "vertical_flip": _Operation(
        ("flip_y",), lambda p: f"top and bottom exchanged with probability {p:g}", lambda p, u: "exchanged", steps=(0.0,)),
    "rotation": _Operation(
        ("angle",), lambda d: f"-{d:g}° to +{d:g}°, the surface mirrored into the corners",
        lambda d, u: f"{d * (2 * u - 1):+.1f}°"),
    "translation": _Operation(
        ("shift_x", "shift_y"), lambda t: f"up to {t:.0%} of width and height, each drawn alone",
        lambda t, u: f"{t * abs(2 * u - 1):.1%} {'right, down' if u < 0.5 else 'left, up'}"),
    "scale": _Operation(
        ("zoom",), lambda s: f"×{_zoom(s, 0):.2f} to ×{_zoom(s, 1):.2f}", lambda s, u: f"×{_zoom(s, u):.2f}"),
    "shear": _Operation(("shear",), lambda d: f"-{d:g}° to +{d:g}°", lambda d, u: f"{d * (2 * u - 1):+.1f}°"),
    "crop": _Operation(
        ("side",), lambda c: f"a window of {c:.0%} to 100% of the sides, anywhere",
        lambda c, u: f"{c + (1 - c) * u:.0%} of the sides", ("crop_x", "crop_y"), _SWEEP[::-1]),
    "brightness": _Operation(
        ("brightness",), lambda b: f"-{b:g} to +{b:g}, added to pixels in [0, 1]", lambda b, u: f"{b * (2 * u - 1):+.2f}"),
    "contrast": _Operation(
        ("contrast",), lambda c: f"×{1 - c:g} to ×{1 + c:g} about the image's mean",
        lambda c, u: f"×{1 + c * (2 * u - 1):.2f}"),
    "noise": _Operation(
        ("noise",), lambda n: f"Gaussian, sd 0 to {n:g} of pixels in [0, 1]", lambda n, u: f"sd {n * u:.3f}", ("noise_seed",)),
    "snr": _Operation(
        ("noise",), lambda s: f"Gaussian noise, {QUIET:g} down to {s:g} dB", _decibels, ("noise_seed",), _SWEEP[::-1]),
    "illumination": _Operation(
        ("illumination",), lambda a: f"a ramp up to ×{1 + a:g} to ×{1 - a:g}, any direction",
        lambda a, u: f"×{1 + a * u:.2f} to ×{1 - a * u:.2f}", ("light_angle",)),
    "blur": _Operation(("blur",), lambda b: f"Gaussian, sd 0 to {b:g} px", lambda b, u: f"sd {b * u:.1f} px"),
    "defocus": _Operation(
        ("defocus",), lambda r: f"each point a disk, radius 0 to {r:g} px", lambda r, u: f"{r * u:.1f} px"),
    "motion_blur": _Operation(
        ("motion",), lambda m: f"0 to {m:g} px in any direction", lambda m, u: f"{m * u:.1f} px", ("motion_angle",)),
    "lowest_contrast": _Operation(
        ("lowest_contrast",), lambda c: f"×1 down to ×{c:g} about the image's mean", lambda c, u: f"×{c**u:.2f}"),
    "gamma": _Operation(
        ("gamma",), lambda g: f"pixels in [0, 1] to the power of {_zoom(g, 0):.2f} to {_zoom(g, 1):.2f}",
        lambda g, u: f"{_zoom(g, u):.2f}"),
    "shot_snr": _Operation(
        ("shot",), lambda s: f"shot noise, {QUIET:g} down to {s:g} dB", _decibels, ("noise_seed",), _SWEEP[::-1]),
    "jpeg": _Operation(
        ("jpeg",), lambda q: f"8×8 blocks as in JPEG, quality 100 down to {q:g}",
        lambda q, u: f"quality {100 - (100 - q) * u:.0f}"),
    "erasing": _Operation(
        ("area",), lambda p: f"2 to 20% of the area filled with the mean, with probability {p:g}",
        lambda p, u: f"{0.02 + 0.18 * u:.1%} of the area", ("ratio", "top", "left")),
}  # fmt: skip


def typical(name: str) -> Augmentation:
    """Return the settings of one operation at a usual strength, and nothing else."""
    value: Any = _TYPICAL[name]
    return replace(Augmentation(), **{name: value})


def operation_row(
    image: Tensor, name: str, settings: Augmentation, seed: int, note: str = "", aspect: Tensor | None = None
) -> PreviewRow:
    """Return the row of the argument `name` of `settings` alone, over its range; not of MixUp or CutMix.

    `image` is the original (C, H, W) in [0, 1], `seed` that of noise and positions, `aspect` (1,) as in `augment`; `note`
    is appended to the detail.
    """
    operation, value = _OPERATIONS[name], getattr(settings, name)
    alone = replace(Augmentation(interpolation=settings.interpolation), **{name: value})
    draws = torch.full((len(operation.steps), len(COLUMNS)), 0.5)
    draws[:, COLUMNS.index("erase")] = 0.0
    chance = draw(len(draws), (seed,))
    for column in operation.random:
        draws[:, COLUMNS.index(column)] = chance[:, COLUMNS.index(column)]
    for column in operation.columns:
        draws[:, COLUMNS.index(column)] = torch.tensor(operation.steps)
    made = augment(image.expand(len(draws), *image.shape), draws, alone, aspect)
    names = Augmentation.names()
    if settings.chance < 1 and name in names[names.index("snr") : names.index("jpeg") + 1]:
        note = f", in {settings.chance:.0%} of the images{note}"
    captions = [operation.caption(value, u) for u in operation.steps]
    return PreviewRow(name, operation.detail(value) + note, torch.cat((image[None], made)), ["original", *captions])


def training_row(
    image: Tensor, index: int, class_name: str, settings: Augmentation, seed: int, aspect: Tensor | None = None
) -> PreviewRow:
    """Return what training shows of image `index` of the data set in its first epochs, but for MixUp and CutMix."""
    draws = torch.stack([draw(index + 1, (seed, epoch))[index] for epoch in range(STEPS)])
    made = augment(image.expand(len(draws), *image.shape), draws, settings, aspect)
    captions = [f"epoch {epoch + 1}" for epoch in range(STEPS)]
    detail = f"{class_name}, as training shows it"
    return PreviewRow("all together", detail, torch.cat((image[None], made)), ["original", *captions])


def mixed_row(
    images: Tensor, class_names: Sequence[str], name: str, settings: Augmentation, seed: int, note: str = ""
) -> PreviewRow:
    """Return the row of MixUp or CutMix of the first image with others of its batch, one per batch, with soft labels.

    `images` (N, C, H, W) in [0, 1] are one of each class, at least 2; `name` is `mixup` or `cutmix`, `seed` that of weights,
    partners and positions; `note` is appended to the detail.
    """
    alone = replace(Augmentation(), **{name: getattr(settings, name)})
    labels = torch.arange(len(images))
    mixtures, captions = [images[0]], [f"original\n{class_names[0]}"]
    batch = 0
    while len(mixtures) <= STEPS:
        mixed, soft = mix(images, labels, len(images), alone, (seed, batch))
        batch += 1
        # A batch whose shuffle leaves the image with itself shows nothing.
        partner = int(soft[0, 1:].argmax()) + 1
        if soft[0, partner] > 0:
            mixtures.append(mixed[0])
            parts = ((float(soft[0, index]), class_names[index]) for index in (0, partner))
            captions.append(" +\n".join(f"{weight:.2f} {part}" for weight, part in parts))
    alpha = getattr(settings, name)
    title, what = {"mixup": ("MixUp", "two images blended"), "cutmix": ("CutMix", "a window of another image")}[name]
    detail = f"{what}, weights from Beta({alpha:g}, {alpha:g}), one per batch{note}"
    return PreviewRow(title, detail, torch.stack(mixtures), captions)


def _rows(data: ImageDataModule, settings: Augmentation, everything: bool) -> list[PreviewRow]:
    """Return a row per operation, the classes taking turns; then all together; then the mixtures."""
    indices = _one_a_class(data)
    images = data.data.images[indices].float() / 255
    known = data.data.aspects
    aspects = [None if known is None else known[index : index + 1] for index in indices]
    names = label_texts(data.data.labels.numpy()[indices], data.class_names, NO_CLASS)
    alone: list[PreviewRow] = []
    mixed: list[PreviewRow] = []
    for name in Augmentation.names() if everything else settings.operations:
        is_on = name in settings.operations
        used, note = (settings, "") if is_on else (typical(name), " (off in this config)")
        if name in MIXING:
            mixed.append(mixed_row(images, names, name, used, data.seed, note))
        else:
            turn = len(alone) % len(images)
            alone.append(operation_row(images[turn], name, used, data.seed, note, aspects[turn]))
    single = replace(settings, mixup=0.0, cutmix=0.0)
    together: list[PreviewRow] = []
    if single.operations:
        shown = list(zip(images, indices, names, aspects, strict=True))[:_TOGETHER]
        together = [training_row(image, index, name, single, data.seed, aspect) for image, index, name, aspect in shown]
    return [*alone, *together, *mixed]


def _one_a_class(data: ImageDataModule) -> list[int]:
    """Return the first training image of each of the first classes."""
    train = data.parts.train
    labels = data.strata("train")
    present = np.unique(labels)[:_CLASSES]
    return [int(train[np.flatnonzero(labels == label)[0]]) for label in present]
