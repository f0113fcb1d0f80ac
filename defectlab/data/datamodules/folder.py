"""Images in one folder per class."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from torch import Tensor

from defectlab.data.datamodules.base import ImageDataModule, check_class_names
from defectlab.data.pipeline.augment import Augmentation
from defectlab.data.pipeline.split_table import SplitTable
from defectlab.data.pipeline.splits import WHOLE
from defectlab.data.sources.archive import open_root
from defectlab.data.sources.array_labels import read_labels
from defectlab.data.sources.arrays import ArrayFiles, find_arrays, load_arrays
from defectlab.data.sources.depth import LevelRule
from defectlab.data.sources.images import ImageSet, read_listing
from defectlab.data.sources.layouts import Listing, list_folders, list_labelled, list_table
from defectlab.data.sources.levels import check_levels
from defectlab.data.sources.opening import expand_pages, peek
from defectlab.data.sources.reading import check_on_bad_image
from defectlab.utils.image_format import ImageFormat, check_channels, check_page

log = logging.getLogger(__name__)


class ImageFolderDataModule(ImageDataModule):
    """Class folders, or train/val/test folders of class folders, or .npy arrays, or a .zip of any of them.

    A set that would need more than 4 GiB as pixels lives in a memory-mapped file under `~/.cache/defectlab`.

    Args:
        root: folder or .zip; with `split` of `test` and `class_names` also a .csv table with the columns file and label, and
            an image's class is the nearest folder above it that is named like one, of which some may be absent.
        on_bad_image: `error` stops at a file that cannot be read, `skip` leaves it out and lists it.
        class_names: names of the classes, in the order that their labels get: of an array's numbers from 0, or the class
            folders' names. None takes the folders in natural order, and calls numbers by themselves.
        white_level: what is white: a number such as 4095, `file` for the most that the format can hold (65535; 1 for floats), or
            `auto` for the usual range of the training images. None leaves 8 bits as they are, and takes what the camera's 10,
            12, 14 or 16 bits hold, or `auto` where less than half of that is used.
        black_level: what is black; None is 0, or `auto` where white is measured and values are negative or all bright.
        page: which image of a file that holds several, from 0; `all` takes each as an image, `a.tif[2]`.
        alpha: transparency is put on black (`compose`), left out (`ignore`), or the last of 2 or 4 channels (`channel`).

    The other arguments are those of `ImageDataModule`.
    """

    def __init__(
        self,
        root: str,
        image_size: int = 128,
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
        white_level: float | Literal["file", "auto"] | None = None,
        black_level: float | Literal["file", "auto"] | None = None,
        page: int | Literal["all"] = 0,
        alpha: Literal["compose", "ignore", "channel"] = "compose",
    ) -> None:
        super().__init__(
            image_size=image_size, channels=channels, batch_size=batch_size, eval_batch_size=eval_batch_size,
            seed=seed, val_size=val_size, test_size=test_size, split=split, group_duplicates=group_duplicates,
            augmentation=augmentation, mean=mean, std=std, transform=transform,
        )  # fmt: skip
        check_on_bad_image(on_bad_image)
        self.root = root
        self.on_bad_image: Literal["error", "skip"] = on_bad_image
        check_levels(white_level, black_level)
        check_channels(channels, alpha)
        check_page(page)
        self.white_level = white_level
        self.black_level = black_level
        self.page = page
        self.alpha: Literal["compose", "ignore", "channel"] = alpha
        self._given_names = check_class_names(class_names)
        self._stored_channels = channels

    @property
    def class_names(self) -> Sequence[str]:
        """Return the names given, else those of the class folders in natural order."""
        if self._given_names is not None:
            return self._given_names
        return self._listing.class_names if self._arrays is None else self._labels[0]

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
        wanted = ImageFormat(
            image_size=self.image_size, channels=self._stored_channels, page=self.page, alpha=self.alpha,
            **({} if self._trained is None else self._trained),
        )  # fmt: skip
        if self._arrays is not None:
            known, names = self._labels
            return load_arrays(self._arrays, names, known, wanted, self._rule(lambda: self._array_rows(names)))
        found, whole = self._listing, self.split == WHOLE
        rule = self._rule(
            lambda: self._training_rows(found.names, [found.class_names[label] for label in found.labels], found.splits)
        )
        data = read_listing(found, wanted, self.on_bad_image, complete=not whole, rule=rule)
        if data.synthetic:
            log.warning(
                "%s: %d of %d images are SYNTHETIC: figures say nothing about real ones",
                self.location, data.synthetic, len(data.files),
            )  # fmt: skip
        return data

    def _rule(self, train: Callable[[], Sequence[int]]) -> LevelRule | None:
        """Return how levels are found; None where a checkpoint has them, and no numbers are given in their place."""
        given = any(isinstance(level, int | float) for level in (self.white_level, self.black_level))
        return None if self._trained is not None and not given else LevelRule(self.white_level, self.black_level, train)

    def _array_rows(self, names: Mapping[str, Sequence[str]]) -> Sequence[int]:
        flat = [(part, name) for part, found in names.items() for name in found]
        splits = [part for part, _ in flat] if set(names) - {""} else None
        return self._training_rows([""] * len(flat), [name for _, name in flat], splits)

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
        found = self._list()
        if self.page != "all":
            return found
        pages = expand_pages(found.files)
        return replace(found.select((i for i, _ in pages), found.class_names), files=[path for _, path in pages])

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
