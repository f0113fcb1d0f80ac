"""Write a data set with augmented copies of its training images as files."""

import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from defectlab.data.datamodules.base import ImageDataModule
from defectlab.data.pipeline.augment import Augmentation, augment, draw
from defectlab.data.sources.decode import save_image
from defectlab.data.sources.files import SUFFIXES, new_folder, safe_name, safe_names
from defectlab.errors import InputError, check_at_least
from defectlab.utils.progress import progress_bar, progress_bars

NOTE = "augmentation.json"
_BLOCK = 128  # images in memory at a time, as floats


def augment_to_folder(
    data: ImageDataModule,
    output: str | PathLike[str],
    copies: int = 5,
    originals: bool = True,
    progress: bool = False,
) -> dict[str, int]:
    """Write a data set as `output/<train|val|test>/<class>/<file>.png`, the training part with augmented copies.

    Copy k, `<file>_aug<k>.png`, is the image that training uses in epoch k, rounded to 8 bits, without MixUp and CutMix,
    whose labels are probabilities. ImageFolderDataModule reads the folder and keeps the split. `augmentation.json`
    holds the settings. The folder is written as a whole or not at all.

    Args:
        data: it is set up if it is not.
        output: a new or empty folder.
        copies: of each training image, at least 1.
        originals: write the training images themselves, too.
        progress: draw a bar for work of more than a second.

    Returns:
        The number of files of each part.

    Raises:
        InputError: a folder that is not empty or cannot be written, copies below 1, or no augmentation.
    """
    with progress_bars(progress):
        data.prepare_data()
        data.setup("fit")
    settings = replace(data.augmentation or Augmentation(), mixup=0.0, cutmix=0.0)
    if not settings.operations:
        raise InputError(
            "data.augmentation has nothing that changes a single image: switch something on, such as "
            "--data.augmentation.rotation 15"
        )
    check_at_least("copies", copies, 1)
    names = _names(data)
    parts: tuple[Literal["train", "val", "test"], ...] = ("train", "val", "test")
    indices = {part: torch.from_numpy(getattr(data.parts, part)) for part in parts}
    counts: dict[str, int] = {part: len(indices[part]) for part in parts}
    counts["train"] *= copies + originals
    with (
        new_folder(Path(output)) as folder,
        progress_bar("writing images", sum(counts.values()), shown=progress) as advance,
    ):
        for part in parts if originals else parts[1:]:
            _write(data, indices[part], [folder / part / f"{name}.png" for name in names], None, advance)
        for copy in range(copies):
            draws = draw(len(names), (data.seed, copy))
            paths = [folder / "train" / f"{name}_aug{copy + 1}.png" for name in names]
            _write(data, indices["train"], paths, (settings, draws), advance)
        told = {
            "source": data.source, "from": str(data.location), "seed": data.seed, "copies": copies, "originals": originals,
            "files": counts, "augmentation": asdict(settings), "split_hash": data.describe()["split_hash"],
        }  # fmt: skip
        (folder / NOTE).write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return counts


def _write(
    data: ImageDataModule,
    indices: Tensor,
    paths: Sequence[Path],
    change: tuple[Augmentation, Tensor] | None,
    advance: Callable[[int], None],
) -> None:
    """Write the images of `indices`; `paths`, and the draws of `change`, have one row for every image of the set."""
    for folder in {paths[index].parent for index in indices.tolist()}:
        folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as pool:
        for block in torch.split(indices, _BLOCK):
            images = data.data.images.index_select(0, block)
            if change is not None:
                settings, draws = change
                aspects = None if data.data.aspects is None else data.data.aspects[block]
                images = augment(images.float().div_(255), draws[block], settings, aspects)
                images = images.mul(255).round_().to(torch.uint8)
            places = [paths[index] for index in block.tolist()]
            list(pool.map(partial(save_image, synthetic=data.source == "synthetic"), images.numpy(), places))
            advance(len(block))


def _names(data: ImageDataModule) -> list[str]:
    """Return a unique `<class>/<file>` for every image, none equal to the copy of another."""
    if data.multilabel:
        raise InputError(
            "images of several classes do not fit into one folder a class: augment them while they are trained on, by "
            "data.augmentation"
        )
    folders = safe_names(data.class_names)
    used: set[str] = set()
    names = []
    for index, (file, label) in enumerate(zip(data.data.files, data.data.labels.tolist(), strict=True)):
        path = Path(file)
        stem = str(path.with_suffix("")) if path.suffix.lower() in SUFFIXES else file
        parts = [part for part in Path(stem).parts if part not in (folders[label], data.class_names[label])]
        safe = re.sub(r"[^\w.+-]+", "_", "_".join(parts)).strip("_.") or "image"
        safe = re.sub(r"(_aug[0-9]+)$", r"\1_", safe_name(safe))
        name = f"{folders[label]}/{safe}"
        while name.lower() in used:  # on disks that do not tell case
            name = f"{name}_{index}"
        used.add(name.lower())
        names.append(name)
    return names
