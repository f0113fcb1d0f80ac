"""Kinds of defects on a drawn surface: each turns its traits into a mask (N, S, S), 0 outside and 1 inside."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from defectlab.data.synthesis.textures import contours, top_fraction_mask

_CELLS = 48  # most cells in an image


@dataclass
class Traits:
    """What the defects of N images are like; lengths in pixels.

    `shape` and `cloud` are fields (N, S, S) of mean 0 and sd 1, the second varies slowly. The rest has shape (N, 1, 1):
    the covered `fraction` of the image, softness of the `edge`, `size`, `angle` in radians, `thickness` of
    lines, `clustering` (0: evenly spread).
    """

    shape: Tensor
    cloud: Tensor
    fraction: Tensor
    edge: Tensor
    size: Tensor
    angle: Tensor
    thickness: Tensor
    clustering: Tensor
    generator: torch.Generator

    def of(self, rows: Tensor) -> "Traits":
        """The traits of some of the images."""
        return Traits(
            self.shape[rows], self.cloud[rows], self.fraction[rows], self.edge[rows], self.size[rows], self.angle[rows],
            self.thickness[rows], self.clustering[rows], self.generator,
        )  # fmt: skip

    def axes(self) -> tuple[Tensor, Tensor]:
        """Places along a row (1, 1, S) and down a column (1, S, 1), from -1 to 1."""
        axis = torch.linspace(-1, 1, self.shape.shape[-1], device=self.shape.device)
        return axis.view(1, 1, -1), axis.view(1, -1, 1)

    def random(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), shape (N, ...)."""
        return torch.rand((len(self.shape), *shape), generator=self.generator, device=self.shape.device)


def islands(t: Traits) -> Tensor:
    """Patches, stains, scabs."""
    return top_fraction_mask(t.shape + t.clustering * t.cloud, t.fraction, t.edge)


def cracks(t: Traits) -> Tensor:
    """Single cracks, here and there."""
    return contours(t.shape, t.thickness) * top_fraction_mask(
        t.cloud + 0.5 * t.shape.roll(17, 1), 0.2 + t.fraction, t.edge
    )


def nets(t: Traits) -> Tensor:
    """Nets of cracks, contour lines."""
    return contours(torch.sin(t.shape * (2 + 6 * t.fraction)), t.thickness)


def pits(t: Traits) -> Tensor:
    """Spots at both the hills and the valleys of a field."""
    return top_fraction_mask(t.shape.abs() + t.clustering * t.cloud, 0.5 * t.fraction, t.edge)


def dents(t: Traits) -> Tensor:
    """Islands in relief, one flank lit and the other in the shade."""
    island = top_fraction_mask(t.shape, t.fraction, 0.3)
    return 0.5 + 0.5 * (island - island.roll(2, 2))


def roll_marks(t: Traits) -> Tensor:
    """Bars at equal distances, broken."""
    x, y = t.axes()
    position = (x * t.angle.cos() + y * t.angle.sin()) * t.shape.shape[-1] / 2
    wave = torch.sin(2 * math.pi * position / (0.7 * t.size) + 0.6 * t.shape)
    return torch.sigmoid((wave - 0.8 + t.fraction) / (0.1 + t.edge)) * torch.sigmoid(2 * t.cloud + t.clustering)


def inclusions(t: Traits) -> Tensor:
    """Up to six pointed streaks."""
    return _streaks(t, t.size, 1.5 * t.thickness, blunt=2.0, most=6)


def scratches(t: Traits) -> Tensor:
    """Up to five long thin lines."""
    return _streaks(t, 4 * t.size, 0.6 * t.thickness, blunt=6.0, most=5)


def cells(t: Traits) -> Tensor:
    """The borders of Voronoi cells: grains, dried mud."""
    x, y = t.axes()
    centres = 2 * t.random(_CELLS, 2) - 1
    there = t.random(_CELLS) < (30 / t.size.view(-1, 1)).clamp(0.12, 1)
    there[:, :2] = True
    across = x.unsqueeze(1) + 0.03 * t.shape.unsqueeze(1) - centres[:, :, 0, None, None]
    down = y.unsqueeze(1) + 0.03 * t.shape.roll(31, 2).unsqueeze(1) - centres[:, :, 1, None, None]
    distance = (across.square() + down.square()).sqrt() + 9 * (~there)[:, :, None, None]
    nearest = distance.topk(2, dim=1, largest=False).values
    gap = (nearest[:, 1] - nearest[:, 0]) * t.shape.shape[-1] / 2
    return torch.exp(-(gap / t.thickness).square())


OBJECTS: tuple[Callable[[Traits], Tensor], ...] = (
    islands, cracks, nets, pits, dents, roll_marks, inclusions, scratches, cells,
)  # fmt: skip


def _streaks(t: Traits, length: Tensor, width: Tensor, blunt: float, most: int) -> Tensor:
    """At least one streak along `angle`; `blunt` is the exponent of its outline (2: pointed, 6: a bar)."""
    x, y = t.axes()
    half = t.shape.shape[-1] / 2
    depth = torch.full_like(t.shape, -9.0)  # pixels inside the nearest streak
    for index in range(most):
        left, top, turn, thick, long, chance = t.random(6, 1, 1).unbind(dim=1)
        angle = t.angle + 0.25 * (turn - 0.5)
        right, down = (x - 2 * left + 1) * half, (y - 2 * top + 1) * half
        along = (right * angle.cos() + down * angle.sin()) / (length * (0.5 + long))
        across = down * angle.cos() - right * angle.sin()
        outline = width * (0.5 + thick) * (1 - along.abs().pow(blunt).clamp(max=9))
        here = outline - (across + t.shape).abs()
        depth = torch.where(chance < (0.85 if index else 1.1), torch.maximum(depth, here), depth)
    return torch.sigmoid(depth / (0.3 + t.edge))
