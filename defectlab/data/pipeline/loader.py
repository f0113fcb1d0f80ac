"""Batches from one uint8 tensor, augmented and normalised on the device: no per-item Python, no worker processes."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from defectlab.data.pipeline.augment import Augmentation, augment, draw, mix, random_generator
from defectlab.data.sources.lazy import as_lazy
from defectlab.errors import InputError

Sampling = Literal["shuffled", "balanced", "sqrt_balanced"]


def check_sampling(sampling: Sampling) -> None:
    """Raise InputError unless there is such a way of sampling."""
    if sampling not in get_args(Sampling):
        raise InputError(f"data.sampling is {sampling}: expected one of {', '.join(get_args(Sampling))}")


class EpochLoader(ABC):
    """A loader whose passes differ by epoch, and can be taken up within one."""

    epoch: int
    _first: int = 0  # batch that the next pass begins with
    _done: int = 0  # batches of this pass

    @property
    def sampler(self) -> "EpochLoader":
        """Return this loader: Lightning calls `set_epoch` of a loader's sampler before each epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next pass."""
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """Return the number of batches of a pass that is not over, for Lightning to keep in a checkpoint."""
        return {"batches": self._done % len(self)}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Begin the next pass after so many batches."""
        self._first = state["batches"]

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of batches of this process."""

    @abstractmethod
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images and labels of finished batches."""


@dataclass(eq=False, repr=False, kw_only=True)
class ArrayLoader:
    """The fields of both loaders.

    There is no `dataset` in it, as Lightning takes what has one for torch's loader and builds it anew; the images of a part
    are `ImageDataModule.pixels(part)` and `.labels(part)`.

    Args:
        images: `(N, C, H, W)` uint8, held or decoded ahead; or features `(N, E)` float that are yielded as they are.
        labels: `(N,)` int64, or in training `(N, C)` probabilities times a weight of the image.
        indices: `(n,)` int64, the images of this part of the split.
        batch_size: images per step and process.
        normalise: of uint8 images, or floats in [0, 1]: `DataCard.normalise`.
        device: of the batches.
        rank: of this process.
        world_size: number of processes.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    batch_size: int
    normalise: Callable[[Tensor], Tensor]
    device: torch.device
    rank: int
    world_size: int

    def _fetch(self, batches: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        images = self.images
        if (lazy := as_lazy(images)) is not None:
            found: Generator[Tensor, None, None] = lazy.ahead(batches)
        else:
            # index_select copies image by image: many times faster than indexing with a tensor.
            found = (images.index_select(0, batch.to(images.device, non_blocking=True)) for batch in batches)
        with closing(found):
            for batch, pixels in zip(batches, found, strict=True):
                labels = self.labels.index_select(0, batch)
                yield pixels.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)


