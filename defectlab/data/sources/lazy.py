"""Images that are read when they are asked for, in threads, ahead of the loop that takes them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from math import prod
from typing import NoReturn, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from defectlab.data.sources.levels import Pixels
from defectlab.errors import InputError

AHEAD = 3  # batches that are read while one is used
_PER_TASK = 8  # images: handing them over one by one costs a tenth of their decoding
_MOST_THREADS = 8


class LazyImages:
    """N images `(C, H, W)` uint8 that stand for a tensor where rows are selected; whatever needs all says that it cannot.

    Args:
        image_shape: C, H and W.
        read: writes the pixels of a row into an array of that shape; called from several threads.
        rows: those that are the images, `(N,)` int64.
    """

    dtype = torch.uint8
    device = torch.device("cpu")
    is_cuda = False

    def __init__(self, image_shape: tuple[int, ...], read: Callable[[int, Pixels], None], rows: Tensor) -> None:
        self.shape = torch.Size((len(rows), *image_shape))
        self._read = read
        self._rows = rows

    @classmethod
    def of(cls, images: Tensor) -> LazyImages:
        """Return the images of a tensor that is too large to be copied, such as a mapped file."""
        values = images.numpy()

        def read(row: int, out: Pixels) -> None:
            out[...] = values[row]

        return cls(tuple(images.shape[1:]), read, torch.arange(len(images)))

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """Return what the images would take in memory."""
        return prod(self.shape)

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)
        raise InputError(
            f"the images are streamed, and what is asked for needs all of them at once ({name}): give data.backing memory or "
            "mapped"
        )

    def select(self, indices: Tensor) -> Tensor:
        """Return the images at `indices` `(n,)`, as `as_tensor`; nothing is read."""
        return LazyImages(tuple(self.shape[1:]), self._read, self._rows[indices]).as_tensor()

    def as_tensor(self) -> Tensor:
        """Return these images as what they stand for."""
        return cast("Tensor", self)

    def index_select(self, dim: int, indices: Tensor) -> Tensor:
        """Read the images at `indices`; `dim` is 0."""
        return next(self.ahead([indices]))

    def __getitem__(self, place: int | slice | list[int] | Tensor) -> Tensor:
        indices = torch.arange(len(self))[place]
        images = self.index_select(0, indices.reshape(-1))
        return images[0] if indices.ndim == 0 else images

    def ahead(self, batches: Iterable[Tensor]) -> Generator[Tensor, None, None]:
        """Yield the images of each batch of indices in order, of which at most `AHEAD` and one are held.

        Pillow decodes outside the interpreter lock, so threads read while the network computes.
        """
        pool = ThreadPoolExecutor(_threads())
        begun: deque[tuple[Tensor, list[Future[None]]]] = deque()
        try:
            for batch in batches:
                begun.append(self._begin(pool, batch))
                if len(begun) > AHEAD:
                    yield _finished(*begun.popleft())
            while begun:
                yield _finished(*begun.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _begin(self, pool: ThreadPoolExecutor, indices: Tensor) -> tuple[Tensor, list[Future[None]]]:
        images = torch.empty((len(indices), *self.shape[1:]), dtype=torch.uint8)
        out, rows = images.numpy(), self._rows[indices].tolist()

        def read(start: int) -> None:
            for place in range(start, min(start + _PER_TASK, len(rows))):
                self._read(rows[place], out[place])

        return images, [pool.submit(read, start) for start in range(0, len(rows), _PER_TASK)]


def as_lazy(images: object) -> LazyImages | None:
    """Return images that are read when they are asked for; None for those that are held."""
    return images if isinstance(images, LazyImages) else None


def select_images(images: Tensor, indices: npt.NDArray[np.int64], most_bytes: int) -> Tensor:
    """Return the images at `indices` `(n,)`: a copy, but of those that take more than `most_bytes` or are not held."""
    chosen = torch.from_numpy(indices)
    if (lazy := as_lazy(images)) is not None:
        return lazy.select(chosen)
    if len(indices) * images[:1].nbytes <= most_bytes:
        return images[chosen]
    return LazyImages.of(images).select(chosen)


def _finished(images: Tensor, tasks: list[Future[None]]) -> Tensor:
    for task in tasks:
        task.result()
    return images


def _threads() -> int:
    """Return the share of a process in the cores of this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_MOST_THREADS, cores // int(os.environ.get("LOCAL_WORLD_SIZE") or 1)))
