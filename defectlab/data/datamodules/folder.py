"""Anybody's own images, in one folder a class."""

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
        image_size: side in pixels; images are stretched to this square, nothing is cut off.
        channels: 1 (grey) or 3 (RGB).
        batch_size: images a step and process, for training.
        eval_batch_size: the same for evaluation.
        seed: of the split, the order and the augmentation.
        val_size: share (below 1) or number of images held out for validation; of the training images where
            the folders give a split without validation.
        test_size: share (below 1) or number of images held out for the final test, of the training images where the
            folders give a split without test; null takes a fifth where they give no split, and nothing where they give
            train and val alone; 0 takes none. Folders that are given as test stay whole.
        split: `auto` keeps a split that the folders give, `random` divides all images anew, `2/5` takes the second of
            five folds for the test.
        on_bad_image: `error` stops at a file that cannot be read, `skip` leaves it out and lists it.
        group_duplicates: keep images of the same place, such as cut-outs that overlap, in the same part of the split,
            whose sizes then are not quite those asked for.
        augmentation: None for none.
        mean: a value a channel on [0, 1]; None measures the training part.
        std: likewise.
        class_names: names of the classes, in the order that their labels get: of an array's numbers from 0, or the class
            folders' names. None takes the folders in natural order, and calls numbers by themselves.
        transform: of a training batch `(N, C, H, W)` of floats in [0, 1], after `augmentation`; any callable that keeps the
            shape, such as torchvision's v2 transforms, which draw once for the whole batch.
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
        """Those given, else names of the class folders in natural order."""
        if self._given_names is not None:
            return self._given_names
        return self._listing.class_names if self._array_names is None else self._array_names

    @property
    def source(self) -> str:
        """Always `real`."""
        return "real"

    @property
    def location(self) -> str:
        """The root as given."""
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
