"""Images in one folder per class."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from defectlab.data.datamodules.base import ImageDataModule, check_class_names
from defectlab.data.pipeline.augment import Augmentation
from defectlab.data.pipeline.fitting import (
    FitChoice,
    Fitting,
    camera_aspects,
    check_fit,
    choose_fitting,
    stretch_warning,
)
from defectlab.data.pipeline.split_table import SplitTable
from defectlab.data.pipeline.splits import WHOLE
from defectlab.data.sources.archive import open_root
from defectlab.data.sources.array_labels import read_labels
from defectlab.data.sources.arrays import ArrayFiles, array_shapes, find_arrays, load_arrays
from defectlab.data.sources.decode import peek
from defectlab.data.sources.images import ImageSet, read_listing
from defectlab.data.sources.layouts import Listing, list_folders, list_labelled, list_table
from defectlab.data.sources.reading import check_on_bad_image
from defectlab.data.sources.shapes import Shapes, file_shapes, sample_shapes
from defectlab.errors import InputError
from defectlab.utils.image_format import ImageFormat, Size, Tiles

log = logging.getLogger(__name__)


class ImageFolderDataModule(ImageDataModule):
    """Class folders, or train/val/test folders of class folders, or .npy arrays, or a .zip of any of them.

    A set that would need more than 4 GiB as pixels lives in a memory-mapped file under `~/.cache/defectlab`.

    Args:
        root: folder or .zip; with `split` of `test` and `class_names` also a .csv table with the columns file and label, and
            an image's class is the nearest folder above it that is named like one, of which some may be absent.
        image_size: side in pixels of a square, or [height, width]; `auto` looks at the shapes of the set: squares are
            brought to 128, others keep their pixels up to the size of 256 × 1600.
        on_bad_image: `error` stops at a file that cannot be read, `skip` leaves it out and lists it.
        class_names: names of the classes, in the order that their labels get: of an array's numbers from 0, or the class
            folders' names. None takes the folders in natural order, and calls numbers by themselves.
        white_level: what is white in images of more than 8 bits, such as 4095; None takes what the brightest image needs.
        fit: `stretch` brings every image to image_size; `pad` keeps its aspect ratio and mirrors the border; `crop` keeps
            it and cuts off what sticks out; `tiles` is `pad` for a network that looks at parts, a number as image_size is
            then the shorter side. `auto` stretches a set of squares, takes tiles for strips and pads the rest, image_size
            being the shorter side.
        scale: by which `pad` and `tiles` resize every image; None takes what makes the usual one as large as image_size.
        pad_value: grey level, from 0 to 255, of the border of `pad` and `tiles`; None mirrors the image.
        tiles: size and overlap of the tiles in pixels of the resized image; None takes the shorter side of strips.

    The other arguments are those of `ImageDataModule`.
    """

    def __init__(
        self,
        root: str,
        image_size: Size | Literal["auto"] = "auto",
        channels: Literal[1, 3] = 3,
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
        white_level: float | None = None,
        fit: FitChoice = "auto",
        scale: float | None = None,
        pad_value: int | None = None,
        tiles: Tiles | None = None,
    ) -> None:
        super().__init__(
            image_size=1 if image_size == "auto" else image_size, channels=channels, batch_size=batch_size, eval_batch_size=eval_batch_size,
            seed=seed, val_size=val_size, test_size=test_size, split=split, group_duplicates=group_duplicates,
            augmentation=augmentation, mean=mean, std=std, transform=transform,
        )  # fmt: skip
        check_on_bad_image(on_bad_image)
        self.root = root
        self.on_bad_image: Literal["error", "skip"] = on_bad_image
        self.white_level = white_level
        self._given_names = check_class_names(class_names)
        self._stored_channels = channels
        check_fit(fit, scale, pad_value, tiles)
        self._asked = Fitting(image_size=self._size, fit=fit, scale=scale, pad_value=pad_value, tiles=tiles)
        self._asked_size: Size | Literal["auto"] = image_size if image_size == "auto" else self._size

    @property
    def class_names(self) -> Sequence[str]:
        """Return the names given, else those of the class folders in natural order."""
        if self._given_names is not None:
            return self._given_names
        return self._listing.class_names if self._arrays is None else self._labels[0]

    @cached_property
    def fitting(self) -> Fitting:
        """Return what `auto` comes to; it reads the headers of some images."""
        if self._asked.fit != "auto" and self._asked_size != "auto" and self._asked.fit in ("stretch", "crop"):
            return self._asked
        return choose_fitting(self._shapes, self._asked, self._asked_size)

    @cached_property
    def image_format(self) -> ImageFormat:
        """Return how an image becomes pixels, as far as that is known before any is read."""
        return self.fitting.image_format(self.channels)

    @property
    def fit(self) -> FitChoice:
        """Return how images are fitted; never `auto`."""
        return self.fitting.fit

    @property
    def scale(self) -> float | None:
        """Return by what every image is resized before it is padded."""
        return self.fitting.scale

    @property
    def pad_value(self) -> int | None:
        """Return the grey level of borders, None where they are mirrored."""
        return self.fitting.pad_value

    @property
    def tiles(self) -> Tiles | None:
        """Return the tiles of the images that a network is to look at, None where it looks at whole images."""
        return self.fitting.tiles

    def drop_tiles(self, task: str) -> None:
        """Give whole images where `auto` chose tiles, as `task` takes none.

        Raises:
            InputError: tiles were asked for.
        """
        if self._asked.fit == "tiles" or self._asked.tiles is not None:
            raise InputError(f"data.fit is tiles, and {task} has no use for tiles: expected pad, or a PretrainedTask")
        self.fitting = replace(self.fitting, fit="pad", tiles=None)

    @cached_property
    def _shapes(self) -> Shapes:
        """Return heights and widths of the images, or of a sample of them."""
        if self._arrays is None:
            return sample_shapes(self._listing.files)
        return array_shapes(self._arrays)

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
            synthetic = self._arrays is None and peek(self._listing.files[0])[1]
        return "synthetic" if synthetic else "real"

    @property
    def generated(self) -> bool:
        """Return whether the images come from a generator, not from files."""
        return False

    def keep_split(self, table: SplitTable) -> None:
        """Divide the images as `table` does, see `ImageDataModule`; images that it does not have are not read."""
        super().keep_split(table)
        self.__dict__.pop("_listing", None)

    def setup(self, stage: str | None = None) -> None:
        """Read, split and measure the images, once."""
        if self._data is None:
            self._tell_fit()
        super().setup(stage)

    def load(self) -> ImageSet:
        """Read every image."""
        wanted = replace(
            self.image_format, channels=self._stored_channels, white_level=self.white_level or self._trained_white
        )
        if self._arrays is not None:
            known, names = self._labels
            found = load_arrays(self._arrays, names, known, wanted)
            shapes = np.repeat(self._shapes, [len(part) for part in names.values()], axis=0)
            return replace(found, aspects=camera_aspects(shapes, len(found.files), wanted))
        whole = self.split == WHOLE
        data = read_listing(self._listing, wanted, self.on_bad_image, complete=not whole)
        if data.synthetic:
            log.warning(
                "%s: %d of %d images are SYNTHETIC: figures say nothing about real ones",
                self.location, data.synthetic, len(data.files),
            )  # fmt: skip
        return replace(data, aspects=self._aspects(data, wanted))

    def _aspects(self, data: ImageSet, wanted: ImageFormat) -> Tensor | None:
        if wanted.fit != "stretch" or not len(self._shapes):
            return None
        shapes = self._shapes[:1]
        if len(np.unique(self._shapes[:, 1] / self._shapes[:, 0])) > 1:
            shapes = file_shapes([self._listing.root / name for name in data.files])
        return camera_aspects(shapes, len(data.files), wanted)

    def _tell_fit(self) -> None:
        """Tell what `auto` came to, or what a stretch does to the images."""
        if self._asked_size == "auto" or (self._asked.fit == "auto" and self.fit != "stretch"):
            log.info("%s: %s: %s (data.fit, data.image_size)", self.location, self.fitting.reason, self.fitting)
        elif self._asked.fit == "stretch" and (warning := stretch_warning(self._shapes, self.image_size)):
            log.warning("%s: %s", self.location, warning)

    @cached_property
    def _folder(self) -> Path:
        return open_root(Path(self.root).expanduser())

    @cached_property
    def _listing(self) -> Listing:
        found = self._listed
        if self._kept is None:
            return found
        return found.select(self._known(found.names, found.splits), self._given_names or ())

    @cached_property
    def _listed(self) -> Listing:
        return self._list()

    def _list(self) -> Listing:
        """List the files and their classes."""
        if self.split == WHOLE and self._given_names is not None:
            if self._is_table:
                return list_table(Path(self.root).expanduser(), self._given_names)
            return list_labelled(self._folder, self._given_names)
        return list_folders(self._folder, keep_split=self.split == "auto")

    @property
    def _is_table(self) -> bool:
        return self.split == WHOLE and Path(self.root).suffix.lower() == ".csv"

    @cached_property
    def _arrays(self) -> ArrayFiles | None:
        return None if self._is_table else find_arrays(self._folder, to_train=self.split != WHOLE)

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
