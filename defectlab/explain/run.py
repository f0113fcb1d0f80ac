"""Explain a run, a checkpoint or a network of torchvision's: compute all sheets and write the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from defectlab.data import ImageDataModule
from defectlab.data.sources.reading import read_images
from defectlab.engine.host import as_guest
from defectlab.engine.restore import restore
from defectlab.errors import InputError
from defectlab.explain.activations import TestSetActivations, choose_images, collect_activations
from defectlab.explain.against_boxes import PointingResult, evaluate_attributions
from defectlab.explain.answers import Answer, attribution_figure, probabilities_figure
from defectlab.explain.attribution import CAMS, METHODS, Method, attribute
from defectlab.explain.embedding import add_projector, embedding_figure
from defectlab.explain.feature_maps import feature_maps_figure
from defectlab.explain.filters import filters_figure
from defectlab.explain.layers import LayerMaps, convolution, feature_maps
from defectlab.explain.neighbours import neighbours_figure
from defectlab.explain.page import SHEETS, write_sheets
from defectlab.explain.units import choose_units, units_figure
from defectlab.inference.images import list_files
from defectlab.metrics.classification import probabilities_of
from defectlab.metrics.decisions import Labels, are_right, confidence_of, decide, label_texts
from defectlab.networks.tiling import tiled_network
from defectlab.runs import RunFolder
from defectlab.runs.locate import checkpoint_of, imagenet_name
from defectlab.tasks import ClassificationTask
from defectlab.tasks.checkpoint import load_task
from defectlab.tasks.imagenet import load_imagenet_classifier
from defectlab.utils.card import DataCard
from defectlab.utils.files import check_output_folder
from defectlab.utils.progress import progress_bar

_MOST = 12  # images on a page


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Figures that explain a network, which are also on a page.

    Args:
        page: explain.html, with a PNG a sheet and TensorBoard's events in the same folder.
        events: folder to point TensorBoard at.
        sheets: figures by name, in the order of the page.
        notes: for the reader, such as what was left out.
        files: the images shown, n.
        class_names: in the order of the columns of `probabilities`.
        probabilities: of the images shown, (n, C).
        pointing: evaluation of the attributions by boxes; None without.
    """

    page: Path
    events: Path
    sheets: dict[str, Figure]
    notes: tuple[str, ...]
    files: tuple[str, ...]
    class_names: tuple[str, ...]
    probabilities: npt.NDArray[np.float64]
    pointing: PointingResult | None = None

    def __repr__(self) -> str:
        return f"Explanation of {len(self.files)} images: {', '.join(self.sheets)}; see {self.page}"


def explain(
    run: str | PathLike[str],
    images: str | PathLike[str] | Sequence[str | PathLike[str]] = (),
    *,
    layer: str | None = None,
    output: str | PathLike[str] | None = None,
    data_root: str | PathLike[str] | None = None,
    boxes: str | PathLike[str] | None = None,
    weights: str | PathLike[str] | None = None,
    data: ImageDataModule | None = None,
    progress: bool = False,
) -> Explanation:
    """Explain a trained network by filters, feature maps, attributions, units and embedding, on a page of figures.

    Args:
        run: run folder, .ckpt file, or `imagenet/NETWORK`.
        images: files, folders and globs; without them test images of the run: right ones, and the surest mistakes.
        layer: convolution to look into, as in `named_modules`; None for the filters of the first, and for the images
            that excite the last layer with maps.
        output: folder to write to; None for RUN/explain, without a run folder for `explain`.
        data_root: where the run's images are now, if they have moved.
        boxes: folder of Pascal VOC .xml files: the attributions are compared with them, on all test images that have one.
        weights: file of `imagenet/NETWORK`; None for torchvision's cache, or a download.
        data: the run's data, not read yet, where it was a ready object.
        progress: draw bars for work of more than a second.

    Raises:
        InputError: what cannot be used, read or found.
    """
    name = fspath(run)
    target = None if output is None else Path(output)
    if target is not None:
        check_output_folder(target)
    file = None if weights is None else Path(weights)
    network = imagenet_name(name, file)
    with as_guest(progress):
        if network is None and Path(name).is_dir():
            files = list_files(images) if images else []
            return _explain_run(RunFolder.open(name), files, layer, target, data_root, boxes, data)
        if boxes is not None:
            raise InputError(f"boxes are for a run's test images, and {name} has none: give the run folder")
        if data_root is not None:
            raise InputError(f"data.root is for the images of a run folder, and {name} is none: leave it out")
        checkpoint = checkpoint_of(name) if network is None else Path(name)
        if not images:
            raise InputError(f"{name} has no images of its own: defectlab explain {name} IMAGES, or give a run folder")
        task, card = load_task(checkpoint) if network is None else load_imagenet_classifier(network, file)
        files = list_files(images, card.page)
        shown = _classify(task, card, files)
        layers = feature_maps(task.network, shown.images[:1])
        sheets, notes = _sheets(task, card, shown, layers, layer)
        why = "ImageNet's images are not here" if network else "A checkpoint alone has no test images"
        hint = "" if network else " Give the run folder to see it."
        notes.append(f"{why}: what they show (the images that excite a unit, the embedding) is left out.{hint}")
        target, notes = target or Path("explain"), [*_count(files), *notes]
        page = write_sheets(target, name if network else checkpoint.name, sheets, notes, card.source == "synthetic")
        return _explanation(page, target, sheets, notes, shown, card)


