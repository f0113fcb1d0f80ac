"""How the network orders images: its last features as points, in TensorBoard's projector and in a plane."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from torch import Tensor
from torch.nn import functional
from torch.utils.tensorboard import SummaryWriter

from defectlab.figures.style import GREY, short_label
from defectlab.figures.tiles import INK

__all__ = ["add_projector", "embedding_figure", "principal_components"]

_TAG = "test_images"
_SPRITE = 8192  # px: the largest texture that browsers promise
_THUMBNAIL = 64
_DIMENSIONS = 128
# Okabe and Ito's, told apart by colour-blind eyes; the shape says it once more.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#000000", "#b8a800")
_MARKERS = "os^Dv<>Pph*X"
_NAMED = 24


def principal_components(points: npt.NDArray[np.float32], dimensions: int) -> tuple[npt.NDArray[np.float32], float]:
    """`points` `(N, E)` along their main axes, `(N, min(dimensions, N, E))`, and the share of variance that is kept."""
    centred = torch.from_numpy(points) - torch.from_numpy(points).mean(dim=0)
    if centred.shape[1] <= centred.shape[0]:
        values, axes = torch.linalg.eigh((centred.T @ centred).double())
        scores = centred @ axes.flip(1).float()
    else:  # the smaller of the two matrices has the same axes
        values, vectors = torch.linalg.eigh((centred @ centred.T).double())
        scores = (vectors * values.clamp(min=0).sqrt()).flip(1).float()
    values = values.flip(0).clamp(min=0)
    scores = scores[:, :dimensions]
    # The sign of an axis is an accident of the solver: the point farthest out is put on the positive side.
    signs = scores.gather(0, scores.abs().argmax(dim=0, keepdim=True)).sign()
    share = float(values[:dimensions].sum() / values.sum().clamp(min=1e-12))
    return (scores * torch.where(signs == 0, 1.0, signs)).numpy(), share


def add_projector(
    writer: SummaryWriter,
    points: npt.NDArray[np.float32],
    images: Tensor,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
) -> None:
    """Write what TensorBoard's projector shows into the writer's folder, in place of what was there.

    `points` `(N, E)`, wider ones reduced to 128 principal components; `images` `(N, 1 or 3, H, W)` uint8 become
    thumbnails of at most 64 px, smaller ones where the sheet of all would pass 8192 px; `rows` `(N, ...)` are the texts
    of each point, `header` names them.
    """
    if points.shape[1] > _DIMENSIONS:
        points, _ = principal_components(points, _DIMENSIONS)
    side = min(_THUMBNAIL, images.shape[-1], _SPRITE // math.ceil(math.sqrt(len(images))))
    small = functional.interpolate(images.float(), size=(side, side), mode="bilinear", antialias=True)
    small = (small.round() + 0.25) / 255  # the writer cuts off what comes after the point
    # Else the writer remarks on standard output that the folder is there.
    shutil.rmtree(Path(writer.log_dir) / "00000" / _TAG, ignore_errors=True)
    cells = [[" ".join(cell.split()) for cell in row] for row in rows]  # a tab would begin a new column
    writer.add_embedding(torch.from_numpy(points), cells, small, 0, _TAG, list(header))


def embedding_figure(
    points: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    right: npt.NDArray[np.bool_],
    names: Sequence[str],
    part: str = "test",
) -> Figure:
    """The points `(N, E)` in the plane of their two main axes, a colour and a shape a class; mistakes are crossed."""
    plane, share = principal_components(points, 2)
    if plane.shape[1] < 2:
        plane = np.pad(plane, ((0, 0), (0, 2 - plane.shape[1])))
    figure = Figure(figsize=(8.2, 6), layout="constrained")
    axes = figure.subplots()
    present = [int(label) for label in np.unique(labels)]
    halo = [withStroke(linewidth=3, foreground="white")]
    for place, label in enumerate(present):
        own = plane[labels == label]
        colour = _COLOURS[place % len(_COLOURS)] if len(present) <= _NAMED else GREY
        marker = _MARKERS[place % len(_MARKERS)]
        name = short_label(names[label])
        axes.scatter(own[:, 0], own[:, 1], s=20, color=colour, marker=marker, alpha=0.65, linewidths=0, label=name)
        if len(present) <= _NAMED:
            x, y = np.median(own, axis=0)
            axes.text(x, y, name, color=INK, fontsize=9, fontweight="bold", ha="center", va="center", path_effects=halo)
    if not right.all():
        axes.scatter(
            plane[~right, 0], plane[~right, 1], s=60, color="black", marker="x", linewidths=1.4, label="mistaken"
        )
    axes.set(xlabel="first principal component", ylabel="second principal component")
    title = f"{len(points)} {part} images by what the last layer sees: the plane shows {share:.0%} of their variance"
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=14)
    for edge in ("top", "right"):
        axes.spines[edge].set_visible(False)
    if len(present) <= _NAMED:
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8.5)
    return figure
