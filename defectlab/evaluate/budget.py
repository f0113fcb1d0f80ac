"""Measure accuracy by labelled images, drawn at random or chosen by active learning."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline

from defectlab.data.sources.records import rarest_class
from defectlab.engine.experiment import without_run
from defectlab.engine.host import as_guest
from defectlab.engine.probe import linear_probe
from defectlab.errors import InputError
from defectlab.figures.style import BLUE, GREY, ORANGE, save_png, style_axes
from defectlab.metrics.decisions import Labels, are_right
from defectlab.metrics.results import balanced_accuracy
from defectlab.runs import RunFolder, csv_text, write_text
from defectlab.tasks import PretrainedTask
from defectlab.utils.progress import progress_bar
from defectlab.utils.text import html_table

STRATEGIES = ("random", "uncertainty", "coreset")
_Features = npt.NDArray[np.float32]
_Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class BudgetAccuracy:
    """Accuracy in [0, 1] on the test images, over draws, with `labelled` training images in all; see `label_budget`.

    `mean` and `sd` are of the accuracy, `balanced_mean` and `balanced_sd` of the balanced accuracy.
    """

    strategy: str
    per_class: int
    labelled: int
    draws: int
    mean: float
    sd: float
    balanced_mean: float
    balanced_sd: float


@dataclass(frozen=True, repr=False)
class LabelBudget:
    """Accuracy by labelled images: `rows`, strategy by strategy; `synthetic` is whether the images are generated."""

    rows: list[BudgetAccuracy]
    synthetic: bool

    def _repr_html_(self) -> str:
        """Return a table for a notebook."""
        return html_table(repr(self), self.rows)

    def __repr__(self) -> str:
        best = max(self.rows, key=lambda row: row.mean)
        return f"LabelBudget of {len(self.rows)} rows: at best {best.mean:.2%} (balanced {best.balanced_mean:.2%}) with {best.labelled} labels ({best.strategy})"

    def figure(self) -> Figure:
        """Draw a line a strategy with a band of one sd."""
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.subplots()
        for strategy, colour in zip(STRATEGIES, (GREY, BLUE, ORANGE), strict=True):
            mine = [row for row in self.rows if row.strategy == strategy]
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

    def write(self, folder: str | PathLike[str]) -> None:
        """Write budget.csv and budget.png."""
        write_text(Path(folder) / "budget.csv", csv_text(BudgetAccuracy, self.rows))
        save_png(self.figure(), Path(folder) / "budget.png", self.synthetic)


def label_budget(
    config: str | PathLike[str],
    per_class: Sequence[int] = (1, 2, 5, 10, 20, 50, 100),
    draws: int = 10,
    overrides: Sequence[str] = (),
    progress: bool = False,
) -> LabelBudget:
    """Measure the accuracy of a linear probe on a config's frozen backbone by labelled images a class.

    Args:
        config: YAML file, name of a shipped one, or a run folder for its config, of a PretrainedTask with weights.
        per_class: labelled images a class; numbers above the size of the smallest class become that size.
        draws: repetitions, at least 2.
        overrides: arguments of `fit`, such as `("--data.root", "NEU")`.
        progress: draw bars for work of more than a second.

    Raises:
        InputError: a config without a pretrained backbone, or numbers out of range.
    """
    config = RunFolder.open(config).config if Path(config).is_dir() else config
    budgets = sorted(set(per_class))
    if not budgets or budgets[0] < 1 or draws < 2:
        raise InputError("per_class has to be at least 1, draws at least 2")
    with as_guest(progress), without_run(fspath(config), overrides) as cli:
        task, data = cli.model, cli.datamodule
        if not isinstance(task, PretrainedTask) or task.hparams.get("weights") is None:
            raise InputError("budget needs a pretrained backbone: a config of PretrainedTask with model.weights")
        data.prepare_data()
        data.setup("fit")
        labels = data.data.labels.numpy()
        pool = np.concatenate((data.parts.train, data.parts.val))
        # Of each class, or of a multi-label set of those whose rarest class it is.
        smallest = int(np.unique(data.data.strata[pool], return_counts=True)[1].min())
        possible = [budget for budget in budgets if budget <= smallest]
        if not possible:
            raise InputError(f"per_class begins at {budgets[0]}, the smallest class has {smallest} images to train on")
        if possible != budgets and smallest not in possible:
            possible.append(smallest)
        data.check_test_part()
        features = task.cache_embeddings(data).cpu().numpy()
        known, tested = ((features[part], labels[part]) for part in (pool, data.parts.test))
        rows = accuracy_by_labels(known, tested, possible, draws, data.seed, progress)
    return LabelBudget(rows, data.source == "synthetic")


def accuracy_by_labels(
    pool: tuple[_Features, Labels],
    test: tuple[_Features, Labels],
    budgets: Sequence[int],
    draws: int,
    seed: int,
    progress: bool = False,
) -> list[BudgetAccuracy]:
    """Label more and more of the pool by each strategy, fit a linear probe each time, and evaluate it on the test images.

    Every strategy begins with the same `budgets[0]` random images a class. Then `random` draws as many of each class as
    the budget says; the others choose as many in all without knowing classes: `uncertainty` those with the smallest
    margin between the two likeliest classes (Scheffer et al. 2001), `coreset` those farthest from all that are labelled
    (Sener & Savarese 2018).

    Args:
        pool: features (N, E) and labels that may be used for training: (N,), or of a multi-label set (N, C), where images
            are drawn by their rarest class, and right if all their classes are.
        test: features (M, E) and labels of the test images.
        budgets: labelled images a class, ascending.
        draws: repetitions, each with its own random images.
        seed: seed of the first draw; the next take the next numbers.
        progress: draw a bar for work of more than a second.
    """
    features, labels = pool
    strata = labels if labels.ndim == 1 else rarest_class(labels.astype(bool))
    classes = len(np.unique(strata))
    columns = labels.shape[1] if labels.ndim == 2 else 1 + int(max(labels.max(), test[1].max()))
    rows = []
    with progress_bar("choosing and fitting", draws * len(STRATEGIES), shown=progress) as advance:
        for strategy in STRATEGIES:
            scores = np.zeros((2, draws, len(budgets)))
            for draw in range(draws):
                rng = np.random.default_rng(seed + draw)
                order = [rng.permutation(np.flatnonzero(strata == label)) for label in np.unique(strata)]
                chosen = np.concatenate([members[: budgets[0]] for members in order])
                model = linear_probe(several=labels.ndim == 2).fit(features[chosen], labels[chosen])
                for step, budget in enumerate(budgets):
                    if step and strategy == "random":
                        chosen = np.concatenate([members[:budget] for members in order])
                    elif step:
                        more = min(classes * budget, len(labels)) - len(chosen)
                        pick = _uncertain if strategy == "uncertainty" else _far
                        chosen = np.concatenate([chosen, pick(model, features, chosen, more)])
                    if step:
                        model = linear_probe(several=labels.ndim == 2).fit(features[chosen], labels[chosen])
                    predicted = model.predict(test[0])
                    scores[:, draw, step] = (
                        are_right(predicted, test[1]).mean(), balanced_accuracy(predicted, test[1], columns)
                    )  # fmt: skip
                advance(1)
            deviation = scores.std(axis=1, ddof=1) if draws > 1 else np.zeros((2, len(budgets)))
            found = np.stack((scores.mean(axis=1), deviation), axis=1).reshape(4, -1).T.tolist()
            rows += [
                BudgetAccuracy(
                    strategy=strategy, per_class=budget, labelled=min(classes * budget, len(labels)), draws=draws, mean=mean,
                    sd=sd, balanced_mean=balanced, balanced_sd=spread,
                )
                for budget, (mean, sd, balanced, spread) in zip(budgets, found, strict=True)
            ]  # fmt: skip
    return rows


def _uncertain(model: Pipeline, features: _Features, chosen: _Indices, more: int) -> _Indices:
    rest = np.setdiff1d(np.arange(len(features)), chosen)
    probabilities = model.predict_proba(features[rest])
    if isinstance(model[-1], OneVsRestClassifier):
        margins = np.abs(2 * probabilities - 1).min(axis=1)
    else:
        probabilities = np.sort(probabilities, axis=1)
        margins = probabilities[:, -1] - probabilities[:, -2]
    picked: _Indices = rest[np.argsort(margins, kind="stable")[:more]]
    return picked


def _far(model: Pipeline, features: _Features, chosen: _Indices, more: int) -> _Indices:
    """Choose greedily the image that is farthest from the nearest labelled one."""
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
