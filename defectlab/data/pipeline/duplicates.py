"""Find images that are in a set twice, byte for byte or nearly."""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from defectlab.utils.progress import progress_bar

log = logging.getLogger(__name__)

_COARSE_PX, _FINE_PX = 16, 64  # sides at which candidates are looked for, then compared
_COARSE_SHIFTS = (0, 0), (0, 1), (1, -1), (1, 0), (1, 1)  # one of each pair of opposites: either image may be the first
_MAX_SHIFT_PX = 4  # between two crops of one image, at the fine size
_CANDIDATES, _USUAL_RANK = 32, 8  # of an image; the correlation with the ninth says what is usual for it
_MIN_CORR, _MIN_MARGIN, _CERTAIN_CORR = 0.5, 0.7, 0.985  # the margin is of Fisher's z
_ALIKE_CORR, _TYPICAL_CORR = 0.7, 0.9  # with nine others, and with the mean of all
_SMOOTH = 0.25  # cycles per pixel of the fine size; finer details are noise
_SAMPLE = 2048  # images that tell what all have in common
_PRIOR = 8  # images: of fewer than that, little is said to be common
_FLAT = 0.05  # grey levels of sd: without details
_BLOCK, _ROWS, _COLUMNS, _BLOCK_VALUES = 512, 16, 2**15, 2**23


@dataclass(frozen=True)
class Duplicate:
    """Images `first` < `second`; `similarity` is 1 for the same bytes, else the best correlation of their details."""

    first: int
    second: int
    similarity: float


def exact_duplicates(contents: Iterable[bytes]) -> Iterator[Duplicate]:
    """Yield which contents are the same as one before, the first such, by SHA-256."""
    seen: dict[str, int] = {}
    with progress_bar("comparing files", None) as advance:
        for index, content in enumerate(contents):
            first = seen.setdefault(hashlib.sha256(content).hexdigest(), index)
            if first != index:
                yield Duplicate(first, index, 1.0)
            advance(1)


def near_duplicates(images: Tensor) -> list[Duplicate]:
    """Return what `iter_near_duplicates` yields, by the first image, then the second."""
    return sorted(iter_near_duplicates(images), key=lambda pair: (pair.first, pair.second))


@torch.no_grad()
def iter_near_duplicates(images: Tensor) -> Iterator[Duplicate]:
    """Yield pairs of images (N, C, H, W) uint8 of the same place: brighter, compressed, slightly cropped or shifted.

    What is compared are details without slow changes of light, less the set's mean at each place, over its sd there, and
    whitened by the set's mean power spectrum: parts in a fixed pose then look different. The 32 images most alike at 16 px
    are compared at 64 px under every shift of up to 4 px. A pair is one that stands out from what is usual for both of its
    images: in Fisher's z from their ninth best correlation; of more than nine alike only nearly perfect copies are told
    from parts that lie alike. Takes 5 N² products of 196 numbers and 32 N comparisons; 5 KB of memory an image.
    """
    count = len(images)
    if count < 2:
        return
    coarse, fine, typical = _prepared(images)
    flat = ~fine.flatten(1).any(dim=1)
    side = _COARSE_PX - 2
    queries = [coarse[:, 1 + dy : 1 + dy + side, 1 + dx : 1 + dx + side] for dy, dx in _COARSE_SHIFTS]
    most = min(_CANDIDATES, count - 1)
    usual = torch.zeros(count)
    open_pairs: dict[tuple[int, int], float] = {}
    with progress_bar("searching duplicates", count) as advance:
        for start in range(0, count, _BLOCK):
            stop = min(start + _BLOCK, count)
            candidates = _nearest([query[start:stop] for query in queries], queries[0], start, most)
            scores = torch.cat([
                _best_correlations(fine[start + row : start + row + len(block)].float(), fine[block].float())
                for row, block in zip(range(0, stop - start, _ROWS), torch.split(candidates, _ROWS), strict=True)
            ])  # fmt: skip
            scores[flat[start:stop, None] | flat[candidates]] = 0.0
            if most > _USUAL_RANK:
                usual[start:stop] = scores.sort(dim=1, descending=True).values[:, _USUAL_RANK]
            hits = _stand_out(scores, usual[start:stop, None])
            for row, column in hits.nonzero().tolist():
                one, other = start + row, int(candidates[row, column])
                pair = min(one, other), max(one, other)
                open_pairs[pair] = max(float(scores[row, column]), open_pairs.get(pair, 0.0))
            for first, second in sorted(pair for pair in open_pairs if pair[1] < stop):
                score = open_pairs.pop((first, second))
                if bool(_stand_out(torch.tensor(score), usual[[first, second]]).all()):
                    yield Duplicate(first, second, min(score, 1.0))
            advance(stop - start)
    alike = int(((usual > _ALIKE_CORR) | (typical > _TYPICAL_CORR)).sum())
    if alike > _USUAL_RANK:
        log.warning(
            "%d of %d images look like many others: they are parts in one pose, or one place over and over; of these only "
            "nearly perfect copies count as the same place", alike, count,
        )  # fmt: skip


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


def _stand_out(scores: Tensor, usual: Tensor) -> Tensor:
    margin = torch.atanh(scores.clamp(0, 0.9999)) - torch.atanh(usual.clamp(0, 0.9999))
    return (scores > _CERTAIN_CORR) | (scores > _MIN_CORR) & (margin > _MIN_MARGIN)


