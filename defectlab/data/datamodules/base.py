"""The one datamodule between Lightning and every data set: split, statistics, loaders."""

import logging
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from defectlab.data.pipeline.augment import Augmentation
from defectlab.data.pipeline.duplicates import groups, near_duplicates
from defectlab.data.pipeline.loader import BatchLoader, EpochLoader, EvalLoader, TrainLoader
from defectlab.data.pipeline.splits import Split, fixed_split, fold_split, keep_together, split_hash, stratified_split
from defectlab.data.pipeline.statistics import channel_statistics, check_statistics, is_grey, pixel_statistics
from defectlab.data.sources.images import ImageSet
from defectlab.errors import InputError
from defectlab.utils.card import DataCard
from defectlab.utils.progress import progress_bar

log = logging.getLogger(__name__)

Part = Literal["train", "val", "test"]

_ON_DEVICE_BYTES = 2 * 2**30  # a set up to this size lives on the GPU as a whole
_TEST_SHARE = 0.2  # of a set that comes without a split
_MAX_SEED = 2**32 - 1  # NumPy's largest


class ImageDataModule(pl.LightningDataModule):
    """A set of labelled images as one uint8 tensor, divided into train, val and test.

    The loaders give `(images, labels)`: float32 `(N, C, H, W)` of mean 0 and sd 1, augmented for training, on
    the trainer's device; int64 `(N,)`, or float32 `(N, num_classes)` when MixUp or CutMix is on. A concrete
    class says in `load` where the images come from.

    Args:
        image_size: side in pixels; images are stretched to this square.
        channels: 1 (grey) or 3 (RGB).
        batch_size: images a step and process, for training.
        eval_batch_size: the same for evaluation.
        seed: of the split, the order and the augmentation; a whole number from 0.
        val_size: share (below 1) or number of images held out for validation.
        test_size: share (below 1) or number of images held out for the final test, of the training images where the
            source gives a split without one; None takes a fifth where it gives no split, else what it gives; 0 takes none.
        split: `auto` keeps a split that the folders give, `random` divides all images anew, `2/5` takes the second of
            five folds for the test, which every image is in once over all folds.
        group_duplicates: keep images of the same place (`near_duplicates`) in the same part of the split.
        augmentation: None for none.
        mean: a value a channel on [0, 1]; None measures the training part.
        std: likewise.
        transform: of a training batch `(N, C, H, W)` of floats in [0, 1], after `augmentation`; any callable that keeps the
            shape, such as torchvision's v2 transforms, which draw once for the whole batch.

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
        test_size: int | float | None,
        split: str,
        group_duplicates: bool,
        augmentation: Augmentation | None,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        if augmentation is not None and not isinstance(augmentation, Augmentation):
            raise InputError(
                f"data.augmentation is a {type(augmentation).__name__}: expected an Augmentation; give a transform of the "
                "batch, such as one of torchvision's v2, as data.transform"
            )
        sizes = {"image_size": image_size, "batch_size": batch_size, "eval_batch_size": eval_batch_size}
        for name, value in sizes.items():
            if value < 1:
                raise InputError(f"data.{name} is {value}: expected a whole number of at least 1")
        if channels not in (1, 3):
            raise InputError(f"data.channels is {channels}: expected 1 (grey) or 3 (RGB)")
        if not 0 <= seed <= _MAX_SEED:
            raise InputError(f"data.seed is {seed}: expected a whole number from 0 to {_MAX_SEED}")
        self._fold = _fold(split)
        check_statistics(mean, std, channels)
        self.image_size = image_size
        self.channels = channels
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.seed = seed
        self.val_size = val_size
        self.test_size = test_size
        self.split = split
        self.group_duplicates = group_duplicates
        self.augmentation = augmentation
        self.transform = transform
        self.mean = mean
        self.std = std
        self._statistics: tuple[Sequence[float], Sequence[float]] | None = None
        self._card: DataCard | None = None
        self._data: ImageSet | None = None
        self._parts: Split | None = None
        self._on_device: Tensor | None = None
        self._features: Tensor | None = None
        self._train_loader: EpochLoader | None = None

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
        """Read every image; called once a process, after `prepare_data` has run in the first.

        One channel will do where all of `channels` would be the same.
        """

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def setup(self, stage: str | None = None) -> None:
        """Read, split and measure, once."""
        if self._data is not None:
            return
        data = _in_order(self.load(), self.class_names)
        labels = data.labels.numpy()
        if self._fold is not None:
            parts = fold_split(labels, *self._fold, self.val_size, self.seed)
        elif data.splits is not None and self.split == "auto":
            parts = fixed_split(data.splits, labels, self.val_size, self.seed, self.test_size)
            self._tell_test_size(data.splits.count("test"))
        else:
            test_size = _TEST_SHARE if self.test_size is None else self.test_size
            parts = stratified_split(labels, self.val_size, test_size, self.seed)
        if self.group_duplicates:
            alike = groups(near_duplicates(data.images), len(labels))
            log.info("%d images show the same place as another: they stay together", sum(map(len, alike)))
            parts = keep_together(parts, alike)
        # Grey images stored as RGB: a third of the memory, and of the work to augment them.
        if data.images.shape[1] > 1 and data.images.nbytes <= _ON_DEVICE_BYTES and is_grey(data.images):
            data.images = data.images[:, :1].contiguous()
        if self._statistics is None and self.mean is not None and self.std is not None:
            self._statistics = self.mean, self.std
        if self._statistics is None:
            mean, std = channel_statistics(data.images, torch.from_numpy(parts.train))
            copies = self.channels // len(mean)
            self._statistics = mean * copies, std * copies
        self._data, self._parts = data, parts
        self._card = self._make_card(*self._statistics)

    def _make_card(self, mean: Sequence[float], std: Sequence[float]) -> DataCard:
        return DataCard(
            class_names=tuple(self.class_names),
            mean=tuple(float(value) for value in mean),
            std=tuple(float(value) for value in std),
            image_size=self.image_size,
            channels=self.channels,
            source=self.source,
            split_hash=split_hash(self.parts, self.data.labels.numpy()),
        )

    @property
    def card(self) -> DataCard:
        """How images are prepared, with the statistics measured or taken from a checkpoint; `setup` has to have run."""
        if self._card is None:
            raise InputError("the data set is not measured yet: call setup() first")
        return self._card

    def pixels(self, part: Part, indices: Sequence[int] | np.ndarray | Tensor | None = None) -> Tensor:
        """Images of a part of the split as they are stored.

        Args:
            part: `train`, `val` or `test`.
            indices: places within the part, in the order of its evaluation loader; None for all.

        Returns:
            uint8 `(n, C, H, W)`; C is 1 where all channels are equal.
        """
        places = getattr(self.parts, part)
        return self.data.images[torch.from_numpy(places if indices is None else places[np.asarray(indices)])]

    def labels(self, part: Part) -> Tensor:
        """Labels `(n,)` int64 of a part of the split, in the order of its evaluation loader."""
        return self.data.labels[torch.from_numpy(getattr(self.parts, part))]

    def _tell_test_size(self, given: int) -> None:
        """Say so where the source gives so many test images and `test_size` asks for something else."""
        if given and self.test_size is not None:
            what = "they are left out" if self.test_size == 0 else "they stay whole, and no others are taken"
            log.warning("data.test_size is %s, %s gives %d test images: %s", self.test_size, self.location, given, what)

    @property
    def data(self) -> ImageSet:
        """All images, those of three equal channels with one; `setup` has to have run."""
        if self._data is None:
            raise InputError("the data set is not read yet: call setup() first")
        return self._data

    @property
    def parts(self) -> Split:
        """The split; `setup` has to have run."""
        if self._parts is None:
            raise InputError("the data set is not split yet: call setup() first")
        return self._parts

    def check_test_part(self) -> None:
        """Raise InputError if there are no test images; `setup` has to have run."""
        if not len(self.parts.test):
            why = "data.test_size is 0" if self.test_size == 0 else "it is divided into train and val alone"
            raise InputError(
                f"{self.location} has no test images, as {why}: fit again with data.test_size above 0, such as "
                "--data.test_size 0.2, or see the validation figures by defectlab validate RUN"
            )

    def test_on_validation(self) -> bool:
        """Let the validation images stand for missing test images; return whether they do."""
        if len(self.parts.test):
            return False
        self._parts = replace(self.parts, test=self.parts.val)
        return True

    def train_dataloader(self) -> BatchLoader:
        """Shuffled and augmented; features in place of images while `cache_features` holds some."""
        device, rank, world_size = self._place()
        images = self._images(device) if self._features is None else self._features
        indices = torch.from_numpy(self.parts.train)
        self._train_loader = TrainLoader(
            images=images, labels=self.data.labels, indices=indices, batch_size=self.batch_size,
            normalise=self.card.normalise, device=device, rank=rank, world_size=world_size, seed=self.seed,
            num_classes=self.num_classes, augmentation=self.augmentation,
            transform=self._transform_channels if self.transform else None, epoch=self._next_epoch(),
        )  # fmt: skip
        return self._train_loader

    def _next_epoch(self) -> int:
        """A loader that is asked for again goes on where the last one was."""
        return 0 if self._train_loader is None else self._train_loader.epoch

    def _transform_channels(self, images: Tensor) -> Tensor:
        """Grey images that stand for RGB are transformed as such."""
        assert self.transform is not None
        return self.transform(images.expand(-1, self.channels, -1, -1))

    def val_dataloader(self) -> EvalLoader:
        """In order, without augmentation; features in place of images while `cache_features` holds some."""
        return self._eval_loader(self.parts.val, self._features)

    def test_dataloader(self) -> EvalLoader:
        """In order, without augmentation; always images.

        Raises:
            InputError: there are no test images.
        """
        self.check_test_part()
        return self._eval_loader(self.parts.test)

    def predict_dataloader(self) -> EvalLoader:
        """The test images again."""
        return self.test_dataloader()

    def train_eval_dataloader(self) -> EvalLoader:
        """The training images in order, without augmentation; always images."""
        return self._eval_loader(self.parts.train)

    def _eval_loader(self, indices: np.ndarray, features: Tensor | None = None) -> EvalLoader:
        device, rank, world_size = self._place()
        images = self._images(device) if features is None else features
        return EvalLoader(
            images, self.data.labels, torch.from_numpy(indices), self.eval_batch_size, self.card.normalise,
            device, rank, world_size,
        )  # fmt: skip

    def _place(self) -> tuple[torch.device, int, int]:
        """Device, rank and number of processes."""
        if self.trainer is None:
            return torch.device("cpu"), 0, 1
        return self.trainer.strategy.root_device, self.trainer.global_rank, self.trainer.world_size

    def _images(self, device: torch.device) -> Tensor:
        """The images, on the device if they have room there; one copy for all loaders."""
        images = self.data.images
        if device.type == "cpu" or images.nbytes > _ON_DEVICE_BYTES:
            return images
        if self._on_device is None or self._on_device.device != device:
            self._on_device = images.to(device)
        return self._on_device

    @torch.no_grad()
    def cache_features(self, encode: Callable[[Tensor], Tensor]) -> None:
        """Let the train and val loaders give `encode(images)` `(N, E)`, computed once, in place of images.

        Nothing is augmented then: a cached feature belongs to one image. Every process encodes all of them.
        `clear_features` goes back.
        """
        indices = torch.from_numpy(np.concatenate((self.parts.train, self.parts.val)))
        loader = self._eval_loader(indices.numpy())
        loader.rank, loader.world_size = 0, 1
        features: Tensor | None = None
        with progress_bar("computing features", len(indices)) as advance:
            for batch, (images, _) in zip(torch.split(indices, loader.batch_size), loader, strict=True):
                encoded = encode(images).float()
                if features is None:
                    features = encoded.new_zeros(len(self.data.labels), encoded.shape[1])
                features[batch.to(features.device)] = encoded
                advance(len(batch))
        self._features = features

    def clear_features(self) -> None:
        """Give images again."""
        self._features = None

    @property
    def has_features(self) -> bool:
        """Whether the train and val loaders give features in place of images."""
        return self._features is not None

    def pixel_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and scale `(C, H, W)` of each pixel of the training images as the loaders give them, not augmented.

        What is standardised by them is standardised as scikit-learn's StandardScaler does it on [0, 1]: a pixel that
        never changes loses its mean and keeps its scale.
        """
        mean, sd = pixel_statistics(self.data.images, torch.from_numpy(self.parts.train))
        shift, scale = (torch.tensor(v, dtype=torch.float64).view(-1, 1, 1) for v in (self.card.mean, self.card.std))
        return ((mean - shift) / scale).float(), (sd / scale).float()

    def files(self, part: Part) -> list[str]:
        """Names of a part's images, in the order of its evaluation loader."""
        return [self.data.files[index] for index in getattr(self.parts, part)]

    def class_counts(self, part: Part) -> list[int]:
        """Images a class."""
        labels = self.data.labels.numpy()[getattr(self.parts, part)]
        return [int(count) for count in np.bincount(labels, minlength=self.num_classes)]

    def describe(self) -> dict[str, Any]:
        """Plain values that travel to metrics.json and into the checkpoint."""
        parts: tuple[Part, ...] = ("train", "val", "test")
        return {
            "source": self.source,
            "root": self.location,
            "class_names": list(self.class_names),
            "counts": {p: dict(zip(self.class_names, self.class_counts(p), strict=True)) for p in parts},
            "split_hash": self.card.split_hash,
            "mean": list(self.card.mean),
            "std": list(self.card.std),
            "image_size": self.image_size,
            "channels": self.channels,
            "skipped": [str(skipped) for skipped in self.data.skipped],
        }

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the data: `describe()`."""
        return self.describe()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the checkpoint's normalisation; a split other than the checkpoint's is warned of.

        Raises:
            InputError: the checkpoint was trained on other classes or another number of channels.
        """
        if list(state_dict["class_names"]) != list(self.class_names):
            raise InputError(
                f"the checkpoint knows the classes {', '.join(state_dict['class_names'])}, the data has "
                f"{', '.join(self.class_names)}: use the data set that the checkpoint was trained on"
            )
        channels = state_dict["channels"]
        if channels != self.channels:
            raise InputError(
                f"data.channels is {self.channels}, the checkpoint was trained with {channels}: use the same"
            )
        self._statistics = state_dict["mean"], state_dict["std"]
        if self._card is None:
            return
        self._card = self._make_card(*self._statistics)
        trained, here = state_dict["split_hash"], self._card.split_hash
        if trained != here:
            log.warning(
                "the checkpoint was trained with another split of the data (%s, here %s): images judged here "
                "may be among those it was trained on", trained, here,
            )  # fmt: skip


