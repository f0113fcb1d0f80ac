"""Images a second that reach the network: defectlab's loader beside torchvision's usual one.

Both sides do the same things to the same images, with the same amounts: decode, resize, flip both ways,
rotate, shift, zoom, change brightness and contrast, turn into float, normalise, and hand over batches of one
shape. With three channels the images are RGB, as ImageFolder gives them; with one, its side turns them grey
first. defectlab decodes once, before the first epoch: that time is in its remark. The usual program decodes
in every epoch.
"""

import functools
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import torch
from measure import Measurement, Side, load, take_turns
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from defectlab.data import Augmentation, NEUDataModule
from defectlab.data.sources.layouts import NEU_CLASSES
from defectlab.utils.cpu import CPUSettings

__all__ = ["measure_input"]

# What people usually switch on for such images.
AUGMENTATION = Augmentation(
    horizontal_flip=0.5,
    vertical_flip=0.5,
    rotation=15,
    translation=0.1,
    scale=0.15,
    brightness=0.1,
    contrast=0.2,
)
BATCH_SIZE = 32
BAR = 5.0
AT_LEAST = 2.0  # seconds a turn: an epoch of the fast side is over before the processor has woken up


def measure_input(
    root: Path, what: str, image_size: int, channels: Literal[1, 3], repeats: int, threads: int
) -> Measurement:
    """Whole epochs over the training images of `root`, after a first turn of each that is not counted."""
    CPUSettings(threads=threads).apply()
    before = load()
    began = time.perf_counter()
    data = NEUDataModule(
        root=str(root),
        source="real",
        image_size=image_size,
        channels=channels,
        batch_size=BATCH_SIZE,
        val_size=len(NEU_CLASSES),  # as few as may be
        augmentation=AUGMENTATION,
    )
    data.setup()
    read_seconds = time.perf_counter() - began
    folder = ImageFolder(str(root / "train"), _transforms(image_size, channels, data.card.mean, data.card.std))

    loaders: dict[str, Iterable[tuple[torch.Tensor, torch.Tensor]]] = {"defectlab": data.train_dataloader()}
    for workers in (0, 2):
        loaders[f"ImageFolder, {workers} workers"] = DataLoader(
            folder, BATCH_SIZE, shuffle=True, num_workers=workers, persistent_workers=workers > 0
        )
    for loader in loaders.values():
        _images_a_second(loader)
    runs = {name: functools.partial(_images_a_second, loader) for name, loader in loaders.items()}
    values = take_turns(runs, repeats)
    ours, *others = (Side(name, f"batch {BATCH_SIZE}", values[name]) for name in loaders)
    ours.settings += f", {threads} threads, one uint8 tensor in memory"
    ours.remarks = [f"all images were read once before, in {read_seconds:.2f} s"]
    for side in others:
        side.settings += ", PIL, torchvision.transforms" + ("" if " 0 " in side.name else ", persistent")
    return Measurement(
        f"Input path, {image_size} px, {channels} channel{'s' * (channels > 1)}, {what}", "images/s", ours, others, "ours / theirs", BAR, "at least",
        [before, load()],
    )  # fmt: skip


def _transforms(image_size: int, channels: int, mean: Sequence[float], std: Sequence[float]) -> transforms.Compose:
    a = AUGMENTATION
    return transforms.Compose(
        [
            *([transforms.Grayscale()] if channels == 1 else []),
            transforms.Resize((image_size, image_size)),
            transforms.RandomHorizontalFlip(a.horizontal_flip),
            transforms.RandomVerticalFlip(a.vertical_flip),
            transforms.RandomAffine(
                a.rotation, (a.translation, a.translation), (1 / (1 + a.scale), 1 + a.scale),
                interpolation=transforms.InterpolationMode.BILINEAR,
            ),
            transforms.ColorJitter(brightness=a.brightness, contrast=a.contrast),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )  # fmt: skip


def _images_a_second(loader: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Over as many whole epochs as it takes."""
    count = 0
    began = time.perf_counter()
    while (seconds := time.perf_counter() - began) < AT_LEAST:
        for images, _ in loader:
            count += len(images)
    return count / seconds
