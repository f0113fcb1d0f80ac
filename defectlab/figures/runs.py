"""The figures of a report, each a matplotlib Figure without pyplot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from defectlab.errors import InputError
from defectlab.figures.style import BLUE, GREY, INK, ORANGE, SMALL, TEXT, short_label, style_axes
from defectlab.metrics.classification import accuracy_interval
from defectlab.metrics.results import ECE_BINS, ClassMetrics
from defectlab.utils.text import percent

NUMBERED_CLASSES = 25  # above this, a number in each cell of a confusion matrix cannot be read
LISTED_CLASSES = 40  # above this, a row for each class does not fit a page


def confusion_matrix_figure(matrix: npt.ArrayLike, class_names: Sequence[str]) -> Figure:
    """Draw counts `(C, C)`, rows true and columns predicted, coloured by the fraction of the true class.

    Up to 25 classes each cell that is not empty shows its count and fraction; above, there is colour alone, on a
    scale that brings out small fractions, and only some classes are named.
    """
    counts = np.asarray(matrix, dtype=np.int64)
    classes = len(class_names)
    if counts.shape != (classes, classes):
        raise InputError(f"matrix of shape {counts.shape}: expected ({classes}, {classes}), a row a class name")
    fractions = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    numbered = classes <= NUMBERED_CLASSES
    side = min(max(0.62 * classes, 2.6), 9.0)
    figure = Figure(figsize=(side + 2.4, side + 1.6), layout="compressed")
    axes = figure.subplots()
    norm = PowerNorm(1.0 if numbered else 0.5, vmin=0, vmax=1)
    image = axes.imshow(fractions, cmap="Blues", norm=norm, interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, fraction=0.045, pad=0.02, format=PercentFormatter(1))
    bar.set_label("fraction of the true class")
    bar.outline.set_visible(False)

    step = 1 if numbered else math.ceil(classes / NUMBERED_CLASSES)
    ticks = range(0, classes, step)
    names = [short_label(class_names[tick]) for tick in ticks]
    size = TEXT if classes <= 12 else SMALL
    axes.set_xticks(ticks, names, rotation=40, ha="right", rotation_mode="anchor", fontsize=size)
    axes.set_yticks(ticks, names, fontsize=size)
    axes.set_xlabel("predicted class" if step == 1 else f"predicted class (every {step}th is named)")
    axes.set_ylabel("true class")
    axes.tick_params(length=0 if numbered else 3)
    style_axes(axes, spines=())
    if numbered:
        for true, predicted in zip(*np.nonzero(counts), strict=True):
            fraction = fractions[true, predicted]
            text = f"{counts[true, predicted]}" + (f"\n{percent(fraction, digits=0)}" if classes <= 15 else "")
            colour, size = "white" if fraction > 0.55 else INK, TEXT if classes <= 10 else 6.5
            axes.text(predicted, true, text, ha="center", va="center", fontsize=size, color=colour)
    return figure


def curves_figure(rows: Sequence[Mapping[str, str]], best_epoch: int | None = None) -> Figure:
    """Draw loss and accuracy by epoch, training and validation, from the rows of metrics.csv.

    Both the file and `best_epoch`, which gets a line, count epochs from 0; the figure counts from 1.

    Raises:
        InputError: the rows hold none of train/loss, val/loss, train/accuracy, val/accuracy by epoch.
    """
    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    drawn = 0
    for axes, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for split, name, colour in (("train", "training", BLUE), ("val", "validation", ORANGE)):
            curve = _by_epoch(rows, f"{split}/{quantity}")
            if curve:
                marker = "o" if len(curve) <= 30 else ""
                axes.plot(*zip(*curve.items(), strict=True), color=colour, label=name, marker=marker, ms=3.5)
                drawn += 1
        if best_epoch is not None:
            axes.axvline(best_epoch + 1, color=GREY, lw=1, ls=":", label="best epoch")
        style_axes(axes, quantity, grid="y")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if quantity == "accuracy":
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=TEXT)
    if drawn == 0:
        raise InputError("metrics.csv holds no loss or accuracy by epoch: expected columns such as val/loss")
    return figure


def steps_figure(losses: Mapping[int, float]) -> Figure:
    """Draw the training loss by step, and its running mean over a twentieth of the steps."""
    figure = Figure(figsize=(9.5, 2.6), layout="constrained")
    axes = figure.subplots()
    steps, values = np.array(list(losses)), np.array(list(losses.values()))
    width = max(1, len(values) // 20)
    smooth = np.convolve(values, np.ones(width) / width, mode="valid")
    axes.plot(steps, values, color=BLUE, alpha=1 if width == 1 else 0.35, lw=1, label="batch")
    if width > 1:
        axes.plot(steps[width - 1 :], smooth, color=BLUE, lw=2, label=f"mean of {width}")
    style_axes(axes, "training loss by step", grid="y")
    axes.set_xlabel("step")
    axes.legend(frameon=False, fontsize=TEXT)
    return figure


def per_class_figure(per_class: Mapping[str, ClassMetrics]) -> Figure:
    """Draw recall with its 95 % Wilson interval, and precision, of each class, the lowest recall on top.

    Above 40 classes the 40 lowest are shown. Classes without images are left out.
    """
    present = [(name, m) for name, m in per_class.items() if m["support"]]
    ranked = sorted(present, key=lambda item: item[1]["recall"])[:LISTED_CLASSES]
    figure = Figure(figsize=(8.5, 0.27 * len(ranked) + 1.4), layout="constrained")
    axes = figure.subplots()
    for row, (_, m) in enumerate(ranked):
        low, high = accuracy_interval(round(m["recall"] * m["support"]), m["support"])
        axes.plot([low, high], [row, row], color=BLUE, alpha=0.3, lw=5, solid_capstyle="butt")
        axes.plot(m["recall"], row, "o", color=BLUE, ms=6, clip_on=False)
        if m["precision"] is not None:
            axes.plot(m["precision"], row, "D", mec=ORANGE, mfc="none", mew=1.6, ms=5.5, clip_on=False)
    axes.plot([], [], "o-", color=BLUE, label="recall, with 95 % interval")
    axes.plot([], [], "D", mec=ORANGE, mfc="none", mew=1.6, label="precision")
    axes.set_yticks(range(len(ranked)), [f"{short_label(name)}  ({m['support']})" for name, m in ranked], fontsize=TEXT)
    axes.set_ylim(len(ranked) - 0.5, -0.5)
    axes.set_xlim(right=1)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.tick_params(axis="y", length=0)
    title = f"the {len(ranked)} lowest of {len(present)} classes" if len(ranked) < len(present) else ""
    style_axes(axes, title, grid="x", spines=("bottom",))
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=TEXT)
    return figure


def reliability_figure(confidence: npt.NDArray[np.float64], right: npt.NDArray[np.bool_]) -> Figure:
    """Draw accuracy by confidence in 15 equal bins, above the number of images in each.

    `confidence` `(N,)` in [0, 1], see `confidence_of`; `right` `(N,)`. Bars below the diagonal are over-confidence.
    """
    edges = np.linspace(0, 1, ECE_BINS + 1)
    bins = np.minimum(np.digitize(confidence, edges) - 1, ECE_BINS - 1)
    counts = np.bincount(bins, minlength=ECE_BINS)
    filled = counts > 0
    accuracy = np.bincount(bins, weights=right, minlength=ECE_BINS)[filled] / counts[filled]
    meant = np.bincount(bins, weights=confidence, minlength=ECE_BINS)[filled] / counts[filled]

    figure = Figure(figsize=(5.2, 5.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--", label="perfect calibration")
    centres, width = (edges[:-1] + edges[1:]) / 2, 0.92 / ECE_BINS
    upper.bar(centres[filled], accuracy, width, color=BLUE, alpha=0.35)
    upper.plot(meant, accuracy, "o", color=BLUE, ms=5, clip_on=False, label="accuracy at the bin's confidence")
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    lower.bar(centres, counts, width, color=GREY)
    lower.set(xlabel="confidence: probability of what is predicted", ylabel="images")
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    lower.xaxis.set_major_formatter(PercentFormatter(1))
    upper.yaxis.set_major_formatter(PercentFormatter(1))
    for axes in (upper, lower):
        style_axes(axes)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=TEXT)
    return figure


def _by_epoch(rows: Sequence[Mapping[str, str]], column: str) -> dict[int, float]:
    """Return the last finite value of each epoch, counted from 1."""
    values = {}
    for row in rows:
        epoch, cell = row.get("epoch", ""), row.get(column, "")
        if epoch and cell and math.isfinite(float(cell)):
            values[int(float(epoch)) + 1] = float(cell)
    return values
