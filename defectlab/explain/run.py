"""What `explain RUN` does: bring the network back, look into it, write the sheets."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from defectlab.data import ImageDataModule
from defectlab.data.sources.files import expand_images
from defectlab.engine.restore import restore
from defectlab.engine.warnings import quieten
from defectlab.errors import InputError
from defectlab.explain.activations import TestSetActivations, choose_images, collect_activations
from defectlab.explain.against_boxes import evaluate_attributions
from defectlab.explain.answers import Answer, attribution_figure, probabilities_figure
from defectlab.explain.attribution import CAMS, METHODS, Method, attribute
from defectlab.explain.embedding import add_projector, embedding_figure
from defectlab.explain.feature_maps import feature_maps_figure
from defectlab.explain.filters import filters_figure
from defectlab.explain.layers import convolution, feature_maps
from defectlab.explain.page import Sheet, write_sheets
from defectlab.explain.units import choose_units, units_figure
from defectlab.inference.predictor import read_images_for
from defectlab.runs import RunFolder
from defectlab.runs.locate import checkpoint_of, imagenet_name
from defectlab.tasks import ClassificationTask
from defectlab.tasks.checkpoint import load_task
from defectlab.tasks.imagenet import load_imagenet_classifier
from defectlab.utils.card import DataCard
from defectlab.utils.cpu import CPUSettings
from defectlab.utils.progress import progress_bar
from defectlab.utils.text import shown_path

__all__ = ["explain"]

_MOST = 12  # images on a page


def explain(
    run: str, names: Sequence[str], layer: str | None, output: Path | None, root: str | None, boxes: Path | None,
    weights: Path | None = None,
) -> int:  # fmt: skip
    """Write the sheets of a run folder, a checkpoint or `imagenet/NETWORK`, on the images named, or on test images.

    With a folder of `boxes` also judge the attributions by them, on all test images that have some. `weights` is the
    file of an ImageNet network; None for torchvision's.
    """
    quieten()
    # Hooks and gradients want the network as it is written, not compiled.
    with torch.compiler.set_stance("force_eager"):
        network = imagenet_name(run, weights)
        if network is None and Path(run).is_dir():
            return _explain_run(RunFolder.open(run), names, layer, output, root, boxes)
        if boxes is not None:
            raise InputError(f"--boxes are for a run's test images, and {run} is no run folder: give one")
        if root is not None:
            raise InputError(f"--data.root is for the images of a run folder, and {run} is none: leave it out")
        return _explain_alone(run, network, names, layer, output or Path("explain"), weights)


def _explain_alone(
    run: str, network: str | None, names: Sequence[str], layer: str | None, output: Path, weights: Path | None
) -> int:
    """A checkpoint, or torchvision's `network`: neither comes with test images."""
    file = checkpoint_of(run) if network is None else Path(run)
    if not names:
        raise InputError(f"{run} has no images of its own: defectlab explain {run} IMAGES, or give a run folder")
    CPUSettings().apply()
    task, card = load_task(file) if network is None else load_imagenet_classifier(network, weights)
    files = expand_images(names)
    answers, images = _read(task, card, files)
    sheets, notes = _sheets(task, card, answers, images, layer)
    why = "ImageNet's images are not here" if network else "A checkpoint alone has no test images"
    hint = "" if network else " Give the run folder to see it."
    notes.append(f"{why}: what they show (the images that excite a unit, the embedding) is left out.{hint}")
    return _write(output, run if network else file.name, card, sheets, [*_count(files), *notes])


def _explain_run(
    run: RunFolder, names: Sequence[str], layer: str | None, output: Path | None, root: str | None, boxes: Path | None
) -> int:
    files = expand_images(names) if names else []
    restored = restore(RunFolder(run.path.resolve()), [] if root is None else ["--data.root", root])
    task, card, data = restored.task, restored.card, restored.data
    validation = data.test_on_validation()
    result = None
    if boxes is not None:
        blank = torch.zeros(1, card.channels, card.image_size, card.image_size, device=task.device)
        result = evaluate_attributions(task, card, data, boxes, _methods(task.network, blank))
    found = _activations(task, card, data, layer)
    labels = data.data.labels.numpy()[data.parts.test]
    if files:
        answers, images = _read(task, card, files)
        notes = _count(files)
    else:
        chosen = choose_images(labels, found.probabilities)
        pixels = _test_images(data, chosen)
        images = card.normalise(pixels.to(task.device))
        tested = data.files("test")
        answers = [
            Answer(own.numpy(), tested[i], found.probabilities[i], int(labels[i]))
            for own, i in zip(pixels, chosen, strict=True)
        ]
        notes = [_about(answers, int((found.probabilities.argmax(axis=1) != labels).sum()))]
    sheets, more = _sheets(task, card, answers, images, layer)
    sheets += _test_sheets(found, data, labels)
    target = output or run.path / "explain"
    if validation:
        more.append(
            "This run has no test part: its validation images, which chose the checkpoint, stand for test images."
        )
    if result is not None:
        sheets.insert(1 + [sheet.name for sheet in sheets].index("attribution"), Sheet("boxes", result.figure()))
        more += result.notes
        result.write(target)
        result.show()

    def projector(writer: SummaryWriter) -> None:
        _add_projector(writer, found, data, labels)

    name = "/".join(run.path.resolve().parts[-2:])
    return _write(target, name, card, sheets, notes + more, projector, run.path if output is None else target)


