"""Draw what a network predicts for each image, and attributions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from defectlab.explain.attribution import COARSE
from defectlab.figures import style
from defectlab.figures.tiles import Tile, grey_or_colour, tile_grid
from defectlab.metrics.decisions import confidence_of, decide
from defectlab.utils.text import percent

_ALL, _LIKELIEST = 10, 5  # up to so many classes all have a bar, of more so many
_HEAT = "inferno"
_NAMES = {
    "gradient": "gradient", "smoothgrad": "SmoothGrad", "integrated_gradients": "Integrated Gradients",
    "grad_cam": "Grad-CAM", "hires_cam": "HiResCAM", "tiles": "tiles",
}  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """An image `(1 or 3, H, W)` uint8, its file, the probabilities `(K,)`, and the true class, or classes, where known.

    `thresholds` are those of a multi-label task, see `ClassificationTask`.
    """

    image: npt.NDArray[np.uint8]
    file: str
    probabilities: npt.NDArray[np.float64]
    label: int | tuple[int, ...] | None
    thresholds: Sequence[float] | None = None

    @property
    def likeliest(self) -> int:
        """The likeliest class, which attributions are of."""
        return int(self.probabilities.argmax())

    @property
    def predicted(self) -> tuple[int, ...]:
        """The classes that are predicted: one, but for a multi-label task."""
        if self.thresholds is None:
            return (self.likeliest,)
        return tuple(np.flatnonzero(decide(self.probabilities, self.thresholds)).tolist())

    @property
    def truth(self) -> tuple[int, ...] | None:
        """The true classes where they are known."""
        return (self.label,) if isinstance(self.label, int) else self.label

    @property
    def is_wrong(self) -> bool:
        """Whether other classes are true."""
        return self.truth is not None and self.truth != self.predicted

    def verdict(self, names: Sequence[str]) -> list[str]:
        """Return what is predicted, its confidence, and the truth where it is known."""
        predicted, truth = (
            ", ".join(names[k] for k in found or ()) or "none" for found in (self.predicted, self.truth)
        )
        confidence = confidence_of(self.probabilities[None], self.thresholds)[0]
        told = [] if self.truth is None else [f"is {truth}" if self.is_wrong else "right"]
        return [f"predicted {predicted}", percent(float(confidence)), *told]


def probabilities_figure(answers: Sequence[Answer], names: Sequence[str]) -> Figure:
    """Draw each image beside its probabilities, the likeliest first: of more than ten classes five, with the true one."""
    columns = min(2, len(answers))
    rows = math.ceil(len(answers) / columns)
    count = _bar_count(names)
    side = max(1.15, 0.16 * count) if len(answers) > 1 else max(2.0, 0.2 * count)
    ratio = max(answer.image.shape[-1] / answer.image.shape[-2] for answer in answers)
    picture = side * min(max(ratio, 1.0), 3.0)  # strips get more room
    text, bars, gap = 1.25, 1.75, 0.2
    block, tall = picture + text + bars + 2 * gap, side + 0.5
    wide, high = columns * block + gap, 0.3 + rows * tall
    figure = Figure(figsize=(wide, high))
    for index, answer in enumerate(answers):
        row, column = divmod(index, columns)
        left, top = gap + column * block, 0.3 + row * tall
        style.place_text(
            figure, left, top, style.short_label(", ".join(answer.verdict(names)), 70), style.TEXT, bold=True
        )
        top += 0.2
        height, width = answer.image.shape[-2:]
        scale = min(picture / width, side / height)
        axes = style.place_axes(figure, left, top, width * scale, height * scale)
        axes.imshow(grey_or_colour(answer.image), cmap="gray", vmin=0, vmax=1, aspect="auto")
        style.frame_image(axes)
        axes.set_xlabel(style.short_label(answer.file), fontsize=style.SMALL, color=style.INK, labelpad=2, loc="left")
        _bars(style.place_axes(figure, left + picture + text, top, bars, side), answer, names)
    return figure


def attribution_figure(
    answers: Sequence[Answer], names: Sequence[str], maps: Sequence[tuple[str, npt.NDArray[np.floating]]]
) -> Figure:
    """Draw a row an image, a column a method: `maps` are names and (N, H, W), of at least 0.

    Every map is scaled by its own 99th percentile, so brightness can be compared within an image, not between two.
    Grad-CAM, HiResCAM and tiles, which are coarse, lie over the image; the others, which are fine, stand alone.
    """
    rows = []
    for index, answer in enumerate(answers):
        image = grey_or_colour(answer.image)
        tiles = [Tile(image)]
        for method, values in maps:
            own = values[index]
            heat = np.clip(own / max(float(np.quantile(own, 0.99)), float(own.max()) * 1e-3, 1e-12), 0, 1)
            colours = colormaps[_HEAT](heat)[..., :3]
            if method in COARSE:
                colours = 0.45 * (image if image.ndim == 3 else image[..., None]) + 0.55 * colours
            tiles.append(Tile(colours))
        rows.append(("\n".join([answer.file.rpartition("/")[2], *answer.verdict(names)]), tiles))
    heads = ["image", *(_NAMES[method] for method, _ in maps)]
    return tile_grid("Where the network looks for the class that it predicts", rows, tile=1.5, label=2.0, heads=heads)


def _bars(axes: Axes, answer: Answer, names: Sequence[str]) -> None:
    probabilities = answer.probabilities
    order = [int(k) for k in np.argsort(-probabilities, kind="stable")[: _bar_count(names)]]
    truth = answer.truth or ()
    for place, label in enumerate([label for label in truth if label not in order], start=1):
        order[-place] = label
    for position, label in enumerate(order):
        colour = (style.ORANGE if answer.is_wrong else style.BLUE) if label in answer.predicted else style.GREY
        axes.barh(position, probabilities[label], color=colour, height=0.62)
        share = percent(float(probabilities[label]))
        axes.text(probabilities[label] + 0.02, position, share, va="center", fontsize=style.SMALL, color=style.INK)
    axes.set(xlim=(0, 1.3), ylim=(max(len(order), 3) - 0.4, -0.6))
    axes.set_xticks([])
    axes.set_yticks(range(len(order)), [style.short_label(names[label], 18) for label in order], fontsize=style.SMALL)
    for text, label in zip(axes.get_yticklabels(), order, strict=True):
        text.set_fontweight("bold" if label in truth else "normal")
    axes.tick_params(length=0)
    style.style_axes(axes, spines=("left",))
    if len(order) < len(names):
        axes.set_xlabel(
            f"{len(order)} of {len(names)} classes", fontsize=style.SMALL, color=style.INK, labelpad=2, loc="left"
        )


def _bar_count(names: Sequence[str]) -> int:
    return len(names) if len(names) <= _ALL else _LIKELIEST