def check_class_names(names: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return `names`; InputError for fewer than two, or one given twice."""
    if names is not None and len(set(names)) < max(2, len(names)):
        raise InputError(f"data.class_names is {', '.join(names) or 'empty'}: expected two or more names, each once")
    return None if names is None else tuple(names)


def _in_order(data: ImageSet, class_names: Sequence[str]) -> ImageSet:
    """The same images, their labels indices into `class_names`."""
    if data.class_names == list(class_names):
        return data
    if sorted(data.class_names) != sorted(class_names):
        raise InputError(
            f"data.class_names is {', '.join(class_names)}: expected the classes of the data, "
            f"{', '.join(data.class_names)}, each once and in any order"
        )
    place = torch.tensor([list(class_names).index(name) for name in data.class_names])
    return replace(data, labels=place[data.labels], class_names=list(class_names))


def _fold(split: str) -> tuple[int, int] | None:
    """Which fold of how many; None for `auto` and `random`."""
    if split in ("auto", "random"):
        return None
    fold, _, folds = split.partition("/")
    if not (fold.isdecimal() and folds.isdecimal() and 1 <= int(fold) <= int(folds) and int(folds) >= 2):
        raise InputError(f"data.split is {split!r}: expected auto, random or a fold such as 2/5")
    return int(fold), int(folds)
