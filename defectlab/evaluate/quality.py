"""Measure size, exposure, range and sharpness of images; find those that are unusual, and classes that one of them tells."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from defectlab.metrics.classification import accuracy_interval
from defectlab.metrics.ranking import curve

Measures: TypeAlias = Mapping[str, npt.NDArray[np.float64]]

_BLOCK_VALUES = 2**22  # pixels of all channels
_UNUSUAL = 6.0  # robust z
_NEAR_EMPTY = 8.0  # grey levels in use, of 256
_TELLS, _FEWEST = 0.95, 8  # AUROC of a class, and images that it takes on either side
# The least sd that is taken as usual, in grey levels, shares, or as the logarithm of values whose ratio counts.
_LEAST_SD = {
    "brightness": 2.0, "black": 0.01, "white": 0.01, "range": 3.0, "sharpness": 0.1, "width": 0.02, "height": 0.02,
}  # fmt: skip
_RATIO = ("sharpness", "width", "height")
_WORDS = {"black": "share of pixels at 0", "white": "share of pixels at 255", "range": "range of grey levels"}


@dataclass(frozen=True, kw_only=True)
class ClassQuality:
    """What the images of a class are like, and how well a test will know its recall; a row of quality.csv.

    Args:
        name: of the class; `(all)` for the whole set.
        images: how many there are.
        test_images: how many of them the test part has; None where the set cannot be split.
        recall_half_width: of the 95 % Wilson interval of the recall on those at its widest, in [0, 1].
        width, height: medians, px; None where the files are not known.
        brightness: median of the mean grey level, 0 to 255.
        black, white: mean shares of pixels at 0 and 255.
        range: median of the grey levels from the 1st to the 99th percentile.
        sharpness: median variance of the Laplacian.
    """

    name: str
    images: int
    test_images: int | None
    recall_half_width: float | None
    width: float | None
    height: float | None
    brightness: float
    black: float
    white: float
    range: float
    sharpness: float


def measure_quality(images: Tensor, sizes: Sequence[tuple[int, int]] | None = None) -> Measures:
    """Measure images (N, C, H, W) uint8, with width and height of their files: one array (N,) for each column of quality.csv.

    Sharpness is the variance of the Laplacian: Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy",
    ICPR 2000.
    """
    laplacian = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])[None, None]
    columns = []
    for block in torch.split(images, max(1, _BLOCK_VALUES // images[0].numel())):
        grey = block.float().mean(dim=1, keepdim=True)
        ordered = grey.flatten(1).sort(dim=1).values
        low, high = (ordered[:, round(share * (ordered.shape[1] - 1))] for share in (0.01, 0.99))
        edges = functional.conv2d(functional.pad(grey, (1, 1, 1, 1), mode="replicate"), laplacian)
        black, white = block.amax(dim=1) == 0, block.amin(dim=1) == 255
        shares = [mask.float().mean(dim=(1, 2)) for mask in (black, white)]
        columns.append(torch.stack([grey.mean(dim=(1, 2, 3)), *shares, high - low, edges.var((1, 2, 3), correction=0)]))
    names = ("brightness", "black", "white", "range", "sharpness")
    measures = dict(zip(names, torch.cat(columns, dim=1).double().numpy(), strict=True))
    if sizes is not None:
        measures |= dict(zip(("width", "height"), np.array(sizes, dtype=np.float64).T, strict=True))
    return measures


def unusual_images(measures: Measures, labels: npt.NDArray[np.int64]) -> Iterator[tuple[int, str]]:
    """Yield index and reason of images that are nearly empty, or far from the median: a robust z above 6.

    The median is that of the set, and also that of the image's class if it has 8 images. What is far for a quarter of the
    set is not unusual.
    """
    empty = measures["range"] < _NEAR_EMPTY
    reasons: dict[int, list[str]] = {
        int(i): [f"nearly empty: {measures['range'][i]:.0f} grey levels from the 1st to the 99th percentile"]
        for i in np.flatnonzero(empty)
    }
    large = [labels == label for label, count in enumerate(np.bincount(labels)) if count >= _FEWEST]
    for name, values in measures.items():
        x = np.log(values + 1) if name in _RATIO else values
        z = _robust_z(x, _LEAST_SD[name])
        far = (np.abs(z) > _UNUSUAL) & ~empty
        for inside in large:
            far[inside] &= np.abs(_robust_z(x[inside], _LEAST_SD[name])) > _UNUSUAL
        for i in np.flatnonzero(far) if far.mean() < 0.25 else ():
            told = f"{_WORDS.get(name, name)} {values[i]:.3g}, usual {np.median(values):.3g} (z {z[i]:+.0f})"
            reasons.setdefault(int(i), []).append(told)
    for index in sorted(reasons):
        yield index, "; ".join(reasons[index])


def _robust_z(x: npt.NDArray[np.float64], least: float) -> npt.NDArray[np.float64]:
    centred: npt.NDArray[np.float64] = x - np.median(x)
    return centred / max(1.4826 * float(np.median(np.abs(centred))), least)


def telling_measures(
    measures: Measures, labels: npt.NDArray[np.int64], names: Sequence[str]
) -> Iterator[tuple[str, float]]:
    """Yield a reason and the AUROC for each class that one measure alone tells from all others: a network could cheat."""
    counts = np.bincount(labels, minlength=len(names))
    # Of two classes either tells the other.
    for label in range(len(names)) if len(names) > 2 else [int(counts.argmin())]:
        n, rest = int(counts[label]), len(labels) - int(counts[label])
        if min(n, rest) < _FEWEST:
            continue
        for name, values in measures.items():
            above = curve(values, labels == label).auroc
            if max(above, 1 - above) >= _TELLS:
                side = "above" if above > 0.5 else "below"
                yield (
                    f"{names[label]} is told by its {_WORDS.get(name, name)} alone, {side} that of all others",
                    float(max(above, 1 - above)),
                )


def class_quality(
    measures: Measures, labels: npt.NDArray[np.int64], names: Sequence[str], test: npt.NDArray[np.int64] | None
) -> list[ClassQuality]:
    """Summarise the measures of each class, then of all; `test` (n,) are the indices of the test part."""
    rows = []
    for name, inside in [*((name, labels == k) for k, name in enumerate(names)), ("(all)", np.ones(len(labels), bool))]:
        tested = None if test is None else int(inside[test].sum())
        low, high = accuracy_interval(tested / 2, tested) if tested else (0.0, 1.0)
        usual: dict[str, Any] = {"width": None, "height": None}
        for key, values in measures.items():
            is_share = key in ("black", "white")
            usual[key] = (
                round(float(values[inside].mean()), 4) if is_share else round(float(np.median(values[inside])), 1)
            )
        width = None if tested is None or name == "(all)" else round((high - low) / 2, 4)
        rows.append(
            ClassQuality(name=name, images=int(inside.sum()), test_images=tested, recall_half_width=width, **usual)
        )
    return rows
