"""MNIST (LeCun et al. 1998) and Fashion-MNIST (Xiao et al. 2017): 28×28 grey, 60,000 + 10,000 images."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets

from defectlab.data.datamodules.base import ImageDataModule, resized
from defectlab.data.pipeline.augment import Augmentation
from defectlab.data.pipeline.fitting import camera_aspects
from defectlab.data.pipeline.splits import hold_out
from defectlab.data.sources.archive import open_root
from defectlab.data.sources.array_labels import read_labels
from defectlab.data.sources.arrays import ArrayFiles, find_arrays, load_arrays
from defectlab.data.sources.fetch import fetch_by_torchvision
from defectlab.data.sources.idx import find_idx, read_idx_pair
from defectlab.data.sources.images import ImageSet
from defectlab.errors import InputError
from defectlab.utils.image_format import Size

log = logging.getLogger(__name__)


class MNISTDataModule(ImageDataModule):
    """Ten handwritten digits. Validation comes out of the official training images; the test set stays whole.

    NumPy's arrays may replace the IDX files, such as `mnist_train_features.npy`, `mnist_train_targets.npy`,
    `mnist_test_features.npy` and `mnist_test_targets.npy`, or `mnist.npz`. Of their training images the first `val_size`
    are for validation; sizes above what there is take all.

    Args:
        root: folder with the four IDX files (plain or .gz, there or in `MNIST/raw`) or with arrays (there or in
            `MNIST`); torchvision downloads the former to it, checksums and all, if none are to be found.
        train_size: number of images to train on, drawn by class and `seed`; None takes all that remain.
        val_size: fraction (below 1) or number of the 60,000 training images held out for validation, by class and `seed`; a
            number with `train_size`.
        test_size: number of official test images, drawn by class and `seed`; None takes all 10,000, 0 none.
        seed: of the subsets, the split, the order and the augmentation.

    The other arguments are those of `ImageDataModule`.
    """

    _names: tuple[str, ...] = tuple("0123456789")
    _torchvision = datasets.MNIST
    _folders: tuple[str, ...] = ()

    def __init__(
        self,
        root: str = "data",
        train_size: int | None = None,
        val_size: int | float = 5000,
        test_size: int | None = None,
        image_size: Size = 28,
        channels: int = 1,
        batch_size: int = 64,
        eval_batch_size: int = 1000,
        seed: int = 0,
        augmentation: Augmentation | None = None,
        mean: Sequence[float] | float | None = None,
        std: Sequence[float] | float | None = None,
    ) -> None:
        super().__init__(
            image_size=image_size, channels=channels, batch_size=batch_size, eval_batch_size=eval_batch_size,
            seed=seed, val_size=val_size, test_size=0 if test_size == 0 else None, augmentation=augmentation, mean=mean, std=std,
        )  # fmt: skip
        self.root = root
        self.train_size = train_size
        self.test_count = test_size  # the base class's test_size would be held out of all images

    @property
    def class_names(self) -> Sequence[str]:
        """Return the ten names, in the order of the labels."""
        return self._names

    @property
    def location(self) -> str:
        """Return the folder that holds the files."""
        found = self._find()
        return str(found) if isinstance(found, Path) else self.root

    def _find(self) -> Path | ArrayFiles | None:
        """Return the folder of the IDX files, or arrays, under the root; else IDX files where a system keeps them."""
        root, name = Path(self.root).expanduser(), self._torchvision.__name__
        folder = open_root(root) if root.is_file() else root
        arrays = (find_arrays(path, wrapped=False) for path in (folder, folder / name))
        candidates = (find_idx([folder], name), *arrays, find_idx([*map(Path, self._folders)], name))
        return next((found for found in candidates if found is not None), None)

    def prepare_data(self) -> None:
        """Download the files by torchvision unless they are there.

        Raises:
            InputError: that fails.
        """
        if self._find() is None:
            target = Path(self.root).expanduser() / self._torchvision.__name__
            by_hand = (
                "put the four IDX files (train-images-idx3-ubyte.gz and so on) or arrays (x_train.npy, y_train.npy, "
                "x_test.npy, y_test.npy) there, or set data.root to their folder"
            )
            fetch_by_torchvision(lambda root: self._torchvision(root, download=True), target, by_hand)

    def load(self) -> ImageSet:
        """Read the IDX files or arrays, and draw the subsets."""
        folder = self._find()
        if isinstance(folder, ArrayFiles):
            return self._load_arrays(folder)
        if folder is None:
            raise InputError(f"no IDX files or arrays under {self.root}: call prepare_data() first, or set data.root")
        train_images, train_labels = read_idx_pair(folder, "train")
        test_images, test_labels = read_idx_pair(folder, "t10k")
        for labels in (train_labels, test_labels):
            if len(labels) == 0 or labels.max() >= len(self._names):
                raise InputError(f"{folder}: expected images of {len(self._names)} classes; replace the files")
        train = self._subset(train_labels, self._train_and_val(len(train_labels)), "data.train_size")
        test = self._subset(test_labels, self.test_count or None, "data.test_size")
        whole = torch.cat((train_images[train], test_images[test])).unsqueeze(1)
        files = [f"train[{i}]" for i in train.tolist()] + [f"t10k[{i}]" for i in test.tolist()]
        return ImageSet(
            images=resized(whole, self.image_size), labels=torch.cat((train_labels[train], test_labels[test])), class_names=list(self._names),
            files=files, splits=["train"] * len(train) + ["test"] * len(test),
            content=lambda index: whole[index].numpy().tobytes(),
            aspects=camera_aspects(np.array([whole.shape[2:]]), len(whole), self.image_format),
        )  # fmt: skip

    def _load_arrays(self, arrays: ArrayFiles) -> ImageSet:
        known, names = read_labels(arrays, self._names)
        data = load_arrays(arrays, names, known, replace(self.image_format, channels=1))
        splits = np.array(data.splits or ["train"] * len(data.files))
        train, val, test = (np.flatnonzero(splits == part) for part in ("train", "val", "test"))
        if not len(val):
            first = round(len(train) * self.val_size) if 0 < self.val_size < 1 else int(self.val_size)
            if not 1 <= first < len(train) or (self.val_size > 1 and self.val_size % 1):
                raise InputError(
                    f"data.val_size is {self.val_size}, {arrays.folder} has {len(train)} training images: expected a fraction, or "
                    f"a number from 1 to {len(train) - 1}, of which the first are for validation"
                )
            train, val = train[first:], train[:first]
        train = self._at_most(data.labels, train, self.train_size, "data.train_size")
        test = self._at_most(data.labels, test, self.test_count or None, "data.test_size")
        chosen = np.sort(np.concatenate((train, val, test)))
        part = dict.fromkeys(train.tolist(), "train") | dict.fromkeys(val.tolist(), "val")
        return replace(data.select(chosen), splits=[part.get(i, "test") for i in chosen.tolist()])

    def _at_most(self, labels: Tensor, indices: np.ndarray, size: int | None, name: str) -> np.ndarray:
        """Draw `size` of the indices by class and seed; all, with a log entry, where there are fewer."""
        if size is None or size == len(indices):
            return indices
        if size > len(indices):
            log.info("%s is %d: all %d images that are left were taken", name, size, len(indices))
            return indices
        return hold_out(indices, labels.numpy(), size, self.seed, name)[1]

    def _train_and_val(self, available: int) -> int | None:
        if self.train_size is None:
            return None
        if 0 < self.val_size < 1:
            raise InputError("data.val_size is a fraction: with data.train_size give it as a number of images")
        if self.train_size < 1 or self.train_size + self.val_size > available:
            raise InputError(
                f"data.train_size + data.val_size is {self.train_size} + {self.val_size}: expected at most "
                f"{available} images, and at least one to train on"
            )
        return self.train_size + int(self.val_size)

    def _subset(self, labels: Tensor, size: int | None, name: str) -> Tensor:
        everything = np.arange(len(labels))
        if size is None or size == len(labels):
            return torch.from_numpy(everything)
        return torch.from_numpy(hold_out(everything, labels.numpy(), size, self.seed, name)[1])


class FashionMNISTDataModule(MNISTDataModule):
    """Ten kinds of clothing, in the same form; found also where Debian's dataset-fashion-mnist puts it."""

    _names = (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
        "Ankle boot",
    )  # fmt: skip
    _torchvision = datasets.FashionMNIST
    _folders = ("/usr/share/datasets/fashion-mnist",)
