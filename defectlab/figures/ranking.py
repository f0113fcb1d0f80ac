"""Draw how well each class is ranked above all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, PercentFormatter

from defectlab.figures.style import GREY, TEXT, class_colours, short_label, style_axes
from defectlab.metrics.classification import accuracy_interval
from defectlab.metrics.decisions import membership
from defectlab.metrics.ranking import Curve, curve

_DRAWN = 8  # classes; more lines could not be told apart
_BANDS = 3  # up to so many lines are drawn with their intervals


Points = Mapping[str, Sequence[tuple[str, float, float]]]


def marked_points(operating: Mapping[str, Any]) -> Points:
    """Return marker, false-alarm rate and recall on the test images of the thresholds in metrics.json's `operating`."""
    markers = {"false_alarms": "o", "recall": "s"}
    return {
        name: [(markers[one["promise"]], one["test"]["false_alarm_rate"], one["test"]["recall"]) for one in rows if one["test"]]
        for name, rows in operating.items()
    }  # fmt: skip


def ranking_figure(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, class_names: Sequence[str], points: Points | None = None
) -> Figure | None:
    """Draw recall by false alarms, on a logarithmic scale, and precision by recall, of each class against all others.

    Of more than eight classes those of the lowest average precision are drawn, of two the rarer one. Bands are pointwise
    95 % Wilson intervals. None where fewer than two classes have images.

    Args:
        probabilities: in [0, 1], (N, C).
        labels: in [0, C), (N,); of a multi-label task (N, C) of 0 and 1.
        class_names: C names.
        points: to mark on the curves of a class, see `marked_points`.
    """
    values, truth = np.asarray(probabilities, np.float64), membership(np.asarray(labels), len(class_names))
    present = [k for k in range(len(class_names)) if truth[:, k].any() and not truth[:, k].all()]
    if not present:
        return None
    if len(class_names) == 2 and np.ndim(labels) == 1:
        present = [min(present, key=lambda k: int(truth[:, k].sum()))]
    curves = {class_names[k]: curve(values[:, k], truth[:, k]) for k in present}
    shown = sorted(curves, key=lambda name: curves[name].average_precision)[:_DRAWN]

    figure = Figure(figsize=(9.5, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, colour in zip(shown, class_colours(len(shown)), strict=True):
        found = curves[name]
        label = f"{short_label(name)} ({found.positives}): AUROC {found.auroc:.3f}, AP {found.average_precision:.3f}"
        recall = found.recall
        # Half an image below the lowest rate that can be seen stands for no false alarm at all.
        alarms = np.maximum(found.false_alarm_rate, 0.5 / found.negatives)
        left.step(alarms, recall, where="post", color=colour, lw=1.8, label=label)
        right.step(recall, found.precision, where="pre", color=colour, lw=1.8)
        for marker, rate, own in (points or {}).get(name, ()):
            place = max(rate, 0.5 / found.negatives)
            left.plot(place, own, marker, color=colour, mec="white", ms=7, clip_on=False, zorder=3)
            flagged, alarms_there = own * found.positives, rate * found.negatives
            if flagged + alarms_there > 0:
                precision = flagged / (flagged + alarms_there)
                right.plot(own, precision, marker, color=colour, mec="white", ms=7, clip_on=False, zorder=3)
        if len(shown) <= _BANDS:
            _band(left, alarms, found.flagged, np.full_like(found.flagged, found.positives), colour, "post")
            some = found.flagged + found.alarms > 0
            _band(right, recall[some], found.flagged[some], (found.flagged + found.alarms)[some], colour, "pre")
        if len(shown) == 1:
            _chance(right, found)
    left.axvline(0.01, color=GREY, lw=1, ls=":")
    left.set(xscale="log", xlim=(None, 1), ylim=(0, 1.02), xlabel="false alarms, of the images of other classes")
    right.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="recall")
    style_axes(left, "recall by false alarms", grid="y")
    style_axes(right, "precision by recall", grid="y")
    for axis in (left.yaxis, right.xaxis, right.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=None))
    left.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{100 * rate:g}%"))  # 0.1 %, where others round to 0
    handles = [handle for axes in (left, right) for handle in axes.get_legend_handles_labels()[0]]
    drawn = {marker for name in shown for marker, _, _ in (points or {}).get(name, ())}
    handles += [
        Line2D([], [], color=GREY, ls="", marker=marker, label=f"{words}, chosen on validation")
        for marker, words in (("o", "few false alarms"), ("s", "high recall")) if marker in drawn
    ]  # fmt: skip
    if len(shown) <= _BANDS:
        handles.append(Patch(color=GREY, alpha=0.3, lw=0, label="pointwise 95 % Wilson intervals"))
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=TEXT)
    return figure


def _band(
    axes: Axes,
    x: npt.NDArray[np.float64],
    hits: npt.NDArray[np.int64],
    n: npt.NDArray[np.int64],
    colour: str,
    step: str,
) -> None:
    bounds = np.array([accuracy_interval(int(h), int(m)) for h, m in zip(hits, n, strict=True)])
    axes.fill_between(x, bounds[:, 0], bounds[:, 1], step=step, color=colour, alpha=0.15, lw=0)  # type: ignore[arg-type]


def _chance(axes: Axes, found: Curve) -> None:
    """Draw the precision of flagging at random."""
    share = found.positives / (found.positives + found.negatives)
    axes.axhline(share, color=GREY, lw=1, ls=":", label=f"at random: {share:.1%}")