@dataclass(frozen=True)
class _Shown:
    """The images on the page: with their probabilities, and normalised on the device."""

    answers: list[Answer]
    images: Tensor


def _explain_run(
    run: RunFolder, files: Sequence[Path], layer: str | None, output: Path | None, root: str | PathLike[str] | None,
    boxes: str | PathLike[str] | None, given: ImageDataModule | None,
) -> Explanation:  # fmt: skip
    restored = restore(RunFolder(run.path.resolve()), [] if root is None else ["--data.root", fspath(root)], given)
    task, card, data = restored.task, restored.card, restored.data
    files = list_files(files, card.page) if files else files
    part = "validation" if data.test_on_validation() else "test"
    labels, strata, names = data.labels("test").numpy(), data.strata("test"), data.data.strata_names
    layers = feature_maps(task.network, card.normalise(data.pixels("test", [0]).to(task.device)))
    result = None
    if boxes is not None:
        result = evaluate_attributions(task, card, data, Path(boxes), _methods(task, layers), True, part)
    watched = convolution(task.network, layer)[0] if layer is not None else layers[-1].name if layers else None
    batches = (images.to(task.device) for images, _ in data.test_dataloader())
    found = collect_activations(task.network, batches, len(labels), watched, True, card.multilabel)
    predicted = decide(found.probabilities, task.thresholds)
    right = are_right(predicted, labels)
    if files:
        shown, notes = _classify(task, card, files), _count(files)
    else:
        chosen = choose_images(strata, right, confidence_of(found.probabilities, task.thresholds))
        pixels, paths = data.pixels("test", chosen), data.files("test")
        answers = [
            Answer(own.numpy(), paths[i], found.probabilities[i], _classes(labels[i]), task.thresholds)
            for own, i in zip(pixels, chosen, strict=True)
        ]
        shown = _Shown(answers, card.normalise(pixels.to(task.device)))
        notes = [_about(answers, int((~right).sum()), part)]
    if files or chosen[0] != 0:
        layers = feature_maps(task.network, shown.images[:1])
    sheets, more = _sheets(task, card, shown, layers, layer)
    if units := choose_units(found.peaks, strata):
        pixels_of = lambda index: data.pixels("test", [index])[0].numpy()  # noqa: E731
        sheets["units"] = units_figure(found, units, pixels_of, strata, names)
    sheets["neighbours"] = neighbours_figure(task, data, shown.answers, shown.images)
    own = strata[found.embedded]
    sheets["embedding"] = embedding_figure(found.embedding, own, right[found.embedded], names, part)
    target = output or run.path / "explain"
    if part == "validation":
        more.append(
            "This run has no test part: its validation images, which chose the checkpoint, stand for test images."
        )
    if result is not None:
        sheets["boxes"] = result.figure()
        more += result.notes
        result.write(target)
    notes, name = notes + more, "/".join(run.path.resolve().parts[-2:])
    projector = partial(_add_projector, found=found, data=data, labels=labels, predicted=predicted)
    page = write_sheets(target, name, sheets, notes, card.source == "synthetic", part, projector)
    return _explanation(page, run.path if output is None else target, sheets, notes, shown, card, result)


