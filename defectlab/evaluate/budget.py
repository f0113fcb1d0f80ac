"""How many labels are enough: accuracy by labelled images, drawn at random or chosen by what the model would learn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from sklearn.pipeline import Pipeline

from defectlab.evaluate.probe import linear_probe
from defectlab.figures.style import BLUE, GREY, ORANGE, style_axes

__all__ = ["STRATEGIES", "Row", "curves", "measure"]

STRATEGIES = ("random", "uncertainty", "coreset")
_Features = npt.NDArray[np.float32]
_Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Row:
    """Accuracy in [0, 1] on the test images, over draws, with `labelled` training images in all."""

    strategy: str
    per_class: int
    labelled: int
    draws: int
    mean: float
    sd: float


def measure(
    pool: tuple[_Features, npt.NDArray[np.int64]],
    test: tuple[_Features, npt.NDArray[np.int64]],
    budgets: Sequence[int],
    draws: int,
    seed: int,
    advance: Callable[[int], None],
) -> list[Row]:
    """Label more and more of the pool by each strategy, fit a linear probe each time, and judge it on the test images.

    Every strategy begins with the same `budgets[0]` random images a class. Then `random` draws as many of each class as
    the budget says; the others choose as many in all without knowing classes: `uncertainty` those with the smallest
    margin between the two likeliest classes (Scheffer et al. 2001), `coreset` those farthest from all that are labelled
    (Sener & Savarese 2018).

    Args:
        pool: features (N, E) and labels (N,) that may be used for training.
        test: the same of the images that judge.
        budgets: labelled images a class, ascending.
        draws: repetitions, each with its own random images.
        seed: of the first; the next take the next numbers.
        advance: is told 1 after each draw of a strategy.
    """
    features, labels = pool
    classes = len(np.unique(labels))
    rows = []
    for strategy in STRATEGIES:
        scores = np.zeros((draws, len(budgets)))
        for draw in range(draws):
            rng = np.random.default_rng(seed + draw)
            order = [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
            chosen = np.concatenate([members[: budgets[0]] for members in order])
            model = linear_probe().fit(features[chosen], labels[chosen])
            for step, budget in enumerate(budgets):
                if step and strategy == "random":
                    chosen = np.concatenate([members[:budget] for members in order])
                elif step:
                    more = min(classes * budget, len(labels)) - len(chosen)
                    pick = _uncertain if strategy == "uncertainty" else _far
                    chosen = np.concatenate([chosen, pick(model, features, chosen, more)])
                if step:
                    model = linear_probe().fit(features[chosen], labels[chosen])
                scores[draw, step] = model.score(*test)
            advance(1)
        deviation = scores.std(axis=0, ddof=1) if draws > 1 else np.zeros(len(budgets))
        rows += [
            Row(strategy, b, min(classes * b, len(labels)), draws, float(m), float(s))
            for b, m, s in zip(budgets, scores.mean(axis=0), deviation, strict=True)
        ]
    return rows


def _uncertain(model: Pipeline, features: _Features, chosen: _Indices, more: int) -> _Indices:
    rest = np.setdiff1d(np.arange(len(features)), chosen)
    shares = np.sort(model.predict_proba(features[rest]), axis=1)
    margins = shares[:, -1] - shares[:, -2]
    picked: _Indices = rest[np.argsort(margins, kind="stable")[:more]]
    return picked


def _far(model: Pipeline, features: _Features, chosen: _Indices, more: int) -> _Indices:
    """Greedily the image that is farthest from the nearest labelled one."""
    values = model[0].transform(features)
    distance = np.full(len(values), np.inf)
    for index in chosen:
        distance = np.minimum(distance, np.square(values - values[index]).sum(axis=1))
    picked = []
    for _ in range(more):
        index = int(distance.argmax())
        picked.append(index)
        distance = np.minimum(distance, np.square(values - values[index]).sum(axis=1))
    return np.array(picked, dtype=np.int64)


def curves(rows: Sequence[Row]) -> Figure:
    """A line a strategy with a band of one sd."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for strategy, colour in zip(STRATEGIES, (GREY, BLUE, ORANGE), strict=True):
        mine = [row for row in rows if row.strategy == strategy]
        x = [row.labelled for row in mine]
        mean, sd = (100 * np.array([getattr(row, name) for row in mine]) for name in ("mean", "sd"))
        axes.plot(x, mean, color=colour, marker="o", ms=4, label=strategy)
        axes.fill_between(x, mean - sd, np.minimum(mean + sd, 100), color=colour, alpha=0.15, lw=0)
    axes.set(xscale="log", xlabel="labelled images in all", ylabel="test accuracy, %")
    axes.set_xticks(x, [str(value) for value in x])
    axes.minorticks_off()
    style_axes(axes, grid="y")
    axes.legend(frameon=False)
    return figure
