"""Show a network's last features as points, in TensorBoard's projector and in a plane."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn import functional
from torch.utils.tensorboard import SummaryWriter

from defectlab.figures.style import INK, SMALL, TEXT, class_colours, short_label, style_axes

_TAG = "test_images"
_SPRITE = 8192  # px: the largest texture that browsers promise
_THUMBNAIL = 64
_DIMENSIONS = 128
_MARKERS = "os^Dv<>Pph*X"  # say once more what the colour says
_LABELLED = 24  # classes; of more the names would cover the points
_LISTED, _ROWS = 120, 34  # classes in the legend, and in a column of it


def principal_components(points: npt.NDArray[np.float32], dimensions: int) -> tuple[npt.NDArray[np.float32], float]:
    """Compute the principal components (N, min(dimensions, N, E)) of `points` (N, E), and the variance they explain."""
    kept = min(dimensions, *points.shape)
    if (points == points[0]).all():  # no variance to share
        return np.zeros((len(points), kept), dtype=np.float32), 0.0
    pca = PCA(kept, random_state=0)  # large sets are reduced by a randomised solver
    scores = pca.fit_transform(points)
    return scores, float(pca.explained_variance_ratio_.sum())


def add_projector(
    writer: SummaryWriter, points: npt.NDArray[np.float32], images: Tensor, header: Sequence[str],
    rows: Sequence[Sequence[str]],
) -> None:  # fmt: skip
    """Write what TensorBoard's projector shows into the writer's folder, in place of what was there.

    `points` (N, E), wider ones reduced to 128 principal components; `images` (N, C, H, W) uint8 become thumbnails of
    at most 64 px, smaller ones where the sheet of all would pass 8192 px; `rows` (N, ...) are texts under `header`.
    """
    if points.shape[1] > _DIMENSIONS:
        points, _ = principal_components(points, _DIMENSIONS)
    side = min(_THUMBNAIL, images.shape[-1], _SPRITE // math.ceil(math.sqrt(len(images))))
    shown = images[:, : 3 if images.shape[1] > 2 else 1]
    small = functional.interpolate(shown.float(), size=(side, side), mode="bilinear", antialias=True)
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
    """Draw the points (N, E) in the plane of their two main axes, a colour and a shape a class; mistakes are crossed."""
    plane, share = principal_components(points, 2)
    if plane.shape[1] < 2:
        plane = np.pad(plane, ((0, 0), (0, 2 - plane.shape[1])))
    present = [int(label) for label in np.unique(labels)]
    step = math.ceil(len(present) / _LISTED)
    columns = math.ceil(len(present) / step / _ROWS)
    figure = Figure(figsize=(7.3 + 0.9 * columns, 6), layout="constrained")
    axes = figure.subplots()
    halo = [withStroke(linewidth=3, foreground="white")]
    colours = class_colours(len(present))
    handles = []
    for place, label in enumerate(present):
        own = plane[labels == label]
        marker, name = _MARKERS[place % len(_MARKERS)], short_label(names[label])
        dots = axes.scatter(own[:, 0], own[:, 1], s=20, color=colours[place], marker=marker, alpha=0.65, lw=0)
        handles.append((dots, name))
        if len(present) <= _LABELLED:
            x, y = np.median(own, axis=0)
            text = axes.text(x, y, name, color=INK, fontsize=TEXT, fontweight="bold", path_effects=halo)
            text.set(ha="center", va="center")
    handles = handles[::step]
    if not right.all():
        crosses = axes.scatter(plane[~right, 0], plane[~right, 1], s=60, color="black", marker="x", lw=1.4)
        handles.append((crosses, "mistaken"))
    axes.set(xlabel="first principal component", ylabel="second principal component")
    title = f"{len(points)} {part} images by what the last layer sees: the plane shows {share:.0%} of their variance"
    style_axes(axes, title)
    axes.legend(
        *zip(*handles, strict=True), ncols=columns,
        title=f"one class in {step}" if step > 1 else None, loc="upper left", bbox_to_anchor=(1, 1), frameon=False,
        fontsize=TEXT if len(present) <= _LABELLED else SMALL, columnspacing=1,
    )  # fmt: skip
    return figure
