"""Images in one folder per class."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

from torch import Tensor

from defectlab.data.datamodules.base import ImageDataModule, check_class_names
from defectlab.data.pipeline.augment import Augmentation
from defectlab.data.sources.archive import open_root
from defectlab.data.sources.arrays import array_classes, find_arrays, load_arrays
from defectlab.data.sources.images import CACHE, ImageSet, read_listing
from defectlab.data.sources.layouts import Listing, list_folders


class ImageFolderDataModule(ImageDataModule):
    """Class folders, or train/val/test folders of class folders, or .npy arrays, or a .zip of any of them.

    A set that would need more than 4 GiB as pixels lives in a memory-mapped file under `~/.cache/defectlab`.

    Args:
        root: folder or .zip.
        on_bad_image: `error` stops at a file that cannot be read, `skip` leaves it out and lists it.
        class_names: names of the classes, in the order that their labels get: of an array's numbers from 0, or the class
            folders' names. None takes the folders in natural order, and calls numbers by themselves.

    The other arguments are those of `ImageDataModule`.
    """

    def __init__(
        self,
        root: str,
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
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        class_names: Sequence[str] | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(
            image_size=image_size, channels=channels, batch_size=batch_size, eval_batch_size=eval_batch_size,
            seed=seed, val_size=val_size, test_size=test_size, split=split, group_duplicates=group_duplicates,
            augmentation=augmentation, mean=mean, std=std, transform=transform,
        )  # fmt: skip
        self.root = root
        self._given_names = check_class_names(class_names)
        self.on_bad_image: Literal["error", "skip"] = on_bad_image

    @property
    def class_names(self) -> Sequence[str]:
        """Return the names given, else those of the class folders in natural order."""
        if self._given_names is not None:
            return self._given_names
        return self._listing.class_names if self._array_names is None else self._array_names

    @property
    def location(self) -> str:
        """Return the root as given."""
        return self.root

    @cached_property
    def _folder(self) -> Path:
        return open_root(Path(self.root).expanduser(), CACHE)

    @cached_property
    def _listing(self) -> Listing:
        return list_folders(self._folder)

    @cached_property
    def _array_names(self) -> list[str] | None:
        files = find_arrays(self._folder)
        return None if files is None else array_classes(files, self._given_names)

    def load(self) -> ImageSet:
        """Read every image."""
        if self._array_names is not None:
            return load_arrays(self._folder, self.image_size, self.channels, self._given_names)
        return read_listing(self._listing, self.image_size, self.channels, self.on_bad_image)
