"""Predict images by one trained network, or by the mean probabilities of several."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from defectlab.data.sources.decode import decode_array
from defectlab.data.sources.depth import tell_beyond
from defectlab.data.sources.levels import BadImage
from defectlab.data.sources.reading import NothingReadable, read_images
from defectlab.data.sources.skipped import Skipped, check_on_bad_image
from defectlab.engine.host import as_guest
from defectlab.errors import InputError
from defectlab.inference.images import ImageInput, Images, list_images
from defectlab.inference.network import InferenceNetwork, load_network
from defectlab.inference.predictions import BadImages, Predictions
from defectlab.inference.straight import straight_line
from defectlab.inference.tiles import deciding_tiles, tiles_seen
from defectlab.metrics.classification import probabilities_of
from defectlab.metrics.decisions import mean_thresholds
from defectlab.metrics.novelty import joined_novelty
from defectlab.networks.tiling import tiled_network
from defectlab.runs.ensembles import joined_fingerprint
from defectlab.runs.locate import checkpoints_of, imagenet_name
from defectlab.utils.card import DataCard
from defectlab.utils.files import hash_file
from defectlab.utils.image_format import Box, images_at_once
from defectlab.utils.progress import progress_bar

if TYPE_CHECKING:
    from defectlab.tasks import ClassificationTask

_BLOCK = 128  # images in memory at a time


@dataclass(frozen=True)
class Predictor:
    """A trained network at work, or several whose probabilities are averaged.

    Args:
        name: of the run, the checkpoint or the ensemble.
        tasks: networks in evaluation mode, on their device.
        cards: the data card of each, all with the same classes.
        fingerprint: of their checkpoints, see `RunFolder.fingerprint`; None without one.
    """

    name: str
    tasks: "tuple[InferenceNetwork | ClassificationTask, ...]"
    cards: tuple[DataCard, ...]
    fingerprint: str | None = None

    @property
    def card(self) -> DataCard:
        """Data card of the first network."""
        return self.cards[0]

    @property
    def thresholds(self) -> tuple[float, ...] | None:
        """Of a multi-label task the probability of each class from which it is decided for; of several networks the mean."""
        return mean_thresholds(task.thresholds for task in self.tasks)

    def __call__(
        self, images: Images, on_bad_image: Literal["error", "skip"] = "error", progress: bool = False
    ) -> Predictions:
        """Predict `Images`, each resized and converted to what the network takes; arguments as of `predict`.

        A single image on the CPU goes through `straight_line`, from the first on: in less time, with probabilities that
        differ by about 1e-7 from those of the image among others.

        Raises:
            BadImages: an InputError whose `predictions` are those of the images that could be read.
            InputError: no such image, or none that can be read.
        """
        check_on_bad_image(on_bad_image)
        listed = list_images(images, self.card)
        found = self.joined(list(self.blocks(listed, progress, lines=self.lines if len(listed) == 1 else ())))
        if found.skipped and on_bad_image == "error":
            raise BadImages(found)
        return found

    def blocks(
        self, images: Sequence[ImageInput], progress: bool = False, novelty: bool = False,
        lines: Sequence[Callable[[Tensor], Tensor]] = (),
    ) -> Iterator[Predictions]:  # fmt: skip
        """Predict images of `list_images`, up to 128 at a time, on a CPU fewer large ones: a part of the table after the other.

        With `novelty` also how strange they are, of several networks the geometric mean of their scores. `lines` turn the
        pixels of each network into its logits, in place of the network, which has no tiles then.
        """
        beyond: list[Any] = []
        network = None if lines else tiled_network(self.tasks[0])
        size = _BLOCK
        if self.tasks[0].device.type == "cpu":
            size = min(images_at_once(card.image_size, _BLOCK) for card in self.cards)
        with torch.inference_mode(), progress_bar("predicting", len(images), shown=progress) as advance:
            for start in range(0, len(images), size):
                block = images[start : start + size]
                names = [str(one) if isinstance(one, Path) else f"image {start + i}" for i, one in enumerate(block)]
                pixels, good, bad = _read(self.card, block, beyond)
                probabilities = torch.empty(0, len(self.card.class_names), dtype=torch.float64)
                boxes: list[Box] = []
                scores = np.empty(0, np.float32) if novelty else None
                if good:
                    seen = [block[i] for i in good]
                    by_want = {self.card.image_format: pixels}
                    for card in self.cards[1:]:
                        if card.image_format not in by_want:
                            by_want[card.image_format] = _read(card, seen, beyond)[0]
                    with tiles_seen(network) as tiles:
                        wanted = [by_want[card.image_format] for card in self.cards]
                        probabilities, scores = self.mean_probabilities(wanted, novelty, lines)
                    if network is not None:  # of views the first is the image as it is
                        boxes = deciding_tiles(network, tiles[0], probabilities.argmax(dim=1), seen, self.card)
                yield self._predictions([names[i] for i in good], probabilities.numpy(), bad, boxes, scores)
                advance(len(block))
        tell_beyond(list(dict.fromkeys(beyond)), self.card)

    def joined(self, parts: Sequence[Predictions]) -> Predictions:
        """Return the table of several parts; InputError where they hold no image."""
        files, skipped = ([one for part in parts for one in getattr(part, name)] for name in ("files", "skipped"))
        if not files:
            raise InputError(
                f"none of {len(skipped)} images can be read, the first is {skipped[0]}: nothing was written"
            )
        boxes = [box for part in parts for box in part.tiles or ()]
        scores = [part.novelty for part in parts if part.novelty is not None]
        return self._predictions(
            files, np.concatenate([part.probabilities for part in parts]), skipped, boxes,
            np.concatenate(scores) if len(scores) == len(parts) else None,
        )  # fmt: skip

    def _predictions(
        self, files: Sequence[str], probabilities: npt.NDArray[np.float64], skipped: Sequence[Skipped],
        boxes: Sequence[Box], novelty: npt.NDArray[np.float32] | None,
    ) -> Predictions:  # fmt: skip
        return Predictions(
            files=tuple(files), class_names=self.card.class_names, probabilities=probabilities, skipped=tuple(skipped),
            synthetic=any(card.source == "synthetic" for card in self.cards), checkpoint=self.fingerprint,
            tiles=tuple(boxes) or None, thresholds=self.thresholds,
            novelty=novelty,
        )  # fmt: skip

    def mean_probabilities(
        self, pixels: Sequence[Tensor], novelty: bool = False, lines: Sequence[Callable[[Tensor], Tensor]] = ()
    ) -> tuple[Tensor, npt.NDArray[np.float32] | None]:
        """Compute mean probabilities (N, C), float64 on the CPU, and with `novelty` scores (N,) where there is a scorer.

        `pixels` are what each network takes of N images, uint8 (N, C, H, W); `lines` as of `blocks`.
        """
        found, scores = [], []
        for place, (task, card, own) in enumerate(zip(self.tasks, self.cards, pixels, strict=True)):
            if novelty and task.novelty is not None:
                embeddings, logits = task.predict_embeddings(card.normalise(own.to(task.device)))
                scores.append(task.novelty(embeddings).cpu().numpy())
            else:
                logits = lines[place](own) if lines else self._logits(place, own)
            found.append(probabilities_of(logits, card.multilabel))
        return torch.stack(found).mean(dim=0), joined_novelty(scores) if scores else None

    def _logits(self, place: int, pixels: Tensor) -> Tensor:
        task = self.tasks[place]
        return task.predict_logits(self.cards[place].normalise(pixels.to(task.device)))

    @cached_property
    def lines(self) -> tuple[Callable[[Tensor], Tensor], ...]:
        """Straight lines of all networks, for one image; none where there is any that has none, or tiles to be told."""
        lines = []
        for place, (task, card) in enumerate(zip(self.tasks, self.cards, strict=True)):
            known = isinstance(task, InferenceNetwork) and task.device.type == "cpu" and tiled_network(task) is None
            shape = (1, *card.image_format.shape)
            levels = torch.linspace(0, 255, math.prod(shape)).to(torch.uint8).view(shape)
            with torch.inference_mode():
                line = straight_line(partial(self._logits, place), levels) if known else None
            if line is None:
                return ()
            lines.append(line)
        return tuple(lines)


def load(
    run: str | PathLike[str],
    device: str | None = None,
    weights: str | PathLike[str] | None = None,
    allow: Sequence[str] = (),
) -> Predictor:
    """Load a trained network, or all of an ensemble, to predict with.

    Args:
        run: run folder (its best checkpoint is taken), .ckpt file or the name of a shipped one, ensemble, or
            `imagenet/NETWORK` for torchvision's, before any training.
        device: such as `cpu` or `cuda:1`; None for CUDA where there is any, else the CPU.
        weights: file of `imagenet/NETWORK`; None for torchvision's cache, or a download.
        allow: import paths of classes that a checkpoint may name, see `load_task`.

    Raises:
        InputError: what cannot be used, a device that is not there, or an ensemble of other classes.
    """
    name = fspath(run)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    file = None if weights is None else Path(weights)
    network = imagenet_name(name, file)
    paths = checkpoints_of(name) if network is None else [Path(name)]
    tasks: list[InferenceNetwork | ClassificationTask] = []
    cards: list[DataCard] = []
    for path in paths:
        with as_guest():  # a network begins with random weights
            task, card = _load(path, network, file, allow)
        try:
            task.to(device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"device {device}: {str(error).splitlines()[0]}; use cpu") from None
        tasks.append(task)
        cards.append(card)
        if (card.class_names, card.multilabel) != (cards[0].class_names, cards[0].multilabel):
            raise InputError(f"{path} and {paths[0]} know other classes: expected an ensemble of the same")
    fingerprint = None if network is not None else joined_fingerprint([hash_file(path)[:16] for path in paths])
    return Predictor(name, tuple(tasks), tuple(cards), fingerprint)


def _load(
    path: Path, network: str | None, weights: Path | None, allow: Sequence[str]
) -> "tuple[InferenceNetwork | ClassificationTask, DataCard]":
    """Load a checkpoint's network or torchvision's; a task, which needs Lightning, only where it has to be."""
    if network is not None:
        from defectlab.tasks.imagenet import load_imagenet_classifier

        return load_imagenet_classifier(network, weights)
    found = load_network(path)
    if found is None:
        from defectlab.tasks.checkpoint import load_task

        return load_task(path, allow)
    return found


def _read(card: DataCard, block: Sequence[ImageInput], beyond: list[Any]) -> tuple[Tensor, list[int], list[Skipped]]:
    """Read files, or convert arrays, as `read_images` does, and leave out what cannot be read."""
    files = [one for one in block if isinstance(one, Path)]
    if files:
        try:
            return read_images(files, card, "skip", beyond=beyond)
        except NothingReadable as error:
            return torch.empty(0), [], list(error.skipped)
    try:
        decoded = [decode_array(image, card) for image in block if not isinstance(image, Path)]
    except BadImage as error:
        raise InputError(str(error)) from None
    beyond += ["an array" for _, cut_off in decoded if cut_off]
    return torch.from_numpy(np.stack([pixels for pixels, _ in decoded])), list(range(len(block))), []