class EvalLoader(ArrayLoader):
    """Every image once, in order.

    Batch k belongs to process k modulo `world_size`. A process that is one batch short gets an empty one, so that all
    make the same number of steps.
    """

    def __len__(self) -> int:
        batches = -(-len(self.indices) // self.batch_size)
        return -(-batches // self.world_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        starts = [(step * self.world_size + self.rank) * self.batch_size for step in range(len(self))]
        for images, labels in self._fetch([self.indices[start : start + self.batch_size] for start in starts]):
            if images.dtype == torch.uint8:
                images = self.normalise(images)
            yield images, labels


@dataclass(eq=False, repr=False, kw_only=True)
class TrainLoader(ArrayLoader, EpochLoader):
    """A new order every epoch, the same for the same seed; the last, smaller batch is kept.

    A last batch of one image joins the one before it: BatchNorm cannot train on one.

    Processes take turns in one common order, so that together they have the batches of one process with `world_size`
    times the batch size; an order that does not divide evenly is continued from its beginning. What `augment` does to
    an image is the same for any number of processes; MixUp and CutMix pair the images of one process.

    Args:
        seed: of the order and of the augmentation, at least 0.
        num_classes: width of the soft labels that MixUp and CutMix make.
        augmentation: None for none.
        transform: applied to a batch `(N, C, H, W)` of floats in [0, 1], after `augmentation`, with torch's random numbers
            seeded by the batch; None for none.
        aspects: width by height of each of the images as the camera saw it `(N,)`, see `augment`; None for that of the pixels.
        epoch: of the next pass; each pass increases it by one.
        same_order: every epoch has the order of the first, so that its first batches are of the same images.
        sampling: `shuffled` takes each image once. Else an epoch has as many images, and classes come equally often
            (`balanced`) or by the square root of their number of images (`sqrt_balanced`): those of a rare class again, each
            time with its own augmentation, of a common one other images every epoch.
        strata: class of each of `indices`, `(n,)`, for `sampling`.
    """

    seed: int
    num_classes: int
    augmentation: Augmentation | None
    transform: Callable[[Tensor], Tensor] | None = None
    aspects: Tensor | None = None
    epoch: int = 0
    same_order: bool = False
    sampling: Sampling = "shuffled"
    strata: Tensor | None = None

    def __len__(self) -> int:
        return len(self._batch_sizes())

    def _batch_sizes(self) -> list[int]:
        per_process = -(-len(self.indices) // self.world_size)
        full, rest = divmod(per_process, self.batch_size)
        sizes = [self.batch_size] * full
        if rest == 1 and full:
            sizes[-1] += 1
        elif rest:
            sizes.append(rest)
        return sizes

    def _order(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Return the indices of this process's images in their order, and their places among those of all processes."""
        count, generator = len(self.indices), random_generator(self.seed, epoch, 1)
        order = torch.randperm(count, generator=generator)
        if self.sampling != "shuffled" and self.strata is not None:
            drawn = draw_by_class(self.strata, self.sampling, generator)
            order = drawn[order]
        turns = torch.arange(self.rank, -(-count // self.world_size) * self.world_size, self.world_size) % count
        return self.indices[order[turns]], turns

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch = self.epoch
        self.epoch += 1
        settings = self.augmentation if self.images.dtype == torch.uint8 else None
        repeats = self.sampling != "shuffled"  # each time an image comes it has draws of its own
        count = len(self.indices) if repeats else len(self.images)
        draws = draw(count, (self.seed, epoch)) if settings else torch.empty(0)
        order, places = self._order(0 if self.same_order else epoch)
        batches, turns = torch.split(order, self._batch_sizes()), torch.split(places, self._batch_sizes())
        first, self._first = self._first, 0
        for step, (images, labels) in enumerate(self._fetch(batches[first:]), start=first):
            batch, self._done = batches[step], step + 1
            if images.dtype == torch.uint8:
                if settings or self.transform:
                    images = images.float().div_(255)
                if settings:
                    aspects = None if self.aspects is None else self.aspects.index_select(0, batch)
                    own = draws.index_select(0, turns[step] if repeats else batch)
                    images = augment(images, own, settings, aspects)
                if self.transform:
                    images = self._transformed(images, (self.seed, epoch, step, self.rank))
                images = self.normalise(images)
            if settings and (settings.mixup or settings.cutmix):
                seed = (self.seed, epoch, step, self.rank)
                images, labels = mix(images, labels, self.num_classes, settings, seed)
            yield images, labels

    def _transformed(self, images: Tensor, key: tuple[int, ...]) -> Tensor:
        assert self.transform is not None
        with torch.random.fork_rng([images.device] if images.is_cuda else []):
            torch.manual_seed(random_generator(*key).initial_seed())
            result = self.transform(images)
        expected = images[:, 0].shape
        if not isinstance(result, Tensor) or not result.is_floating_point() or result[:, 0].shape != expected:
            found = f"{result.dtype} {tuple(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
            raise InputError(
                f"data.transform gives {found} for floats of shape {tuple(images.shape)}: expected the same; "
                "data.image_size is for another size, and the images are normalised afterwards"
            )
        return result


def draw_by_class(strata: Tensor, sampling: Sampling, generator: torch.Generator) -> Tensor:
    """Draw as many of n images as there are by class, see `TrainLoader`; return their places `(n,)`, class after class.

    Mahajan et al., "Exploring the limits of weakly supervised pretraining" (ECCV 2018), section 2.2, for the square root.
    """
    classes, sizes = torch.unique(strata, return_counts=True)
    shares = sizes.double() ** (0.0 if sampling == "balanced" else 0.5)
    ends = np.round(np.cumsum((shares / shares.sum()).numpy()) * len(strata)).astype(int)
    found = []
    for label, wanted in zip(classes, np.diff(ends, prepend=0).tolist(), strict=True):
        own = torch.nonzero(strata == label).flatten()
        rounds = [own[torch.randperm(len(own), generator=generator)] for _ in range(-(-wanted // len(own)))]
        found.append(torch.cat([*rounds, own[:0]])[:wanted])
    return torch.cat(found)
