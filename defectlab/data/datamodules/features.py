"""Features of images by a frozen network, computed once for all runs with the same images and network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from defectlab.data.sources.cache import alone, default_cache, read_note, write_note
from defectlab.utils.files import atomic
from defectlab.utils.progress import progress_bar


def kept_features(
    key: str, images: Iterable[str], batches: Iterable[Tensor] | None, encode: Callable[[Tensor], Tensor]
) -> Tensor | None:
    """Return features `(N, E)` float32 from the cache, mapped privately; computed and kept there if they are not.

    Args:
        key: of the network, and of how images are prepared for it.
        images: what tells each of the N images.
        batches: of images, in that order; None to look only.
        encode: turns a batch into features `(n, E)`.

    Returns:
        None where there are none and `batches` is None.

    Raises:
        InputError: the cache cannot be written.
    """
    hashes = list(images)
    digest = hashlib.sha256("\n".join((key, *hashes)).encode()).hexdigest()
    place = default_cache() / f"features-{digest[:32]}.npy"
    if read_note(place).get("key") != digest:
        if batches is None:
            return None
        with alone(place):
            if read_note(place).get("key") != digest:
                _write(place, digest, len(hashes), batches, encode)
    return torch.from_numpy(np.load(place, mmap_mode="c"))


@torch.no_grad()
def _write(place: Path, digest: str, count: int, batches: Iterable[Tensor], encode: Callable[[Tensor], Tensor]) -> None:
    done = 0
    with (
        atomic(place, "expected room for features in the cache") as part,
        progress_bar("computing features", count) as advance,
    ):
        for images in batches:
            found = encode(images).float().cpu().numpy()
            if not done:
                features = np.lib.format.open_memmap(part, "w+", np.float32, (count, found.shape[1]))
            features[done : done + len(found)] = found
            done += len(found)
            advance(len(found))
        features.flush()
        size = part.stat().st_size
        del features
    write_note(place, {"key": digest}, size)