def _prepared(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the details of all images, less what they have in common: (N, 16, 16) float16 and (N, 64, 64) int8.

    Those at 64 px are whitened, in 32nds of their sd; flat images are 0. The third (N,) is the correlation of an image
    with the mean of all.
    """
    count = len(images)
    sample = torch.linspace(0, count - 1, min(count, _SAMPLE)).long()
    share = count / (count + _PRIOR)
    large, small = (_details(images, sample, side) for side in (_FINE_PX, _COARSE_PX))
    common_large, common_small = share * large.mean(dim=0), share * small.mean(dim=0)
    spread = (large - common_large).square().mean(dim=0).sqrt().clamp(min=0.1)
    power = torch.fft.rfft2((large - common_large) / spread).abs().square().mean(dim=0)
    down, across = torch.fft.fftfreq(_FINE_PX)[:, None], torch.fft.rfftfreq(_FINE_PX)
    gain = torch.exp(-(down.square() + across.square()) / _SMOOTH**2) / (power + 1e-3 * power.mean() + 1e-9).sqrt()
    coarse = torch.empty(count, _COARSE_PX, _COARSE_PX, dtype=torch.float16)
    fine = torch.empty(count, _FINE_PX, _FINE_PX, dtype=torch.int8)
    typical = torch.empty(count)
    with progress_bar("preparing images", count) as advance:
        for start in range(0, count, _BLOCK):
            block = torch.arange(start, min(start + _BLOCK, count))
            coarse[start : start + _BLOCK] = _details(images, block, _COARSE_PX) - common_small
            detail = _details(images, block, _FINE_PX)
            typical[start : start + _BLOCK] = functional.cosine_similarity(
                detail.flatten(1), common_large.flatten()[None], dim=1
            )
            white = torch.fft.irfft2(torch.fft.rfft2((detail - common_large) / spread) * gain, s=detail.shape[1:])
            white = white / white.square().mean(dim=(1, 2), keepdim=True).sqrt().clamp(min=1e-6)
            white = white * detail.flatten(1).any(dim=1)[:, None, None]
            fine[start : start + _BLOCK] = (32 * white).round().clamp(-127, 127)
            advance(len(block))
    return coarse, fine, typical


def _nearest(queries: Sequence[Tensor], whole: Tensor, start: int, most: int) -> Tensor:
    """Return the images (n, most) most alike to those from `start` on, given as windows (n, S, S) under each shift."""
    turned = [_unit(query) for query in queries]
    values, indices = torch.empty(len(turned[0]), 0), torch.empty(len(turned[0]), 0, dtype=torch.int64)
    for column in range(0, len(whole), _COLUMNS):
        against = _unit(whole[column : column + _COLUMNS]).T
        alike = turned[0] @ against
        for query in turned[1:]:
            torch.maximum(alike, query @ against, out=alike)
        own = torch.arange(len(alike)) + start - column
        inside = (own >= 0) & (own < alike.shape[1])
        alike[inside.nonzero()[:, 0], own[inside]] = -2.0
        best = alike.topk(min(most + 1, alike.shape[1]), dim=1)
        values, indices = torch.cat((values, best.values), dim=1), torch.cat((indices, best.indices + column), dim=1)
        values, kept = values.topk(min(most, values.shape[1]), dim=1)
        indices = indices.gather(1, kept)
    return indices


def _unit(windows: Tensor) -> Tensor:
    flat = windows.flatten(1).float()
    return functional.normalize(flat - flat.mean(dim=1, keepdim=True), dim=1)


def _details(images: Tensor, indices: Tensor, side: int) -> Tensor:
    """Return grey details (n, side, side) of images at `indices`, without slow changes of light, standardised or 0."""
    blocks = []
    for part in torch.split(indices, max(1, _BLOCK_VALUES // images[0].numel())):
        grey = images[part].float().mean(dim=1, keepdim=True)
        grey = functional.interpolate(grey, (side, side), mode="bilinear", antialias=True)
        window = side // 4 + 1 - side // 4 % 2
        light = functional.pad(grey, (window // 2,) * 4, mode="reflect")
        for kernel in ((1, window), (window, 1)):
            light = functional.avg_pool2d(light, kernel, stride=1)
        detail = (grey - light).squeeze(1)
        # Lines from border to border are all alike.
        detail = detail - detail.mean(dim=1, keepdim=True) - detail.mean(dim=2, keepdim=True)
        deviation = detail.square().mean(dim=(1, 2), keepdim=True).sqrt()
        blocks.append((detail / deviation.clamp(min=_FLAT)).clamp(-2, 2) * (deviation > _FLAT))
    return torch.cat(blocks)


def _best_correlations(images: Tensor, others: Tensor) -> Tensor:
    """Return the largest correlation (n, m) of the inner part of images (n, S, S) with others (n, m, S, S), over shifts."""
    side, shift = images.shape[-1], _MAX_SHIFT_PX
    inside = torch.zeros(side, side)
    inside[shift:-shift, shift:-shift] = 1
    pixels = inside.sum()
    inner = images * inside
    inner = inner - inside * (inner.sum(dim=(1, 2), keepdim=True) / pixels)
    spectrum = torch.fft.rfft2(others) * torch.fft.rfft2(inner).conj()[:, None]
    shifts = torch.arange(-shift, shift + 1)
    products = torch.fft.irfft2(spectrum, s=(side, side))[:, :, shifts][:, :, :, shifts]
    # Sums over each shifted window.
    rows = torch.stack([inside[shift].roll(int(by)) for by in shifts])
    total, squares = rows @ others @ rows.T, rows @ others.square() @ rows.T
    spread = (squares - total.square() / pixels).clamp(min=1.0)
    length = inner.square().sum(dim=(1, 2)).clamp(min=1.0).sqrt()
    best: Tensor = (products / spread.sqrt()).flatten(2).amax(dim=2) / length[:, None]
    return best
