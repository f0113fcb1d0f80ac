"""Images that are in a set twice, byte for byte or nearly."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

_SMALL, _LARGE = 32, 96  # px of the first and of the second look
_CANDIDATE, _SURE = 0.4, 0.7  # correlations that lead to the second look, and that count there
_ROOM = 6  # px at the second size by which two cut-outs of one image may be shifted against each other
_BLOCK = 512


@dataclass(frozen=True)
class Duplicate:
    """Images `first` < `second`, and how alike: 1 for the same bytes, else the best correlation of their details."""

    first: int
    second: int
    similarity: float


def exact_duplicates(contents: Iterable[bytes]) -> list[Duplicate]:
    """Which of the contents of files, or of images, are the same, by SHA-256."""
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
    """Pairs among images (N, C, S, S) uint8 that show the same place: brighter, compressed, slightly cut or shifted.

    Uneven light is taken away, and what is left is correlated: at 32 px for every pair, then at 96 px under every
    shift of up to 6 px for those that are alike there.
    """
    small, large = _details(images, _SMALL), _details(images, _LARGE)
    flat = functional.normalize(small.flatten(1), dim=1)
    candidates: list[tuple[int, int]] = []
    for start in range(0, len(flat), _BLOCK):
        alike = (flat[start : start + _BLOCK] @ flat.T) > _CANDIDATE
        rows, columns = alike.nonzero(as_tuple=True)
        rows = rows + start
        keep = rows < columns
        candidates += list(zip(rows[keep].tolist(), columns[keep].tolist(), strict=True))
    return [Duplicate(i, j, s) for i, j in candidates if (s := _best_correlation(large[i], large[j])) > _SURE]


def groups(pairs: Sequence[Duplicate], count: int) -> list[list[int]]:
    """Images that hang together by pairs, each group ascending, of two or more."""
    leader = list(range(count))

    def lead(index: int) -> int:
        while leader[index] != index:
            leader[index] = leader[leader[index]]
            index = leader[index]
        return index

    for pair in pairs:
        first, second = sorted((lead(pair.first), lead(pair.second)))
        leader[second] = first
    members: dict[int, list[int]] = {}
    for index in range(count):
        members.setdefault(lead(index), []).append(index)
    return [group for group in members.values() if len(group) > 1]


def _details(images: Tensor, side: int) -> Tensor:
    """Grey, `side` × `side`, without what varies slowly, of mean 0: (N, side, side)."""
    blocks = []
    for block in torch.split(images, _BLOCK):
        grey = block.float().mean(dim=1, keepdim=True)
        grey = functional.interpolate(grey, (side, side), mode="bilinear", antialias=True)
        window = side // 4 + 1 - side // 4 % 2
        light = functional.avg_pool2d(functional.pad(grey, (window // 2,) * 4, mode="reflect"), window, stride=1)
        detail = (grey - light).squeeze(1)
        # A line from border to border is like any other such line: it says nothing about the place.
        detail = detail - detail.mean(dim=1, keepdim=True) - detail.mean(dim=2, keepdim=True)
        deviation = detail.square().mean(dim=(1, 2), keepdim=True).sqrt() + 1e-3
        blocks.append((detail / deviation).clamp(-2, 2))
    return torch.cat(blocks)


def _best_correlation(first: Tensor, second: Tensor) -> float:
    """The largest correlation of the inner part of one with the other, over all shifts that leave it inside."""
    inner = first[_ROOM:-_ROOM, _ROOM:-_ROOM]
    inner = inner - inner.mean()
    one = torch.ones_like(inner)[None, None] / inner.numel()
    products = functional.conv2d(second[None, None], inner[None, None])[0, 0]
    mean = functional.conv2d(second[None, None], one)[0, 0]
    square = functional.conv2d(second.square()[None, None], one)[0, 0]
    spread = ((square - mean.square()).clamp(min=1e-6) * inner.numel()).sqrt()
    length = inner.square().sum().sqrt().clamp(min=1e-6)
    return float((products / (spread * length)).max())
