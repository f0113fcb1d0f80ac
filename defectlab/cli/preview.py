"""`defectlab data preview` and `defectlab data augment`: what an augmentation makes, as one image or as files."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from defectlab.data import Augmentation, ImageDataModule
from defectlab.data.pipeline.augment import MIXING
from defectlab.data.tools.offline import write_augmented
from defectlab.data.tools.preview import LABEL_WIDTH, PreviewRow, preview_rows
from defectlab.engine.experiment import without_run
from defectlab.engine.warnings import quieten
from defectlab.errors import InputError
from defectlab.figures.style import save_png
from defectlab.figures.tiles import Tile, grey_or_colour, tile_grid
from defectlab.utils.text import shown_path

__all__ = ["augment", "preview"]


def preview(config: str, more: Sequence[str], everything: bool, output: Path) -> int:
    """Write the image of a config's augmentation."""
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
    rows = preview_rows(data, settings, everything)
    figure = tile_grid(f"augmentation of {Path(config).name}", [_tiles(row) for row in rows], tile=1.5, label=2.2)
    save_png(figure, output, data.source == "synthetic")
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
    note = ", of SYNTHETIC images" if data.source == "synthetic" else ""
    print(
        f"train        {counts['train']:,} files{note}: {copies} cop{'y' if copies == 1 else 'ies'} of each of "
        f"{len(data.parts.train):,} training images"
        f"{' and the pictures themselves' if originals else ', without the pictures themselves'}\n"
        f"val, test    {counts['val']:,} and {counts['test']:,} files, the images as they are: nothing of them is in train\n"
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


def _tiles(row: PreviewRow) -> tuple[str, list[Tile]]:
    pixels = row.images.mul(255).round().byte().numpy()
    tiles = [Tile(grey_or_colour(image), caption) for image, caption in zip(pixels, row.captions, strict=True)]
    return "\n".join([row.title, *textwrap.wrap(row.detail, LABEL_WIDTH)]), tiles
