"""What `explain RUN --boxes DIR` adds: whether the attributions are true, judged by boxes on the test images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from defectlab.data import ImageDataModule
from defectlab.errors import InputError
from defectlab.explain.attribution import Method, attribute
from defectlab.explain.boxes import box_mask, class_key, find_boxes, read_boxes
from defectlab.explain.pointing import ALL, Pointing, boxes_figure, pointing_game
from defectlab.explain.sanity import SEEDS, Sanity, sanity_check
from defectlab.metrics.statistics import holm
from defectlab.runs import csv_text, write_text
from defectlab.tasks import ClassificationTask
from defectlab.utils.card import DataCard
from defectlab.utils.progress import progress_bar

__all__ = ["PointingResult", "evaluate_attributions"]

_BLOCK = 16  # images between two steps of the progress bar
_CHECKED = 24  # images of the sanity check, evenly among those with boxes
_LEGEND = (
    "hits: the largest value lies in a box of the true class; chance: the boxes' area; p: of chance, one-sided, after "
    "Holm over all classes and methods; centre: hits of the middle of the image; others: hits of the points of other "
    "images of the class, and p of knowing no more than those; energy: share of the map's sum inside boxes."
)
_WIDE = 0.5  # boxes that cover more than this of an image say little


@dataclass(frozen=True)
class PointingResult:
    """What came of it, and what the reader should know."""

    rows: list[Pointing]
    checks: list[Sanity]
    notes: list[str]

    def figure(self) -> Figure:
        """For boxes.png."""
        return boxes_figure(self.rows, self.checks)

    def write(self, folder: Path) -> None:
        """boxes.csv, a row a method and class, and sanity.csv, a row a method."""
        write_text(folder / "boxes.csv", csv_text(Pointing, self.rows))
        write_text(folder / "sanity.csv", csv_text(Sanity, self.checks))

    def show(self) -> None:
        """Print a table a method, and the check with shuffled weights."""
        console = Console()
        for method in dict.fromkeys(row.method for row in self.rows):
            console.print(_table([row for row in self.rows if row.method == method]))
            console.print()
        console.print(_LEGEND, style="dim", highlight=False)
        first = self.checks[0]
        title = f"\nlikeness to the map of shuffled weights: {first.images} images, {first.seeds} shufflings"
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        for name in ("method", "Spearman", "by shuffling", "verdict"):
            table.add_column(name, justify="left" if name in ("method", "verdict") else "right")
        for check in self.checks:
            verdict = "FLAGGED: shows the image, not the network" if check.flagged else "depends on the weights"
            table.add_row(check.method, f"{check.similarity:.2f}", f"{check.low:.2f} to {check.high:.2f}", verdict)
        console.print(table)


def evaluate_attributions(
    task: ClassificationTask, card: DataCard, data: ImageDataModule, folder: Path, methods: Sequence[Method]
) -> PointingResult:
    """Judge `methods` on the run's test images that have boxes of their own class in `folder`.

    What is explained is the true class of an image, whatever was predicted.

    Raises:
        InputError: No boxes for any test image, or a file that cannot be read.
    """
    files, names = data.files("test"), list(data.class_names)
    labels = data.labels("test")
    side = card.image_size
    found = find_boxes(folder, files)
    masks, kept, others = [], [], 0
    for index, file in enumerate(files):
        if file in found:
            boxes = read_boxes(found[file])
            own = [box for box in boxes if class_key(box.label) == class_key(names[int(labels[index])])]
            others += 0 < len(own) < len(boxes)
            if own:
                kept.append(index)
                masks.append(box_mask(own, side, side))
    if not kept:
        raise InputError(
            f"{folder} has boxes for {len(found)} of {len(files)} test images, none of them of the image's class: expected "
            f"a file such as {Path(files[0]).stem}.xml with an object named {names[int(labels[0])]}"
        )

    def images(indices: Sequence[int]) -> Tensor:
        return card.normalise(data.pixels("test", indices).to(task.device))

    inside, truth = np.stack(masks), labels[kept]
    by_class = sorted(kept, key=lambda index: int(labels[index]))
    few = [by_class[i] for i in np.linspace(0, len(kept) - 1, min(_CHECKED, len(kept))).round().astype(int)]
    steps = len(methods) * (len(kept) + len(SEEDS) * len(few))
    rows: list[Pointing] = []
    checks: list[Sanity] = []
    with progress_bar("judging by boxes", steps) as advance:

        def shuffled(_: int) -> None:
            advance(len(few))

        for method in methods:
            maps = []
            for start in range(0, len(kept), _BLOCK):
                block = kept[start : start + _BLOCK]
                maps.append(attribute(task, images(block), labels[block], method))
                advance(len(block))
            rows += pointing_game(method, torch.cat(maps).numpy(), inside, truth.numpy(), names)
            explain = partial(attribute, method=method)
            checks.append(sanity_check(method, explain, task, images(few), labels[few], advance=shuffled))
    return PointingResult(_adjusted(rows), checks, _notes(files, found, kept, others, rows))


def _adjusted(rows: list[Pointing]) -> list[Pointing]:
    """The rows with p-values that are valid together, those of single classes and those of all apart."""
    done = list(rows)
    for whole in (False, True):
        places = [place for place, row in enumerate(rows) if (row.label == ALL) == whole]
        for place, p in zip(places, holm([rows[place].p for place in places]), strict=True):
            done[place] = replace(rows[place], p_holm=p)
    return done


def _notes(
    files: Sequence[str], found: dict[str, Path], kept: Sequence[int], others: int, rows: Sequence[Pointing]
) -> list[str]:
    notes = [f"Judged by boxes on {len(kept)} of {len(files)} test images, for the true class of each."]
    if len(found) < len(files):
        notes[0] += f" {len(files) - len(found)} have no box file."
    if len(kept) < len(found):
        notes[0] += f" {len(found) - len(kept)} have no box of their own class."
    if others:
        notes[0] += f" {others} have boxes of other classes, too, which were left aside."
    wide = {row.label: row.chance for row in rows if row.label != ALL and row.chance > _WIDE}
    if wide:
        shares = ", ".join(f"{label} ({chance:.0%} of the image)" for label, chance in wide.items())
        notes.append(f"Boxes that fill most of the image say little about where a network looks: {shares}.")
    return notes


def _table(rows: Sequence[Pointing]) -> Table:
    table = Table(title=f"pointing game: {rows[0].method}", title_justify="left", box=None, pad_edge=False)
    for name in ("class", "hits", "chance", "margin", "p", "centre", "others", "p", "energy"):
        table.add_column(name, justify="left" if name == "class" else "right")
    for row in rows:
        swapped = "–" if row.swapped is None else f"{row.swapped:.0%}"
        table.add_row(
            escape(row.label), f"{row.hits}/{row.n}", f"{row.chance:.0%}", f"{100 * row.margin:+.0f}", _p(row.p_holm),
            f"{row.centre:.0%}", swapped, _p(row.p_swapped), f"{row.energy:.0%}",
        )  # fmt: skip
    return table


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    return "<.001" if value < 0.001 else f"{value:.3f}".removeprefix("0")
