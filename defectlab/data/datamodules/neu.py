"""NEU-CLS: six surface defects of hot-rolled steel strip (Song & Yan 2013), 300 images a class."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from defectlab.data.datamodules.base import resized
from defectlab.data.datamodules.folder import ImageFolderDataModule
from defectlab.data.pipeline.augment import Augmentation
from defectlab.data.pipeline.fitting import camera_aspects
from defectlab.data.pipeline.splits import WHOLE
from defectlab.data.sources.backing import Backing
from defectlab.data.sources.fetch import NEU_URL, fetch_neu
from defectlab.data.sources.images import ImageSet
from defectlab.data.sources.label_table import LabelColumns
from defectlab.data.sources.layouts import NEU_ALIASES, NEU_CLASSES, Listing, list_labelled, list_neu, neu_class
from defectlab.data.sources.levels import Level
from defectlab.data.synthesis.strip import strip_images
from defectlab.errors import InputError, check_at_least
from defectlab.utils.image_format import Size

log = logging.getLogger(__name__)

DEFAULT_ROOT = "data/neu-cls"

# Arrays of these very names go about with number labels in this order, which nothing in them tells.
_KNOWN_FILES = {"NEU_train_imgs.npy", "NEU_train_labels.npy", "NEU_test_imgs.npy", "NEU_test_labels.npy"}
_KNOWN_ORDER = ("scratches", "rolled-in_scale", "pitted_surface", "patches", "inclusion", "crazing")


class NEUDataModule(ImageFolderDataModule):
    """NEU-CLS from files in any layout, from the network, or a synthetic stand-in of the same six classes.

    There is no official split: images are divided by class, `seed` and the sizes, unless the folders are
    named train, val and test.

    Args:
        root: folder, or .zip of one, with class folders, train/val/test folders, flat `crazing_1.jpg` or
            `Cr_1.bmp` files, the folders of NEU-DET, or .npy arrays. None looks in `data/neu-cls`.
        source: `real` takes files, downloading them if `root` is None and nothing is there; `synthetic`
            generates images; `auto` tries the first, then the second, and says so. A `root` that is given
            has to work.
        url: where a download comes from; every file is checked against the shipped SHA-256 list.
        synthetic_per_class: generated images per class.
        seed: of the split, the order, the augmentation and the generator.
        class_names: the six in the order that their labels get, and that an array's numbers from 0 mean; any name in use
            will do, such as Cr. None takes the alphabet; numbers then stay numbers, but for those of
            `NEU_train_labels.npy` and `NEU_test_labels.npy`, whose order is known.
        labels: `boxes` makes a multi-label set of the classes of each image's boxes, Pascal VOC's .xml files of NEU-DET in
            `root` or in a folder beside it that is named for annotations; else as in `ImageFolderDataModule`.

    The other arguments are those of `ImageFolderDataModule`.
    """

    def __init__(
        self,
        root: str | None = None,
        source: Literal["auto", "real", "synthetic"] = "auto",
        url: str = NEU_URL,
        synthetic_per_class: int = 300,
        image_size: Size = 200,
        channels: int = 1,
        batch_size: int = 32,
        eval_batch_size: int = 128,
        seed: int = 0,
        val_size: int | float = 0.15,
        test_size: int | float | None = None,
        split: str = "auto",
        on_bad_image: Literal["error", "skip"] = "error",
        group_duplicates: bool = False,
        augmentation: Augmentation | None = None,
        mean: Sequence[float] | float | None = None,
        std: Sequence[float] | float | None = None,
        class_names: Sequence[str] | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
        white_level: Level | None = None,
        black_level: Level | None = None,
        page: int | Literal["all"] = 0,
        labels: str | None = None,
        label_columns: LabelColumns | None = None,
        group_by: str | None = "auto",
        backing: Backing = "auto",
    ) -> None:
        self._takes_boxes = labels == "boxes"
        if self._takes_boxes:
            labels, label_columns = None, replace(label_columns or LabelColumns(), several="all")
        super().__init__(
            DEFAULT_ROOT if root is None else root, image_size, channels, batch_size, eval_batch_size, seed, val_size,
            test_size, split, on_bad_image, group_duplicates, augmentation, mean, std, _neu_names(class_names), transform,
            white_level, fit="stretch", black_level=black_level, page=page, labels=labels, label_columns=label_columns,
            group_by=group_by, backing=backing,
        )  # fmt: skip
        check_at_least("data.synthetic_per_class", synthetic_per_class, 1)
        self.requested_source = source
        self.url = url
        self.synthetic_per_class = synthetic_per_class
        self._stored_channels = 1  # as all three would be equal
        self._has_root = root is not None
        self._generated: bool | None = None
        self._warned = False

    @property
    def class_names(self) -> Sequence[str]:
        """Return the six classes in the order given, else of the alphabet; or an array's numbers if they are not named."""
        if self._given_names is not None:
            return self._given_names
        arrays = not self.generated and Path(self.root).expanduser().exists() and self._arrays is not None
        names = self._labels[0] if arrays else NEU_CLASSES
        return NEU_CLASSES if set(names) == set(NEU_CLASSES) else names

    @property
    def generated(self) -> bool:
        """Return whether images are generated, not read; it does not change once they are loaded."""
        if self._generated is not None:
            return self._generated
        if self.requested_source != "auto":
            return self.requested_source == "synthetic"
        return not self._has_root and not _has_content(Path(self.root))

    @property
    def source(self) -> str:
        """Return `real` if files are read, unless they say that they are generated, else `synthetic`."""
        exists = self._data is not None or Path(self.root).expanduser().exists()
        return "synthetic" if self.generated else super().source if exists else "real"

    @property
    def location(self) -> str:
        """Return the root, or the generator's settings."""
        return f"generator, {self.synthetic_per_class} a class, seed {self.seed}" if self.generated else self.root

    def prepare_data(self) -> None:
        """Download the files if they are asked for, none are there and no root was named.

        Raises:
            InputError: `source` is real and the download fails.
        """
        if self.requested_source == "synthetic" or self._has_root or _has_content(Path(self.root)):
            return
        failure = _download(Path(self.root).absolute(), self.url)
        if failure is not None and self.requested_source == "real":
            raise InputError(failure)
        if failure is not None and not self._warned:
            self._warned = True
            log.warning("NEU-CLS could not be downloaded (%s)", failure)

    def load(self) -> ImageSet:
        """Read the files, or generate images."""
        self._generated = self.generated  # files that appear later do not change it
        return self._generate() if self._generated else super().load()

    def _list(self) -> Listing:
        if self._takes_boxes:
            self._labels_path = _boxes_of(self._folder)
        if self._labels_path is not None:
            return super()._list()
        return list_labelled(self._folder, NEU_CLASSES) if self.split == WHOLE else list_neu(self._folder)

    @property
    def _numbered(self) -> Sequence[str] | None:
        known = self._given_names is None and self._arrays is not None and self._arrays.names <= _KNOWN_FILES
        return _KNOWN_ORDER if known else self._given_names

    @property
    def _aliases(self) -> Mapping[str, str] | None:
        return NEU_ALIASES

    def _generate(self) -> ImageSet:
        log.warning(
            "using the SYNTHETIC stand-in for NEU-CLS: its figures say nothing about real steel. For the "
            "real images give --data.root DIR, or run: defectlab data fetch"
        )
        count = self.synthetic_per_class
        images = torch.cat([strip_images(name, count, self.seed) for name in NEU_CLASSES])
        return ImageSet(
            images=resized(images, self.image_size), labels=torch.arange(len(NEU_CLASSES)).repeat_interleave(count), class_names=list(NEU_CLASSES),
            files=[f"{name}/{name}_{index + 1}.png" for name in NEU_CLASSES for index in range(count)],
            synthetic=len(images), aspects=camera_aspects(np.array([images.shape[2:]]), len(images), self.image_format),
        )  # fmt: skip


