"""Images in one folder per class."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from defectlab.data.datamodules.base import ImageDataModule, check_class_names
from defectlab.data.pipeline import fitting
from defectlab.data.pipeline.augment import Augmentation
from defectlab.data.pipeline.loader import Sampling
from defectlab.data.pipeline.split_table import SplitTable
from defectlab.data.pipeline.splits import WHOLE
from defectlab.data.sources.archive import open_root
from defectlab.data.sources.array_labels import read_labels
from defectlab.data.sources.arrays import ArrayFiles, array_shapes, find_arrays, load_arrays
from defectlab.data.sources.backing import Backing, check_backing
from defectlab.data.sources.depth import LevelRule
from defectlab.data.sources.files import is_address
from defectlab.data.sources.images import ImageSet, read_listing
from defectlab.data.sources.label_table import LabelColumns, find_labels, list_labels
from defectlab.data.sources.layouts import Listing, is_single, list_folders, list_labelled, list_several
from defectlab.data.sources.levels import Level
from defectlab.data.sources.opening import expand_pages, file_shapes, peek
from defectlab.data.sources.remote import mirror
from defectlab.data.sources.skipped import check_on_bad_image
from defectlab.data.sources.tables import is_label_file
from defectlab.errors import InputError
from defectlab.utils.image_format import Alpha, ImageFormat, Size, Tiles

log = logging.getLogger(__name__)

_SAMPLE = 1000  # files that tell what a set is like


class ImageFolderDataModule(ImageDataModule):
    """Class folders, or train/val/test folders of class folders, a table of labels, .npy arrays, or a .zip of any of them.

    Args:
        root: folder, .zip or .tar, several folders or a glob pattern, a folder of WebDataset's shards, an address that fsspec
            reads, such as s3://bucket/folder, which is mirrored into the cache, or the table of labels itself. A table, COCO's or Pascal
            VOC's files in a folder that has no class folders are found. With `split` of `test` and `class_names` an
            image's class is the nearest folder above it that is named like one, of which some may be absent.
        image_size: side in pixels of a square, or [height, width]; `auto` looks at the shapes of the set: squares are
            brought to 128, others keep their pixels up to the size of 256 × 1600.
        on_bad_image: `error` stops at a file that cannot be read, `skip` leaves it out and lists it.
        class_names: names of the classes, in the order that their labels get: of an array's numbers from 0, or the class
            folders' names. None takes the folders in natural order, and calls numbers by themselves.
        backing: where pixels live: `memory`; `mapped`, a file under `~/.cache/defectlab` whose pages processes share;
            `streamed`, decoded anew for every batch, while the step runs. `auto` takes the first that has room, memory up
            to 4 GiB and half of what is free; what it takes, it says.
        white_level: what is white: a number such as 4095, `file` for the most that the format can hold (65535; 1 for floats), or
            `auto` for the usual range of the training images. None leaves 8 bits as they are, and takes what the camera's 10,
            12, 14 or 16 bits hold, or `auto` where less than half of that is used.
        labels: a file of labels in place of class folders: .csv, .parquet, COCO's .json, or a folder of COCO's or Pascal VOC's
            files; there, or below `root`.
        label_columns: what the columns of such a table are.
        fit: `stretch` brings every image to image_size; `pad` keeps its aspect ratio and mirrors the border; `crop` keeps
            it and cuts off what sticks out; `tiles` is `pad` for a network that looks at parts, a number as image_size is
            then the shorter side. `auto` stretches a set of small squares and takes tiles of the rest, image_size
            being the shorter side.
        scale: by which `pad` and `tiles` resize every image; None takes what makes the usual one as large as image_size.
        pad_value: grey level, from 0 to 255, of the border of `pad` and `tiles`; None mirrors the image.
        tiles: size and overlap of the tiles in pixels of the resized image; None takes 64 and 32.
        black_level: what is black; None is 0, or `auto` where white is measured and values are negative or all bright.
        page: which image of a file that holds several, from 0; `all` takes each as an image, `a.tif[2]`.
        alpha: transparency is put on black (`compose`), left out (`ignore`), or the last of 2 or 4 channels (`channel`).

    The other arguments are those of `ImageDataModule`.
    """

    def __init__(
        self,
        root: str | Sequence[str],
        image_size: Size | Literal["auto"] = "auto",
        channels: int = 3,
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
        fit: fitting.FitChoice = "auto",
        scale: float | None = None,
        pad_value: int | None = None,
        tiles: Tiles | None = None,
        black_level: Level | None = None,
        page: int | Literal["all"] = 0,
        alpha: Alpha = "compose",
        labels: str | None = None,
        label_columns: LabelColumns | None = None,
        group_by: str | None = "auto",
        backing: Backing = "auto",
        sampling: Sampling = "shuffled",
    ) -> None:
        super().__init__(
            image_size=1 if image_size == "auto" else image_size, channels=channels, batch_size=batch_size, eval_batch_size=eval_batch_size,
            seed=seed, val_size=val_size, test_size=test_size, split=split, group_duplicates=group_duplicates,
            augmentation=augmentation, mean=mean, std=std, transform=transform, group_by=group_by,
            sampling=sampling,
        )  # fmt: skip
        check_on_bad_image(on_bad_image)
        check_backing(backing)
        self.backing: Backing = backing
        self.root = root if isinstance(root, str) else ", ".join(root)
        self.on_bad_image: Literal["error", "skip"] = on_bad_image
        given = {"white_level": white_level, "black_level": black_level}
        self._numbers: dict[str, Any] = {k: level for k, level in given.items() if level not in (None, "file", "auto")}
        self._wanted = ImageFormat(image_size=self._size, channels=channels, page=page, alpha=alpha)
        replace(self._wanted, **self._numbers)  # it refuses what is none
        self._rule = LevelRule(white_level, black_level, self._training_rows)
        self._root = root
        if labels is None and isinstance(root, str) and is_label_file(Path(root)):
            labels, self.root = root, str(Path(root).parent)
        self._labels_path = None if labels is None else Path(labels).expanduser()
        self.label_columns = label_columns
        self._given_names = check_class_names(class_names)
        self._stored_channels = channels
        fitting.check_fit(fit, scale, pad_value, tiles)
        self.scale, self.pad_value = scale, pad_value
        self._asked: tuple[Size | Literal["auto"], fitting.FitChoice, Tiles | None] = (
            "auto" if image_size == "auto" else self._size, fit, tiles,
        )  # fmt: skip

    @property
    def class_names(self) -> Sequence[str]:
        """Return the names given, else those of the class folders in natural order."""
        if self._given_names is not None:
            return self._given_names
        return self._listing.class_names if self._arrays is None else self._labels[0]

    @cached_property
    def _fitting(self) -> fitting.Fitting:
        """Return what `auto` comes to; it reads the headers of some images."""
        size, fit, tiles = self._asked
        wanted = self._wanted
        if fit in ("pad", "tiles"):
            wanted = replace(wanted, fit="pad", scale=self.scale, pad_value=self.pad_value)
        if size == "auto" or fit not in ("stretch", "crop"):
            return fitting.choose_fitting(self._shapes, size, fit, wanted, tiles)
        return fitting.Fitting(replace(wanted, fit=fit), None, "")

    @property
    def image_format(self) -> ImageFormat:
        """Return how an image becomes pixels, as far as that is known before any is read."""
        return self._fitting.image_format

    @property
    def multilabel(self) -> bool:
        """Return whether `label_columns.several` is `all`."""
        return self.label_columns is not None and self.label_columns.several == "all"

    @property
    def fit(self) -> fitting.FitChoice:
        """Return how images are fitted; never `auto`."""
        return self.image_format.fit if self.tiles is None else "tiles"

    @property
    def tiles(self) -> Tiles | None:
        """Return the tiles that a network is to divide the images into, None where it looks at whole images."""
        return self._fitting.tiles

    def drop_tiles(self, task: str) -> None:
        """Give whole images where `auto` chose tiles, as `task` takes none; InputError if they were asked for."""
        if "tiles" in self._asked or self._asked[2] is not None:
            raise InputError(f"data.fit is tiles, and {task} has no use for tiles: expected pad, or a PretrainedTask")
        self._fitting = self._fitting._replace(tiles=None)

    @cached_property
    def _shapes(self) -> fitting.Shapes:
        """Return heights and widths of the images, or of a sample of them."""
        if self._arrays is None:
            files = self._listing.files
            shapes = file_shapes(files[:: max(1, -(-len(files) // _SAMPLE))])
            return shapes[shapes.all(axis=1)]
        return array_shapes(self._arrays, self.channels)

    @property
    def location(self) -> str:
        """Return the root as given."""
        return self.root

    @property
    def source(self) -> str:
        """Return `synthetic` if any image says that it is generated; before they are read, if the first does."""
        if self._data is not None:
            synthetic = self._data.synthetic > 0
        else:
            synthetic = self._arrays is None and peek(self._listing.files[0]).generated
        return "synthetic" if synthetic else "real"

    @property
    def generated(self) -> bool:
        """Return whether the images come from a generator, not from files."""
        return False

    def keep_split(self, table: SplitTable) -> None:
        """Divide the images as `table` does, see `ImageDataModule`; images that it does not have are not read."""
        super().keep_split(table)
        self.__dict__.pop("_listing", None)

    def load(self) -> ImageSet:
        """Read every image."""
        wanted = replace(self.image_format, channels=self._stored_channels)
        rule = self._rule if self._trained is None else None
        if self._trained is not None:  # numbers that are given come before those of the checkpoint
            wanted = replace(wanted, **{**self._trained, **self._numbers})
        if self._arrays is not None:
            known, names = self._labels
            if self.backing not in ("auto", "memory"):
                raise InputError(
                    f"data.backing is {self.backing}, and {self.location} holds arrays, which are read as a whole: give "
                    "auto or memory, or store the images as files"
                )
            shapes = np.repeat(self._shapes, [len(part) for part in names.values()], axis=0)
            data = load_arrays(self._arrays, names, known, wanted, rule)
            return replace(data, aspects=fitting.camera_aspects(shapes, len(shapes), wanted))
        complete = self.split != WHOLE
        data = read_listing(
            self._listing, wanted, self.on_bad_image, complete=complete, rule=rule, backing=self.backing
        )
        if data.synthetic:
            log.warning(
                "%s: %d of %d images are SYNTHETIC: figures say nothing about real ones",
                self.location, data.synthetic, len(data.files),
            )  # fmt: skip
        shapes = self._shapes
        if wanted.fit == "stretch" and len(np.unique(shapes[:, 1] / shapes[:, 0])) > 1:
            shapes = file_shapes([self._listing.root / name for name in data.files])
        return replace(data, aspects=fitting.camera_aspects(shapes, len(data.files), wanted))

    def prepare_data(self) -> None:
        """Tell what `auto` came to, or what a stretch does to the images."""
        size, fit, _ = self._asked
        if self._data is not None:
            return
        if size == "auto" or (fit == "auto" and self.fit != "stretch"):
            log.info("%s: %s (data.image_size, data.fit)", self.location, self._fitting.text)
        elif fit == "stretch" and (warning := fitting.stretch_warning(self._shapes, self.image_size)):
            log.warning("%s: %s", self.location, warning)

    @cached_property
    def _folder(self) -> Path:
        return open_root(mirror(self.root) if is_address(self.root) else Path(self.root).expanduser())

    @cached_property
    def _listing(self) -> Listing:
        found = self._listed
        if self._kept is None:
            return found
        return found.select(self._known(found.names, found.splits), self._given_names or ())

    @cached_property
    def _listed(self) -> Listing:
        found = self._list()
        if self._wanted.page != "all":
            return found
        pages = expand_pages(found.files)
        every = replace(found.select([i for i, _ in pages], found.class_names), files=[path for _, path in pages])
        if every.records.groups is None and len(pages) > len(found.files):  # pages of one file stay on one side
            names = found.names
            every.records = replace(every.records, groups=np.array([names[i] for i, _ in pages]))
        return every

    def _list(self) -> Listing:
        """List the files and their classes."""
        path = self._labels_path
        if not is_single(self._root):
            return list_several(self._root)
        try:
            if path is None and self.split == WHOLE and self._given_names is not None:
                return list_labelled(self._folder, self._given_names)
            if path is None:
                listing = list_folders(self._folder, keep_split=self.split == "auto")
                if found := find_labels(self._folder):
                    log.warning("the labels in %s are not read, as there are class folders: see data.labels", found)
                return listing
        except InputError:
            if (path := find_labels(self._folder)) is None:
                raise
            log.info("%s has no class folders: labels are read from %s (data.labels)", self.root, path)
        skips = self.on_bad_image == "skip"
        named = self._given_names, self._aliases
        return list_labels(path, self._folder, self.label_columns, *named, self.split, skips)

    @cached_property
    def _arrays(self) -> ArrayFiles | None:
        if self._labels_path is not None or not is_single(self._root):
            return None
        return find_arrays(self._folder, to_train=self.split != WHOLE)

    @cached_property
    def _labels(self) -> tuple[list[str], dict[str, list[str]]]:
        """Return the classes of the arrays, and those of their rows by part."""
        assert self._arrays is not None
        return read_labels(self._arrays, self._numbered, self._aliases, complete=self.split != WHOLE)

    @property
    def _numbered(self) -> Sequence[str] | None:
        """Return the classes that an array's numbers from 0 mean, where that is known."""
        return self._given_names

    @property
    def _aliases(self) -> Mapping[str, str] | None:
        """Return the classes that other texts in arrays stand for."""
        return None
