"""Evaluate attributions by boxes on the test images: the pointing game, and the check with shuffled weights."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from defectlab.data import ImageDataModule
from defectlab.data.sources.boxes import box_mask, class_key, find_boxes, placed, read_boxes
from defectlab.errors import InputError
from defectlab.explain.attribution import Method, attribute
from defectlab.explain.pointing import ALL, Pointing, boxes_figure, pointing_game
from defectlab.explain.sanity import SEEDS, CascadeStep, Sanity, cascade, sanity_check
from defectlab.metrics.statistics import holm
from defectlab.runs import csv_text, write_text
from defectlab.tasks import ClassificationTask
from defectlab.utils.card import DataCard
from defectlab.utils.progress import progress_bar

_BLOCK = 16  # images between two steps of the progress bar
_CHECKED = 24  # images of the sanity check, evenly among those with boxes
_WIDE = 0.5  # boxes that cover more than this of an image say little


@dataclass(frozen=True)
class PointingResult:
    """The rows of the pointing game, the checks with shuffled weights, notes for the reader, the steps layer by layer."""

    rows: list[Pointing]
    checks: list[Sanity]
    notes: list[str]
    steps: list[CascadeStep]

    def figure(self) -> Figure:
        """Draw boxes.png."""
        return boxes_figure(self.rows, self.checks, self.steps)

    def write(self, folder: str | PathLike[str]) -> None:
        """Write boxes.csv, a row a method and class, sanity.csv, a row a method, and cascade.csv, a row a method and depth."""
        write_text(Path(folder) / "boxes.csv", csv_text(Pointing, self.rows))
        write_text(Path(folder) / "sanity.csv", csv_text(Sanity, self.checks))
        write_text(Path(folder) / "cascade.csv", csv_text(CascadeStep, self.steps))


def evaluate_attributions(
    task: ClassificationTask,
    card: DataCard,
    data: ImageDataModule,
    folder: Path,
    methods: Sequence[Method],
    progress: bool = False,
    part: str = "test",
) -> PointingResult:
    """Evaluate `methods` on the test images that have boxes of their own class in `folder`; InputError where none has.

    The true class of an image is explained, whatever was predicted. `part` is what the notes call the images,
    `validation` where those stand for test images; `progress` draws a bar.
    """
    files, names = data.files("test"), data.data.strata_names
    labels = torch.from_numpy(data.strata("test"))  # of several classes the rarest one is explained
    found = find_boxes(folder, files)
    masks, kept, others = [], [], 0
    for index, file in enumerate(files):
        if file in found:
            boxes = read_boxes(found[file])
            own = [box for box in boxes if class_key(box.label) == class_key(names[int(labels[index])])]
            shown = placed(own, card)
            others += 0 < len(own) < len(boxes)
            if shown:
                kept.append(index)
                masks.append(box_mask(shown, *card.shape[1:]))
    if not kept:
        raise InputError(
            f"{folder} has boxes for {len(found)} of {len(files)} {part} images, none of them of the image's class: expected "
            f"a file such as {Path(files[0]).stem}.xml with an object named {names[int(labels[0])]}"
        )

    def images(indices: Sequence[int]) -> Tensor:
        return card.normalise(data.pixels("test", indices).to(task.device))

    inside, truth = np.stack(masks), labels[kept]
    by_class = sorted(kept, key=lambda index: int(labels[index]))
    few = [by_class[i] for i in np.linspace(0, len(kept) - 1, min(_CHECKED, len(kept))).round().astype(int)]
    total = len(methods) * (len(kept) + (len(SEEDS) + 1) * len(few))
    rows: list[Pointing] = []
    checks: list[Sanity] = []
    steps: list[CascadeStep] = []
    with progress_bar("evaluating attributions", total, shown=progress) as advance:
        for method in methods:
            maps = []
            for start in range(0, len(kept), _BLOCK):
                block = kept[start : start + _BLOCK]
                maps.append(attribute(task, images(block), labels[block], method))
                advance(len(block))
            rows += pointing_game(method, torch.cat(maps).numpy(), inside, truth.numpy(), names)
            explain = partial(attribute, method=method)
            checks.append(sanity_check(method, explain, task, images(few), labels[few]))
            advance(len(SEEDS) * len(few))
            steps += cascade(method, explain, task, images(few[::2]), labels[few[::2]])
            advance(len(few))
    notes = _notes(files, found, kept, others, rows, part)
    notes += [f"{check.method}: {check.verdict}." for check in checks if check.empty]
    return PointingResult(_adjusted(rows), checks, notes, steps)


def _adjusted(rows: list[Pointing]) -> list[Pointing]:
    """Adjust the p-values of single classes together, and apart from them those of all classes."""
    done = list(rows)
    for whole in (False, True):
        places = [place for place, row in enumerate(rows) if (row.label == ALL) == whole]
        for place, p in zip(places, holm([rows[place].p for place in places]), strict=True):
            done[place] = replace(rows[place], p_holm=p)
    return done


def _notes(
    files: Sequence[str], found: dict[str, Path], kept: Sequence[int], others: int, rows: Sequence[Pointing], part: str
) -> list[str]:
    """Write how many images were evaluated, and what the reader should know of their boxes."""
    notes = [f"Judged by boxes on {len(kept)} of {len(files)} {part} images, for the true class of each."]
    if len(found) < len(files):
        notes[0] += f" {len(files) - len(found)} have no box file."
    if len(kept) < len(found):
        notes[0] += f" {len(found) - len(kept)} have no box of their own class."
    if others:
        notes[0] += f" {others} have boxes of other classes, too, which were left aside."
    wide = {row.label: row.chance for row in rows if row.label != ALL and row.chance > _WIDE}
    if wide:
        areas = ", ".join(f"{label} ({chance:.0%} of the image)" for label, chance in wide.items())
        notes.append(f"Boxes that fill most of the image say little about where a network looks: {areas}.")
    return notes