def _explanation(
    page: Path, events: Path, sheets: Mapping[str, Figure], notes: Sequence[str], shown: _Shown, card: DataCard,
    pointing: PointingResult | None = None,
) -> Explanation:  # fmt: skip
    return Explanation(
        page=page, events=events, sheets={name: sheets[name] for name in SHEETS if name in sheets}, notes=tuple(notes),
        files=tuple(answer.file for answer in shown.answers), class_names=card.class_names,
        probabilities=np.stack([answer.probabilities for answer in shown.answers]), pointing=pointing,
    )  # fmt: skip


def _about(answers: Sequence[Answer], mistakes: int, part: str) -> str:
    """Write how the images were chosen."""
    wrong = sum(answer.is_wrong for answer in answers)
    return (
        f"Shown are {len(answers) - wrong} {part} images that are right, of middling confidence in their class, and "
        + (f"the {wrong} most confident of {mistakes} mistakes. " if wrong else "no mistake, as there is none. ")
        + "They are examples: how often the network is right, the report says."
    )


def _sheets(
    task: ClassificationTask, card: DataCard, shown: _Shown, layers: Sequence[LayerMaps], layer: str | None
) -> tuple[dict[str, Figure], list[str]]:
    """Draw the sheets that need no test images; also return notes on those that could not be made."""
    network, answers = task.network, shown.answers
    sheets = {"probabilities": probabilities_figure(answers, card.class_names)}
    notes = [] if layers else ["No layer of this network gives maps: feature maps, Grad-CAM and HiResCAM are left out."]
    if layer is not None or any(isinstance(module, nn.Conv2d) for module in network.modules()):
        name, found = convolution(network, layer)
        sheets["filters"] = filters_figure(found, name)
    else:
        notes.append("It has no convolution: filters are left out.")
    if layers:
        title = f"{Path(answers[0].file).name} on its way through {type(network).__name__}"
        sheets["feature_maps"] = feature_maps_figure(answers[0].image, layers, title)
    methods = _methods(task, layers)
    predicted = torch.tensor([answer.likeliest for answer in answers])
    maps = []
    with progress_bar("computing attributions", len(methods)) as advance:
        for method in methods:
            maps.append((method, attribute(task, shown.images, predicted, method).numpy()))
            advance(1)
    sheets["attribution"] = attribution_figure(answers, card.class_names, maps)
    return sheets, notes


def _methods(task: ClassificationTask, layers: Sequence[LayerMaps]) -> list[Method]:
    """Return the methods that a network allows: some need maps, or tiles."""
    methods = [method for method in METHODS if method not in CAMS or layers]
    return methods if tiled_network(task) is None else [*methods, "tiles"]


def _classes(label: Any) -> int | tuple[int, ...]:
    """Return an image's class, or its classes."""
    return int(label) if np.ndim(label) == 0 else tuple(np.flatnonzero(label).tolist())


def _add_projector(
    writer: SummaryWriter, found: TestSetActivations, data: ImageDataModule, labels: Labels, predicted: Labels
) -> None:
    files, chosen = data.files("test"), found.embedded
    truth, called = (label_texts(one[chosen], data.class_names) for one in (labels, predicted))
    rows = []
    for index, own, taken in zip(chosen, truth, called, strict=True):
        verdict = "right" if own == taken else "wrong"
        rows.append([own, taken, verdict, f"{found.probabilities[index].max():.4f}", files[index]])
    header = ["class", "predicted", "verdict", "confidence", "file"]
    add_projector(writer, found.embedding, data.pixels("test", chosen), header, rows)


def _classify(task: ClassificationTask, card: DataCard, files: Sequence[Path]) -> _Shown:
    """Classify the first of the images that were named."""
    pixels, _, _ = read_images(files[:_MOST], card)
    images = card.normalise(pixels.to(task.device))
    with torch.inference_mode():
        probabilities = probabilities_of(task.predict_logits(images), card.multilabel).numpy()
    answers = [
        Answer(i.numpy(), f.name, p, None, task.thresholds)
        for i, f, p in zip(pixels, files, probabilities, strict=False)
    ]
    return _Shown(answers, images)


def _count(files: Sequence[Path]) -> list[str]:
    return [f"The first {_MOST} of {len(files)} images that were named."] if len(files) > _MOST else []
