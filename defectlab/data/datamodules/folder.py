"""Images in one folder per class."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

from torch import Tensor

from defectlab.data.datamodules.base import ImageDataModule, check_class_names
from defectlab.data.pipeline.augment import Augmentation
from defectlab.data.pipeline.split_table import SplitTable
from defectlab.data.pipeline.splits import TIME, WHOLE
from defectlab.data.sources.archive import open_root
from defectlab.data.sources.array_labels import read_labels
from defectlab.data.sources.arrays import ArrayFiles, find_arrays, load_arrays
from defectlab.data.sources.decode import peek
from defectlab.data.sources.images import ImageSet, read_listing
from defectlab.data.sources.label_table import LabelColumns, find_labels, list_labels
from defectlab.data.sources.layouts import Listing, is_single, list_folders, list_labelled, list_several
from defectlab.data.sources.reading import check_on_bad_image
from defectlab.data.sources.tables import is_label_file
from defectlab.errors import InputError
from defectlab.utils.image_format import ImageFormat

log = logging.getLogger(__name__)


class ImageFolderDataModule(ImageDataModule):
    """Class folders, or train/val/test folders of class folders, a table of labels, .npy arrays, or a .zip of any of them.

    A set that would need more than 4 GiB as pixels lives in a memory-mapped file under `~/.cache/defectlab`.

    Args:
        root: folder or .zip, several of them or a glob pattern, or the table of labels itself. A table, COCO's or Pascal
            VOC's files in a folder that has no class folders are found. With `split` of `test` and `class_names` an
            image's class is the nearest folder above it that is named like one, of which some may be absent.
        on_bad_image: `error` stops at a file that cannot be read, `skip` leaves it out and lists it.
        class_names: names of the classes, in the order that their labels get: of an array's numbers from 0, or the class
            folders' names. None takes the folders in natural order, and calls numbers by themselves.
        white_level: what is white in images of more than 8 bits, such as 4095; None takes what the brightest image needs.
        labels: a file of labels in place of class folders: .csv, .parquet, COCO's .json, or a folder of COCO's or Pascal VOC's
            files; there, or below `root`.
        label_columns: what the columns of such a table are.

    The other arguments are those of `ImageDataModule`.
    """

    def __init__(
        self,
        root: str | Sequence[str],
        image_size: int = 128,
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
        labels: str | None = None,
        label_columns: LabelColumns | None = None,
        group_by: str | None = "auto",
    ) -> None:
        super().__init__(
            image_size=image_size, channels=channels, batch_size=batch_size, eval_batch_size=eval_batch_size,
            seed=seed, val_size=val_size, test_size=test_size, split=split, group_duplicates=group_duplicates,
            augmentation=augmentation, mean=mean, std=std, transform=transform, group_by=group_by,
        )  # fmt: skip
        check_on_bad_image(on_bad_image)
        self.root = root if isinstance(root, str) else ", ".join(root)
        self.on_bad_image: Literal["error", "skip"] = on_bad_image
        self.white_level = white_level
        self._root = root
        if labels is None and isinstance(root, str) and is_label_file(Path(root)):
            labels, self.root = root, str(Path(root).parent)
        self._labels_path = None if labels is None else Path(labels).expanduser()
        self.label_columns = label_columns
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

    def load(self) -> ImageSet:
        """Read every image."""
        wanted = ImageFormat(
            image_size=self.image_size, channels=self._stored_channels,
            white_level=self.white_level or self._trained_white,
        )  # fmt: skip
        if self._arrays is not None:
            known, names = self._labels
            return load_arrays(self._arrays, names, known, wanted)
        whole = self.split == WHOLE
        data = read_listing(self._listing, wanted, self.on_bad_image, complete=not whole)
        if data.synthetic:
            log.warning(
                "%s: %d of %d images are SYNTHETIC: figures say nothing about real ones",
                self.location, data.synthetic, len(data.files),
            )  # fmt: skip
        return data

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
        keep, whole, path = self.split == "auto", self.split == WHOLE, self._labels_path
        if not is_single(self._root):
            return list_several(self._root)
        try:
            if path is None and whole and self._given_names is not None:
                return list_labelled(self._folder, self._given_names)
            if path is None:
                listing = list_folders(self._folder, keep)
                if found := find_labels(self._folder):
                    log.warning("the labels in %s are not read, as there are class folders: see data.labels", found)
                return listing
        except InputError:
            if (path := find_labels(self._folder)) is None:
                raise
            log.info("%s has no class folders: labels are read from %s (data.labels)", self.root, path)
        return list_labels(
            path, self._folder, self.label_columns, self._given_names, self._aliases, keep_split=keep, timed=self.split == TIME,
            complete=not whole, skip_missing=self.on_bad_image == "skip",
        )  # fmt: skip

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
