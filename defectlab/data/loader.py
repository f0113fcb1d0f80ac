"""Batches straight from one uint8 tensor: no per-item Python, no worker processes.

Ready batches come out: float images, augmented and normalised, already on the device. Under several processes
every evaluation image is seen exactly once, and its batch holds the same images as in one process.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from defectlab.data.augment import Augmentation, augment, draw, mix

__all__ = ["ArrayLoader", "EvalLoader", "TrainLoader"]


@dataclass
class ArrayLoader:
    """What both loaders share.

    Args:
        images: `(N, C, H, W)` uint8, or features `(N, E)` float that go out as they are.
        labels: `(N,)` int64.
        indices: `(n,)` int64, the images of this part of the split.
        batch_size: images a step and process.
        mean: a value a channel, for images in [0, 1].
        std: a value a channel.
        device: where batches appear.
        rank: of this process.
        world_size: number of processes.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    batch_size: int
    mean: Sequence[float]
    std: Sequence[float]
    device: torch.device
    rank: int
    world_size: int

    def __post_init__(self) -> None:
        self._mean = torch.tensor(self.mean, device=self.device).view(1, -1, 1, 1)
        self._scale = 1 / torch.tensor(self.std, device=self.device).view(1, -1, 1, 1)

    def _fetch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        where = indices.to(self.images.device, non_blocking=True)
        images = self.images[where].to(self.device, non_blocking=True)
        return images, self.labels[indices].to(self.device, non_blocking=True)

    def _normalise(self, images: Tensor) -> Tensor:
        """Floats of mean 0 and sd 1 from uint8, or from floats in [0, 1]."""
        if images.dtype == torch.uint8:
            return images.float().sub_(self._mean * 255).mul_(self._scale / 255)
        return images.sub_(self._mean).mul_(self._scale)


@dataclass
class EvalLoader(ArrayLoader):
    """Every image once, in order.

    Batch k belongs to process k modulo `world_size`. A process that would be one batch short gets an empty one,
    so that all make the same number of steps and collective operations never wait for each other.
    """

    def __len__(self) -> int:
        batches = -(-len(self.indices) // self.batch_size)
        return -(-batches // self.world_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(len(self)):
            start = (step * self.world_size + self.rank) * self.batch_size
            images, labels = self._fetch(self.indices[start : start + self.batch_size])
            if images.dtype == torch.uint8:
                images = self._normalise(images)
            yield images, labels


@dataclass
class TrainLoader(ArrayLoader):
    """A new order every epoch, the same for the same seed; the last, smaller batch is kept.

    A last batch of one image joins the one before it: BatchNorm cannot train on one.

    Batches are cut from the order of all processes together; an order that they cannot share out equally is
    filled up from its own beginning, since every process has to make the same number of steps of equal size.

    Args:
        seed: of the order and of the augmentation.
        num_classes: width of the soft labels that MixUp and CutMix make.
        augmentation: None leaves the pictures alone.
        epoch: the epoch that the next pass belongs to.
    """

    seed: int
    num_classes: int
    augmentation: Augmentation | None
    epoch: int = 0

    def __len__(self) -> int:
        return len(self._batch_sizes())

    def _batch_sizes(self) -> list[int]:
        per_process = -(-len(self.indices) // self.world_size)
        full, rest = divmod(per_process, self.batch_size)
        sizes = [self.batch_size] * full + ([rest] if rest else [])
        if sizes[-1:] == [1] and len(sizes) > 1:
            sizes[-2:] = [self.batch_size + 1]
        return sizes

    @property
    def sampler(self) -> "TrainLoader":
        """Lightning calls `set_epoch` of a loader's sampler before each epoch, so a resumed run goes on right."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next pass belongs to."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = self.indices[torch.randperm(len(self.indices), generator=generator)]
        missing = -len(order) % self.world_size
        order = torch.cat((order, order[:missing]))[self.rank :: self.world_size]
        settings = None if self.images.is_floating_point() else self.augmentation
        draws = draw(len(self.images), (self.seed, self.epoch)) if settings else torch.empty(0)
        for step, batch in enumerate(order.split(self._batch_sizes())):
            images, labels = self._fetch(batch)
            if images.dtype == torch.uint8:
                if settings:
                    images = augment(images.float().div_(255), draws[batch], settings)
                images = self._normalise(images)
            if settings and (settings.mixup or settings.cutmix):
                seed = (self.seed, self.epoch, step, self.rank)
                images, labels = mix(images, labels, self.num_classes, settings, seed)
            yield images, labels
        self.epoch += 1
