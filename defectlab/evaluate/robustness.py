"""Measure how accuracy falls on corrupted images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from defectlab.data import ImageDataModule
from defectlab.data.sources.layouts import NEU_CLASSES
from defectlab.engine.host import as_guest
from defectlab.engine.restore import restore
from defectlab.evaluate.corruptions import CORRUPTIONS, Corruption
from defectlab.figures.style import BLUE, GREY, ORANGE, TEXT, save_png, style_axes
from defectlab.metrics.classification import accuracy_interval, probabilities_of
from defectlab.runs import RunFolder, csv_text, write_text
from defectlab.utils.progress import progress_bar
from defectlab.utils.text import html_table

# Song & Yan 2013, table 3: per cent by dB, trained on clean halves of NEU-CLS. They do not say which SNR.
AECLBP: dict[float, float] = {50: 98.87, 40: 98.53, 30: 88.29, 20: 37.09}
_BLOCK = 128


@dataclass(frozen=True, kw_only=True)
class CorruptionAccuracy:
    """Accuracy in [0, 1] on `n` images after one corruption; `level` is None for the clean ones."""

    corruption: str
    unit: str
    level: float | None
    accuracy: float
    low: float
    high: float
    n: int


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
        return f"Robustness: clean {self.rows[0].accuracy:.2%}, worst {worst.accuracy:.2%} ({worst.corruption} {worst.level})"

    def figure(self) -> Figure:
        """Draw a small plot a corruption, its 95 % Wilson intervals as a band, the clean accuracy as a line."""
        clean = self.rows[0].accuracy
        figure = Figure(figsize=(12, 8.4), layout="constrained")
        for axes, corruption in zip(figure.subplots(3, 4, sharey=True).flat, CORRUPTIONS, strict=True):
            mine = [row for row in self.rows if row.corruption == corruption.name]
            places = range(len(mine))
            low, high = [100 * r.low for r in mine], [100 * r.high for r in mine]
            axes.axhline(100 * clean, color=GREY, lw=1, ls=":")
            axes.fill_between(places, low, high, color=BLUE, alpha=0.2, lw=0)
            axes.plot(places, [100 * r.accuracy for r in mine], color=BLUE, marker="o", ms=4, label="this run")
            if self.published and corruption.name == "noise, SNR of power":
                known = [(place, AECLBP[r.level]) for place, r in zip(places, mine, strict=True) if r.level in AECLBP]
                axes.plot(*zip(*known, strict=True), "D--", ms=4, color=ORANGE, label="AECLBP (Song & Yan 2013)")
                axes.legend(fontsize=TEXT, loc="lower left")
            axes.set_xticks(list(places), [f"{r.level:g}" for r in mine])
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
        data, task, card = restored.data, restored.task, restored.card
        data.check_test_part()

        def classify(batch: Tensor) -> Tensor:
            logits: Tensor = task.predict_logits(card.normalise(batch))
            return probabilities_of(logits).argmax(dim=1)

        images, labels = data.pixels("test").to(restored.device), data.labels("test")
        rows = evaluate_corruptions(classify, images, labels, progress)
    published = tuple(data.class_names) == NEU_CLASSES and data.source == "real"
    return Robustness(rows, published, data.source == "synthetic")


@torch.inference_mode()
def evaluate_corruptions(
    classify: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, progress: bool = False
) -> list[CorruptionAccuracy]:
    """Evaluate on the clean images, then under every corruption at every level.

    `classify` turns float images (N, C, H, W) in [0, 1] into predicted classes (N,); `images` are uint8 (N, C, H, W), on
    the device, `labels` (N,). `progress` draws a bar.
    """
    rows: list[CorruptionAccuracy] = []
    levels: list[tuple[Corruption | None, float | None]] = [(c, level) for c in CORRUPTIONS for level in c.levels]
    with progress_bar("evaluating corruptions", 1 + len(levels), shown=progress) as advance:
        for corruption, level in [(None, None), *levels]:
            right = 0
            for pixels, own in zip(torch.split(images, _BLOCK), torch.split(labels, _BLOCK), strict=True):
                clean = pixels.float() / 255
                worse = clean if corruption is None or level is None else corruption.apply(clean, level)
                right += int((classify(worse).cpu() == own).sum())
            name, unit = ("clean", "") if corruption is None else (corruption.name, corruption.unit)
            low, high = accuracy_interval(right, len(labels))
            rows.append(CorruptionAccuracy(
                corruption=name, unit=unit, level=level, accuracy=right / len(labels), low=low, high=high, n=len(labels),
            ))  # fmt: skip
            advance(1)
    return rows
