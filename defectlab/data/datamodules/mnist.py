"""MNIST (LeCun et al. 1998) and Fashion-MNIST (Xiao et al. 2017): 28×28 grey, 60,000 + 10,000 images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from urllib.error import URLError

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets

from defectlab.data.datamodules.base import ImageDataModule
from defectlab.data.pipeline.augment import Augmentation
from defectlab.data.pipeline.splits import hold_out
from defectlab.data.sources.arrays import find_idx, read_idx_pair
from defectlab.data.sources.images import ImageSet
from defectlab.errors import InputError

__all__ = ["FashionMNISTDataModule", "MNISTDataModule"]


class MNISTDataModule(ImageDataModule):
    """Ten handwritten digits. Validation comes out of the official training images; the test set stays whole.

    Args:
        root: folder with the four IDX files (plain or .gz, there or in `MNIST/raw`); torchvision downloads
            them to it, checksums and all, if they are nowhere to be found.
        train_size: number of images to train on, drawn by class and `seed`; None takes all that remain.
        val_size: share (below 1) or number of the 60,000 training images held out for validation; a number
            with `train_size`.
        test_size: number of official test images, drawn by class and `seed`; None takes all 10,000.
        image_size: side in pixels; 28 leaves the pictures as they are.
        channels: 1, or 3 for networks that want the same grey three times.
        batch_size: images a step and process, for training.
        eval_batch_size: the same for evaluation.
        seed: of the subsets, the split, the order and the augmentation.
        augmentation: None for none.
        mean: a value a channel on [0, 1]; None measures the training part.
        std: likewise.
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
        image_size: int = 28,
        channels: Literal[1, 3] = 1,
        batch_size: int = 64,
        eval_batch_size: int = 1000,
        seed: int = 0,
        augmentation: Augmentation | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__(
            image_size=image_size, channels=channels, batch_size=batch_size, eval_batch_size=eval_batch_size,
            seed=seed, val_size=val_size, test_size=0, split="auto", group_duplicates=False,
            augmentation=augmentation,
            mean=mean, std=std,
        )  # fmt: skip
        self.root = root
        self.train_size = train_size
        self.test_count = test_size  # the base class's test_size would be held out of all images

    @property
    def class_names(self) -> Sequence[str]:
        """Ten names, in the order of the labels."""
        return self._names

    @property
    def source(self) -> str:
        """Always `real`."""
        return "real"

    @property
    def location(self) -> str:
        """The folder that holds the files."""
        found = self._find()
        return str(found) if found else self.root

    def _find(self) -> Path | None:
        name = self._torchvision.__name__
        return find_idx([Path(self.root).expanduser(), *map(Path, self._folders)], name)

    def prepare_data(self) -> None:
        """Download by torchvision if the files are nowhere.

        Raises:
            InputError: that fails.
        """
        if self._find() is not None:
            return
        try:
            self._torchvision(Path(self.root).expanduser(), download=True)
        except (URLError, OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"{self._torchvision.__name__} is not under {self.root} and could not be downloaded "
                f"({reason}): put the four IDX files (train-images-idx3-ubyte.gz and so on) there, or set "
                "data.root to their folder"
            ) from None

    def load(self) -> ImageSet:
        """Read the IDX files and draw the subsets."""
        folder = self._find()
        if folder is None:
            raise InputError(f"no IDX files under {self.root}: call prepare_data() first, or set data.root")
        train_images, train_labels = read_idx_pair(folder, "train")
        test_images, test_labels = read_idx_pair(folder, "t10k")
        for labels in (train_labels, test_labels):
            if len(labels) == 0 or labels.max() >= len(self._names):
                raise InputError(f"{folder}: expected images of {len(self._names)} classes; replace the files")
        train = self._subset(train_labels, self._train_and_val(len(train_labels)), "data.train_size")
        test = self._subset(test_labels, self.test_count, "data.test_size")
        images = torch.cat((train_images[train], test_images[test])).unsqueeze(1)
        if self.image_size != images.shape[-1]:
            size = (self.image_size, self.image_size)
            images = torch.nn.functional.interpolate(images, size, mode="bilinear", antialias=True)
        files = [f"train[{i}]" for i in train.tolist()] + [f"t10k[{i}]" for i in test.tolist()]
        return ImageSet(
            images,
            torch.cat((train_labels[train], test_labels[test])),
            list(self._names), files, ["train"] * len(train) + ["test"] * len(test), [],
        )  # fmt: skip

    def _train_and_val(self, available: int) -> int | None:
        if self.train_size is None:
            return None
        if 0 < self.val_size < 1:
            raise InputError("data.val_size is a share: with data.train_size give it as a number of images")
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
