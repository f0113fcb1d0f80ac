"""How accuracy falls when images get worse."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from matplotlib.figure import Figure
from torch import Tensor

from defectlab.evaluate.corruptions import CORRUPTIONS, Corruption
from defectlab.figures.style import BLUE, GREY, ORANGE, TEXT, style_axes
from defectlab.metrics.classification import accuracy_interval

__all__ = ["AECLBP", "Row", "curves", "measure"]

# Song & Yan 2013, table 3: per cent by dB, trained on clean halves of NEU-CLS. They do not say which SNR.
AECLBP: dict[float, float] = {50: 98.87, 40: 98.53, 30: 88.29, 20: 37.09}
_BLOCK = 128


@dataclass(frozen=True)
class Row:
    """Accuracy in [0, 1] on `n` images after one corruption; `level` is None for the clean ones."""

    corruption: str
    unit: str
    level: float | None
    accuracy: float
    low: float
    high: float
    n: int


@torch.inference_mode()
def measure(
    classify: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, advance: Callable[[int], None]
) -> list[Row]:
    """Judge the clean images, then every corruption at every level.

    Args:
        classify: Turns float images (N, C, H, W) in [0, 1] into predicted classes (N,).
        images: uint8 (N, C, H, W), on the device.
        labels: (N,).
        advance: Is told 1 after each level.
    """

    def row(name: str, unit: str, level: float | None, damage: Callable[[Tensor], Tensor]) -> Row:
        blocks = zip(torch.split(images, _BLOCK), torch.split(labels, _BLOCK), strict=True)
        right = sum(int((classify(damage(x.float() / 255)).cpu() == y).sum()) for x, y in blocks)
        advance(1)
        return Row(name, unit, level, right / len(labels), *accuracy_interval(right, len(labels)), len(labels))

    worse = [row(c.name, c.unit, v, partial(_damaged, c, v)) for c in CORRUPTIONS for v in c.levels]
    return [row("clean", "", None, lambda images: images), *worse]


def _damaged(corruption: Corruption, level: float, images: Tensor) -> Tensor:
    return corruption.apply(images, level)


def curves(rows: Sequence[Row], published: bool) -> Figure:
    """A small plot a corruption, its 95 % Wilson intervals as a band, the clean accuracy as a line."""
    clean = rows[0].accuracy
    figure = Figure(figsize=(12, 5.6), layout="constrained")
    for axes, corruption in zip(figure.subplots(2, 4, sharey=True).flat, CORRUPTIONS, strict=True):
        mine = [row for row in rows if row.corruption == corruption.name]
        places = range(len(mine))
        axes.axhline(100 * clean, color=GREY, lw=1, ls=":")
        axes.fill_between(
            places, [100 * r.low for r in mine], [100 * r.high for r in mine], color=BLUE, alpha=0.2, lw=0
        )
        axes.plot(places, [100 * r.accuracy for r in mine], color=BLUE, marker="o", ms=4, label="this run")
        if published and corruption.name == "noise, SNR of power":
            known = [(place, AECLBP[r.level]) for place, r in zip(places, mine, strict=True) if r.level in AECLBP]
            axes.plot(*zip(*known, strict=True), "D--", ms=4, color=ORANGE, label="AECLBP (Song & Yan 2013)")
            axes.legend(fontsize=TEXT, loc="lower left")
        axes.set_xticks(list(places), [f"{r.level:g}" for r in mine])
        style_axes(axes, corruption.name, grid="y")
        axes.set_xlabel(corruption.unit)
    figure.supylabel("accuracy, %")
    return figure
