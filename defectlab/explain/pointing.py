"""Play the pointing game: do attributions point at the defect? And the energy in boxes, beside three kinds of chance."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from defectlab.errors import InputError
from defectlab.explain.sanity import FLAG, CascadeStep, Sanity
from defectlab.figures.style import BLUE, GREY, INK, ORANGE, RED, TEXT, class_colours, short_label, style_axes
from defectlab.metrics.classification import accuracy_interval

ALL = "all"  # the row of all classes together
_PERMUTATIONS = 9999


@dataclass(frozen=True, kw_only=True)
class Pointing:
    """One method on the images of one class, fractions in [0, 1].

    - `hits` of `n` images have the largest value of their map inside a box (Zhang et al. 2016, "Top-down neural
      attention by excitation backprop", section 4.1; without their tolerance of 15 pixels). An empty map is a
      miss. `low` and `high` are the 95 % Wilson interval of the share of hits.
    - `chance` is the mean area of the boxes, which a point at random hits; `margin` what the hits have above it.
      `p` is exact: how often points at random hit as often (one-sided Poisson-binomial). `p_holm` allows for all
      methods and classes evaluated at once; it is equal to `p` before that.
    - `centre` is the share that the point in the middle of the image hits: defects are often photographed there.
    - `swapped` is the share that the points of *other* images of the class hit. Above it is what a map knows of its own
      image; `p_swapped` is of the permutation test (9,999 permutations, one-sided). None for a single image.
    - `energy` is the mean share of a map's sum that lies in boxes (Wang et al. 2020, "Score-CAM", section 4.3), to be
      compared with `chance`.
    """

    method: str
    label: str
    n: int
    hits: int
    low: float
    high: float
    chance: float
    margin: float
    p: float
    p_holm: float
    centre: float
    swapped: float | None
    p_swapped: float | None
    energy: float


def pointing_game(
    method: str,
    maps: npt.NDArray[np.floating],
    masks: npt.NDArray[np.bool_],
    labels: npt.NDArray[np.int64],
    class_names: Sequence[str],
    seed: int = 0,
) -> list[Pointing]:
    """Evaluate one method's maps by boxes: a row each class that has images, then one of all.

    `maps` (N, H, W) are at least 0, of the classes `labels` (N,); `masks` (N, H, W) say which pixels lie in a box of that
    class; `seed` is of the permutations.
    """
    if maps.ndim != 3 or len(maps) == 0 or maps.shape != masks.shape or labels.shape != maps.shape[:1]:
        raise InputError(
            f"maps of shape {maps.shape}, masks of shape {masks.shape}, labels of shape {labels.shape}: expected (N, H, W) "
            "twice and (N,), N of 1 or more"
        )
    flat, inside = maps.reshape(len(maps), -1).astype(np.float64), masks.reshape(len(masks), -1)
    points, sums = _peaks(maps), flat.sum(axis=1)
    some = sums > 0
    energy = np.where(some, (flat * inside).sum(axis=1) / np.where(some, sums, 1), 0)
    areas = inside.mean(axis=1)
    centre = masks[:, masks.shape[1] // 2, masks.shape[2] // 2]
    hits = inside[np.arange(len(points)), points] & some
    rng = np.random.default_rng(seed)

    rows, swaps, permuted = [], np.full(len(maps), np.nan), np.zeros(_PERMUTATIONS)
    for label, name in enumerate(class_names):
        mine = np.flatnonzero(labels == label)
        if len(mine) == 0:
            continue
        hit_by = inside[np.ix_(mine, points[mine])] & some[mine]  # whether image i's box holds image j's point
        swaps[mine], found = _swap(hit_by, rng)
        permuted += found
        rows.append(_row(method, name, mine, hits, areas, centre, energy, swaps, found))
    return [*rows, _row(method, ALL, np.arange(len(maps)), hits, areas, centre, energy, swaps, permuted)]


def _peaks(maps: npt.NDArray[np.floating]) -> npt.NDArray[np.intp]:
    """Return the index in (H * W) of each map's largest value, (N,).

    Of equal ones, such as a coarse map stretched to the image has along its edges, the one nearest to their middle: the
    first of them would be a corner of the image, where no defect is.
    """
    width = maps.shape[2]
    points = np.empty(len(maps), dtype=np.intp)
    for index, values in enumerate(maps):
        rows, columns = np.nonzero(values >= values.max() * (1 - 1e-6))
        nearest = ((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2).argmin()
        points[index] = rows[nearest] * width + columns[nearest]
    return points


def _row(
    method: str,
    label: str,
    mine: npt.NDArray[np.intp],
    hits: npt.NDArray[np.bool_],
    areas: npt.NDArray[np.float64],
    centre: npt.NDArray[np.bool_],
    energy: npt.NDArray[np.float64],
    swaps: npt.NDArray[np.float64],
    permuted: npt.NDArray[np.float64],
) -> Pointing:
    n, found, chance = len(mine), int(hits[mine].sum()), float(areas[mine].mean())
    p = _at_least(found, areas[mine])
    known = not np.isnan(swaps[mine]).all()
    low, high = accuracy_interval(found, n)
    return Pointing(
        method=method, label=label, n=n, hits=found, low=low, high=high, chance=chance, margin=found / n - chance, p=p,
        p_holm=p,
        centre=float(centre[mine].mean()),
        swapped=float(np.nanmean(swaps[mine])) if known else None,
        p_swapped=(1 + int((permuted >= found).sum())) / (1 + _PERMUTATIONS) if known else None,
        energy=float(energy[mine].mean()),
    )  # fmt: skip


def _swap(
    hit_by: npt.NDArray[np.bool_], rng: np.random.Generator
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Compute for each image the share of the others' points that hit it, and the hits of all in each permutation."""
    n = len(hit_by)
    if n == 1:
        return np.full(1, np.nan), np.full(_PERMUTATIONS, float(hit_by[0, 0]))
    others = (hit_by.sum(axis=1) - np.diag(hit_by)) / (n - 1)
    counts = [hit_by[np.arange(n), rng.permutation(n)].sum() for _ in range(_PERMUTATIONS)]
    return others, np.array(counts, dtype=np.float64)


def _at_least(hits: int, chances: npt.NDArray[np.float64]) -> float:
    """Compute the probability of at least so many hits, each image having its own chance."""
    probabilities = np.ones(1)
    for chance in chances:
        probabilities = np.convolve(probabilities, [1 - chance, chance])
    return float(min(1.0, probabilities[hits:].sum()))


def boxes_figure(rows: Sequence[Pointing], checks: Sequence[Sanity], steps: Sequence[CascadeStep]) -> Figure:
    """Draw a plot a method: hits by class with their 95 % interval, beside chance; the checks with shuffled weights."""
    methods = list(dict.fromkeys(row.method for row in rows))
    labels = list(dict.fromkeys(row.label for row in rows))
    figure = Figure(figsize=(3.1 * len(methods) + 1.4, 0.34 * len(labels) + 2.9), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[0.34 * len(labels) + 1.3, 1.6])
    top, bottom = parts
    for axes, method in zip(top.subplots(1, len(methods), sharey=True, squeeze=False)[0], methods, strict=True):
        for row in (row for row in rows if row.method == method):
            place = labels.index(row.label)
            axes.plot([row.low, row.high], [place, place], color=BLUE, alpha=0.3, lw=5, solid_capstyle="butt")
            axes.plot(row.hits / row.n, place, "o", color=BLUE, ms=6, clip_on=False, label="hits, 95 % interval")
            axes.plot(row.chance, place, "|", color=RED, ms=13, mew=2, label="chance by area")
            axes.plot(row.centre, place, "x", color=GREY, ms=6, mew=1.5, label="centre of the image")
            if row.swapped is not None:
                axes.plot(
                    row.swapped, place, "D", mec=ORANGE, mfc="none", ms=6, mew=1.5, label="points of other images"
                )
        style_axes(axes, method, grid="x", spines=("bottom",))
        axes.set(xlim=(0, 1), ylim=(len(labels) - 0.5, -0.5))
        axes.set_yticks(range(len(labels)), [short_label(label) for label in labels], fontsize=TEXT)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.tick_params(axis="y", length=0)
        handles = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))  # each once
    top.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=TEXT)

    axes, lower = bottom.subplots(1, 2)
    axes.axvline(FLAG, color=RED, lw=1.5, label=f"flagged from here ({FLAG:g})")
    for place, check in enumerate(checks):
        if check.similarity is None or check.low is None or check.high is None:
            axes.text(0.01, place, "not measurable", va="center", fontsize=TEXT, color=INK)
            continue
        axes.barh(place, check.similarity, color=RED if check.flagged else BLUE, alpha=0.6, height=0.6)
        axes.plot([check.low, check.high], [place, place], color=INK, lw=1)
    axes.set_yticks(range(len(checks)), [check.method for check in checks], fontsize=TEXT)
    axes.set(xlim=(min([0.0, *(check.low or 0.0 for check in checks)]), 1), ylim=(len(checks) - 0.5, -0.5))
    style_axes(axes, "likeness to the map of shuffled weights (Spearman)")
    axes.legend(frameon=False, fontsize=TEXT)
    for method, colour in zip(methods, class_colours(len(methods)), strict=True):
        mine = [(step.layers, step.similarity) for step in steps if step.method == method]
        lower.plot(*zip(*mine, strict=True), marker="o", ms=3, lw=1, color=colour, label=method)
    style_axes(lower, "the same, with the last layers shuffled", grid="y")
    lower.set_xlabel("layers, from the logits down")
    lower.legend(frameon=False, fontsize=TEXT)
    return figure