def _neu_names(names: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return NEU's own names for the six given."""
    if names is None:
        return None
    found = tuple(neu_class(name) or name for name in names)
    if sorted(found) != sorted(NEU_CLASSES):
        raise InputError(
            f"data.class_names is {', '.join(names)}: expected {', '.join(NEU_CLASSES)}, each once and in any order, or "
            "ImageFolderDataModule for other classes"
        )
    return found


def _boxes_of(root: Path) -> Path:
    """Return the folder of the boxes of the images in `root`."""
    beside = [path for path in sorted(root.resolve().parent.glob("*nnotation*")) if path.is_dir()]
    found = next((folder for folder in (root, *beside) if next(folder.rglob("*.[xX][mM][lL]"), None)), None)
    if found is None:
        raise InputError(
            f"data.labels is boxes, and there are no .xml files in {root}, nor in a folder of annotations beside it: put "
            "NEU-DET's there, or give their folder as data.labels and all as data.label_columns.several"
        )
    return found


def _has_content(root: Path) -> bool:
    return root.is_file() or (root.is_dir() and any(root.iterdir()))


@cache
def _download(target: Path, url: str) -> str | None:
    """Download NEU-CLS; return why that failed, or None. Cached, as a dead network takes long to time out."""
    try:
        fetch_neu(target, url)
    except InputError as error:
        return str(error)
    return None