def _activations(
    task: ClassificationTask, card: DataCard, data: ImageDataModule, layer: str | None
) -> TestSetActivations:
    """Of the test images, and of the units of `layer`, by default the last one with maps."""
    if layer is not None:
        watched: str | None = convolution(task.network, layer)[0]
    else:
        blank = torch.zeros(1, card.channels, card.image_size, card.image_size, device=task.device)
        layers = feature_maps(task.network, blank)
        watched = layers[-1].name if layers else None
    count = len(data.parts.test)
    with progress_bar("looking at the test images", count) as advance:
        batches = (images.to(task.device) for images, _ in data.test_dataloader())
        return collect_activations(task.network, batches, count, watched, advance)


def _about(answers: Sequence[Answer], mistakes: int) -> str:
    """How the images were chosen."""
    wrong = sum(answer.predicted != answer.label for answer in answers)
    return (
        f"Shown are {len(answers) - wrong} test images that are right, of middling confidence in their class, and "
        + (f"the {wrong} most confident of {mistakes} mistakes. " if wrong else "no mistake, as there is none. ")
        + "They are examples: how often the network is right, the report says."
    )


def _sheets(
    task: ClassificationTask, card: DataCard, answers: Sequence[Answer], images: Tensor, layer: str | None
) -> tuple[list[Sheet], list[str]]:
    """The sheets that need no test images, and what to say about those that could not be made."""
    names, network = card.class_names, task.network
    layers = feature_maps(network, images[:1])
    sheets = [Sheet("probabilities", probabilities_figure(answers, names))]
    notes = [] if layers else ["No layer of this network gives maps: feature maps, Grad-CAM and HiResCAM are left out."]
    if layer is not None or any(isinstance(module, nn.Conv2d) for module in network.modules()):
        name, found = convolution(network, layer)
        sheets.append(Sheet("filters", filters_figure(found, name)))
    else:
        notes.append("It has no convolution: filters are left out.")
    if layers:
        title = f"{Path(answers[0].file).name} on its way through {type(network).__name__}"
        sheets.append(Sheet("feature_maps", feature_maps_figure(answers[0].image, layers, title)))
    methods = _methods(network, images[:1])
    predicted = torch.tensor([answer.predicted for answer in answers])
    maps = []
    with progress_bar("looking where it looks", len(methods)) as advance:
        for method in methods:
            maps.append((method, attribute(task, images, predicted, method).numpy()))
            advance(1)
    return [*sheets, Sheet("attribution", attribution_figure(answers, names, maps))], notes


def _methods(network: nn.Module, image: Tensor) -> list[Method]:
    """Those that a network allows: some need maps."""
    return [method for method in METHODS if method not in CAMS or feature_maps(network, image)]


def _test_sheets(found: TestSetActivations, data: ImageDataModule, labels: np.ndarray) -> list[Sheet]:
    """The units, if the network has maps, and the embedding."""
    names = data.class_names
    own = labels[found.embedded]
    right = found.probabilities[found.embedded].argmax(axis=1) == own
    sheets = [Sheet("embedding", embedding_figure(found.embedding, own, right, names))]
    units = choose_units(found.peaks, labels)
    if units:
        figure = units_figure(found, units, lambda index: _test_images(data, [index])[0].numpy(), labels, names)
        sheets.insert(0, Sheet("units", figure))
    return sheets


def _add_projector(writer: SummaryWriter, found: TestSetActivations, data: ImageDataModule, labels: np.ndarray) -> None:
    names, files, chosen = data.class_names, data.files("test"), found.embedded
    rows = []
    for index in chosen:
        shares = found.probabilities[index]
        predicted = int(shares.argmax())
        verdict = "right" if predicted == labels[index] else "wrong"
        rows.append([names[labels[index]], names[predicted], verdict, f"{shares.max():.4f}", files[index]])
    header = ["class", "predicted", "verdict", "confidence", "file"]
    add_projector(writer, found.embedding, _test_images(data, chosen), header, rows)


def _test_images(data: ImageDataModule, indices: Sequence[int] | np.ndarray) -> Tensor:
    """Of the test part, `(n, 1 or 3, H, W)` uint8."""
    images: Tensor = data.data.images[torch.from_numpy(data.parts.test[indices])]
    return images


def _read(task: ClassificationTask, card: DataCard, files: Sequence[Path]) -> tuple[list[Answer], Tensor]:
    """The images that were named, as answers and normalised; of many the first."""
    pixels, _, _ = read_images_for(card, files[:_MOST])
    images = card.normalise(pixels.to(task.device))
    with torch.inference_mode():
        shares = task.predict_logits(images).double().softmax(dim=1).cpu().numpy()
    return [Answer(p.numpy(), f.name, s, None) for p, f, s in zip(pixels, files, shares, strict=False)], images


def _count(files: Sequence[Path]) -> list[str]:
    return [f"The first {_MOST} of {len(files)} images that were named."] if len(files) > _MOST else []


def _write(
    output: Path,
    name: str,
    card: DataCard,
    sheets: Sequence[Sheet],
    notes: Sequence[str],
    more_events: Callable[[SummaryWriter], None] | None = None,
    events: Path | None = None,
) -> int:
    """Write all, and say where; `events` is the folder to point TensorBoard at, if it is another than `output`."""
    synthetic = card.source == "synthetic"
    page = write_sheets(output, name, sheets, notes, synthetic, more_events)
    for note in notes:
        print(note)
    print(f"written to   {shown_path(page.resolve())}")
    print(f"TensorBoard  tensorboard --logdir {shown_path((events or output).resolve())}")
    return 0
