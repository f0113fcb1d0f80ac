"""Draw how strange images are."""

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from defectlab.figures.style import BLUE, GREY, TEXT, style_axes

_BINS = 40


def novelty_figure(scores: npt.NDArray[np.float32], known: npt.NDArray[np.float32] | None, part: str) -> Figure:
    """Draw a histogram of the novelty scores (N,) of a part, and of those of the validation images (n,), as shares."""
    drawn = [(scores, part, BLUE)] + ([] if known is None else [(known, "validation", GREY)])
    drawn = [(values[np.isfinite(values)], name, colour) for values, name, colour in drawn]
    edges = np.histogram_bin_edges(np.concatenate([values for values, _, _ in drawn]), _BINS)
    figure = Figure(figsize=(7.3, 3.2), layout="constrained")
    axes = figure.subplots()
    for values, name, colour in drawn:
        share = np.full(len(values), 1 / max(1, len(values)))
        label = f"{len(values):,} {name} images"
        axes.hist(values, edges.tolist(), weights=share, color=colour, alpha=0.5, label=label)
    axes.set(xlabel="novelty: distance from the training images", ylabel="share of the images")
    style_axes(axes)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=TEXT)
    return figure
