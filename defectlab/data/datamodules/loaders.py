"""The loaders of a set of images that is read and split, and the cache of features in their place."""

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from defectlab.data.datamodules.features import features_of, known_features
from defectlab.data.pipeline.augment import Augmentation
from defectlab.data.pipeline.loader import EpochLoader, EvalLoader, Sampling, TrainLoader
from defectlab.data.pipeline.split_table import SplitTable
from defectlab.data.pipeline.splits import Split
from defectlab.data.pipeline.statistics import pixel_statistics
from defectlab.data.sources.images import ImageSet
from defectlab.data.sources.lazy import as_lazy
from defectlab.errors import InputError
from defectlab.utils.card import DataCard
from defectlab.utils.image_format import images_at_once

Part = Literal["train", "val", "test"]
_SAMPLED = 20_000  # streamed images by which the statistics of each pixel are measured
ON_DEVICE_BYTES = 2 * 2**30  # a set up to this size lives on the GPU as a whole


class ImageLoaders(pl.LightningDataModule):
    """Images, labels and loaders of each part of the split, for `ImageDataModule` after `setup`."""

    batch_size: int
    eval_batch_size: int
    seed: int
    channels: int
    test_size: int | float | None
    augmentation: Augmentation | None
    transform: Callable[[Tensor], Tensor] | None
    sampling: Sampling

    def __init__(self) -> None:
        super().__init__()
        self._card: DataCard | None = None
        self._data: ImageSet | None = None
        self._parts: Split | None = None
        self._on_device: Tensor | None = None
        self._features: Tensor | None = None
        self._tests_features = False
        self._passes = 1
        self._train_loader: EpochLoader | None = None

    @property
    @abstractmethod
    def class_names(self) -> Sequence[str]:
        """Return the names in the order of the labels; they are known before any image is read."""

    @property
    def source(self) -> str:
        """Return `real` or `synthetic`."""
        return "real"

    @property
    def generated(self) -> bool:
        """Return whether the images come from a generator, not from files."""
        return self.source == "synthetic"

    @property
    @abstractmethod
    def location(self) -> str:
        """Return where the images come from, for messages and metrics.json."""

    @abstractmethod
    def split_table(self) -> SplitTable:
        """Return the part, label, size and content of every image that is used; call `setup` first."""

    @property
    def num_classes(self) -> int:
        """Return the number of classes."""
        return len(self.class_names)

    @property
    def card(self) -> DataCard:
        """Return how images are prepared, with the statistics measured or of a checkpoint; call `setup` first."""
        if self._card is None:
            raise InputError(
                "the data set is not measured yet: call setup() first; test images alone need data.mean and data.std"
            )
        return self._card

    def pixels(self, part: Part, indices: Sequence[int] | np.ndarray | Tensor | None = None) -> Tensor:
        """Return images of a part as they are stored: uint8 `(n, C, H, W)`, with C of 1 where all channels are equal.

        Args:
            part: `train`, `val` or `test`.
            indices: positions within the part, in the order of its evaluation loader; None for all.
        """
        chosen = getattr(self.parts, part)
        return self.data.images.index_select(
            0, torch.from_numpy(chosen if indices is None else chosen[np.asarray(indices)])
        )

    def labels(self, part: Part) -> Tensor:
        """Return the labels `(n,)` int64 of a part, in the order of its evaluation loader; of a multi-label set `(n, C)`."""
        return self.data.labels[torch.from_numpy(getattr(self.parts, part))]

    def strata(self, part: Part) -> np.ndarray:
        """Return one class `(n,)` for each image of a part: an index into `ImageSet.strata_names`, see `ImageSet.strata`."""
        strata: np.ndarray = self.data.strata[getattr(self.parts, part)]
        return strata

    @property
    def data(self) -> ImageSet:
        """Return all images, with one channel where three are equal; call `setup` first."""
        if self._data is None:
            raise InputError("the data set is not read yet: call setup() first")
        return self._data

    @property
    def parts(self) -> Split:
        """Return the split; call `setup` first."""
        if self._parts is None:
            raise InputError("the data set is not split yet: call setup() first")
        return self._parts

    def check_test_part(self) -> None:
        """Raise InputError if there are no test images; call `setup` first."""
        if not len(self.parts.test):
            why = "data.test_size is 0" if self.test_size == 0 else "it is divided into train and val alone"
            raise InputError(
                f"{self.location} has no test images, as {why}: fit again with data.test_size above 0, such as "
                "--data.test_size 0.2, or see the validation figures by defectlab validate RUN"
            )

    def test_on_validation(self) -> bool:
        """Use the validation images as test part if there is none; return whether that is so."""
        if len(self.parts.test):
            return False
        self._parts = replace(self.parts, test=self.parts.val)
        return True

    def train_dataloader(self) -> EpochLoader:
        """Return the training loader: shuffled and augmented; of features after `cache_features`.

        Raises:
            InputError: there are no training images.
        """
        if not len(self.parts.train):
            raise InputError(f"data.split is test: all images of {self.location} are test images, none to train on")
        device, rank, world_size = self._device_and_rank()
        images = self._images(device) if self._features is None else self._features
        shuffled = self.sampling == "shuffled"
        strata = None if shuffled else torch.from_numpy(self.strata("train")).repeat(self._passes)
        self._train_loader = TrainLoader(
            images=images, labels=self._targets(), indices=torch.from_numpy(self.parts.train).repeat(self._passes),
            batch_size=self.batch_size, normalise=self.card.normalise, device=device, rank=rank, world_size=world_size,
            seed=self.seed, num_classes=self.num_classes, augmentation=self.augmentation, aspects=self.data.aspects,
            transform=self._transform_channels if self.transform else None, epoch=self._next_epoch(),
            same_order=self.trainer is not None and bool(getattr(self.trainer, "overfit_batches", 0)),
            sampling=self.sampling, strata=strata,
        )  # fmt: skip
        return self._train_loader

    def _targets(self) -> Tensor:
        """Return what the training loader yields for labels: `(N, C)` where these are probabilities, or weighted."""
        records, labels = self.data.records, self.data.labels
        if records.targets is None and records.weights is None:
            return labels
        if labels.ndim == 2:
            raise InputError(
                "a table weighs the images of a multi-label set: expected none; leave out its column of weights"
            )
        soft = torch.nn.functional.one_hot(labels, self.num_classes).float()
        if records.targets is not None:
            soft = torch.from_numpy(records.targets)
        if records.weights is not None:
            weights = torch.from_numpy(records.weights)
            soft = soft * (weights / weights[torch.from_numpy(self.parts.train)].mean())[:, None]
        return soft

    def _next_epoch(self) -> int:
        """Return the epoch of the next pass, also where the loader is asked for again."""
        return 0 if self._train_loader is None else self._train_loader.epoch

    def _transform_channels(self, images: Tensor) -> Tensor:
        """Transform all channels, also of images that are stored with one."""
        assert self.transform is not None
        return self.transform(images.expand(-1, self.channels, -1, -1))

    def val_dataloader(self) -> EvalLoader:
        """Return the validation loader: in order, not augmented; of features after `cache_features`."""
        return self._eval_loader(self.parts.val, self._features)

    def test_dataloader(self) -> EvalLoader:
        """Return the test loader: in order, not augmented, of images but for `use_features`.

        Raises:
            InputError: there are no test images.
        """
        self.check_test_part()
        return self._eval_loader(self.parts.test, self._features if self._tests_features else None)

    def predict_dataloader(self) -> EvalLoader:
        """Return the test loader."""
        return self.test_dataloader()

    def train_eval_dataloader(self) -> EvalLoader:
        """Return a loader of the training images in order, not augmented; of features as `test_dataloader`."""
        return self._eval_loader(self.parts.train, self._features if self._tests_features else None)

    def training_sample(self, most: int) -> EvalLoader:
        """Return a loader of at most so many training images for one process, not augmented, drawn by `seed`.

        Of rare classes all are taken before common ones have more, so that none is missing. Order and labels are as in the set.
        """
        strata = self.strata("train")
        order = np.random.default_rng(self.seed).permutation(len(strata))
        turn = np.empty(len(strata), dtype=np.int64)  # of each image within its class
        for stratum in np.unique(strata):
            own = order[strata[order] == stratum]
            turn[own] = np.arange(len(own))
        loader = self.train_eval_dataloader()
        loader.indices = loader.indices[np.sort(order[np.argsort(turn[order], kind="stable")[:most]])]
        loader.rank, loader.world_size = 0, 1
        return loader

    def _eval_loader(self, indices: np.ndarray, features: Tensor | None = None) -> EvalLoader:
        device, rank, world_size = self._device_and_rank()
        batch = self.eval_batch_size
        if features is None and device.type == "cpu":
            batch = images_at_once(self.card.image_size, batch)
        return EvalLoader(
            images=self._images(device) if features is None else features, labels=self.data.labels,
            indices=torch.from_numpy(indices), batch_size=batch, normalise=self.card.normalise,
            device=device, rank=rank, world_size=world_size,
        )  # fmt: skip

    def _device_and_rank(self) -> tuple[torch.device, int, int]:
        """Return the device, the rank and the number of processes."""
        if self.trainer is None:
            return torch.device("cpu"), 0, 1
        return self.trainer.strategy.root_device, self.trainer.global_rank, self.trainer.world_size

    def _images(self, device: torch.device) -> Tensor:
        """Return the images, on the device up to 2 GiB: one copy for all loaders."""
        images = self.data.images
        if device.type == "cpu" or images.nbytes > ON_DEVICE_BYTES or as_lazy(images) is not None:
            return images
        if self._on_device is None or self._on_device.device != device:
            self._on_device = images.to(device)
        return self._on_device

    def cache_features(self, encode: Callable[[Tensor], Tensor], passes: int = 1, encoder: str = "") -> Tensor:
        """Replace images in the train and val loaders by `encode(images)` `(N, ...)`, computed once for all runs; return that of all images.

        Nothing is augmented then, and an epoch is so many `passes`. `clear_features` undoes it. `encoder` tells what encodes
        from all else that does: with the images and how they are prepared it is what the cache keeps features by.
        """
        loader = self._eval_loader(np.arange(len(self.data.files)))
        loader.rank, loader.world_size = 0, 1
        features = features_of(loader, encode, self._features_key(encoder))
        self._features = features.to(loader.device) if features.nbytes <= ON_DEVICE_BYTES else features
        self._passes = passes
        return self._features

    def use_features(self, encoder: str) -> None:
        """Replace images in the val and test loaders by features, if the cache has those of the encoder."""
        self._features = known_features(self._features_key(encoder))
        self._tests_features = self._features is not None

    def _features_key(self, encoder: str) -> str:
        hashes = {row.file: row.hash for row in self.split_table().rows}
        card = self.card
        # A device and a release of torch may round otherwise.
        facts = (encoder, card.image_format, card.mean, card.std, self._device_and_rank()[0].type, torch.__version__)
        return hashlib.sha256(
            "\n".join([*map(str, facts), *map(hashes.__getitem__, self.data.files)]).encode()
        ).hexdigest()

    def clear_features(self) -> None:
        """Yield images again."""
        self._features, self._tests_features, self._passes = None, False, 1

    @property
    def has_features(self) -> bool:
        """Return whether the train and val loaders yield features."""
        return self._features is not None

    def pixel_statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and scale `(C, H, W)` of each pixel over the normalised training images, not augmented.

        As of scikit-learn's StandardScaler on pixels in [0, 1]: the scale of a constant pixel is 1 there.
        """
        images = self.data.images
        sample = torch.from_numpy(self.parts.train)
        if as_lazy(images) is not None:  # of each pixel there is no index: an even sample says as much
            sample = sample[:: -(-len(sample) // _SAMPLED)]
        mean, sd = pixel_statistics(images, sample)
        shift, scale = (torch.tensor(v, dtype=torch.float64).view(-1, 1, 1) for v in (self.card.mean, self.card.std))
        return ((mean - shift) / scale).float(), (sd / scale).float()

    def files(self, part: Part) -> list[str]:
        """Return the names of a part's images, in the order of its evaluation loader."""
        return [self.data.files[index] for index in getattr(self.parts, part)]

    def groups(self, part: Part) -> list[str] | None:
        """Return the group of each image of a part, in the order of its evaluation loader; None without groups."""
        names = self.data.records.groups
        return None if names is None else [names[index] for index in getattr(self.parts, part)]

    def class_counts(self, part: Part) -> list[int]:
        """Return the number of images of each class."""
        return self.data.class_counts(getattr(self.parts, part))
