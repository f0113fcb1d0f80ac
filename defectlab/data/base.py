"""The one datamodule between Lightning and every data set: split, statistics, loaders."""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from defectlab.data.augment import Augmentation
from defectlab.data.images import ImageSet
from defectlab.data.loader import EvalLoader, TrainLoader
from defectlab.data.splits import Split, fixed_split, split_hash, stratified_split
from defectlab.errors import InputError

__all__ = ["ImageDataModule"]

_ON_DEVICE_BYTES = 2 * 2**30  # a set up to this size lives on the GPU as a whole


class ImageDataModule(pl.LightningDataModule):
    """A set of labelled images as one uint8 tensor, divided into train, val and test.

    The loaders give `(images, labels)`: float32 `(N, C, H, W)` of mean 0 and sd 1, augmented for training, on the
    trainer's device; int64 `(N,)`, or float32 `(N, num_classes)` when MixUp or CutMix is on. A concrete class
    says in `load` where the images come from.

    Args:
        image_size: side in pixels; pictures are stretched to this square.
        channels: 1 (grey) or 3 (RGB).
        batch_size: images a step and process, for training.
        eval_batch_size: the same for evaluation.
        seed: of the split, the order and the augmentation.
        val_size: share or number of images held out for validation.
        test_size: share or number of images held out for the final test.
        split: `auto` keeps a split that the folders give, `random` divides all images anew.
        augmentation: None for none.
        mean: a value a channel on [0, 1]; None measures the training part.
        std: likewise.

    Raises:
        InputError: an argument out of range, or images that cannot be read or split as asked.
    """

    def __init__(
        self,
        *,
        image_size: int,
        channels: Literal[1, 3],
        batch_size: int,
        eval_batch_size: int,
        seed: int,
        val_size: int | float,
        test_size: int | float,
        split: Literal["auto", "random"],
        augmentation: Augmentation | None,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
    ) -> None:
        super().__init__()
        for name, value in (("image_size", image_size), ("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if value < 1:
                raise InputError(f"data.{name} is {value}: expected a whole number of at least 1")
        if (mean is None) != (std is None):
            raise InputError("data.mean and data.std go together: give both, or neither to measure them")
        for name, values in (("mean", mean), ("std", std)):
            if values is not None and len(values) != channels:
                raise InputError(f"data.{name} has {len(values)} values: expected one for each of {channels} channels")
        self.image_size = image_size
        self.channels = channels
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.seed = seed
        self.val_size = val_size
        self.test_size = test_size
        self.split = split
        self.augmentation = augmentation
        self.mean = mean
        self.std = std
        self._data: ImageSet | None = None
        self._parts: Split | None = None
        self._features: Tensor | None = None

    @property
    @abstractmethod
    def class_names(self) -> Sequence[str]:
        """Names in the order of the labels; known before any image is read."""

    @property
    @abstractmethod
    def source(self) -> str:
        """`real` or `synthetic`."""

    @property
    @abstractmethod
    def location(self) -> str:
        """Where the images come from, for people and for metrics.json."""

    @abstractmethod
    def load(self) -> ImageSet:
        """Read every image; called once a process, after `prepare_data` has run in the first."""

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def setup(self, stage: str | None = None) -> None:
        """Read, split and measure, once."""
        if self._data is not None:
            return
        data = self.load()
        labels = data.labels.numpy()
        if data.splits is not None and self.split == "auto":
            parts = fixed_split(data.splits, labels, self.val_size, self.seed)
        else:
            parts = stratified_split(labels, self.val_size, self.test_size, self.seed)
        if self.mean is None or self.std is None:
            self.mean, self.std = _statistics(data.images, parts.train)
        self._data, self._parts = data, parts

    @property
    def data(self) -> ImageSet:
        """All images; `setup` has to have run."""
        if self._data is None:
            raise InputError("the data set is not read yet: call setup() first")
        return self._data

    @property
    def parts(self) -> Split:
        """The split; `setup` has to have run."""
        if self._parts is None:
            raise InputError("the data set is not split yet: call setup() first")
        return self._parts

    def train_dataloader(self) -> TrainLoader:
        """Shuffled and augmented."""
        images, device, rank, world_size = self._placed()
        indices = torch.from_numpy(self.parts.train)
        return TrainLoader(
            images, self.data.labels, indices, self.batch_size, *self._normalisation(), device, rank, world_size,
            self.seed, self.num_classes, self.augmentation,
        )  # fmt: skip

    def val_dataloader(self) -> EvalLoader:
        """In order, without augmentation."""
        return self._eval_loader(self.parts.val)

    def test_dataloader(self) -> EvalLoader:
        """In order, without augmentation."""
        return self._eval_loader(self.parts.test)

    def predict_dataloader(self) -> EvalLoader:
        """The test images again."""
        return self.test_dataloader()

    def train_eval_dataloader(self) -> EvalLoader:
        """The training images in order, without augmentation."""
        return self._eval_loader(self.parts.train)

    def _eval_loader(self, indices: np.ndarray) -> EvalLoader:
        images, device, rank, world_size = self._placed()
        return EvalLoader(
            images, self.data.labels, torch.from_numpy(indices), self.eval_batch_size, *self._normalisation(),
            device, rank, world_size,
        )  # fmt: skip

    def _normalisation(self) -> tuple[Sequence[float], Sequence[float]]:
        assert self.mean is not None  # setup has measured them
        assert self.std is not None
        return self.mean, self.std

    def _placed(self) -> tuple[Tensor, torch.device, int, int]:
        images = self.data.images if self._features is None else self._features
        if self.trainer is None:
            return images, torch.device("cpu"), 0, 1
        device = self.trainer.strategy.root_device
        if device.type != "cpu" and images.nbytes <= _ON_DEVICE_BYTES:
            images = images.to(device)
        return images, device, self.trainer.global_rank, self.trainer.world_size

    @torch.no_grad()
    def cache_features(self, encode: Callable[[Tensor], Tensor]) -> None:
        """Let the train and val loaders give `encode(images)` `(N, E)`, computed once, in place of images.

        Nothing is augmented then: a cached feature belongs to one picture. `clear_features` goes back.
        """
        self._features = None
        data = self.data
        features: Tensor | None = None
        for indices in (self.parts.train, self.parts.val):
            loader = self._eval_loader(indices)
            loader.rank, loader.world_size = 0, 1
            start = 0
            for images, _ in loader:
                encoded = encode(images).float()
                if features is None:
                    features = torch.zeros(len(data.labels), encoded.shape[1], device=encoded.device)
                features[torch.from_numpy(indices[start : start + len(encoded)])] = encoded
                start += len(encoded)
        self._features = features

    def clear_features(self) -> None:
        """Give images again."""
        self._features = None

    def files(self, part: Literal["train", "val", "test"]) -> list[str]:
        """Names of a part's images, in the order of its evaluation loader."""
        return [self.data.files[index] for index in getattr(self.parts, part)]

    def class_counts(self, part: Literal["train", "val", "test"]) -> list[int]:
        """Images a class."""
        labels = self.data.labels.numpy()[getattr(self.parts, part)]
        return [int(count) for count in np.bincount(labels, minlength=self.num_classes)]

    def describe(self) -> dict[str, Any]:
        """Plain values that travel to metrics.json and into the checkpoint."""
        mean, std = self._normalisation()
        parts: tuple[Literal["train", "val", "test"], ...] = ("train", "val", "test")
        return {
            "source": self.source,
            "root": self.location,
            "class_names": list(self.class_names),
            "counts": {p: dict(zip(self.class_names, self.class_counts(p), strict=True)) for p in parts},
            "split_hash": split_hash(self.parts, self.data.labels.numpy()),
            "mean": [float(value) for value in mean],
            "std": [float(value) for value in std],
            "image_size": self.image_size,
            "channels": self.channels,
            "skipped": list(self.data.skipped),
        }

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the data: `describe()`."""
        return self.describe()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the checkpoint's normalisation, and refuse one that was trained on other classes."""
        if list(state_dict["class_names"]) != list(self.class_names):
            raise InputError(
                f"the checkpoint knows the classes {', '.join(state_dict['class_names'])}, the data has "
                f"{', '.join(self.class_names)}: use the data set that the checkpoint was trained on"
            )
        self.mean, self.std = state_dict["mean"], state_dict["std"]


def _statistics(images: Tensor, indices: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and sd a channel on [0, 1], exact, a slice at a time so that a mapped file is never held whole."""
    histogram = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    for chunk in torch.from_numpy(indices).split(1024):
        picked = images[chunk]
        for channel in range(images.shape[1]):
            histogram[channel] += torch.bincount(picked[:, channel].flatten(), minlength=256)
    levels = torch.arange(256, dtype=torch.float64) / 255
    weights = histogram.double() / histogram.sum(dim=1, keepdim=True)
    mean = weights @ levels
    variance = (weights * (levels - mean[:, None]) ** 2).sum(dim=1)
    return mean.tolist(), [max(math.sqrt(value), 1e-3) for value in variance.tolist()]
