"""Find images that are in a set twice, byte for byte or nearly."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

_COARSE_PX, _FINE_PX = 32, 96  # sides at which all pairs, then candidates are compared
_COARSE_MIN_CORR, _FINE_MIN_CORR = 0.4, 0.7
_MAX_SHIFT_PX = 6  # between two crops of one image, at the fine size
_BLOCK = 512


@dataclass(frozen=True)
class Duplicate:
    """Images `first` < `second`; `similarity` is 1 for the same bytes, else the best correlation of their details."""

    first: int
    second: int
    similarity: float


def exact_duplicates(contents: Iterable[bytes]) -> list[Duplicate]:
    """Return which contents are the same, by SHA-256."""
    seen: dict[str, int] = {}
    found = []
    for index, content in enumerate(contents):
        digest = hashlib.sha256(content).hexdigest()
        if digest in seen:
            found.append(Duplicate(seen[digest], index, 1.0))
        else:
            seen[digest] = index
    return found


@torch.no_grad()
def near_duplicates(images: Tensor) -> list[Duplicate]:
    """Return pairs of images (N, C, S, S) uint8 of the same place: brighter, compressed, slightly cropped or shifted.

    Details without slow changes of light are correlated: at 32 px for every pair, then for candidates at 96 px under
    every shift of up to 6 px.
    """
    small, large = _details(images, _COARSE_PX), _details(images, _FINE_PX)
    flat = functional.normalize(small.flatten(1), dim=1)
    candidates: list[tuple[int, int]] = []
    for start in range(0, len(flat), _BLOCK):
        alike = (flat[start : start + _BLOCK] @ flat.T) > _COARSE_MIN_CORR
        rows, columns = alike.nonzero(as_tuple=True)
        rows = rows + start
        keep = rows < columns
        candidates += list(zip(rows[keep].tolist(), columns[keep].tolist(), strict=True))
    return [Duplicate(i, j, s) for i, j in candidates if (s := _best_correlation(large[i], large[j])) > _FINE_MIN_CORR]


def groups(pairs: Sequence[Duplicate], count: int) -> list[list[int]]:
    """Return the images that pairs connect, each group ascending and of two or more, the groups by their first."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = [pair.first for pair in pairs], [pair.second for pair in pairs]
    members: dict[int, list[int]] = {}
    labels = connected_components(coo_array(([1] * len(pairs), ends), (count, count)), directed=False)[1]
    for index, label in enumerate(labels.tolist()):
        members.setdefault(label, []).append(index)
    return [group for group in members.values() if len(group) > 1]


def _details(images: Tensor, side: int) -> Tensor:
    """Return grey details (N, side, side) without slow changes of light, standardised."""
    blocks = []
    for block in torch.split(images, _BLOCK):
        grey = block.float().mean(dim=1, keepdim=True)
        grey = functional.interpolate(grey, (side, side), mode="bilinear", antialias=True)
        window = side // 4 + 1 - side // 4 % 2
        light = functional.avg_pool2d(functional.pad(grey, (window // 2,) * 4, mode="reflect"), window, stride=1)
        detail = (grey - light).squeeze(1)
        # Lines from border to border are all alike.
        detail = detail - detail.mean(dim=1, keepdim=True) - detail.mean(dim=2, keepdim=True)
        deviation = detail.square().mean(dim=(1, 2), keepdim=True).sqrt() + 1e-3
        blocks.append((detail / deviation).clamp(-2, 2))
    return torch.cat(blocks)


def _best_correlation(first: Tensor, second: Tensor) -> float:
    """Return the largest correlation of the inner part of one with the other, over all shifts."""
    inner = first[_MAX_SHIFT_PX:-_MAX_SHIFT_PX, _MAX_SHIFT_PX:-_MAX_SHIFT_PX]
    inner = inner - inner.mean()
    one = torch.ones_like(inner)[None, None] / inner.numel()
    products = functional.conv2d(second[None, None], inner[None, None])[0, 0]
    mean = functional.conv2d(second[None, None], one)[0, 0]
    square = functional.conv2d(second.square()[None, None], one)[0, 0]
    spread = ((square - mean.square()).clamp(min=1e-6) * inner.numel()).sqrt()
    length = inner.square().sum().sqrt().clamp(min=1e-6)
    return float((products / (spread * length)).max())
