"""`defectlab data preview` and `defectlab data augment`: what an augmentation makes, as one picture or as files."""

import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from defectlab.cli.console import quieten, shown_path
from defectlab.data import Augmentation, ImageDataModule
from defectlab.data.pipeline.augment import MIXING
from defectlab.data.tools.offline import write_augmented
from defectlab.data.tools.preview import PreviewRow, mixed_row, operation_row, training_row, typical
from defectlab.engine.experiment import without_run
from defectlab.errors import InputError
from defectlab.figures.runs import SYNTHETIC_NOTE, save_png
from defectlab.figures.tiles import Tile, grey_or_colour, tile_grid

__all__ = ["augment", "preview"]

_CLASSES = 6  # of which pictures are shown
_TOGETHER = 4  # rows of all operations together
_LABEL = 32  # letters in a line beside a row


def preview(config: str, more: Sequence[str], everything: bool, output: Path) -> int:
    """Write the picture of a config's augmentation."""
    quieten()
    if output.suffix != ".png" or output.is_dir():
        raise InputError(f"--output is {output}: expected the name of a .png file")
    data = _ready(config, more)
    settings = data.augmentation or Augmentation()
    if not settings.operations and not everything:
        raise InputError(
            f"the augmentation of {config} has nothing switched on: give --all to see every operation, or switch one on, "
            "such as --data.augmentation.rotation 15"
        )
    rows = _rows(data, settings, everything)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure = tile_grid(f"augmentation of {Path(config).name}", [_tiles(row) for row in rows], tile=1.5, label=2.2)
    save_png(figure, output, SYNTHETIC_NOTE if data.source == "synthetic" else None)
    print(
        f"on in this config: {', '.join(settings.operations) or 'nothing'}\nwritten to   {shown_path(output.resolve())}"
    )
    return 0


def augment(config: str, more: Sequence[str], output: Path, copies: int, originals: bool) -> int:
    """Write a data set with augmented copies of its training part."""
    quieten()
    data = _ready(config, more)
    counts = write_augmented(data, output, copies, originals)
    settings = data.augmentation or Augmentation()
    mixing = [name for name in settings.operations if name in MIXING]
    if mixing:
        print(f"left out     {' and '.join(mixing)}: a folder cannot hold labels that are shares")
    note = ", of SYNTHETIC pictures" if data.source == "synthetic" else ""
    print(
        f"train        {counts['train']:,} files{note}: {copies} cop{'y' if copies == 1 else 'ies'} of each of "
        f"{len(data.parts.train):,} training pictures"
        f"{' and the pictures themselves' if originals else ', without the pictures themselves'}\n"
        f"val, test    {counts['val']:,} and {counts['test']:,} files, the pictures as they are: nothing of them is in train\n"
        f"written to   {shown_path(output.resolve())}; to train on it without augmenting it again:\n"
        f"             defectlab fit --config folder_mobilenet.yaml --data.root {output} --data.image_size {data.image_size} "
        f"--data.channels {data.channels} --data.augmentation null"
    )
    return 0


def _ready(config: str, more: Sequence[str]) -> ImageDataModule:
    with without_run(config, more, read_weights=False) as cli:
        data: ImageDataModule = cli.datamodule
        data.prepare_data()
        data.setup("fit")
    return data


def _rows(data: ImageDataModule, settings: Augmentation, everything: bool) -> list[PreviewRow]:
    """A row an operation, the classes taking turns; then all together; then the mixtures."""
    places = _one_a_class(data)
    images, names = _pixels(data, places), [data.class_names[int(data.data.labels[place])] for place in places]
    alone: list[PreviewRow] = []
    mixed: list[PreviewRow] = []
    for name in Augmentation.names() if everything else settings.operations:
        is_on = name in settings.operations
        used, note = (settings, "") if is_on else (typical(name), " (off in this config)")
        if name in MIXING:
            mixed.append(mixed_row(images, names, name, used, data.seed, note))
        else:
            alone.append(operation_row(images[len(alone) % len(images)], name, used, data.seed, note))
    single = replace(settings, mixup=0.0, cutmix=0.0)
    together: list[PreviewRow] = []
    if single.operations:
        shown = list(zip(images, places, names, strict=True))[:_TOGETHER]
        together = [training_row(image, place, name, single, data.seed) for image, place, name in shown]
    return [*alone, *together, *mixed]


def _tiles(row: PreviewRow) -> tuple[str, list[Tile]]:
    pixels = row.images.mul(255).round().byte().numpy()
    tiles = [Tile(grey_or_colour(image), caption) for image, caption in zip(pixels, row.captions, strict=True)]
    return "\n".join([row.title, *textwrap.wrap(row.detail, _LABEL)]), tiles


def _one_a_class(data: ImageDataModule) -> list[int]:
    """The first training picture of each of the first classes."""
    train = data.parts.train
    labels = data.data.labels.numpy()[train]
    present = np.unique(labels)[:_CLASSES]
    return [int(train[np.flatnonzero(labels == label)[0]]) for label in present]


def _pixels(data: ImageDataModule, places: Sequence[int]) -> Tensor:
    """(n, C, S, S) in [0, 1]."""
    images: Tensor = data.data.images[list(places)].float() / 255
    return images
