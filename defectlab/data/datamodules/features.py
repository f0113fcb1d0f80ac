"""Features of images by a frozen network, computed once for all runs with the same images and network."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from defectlab.data.pipeline.loader import EvalLoader
from defectlab.data.sources.cache import alone, default_cache, read_note, write_note
from defectlab.errors import InputError
from defectlab.utils.files import atomic
from defectlab.utils.progress import progress_bar

log = logging.getLogger(__name__)


def known_features(key: str) -> Tensor | None:
    """Return the features `(N, ...)` that the cache has under a key, mapped privately; None if there are none."""
    place = _place(key)
    return torch.from_numpy(np.load(place, mmap_mode="c")) if read_note(place).get("key") == key else None


@torch.no_grad()
def features_of(loader: EvalLoader, encode: Callable[[Tensor], Tensor], key: str) -> Tensor:
    """Return `encode(images)` of all images of a loader, float32 `(N, ...)`, from the cache; computed if it has none."""
    with alone(_place(key)):
        if (known := known_features(key)) is not None:
            return known
        try:
            _keep(loader, encode, key)
        except InputError as error:
            log.warning("%s: the features are of this run alone", error)
            return torch.cat([encode(images).float() for images, _ in loader])
    return torch.from_numpy(np.load(_place(key), mmap_mode="c"))


def _keep(loader: EvalLoader, encode: Callable[[Tensor], Tensor], key: str) -> None:
    count, done = len(loader.indices), 0
    with atomic(_place(key), "make room in the cache") as part, progress_bar("computing features", count) as advance:
        for images, _ in loader:
            found = encode(images).float().cpu().numpy()
            if not done:  # written, not held: a large set has gigabytes of features
                kept = np.lib.format.open_memmap(part, "w+", np.float32, (count, *found.shape[1:]))
            kept[done : done + len(found)] = found
            done += len(found)
            advance(len(found))
        kept.flush()
    write_note(_place(key), {"key": key}, kept.nbytes)


def _place(key: str) -> Path:
    return default_cache() / f"features-{key[:32]}.npy"
