"""Measure how accuracy falls on corrupted images."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from defectlab.data import ImageDataModule
from defectlab.data.datamodules.loaders import Part
from defectlab.data.sources.layouts import NEU_CLASSES
from defectlab.engine.host import as_guest
from defectlab.engine.restore import Restored, restore
from defectlab.evaluate.corruptions import CORRUPTIONS, Corruption
from defectlab.figures.style import BLUE, GREY, ORANGE, TEXT, save_png, style_axes
from defectlab.metrics.classification import accuracy_interval, probabilities_of
from defectlab.metrics.decisions import Labels, are_right, decide
from defectlab.metrics.results import balanced_accuracy
from defectlab.runs import RunFolder, csv_text, write_text
from defectlab.utils.progress import progress_bar
from defectlab.utils.text import html_table

# Song & Yan 2013, table 3: per cent by dB, trained on clean halves of NEU-CLS. They do not say which SNR.
AECLBP: dict[float, float] = {50: 98.87, 40: 98.53, 30: 88.29, 20: 37.09}
_BLOCK = 128
CASES: tuple[tuple[Corruption | None, float | None], ...] = (  # the clean images first
    (None, None), *((corruption, level) for corruption in CORRUPTIONS for level in corruption.levels),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CorruptionAccuracy:
    """Accuracy and balanced accuracy in [0, 1] on `n` images after one corruption; `level` is None for the clean ones."""

    corruption: str
    unit: str
    level: float | None
    accuracy: float
    low: float
    high: float
    n: int
    balanced_accuracy: float


@dataclass(frozen=True, repr=False)
class Robustness:
    """Accuracy on corrupted images.

    Args:
        rows: the clean images, then each corruption at each level.
        published: whether there are published figures for these images: real NEU-CLS.
        synthetic: whether the images are generated.
    """

    rows: list[CorruptionAccuracy]
    published: bool
    synthetic: bool

    def _repr_html_(self) -> str:
        """Return a table for a notebook."""
        return html_table(repr(self), self.rows)

    def __repr__(self) -> str:
        worst = min(self.rows, key=lambda row: row.accuracy)
        return "Robustness: " + ", ".join(
            f"{name} {row.accuracy:.2%} (balanced {row.balanced_accuracy:.2%})"
            for name, row in (("clean", self.rows[0]), (f"worst by {worst.corruption} {worst.level}", worst))
        )

    def figure(self, after: "Robustness | None" = None) -> Figure:
        """Draw a small plot a corruption, its 95 % Wilson intervals as a band, the clean accuracy as a line.

        `after` is drawn beside, of the same images by a network that was hardened.
        """
        figure = Figure(figsize=(12, 8.4), layout="constrained")
        drawn = [("this run", self, BLUE)] if after is None else [("before", self, GREY), ("after", after, BLUE)]
        for axes, corruption in zip(figure.subplots(3, 4, sharey=True).flat, CORRUPTIONS, strict=True):
            places = range(len(corruption.levels))
            for name, found, colour in drawn:
                mine = [row for row in found.rows if row.corruption == corruption.name]
                low, high = [100 * r.low for r in mine], [100 * r.high for r in mine]
                axes.axhline(100 * found.rows[0].accuracy, color=GREY if after is None else colour, lw=1, ls=":")
                axes.fill_between(places, low, high, color=colour, alpha=0.2, lw=0)
                axes.plot(places, [100 * r.accuracy for r in mine], color=colour, marker="o", ms=4, label=name)
            if self.published and corruption.name == "noise, SNR of power":
                known = [(place, AECLBP[level]) for place, level in enumerate(corruption.levels) if level in AECLBP]
                axes.plot(*zip(*known, strict=True), "D--", ms=4, color=ORANGE, label="AECLBP (Song & Yan 2013)")
            if len(axes.lines) > 2 and corruption is CORRUPTIONS[0]:
                axes.legend(fontsize=TEXT, loc="lower left")
            axes.set_xticks(list(places), [f"{level:g}" for level in corruption.levels])
            style_axes(axes, corruption.name, grid="y")
            axes.set_xlabel(corruption.unit)
        figure.supylabel("accuracy, %")
        return figure

    def write(self, folder: str | PathLike[str]) -> None:
        """Write robustness.csv and robustness.png."""
        write_text(Path(folder) / "robustness.csv", csv_text(CorruptionAccuracy, self.rows))
        save_png(self.figure(), Path(folder) / "robustness.png", self.synthetic)


def robustness(
    run: str | PathLike[str], data_root: str | PathLike[str] | None = None, progress: bool = False,
    overrides: Sequence[str] = (), data: ImageDataModule | None = None,
) -> Robustness:  # fmt: skip
    """Evaluate a run's best network on its test images under corruptions of rising strength.

    Args:
        run: its folder.
        data_root: where its images are now, if they have moved.
        progress: draw a bar for work of more than a second.
        overrides: arguments of `test`, such as `("--data.eval_batch_size", "16")`.
        data: the run's data, not read yet, where it was a ready object.

    Raises:
        InputError: no such run, one without a test part, or data that cannot be read.
    """
    moved = [] if data_root is None else ["--data.root", str(Path(data_root))]
    with as_guest(progress):
        restored = restore(RunFolder(RunFolder.open(run).path.resolve()), [*moved, *overrides], data)
        restored.data.check_test_part()
        return evaluate_corrupted(predict_corrupted(restored, "test", progress), restored.data, "test")


@torch.inference_mode()
def predict_corrupted(restored: Restored, part: Part, progress: bool = False) -> list[Labels]:
    """Predict every image of a part under each of CASES: an array a case, see `decide`."""
    task, card = restored.task, restored.card
    images = restored.data.pixels(part).to(restored.device)
    predicted = []
    with progress_bar("evaluating corruptions", len(CASES), shown=progress) as advance:
        for corruption, level in CASES:
            blocks = []
            for block in torch.split(images, _BLOCK):
                clean = block.float() / 255
                worse = clean if corruption is None or level is None else corruption.apply(clean, level)
                probabilities = probabilities_of(task.predict_logits(card.normalise(worse)), task.multilabel).numpy()
                blocks.append(decide(probabilities, task.thresholds))
            predicted.append(np.concatenate(blocks))
            advance(1)
    return predicted


def evaluate_corrupted(predicted: Sequence[Labels], data: ImageDataModule, part: Part) -> Robustness:
    """Evaluate what `predict_corrupted` returned of a part of `data`."""
    labels = data.labels(part).numpy()
    rows: list[CorruptionAccuracy] = []
    for (corruption, level), found in zip(CASES, predicted, strict=True):
        name, unit = ("clean", "") if corruption is None else (corruption.name, corruption.unit)
        hits, n = int(are_right(found, labels).sum()), len(labels)
        low, high = accuracy_interval(hits, n)
        rows.append(CorruptionAccuracy(
            corruption=name, unit=unit, level=level, accuracy=hits / n, low=low, high=high, n=n,
            balanced_accuracy=balanced_accuracy(found, labels, len(data.class_names)),
        ))  # fmt: skip
    published = tuple(data.class_names) == NEU_CLASSES and data.source == "real"
    return Robustness(rows, published, data.source == "synthetic")
