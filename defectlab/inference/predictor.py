"""Predict images by one trained network, or by the mean probabilities of several."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from defectlab.data.sources.decode import decode_array
from defectlab.data.sources.files import expand_images
from defectlab.data.sources.levels import BadImage
from defectlab.data.sources.reading import NothingReadable, Skipped, read_images
from defectlab.engine.host import as_guest
from defectlab.errors import InputError
from defectlab.inference.decision import Threshold
from defectlab.inference.network import InferenceNetwork, load_network
from defectlab.runs import write_prediction_table
from defectlab.runs.locate import checkpoints_of, imagenet_name
from defectlab.utils.card import DataCard
from defectlab.utils.progress import progress_bar

if TYPE_CHECKING:
    from defectlab.tasks import ClassificationTask

REVIEW = "review"  # the decision that leaves an image to a person

Images = npt.NDArray[np.uint8] | str | PathLike[str] | Sequence[str | PathLike[str]] | Sequence[npt.NDArray[np.uint8]]
"""Files, folders and globs, one or many; or arrays (H, W) or (H, W, 1 or 3), or one (N, H, W[, 1 or 3])."""

_BLOCK = 128  # images in memory at a time
_SHOWN = 10  # rows of a repr


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Predictions:
    """Predictions for N images.

    Args:
        files: N names; `image 0` and so on for arrays.
        class_names: in the order of the columns of `probabilities`.
        probabilities: (N, C), float64; of an ensemble the mean.
        skipped: images that could not be read.
        synthetic: whether a network was trained on generated images alone.
        threshold: that `max_error` has chosen on the validation images; None without.
        decision: N class names, or `review` for what is left to a person; None where nothing was asked.
        sets: N sets of class names, the likeliest first, which hold the true one as often as promised; None without.
    """

    files: tuple[str, ...]
    class_names: tuple[str, ...]
    probabilities: npt.NDArray[np.float64]
    skipped: tuple[Skipped, ...] = ()
    synthetic: bool = False
    threshold: Threshold | None = None
    decision: tuple[str, ...] | None = None
    sets: tuple[tuple[str, ...], ...] | None = None

    @property
    def predicted(self) -> list[str]:
        """The likeliest class of each image."""
        return [self.class_names[index] for index in self.probabilities.argmax(axis=1)]

    @property
    def confidence(self) -> npt.NDArray[np.float64]:
        """The largest probability of each image, (N,)."""
        largest: npt.NDArray[np.float64] = self.probabilities.max(axis=1)
        return largest

    @property
    def extra(self) -> dict[str, list[str]]:
        """Columns of N texts that were asked for: `decision`, and `set` with its classes joined by `|`."""
        columns = {} if self.decision is None else {"decision": list(self.decision)}
        return columns if self.sets is None else {**columns, "set": ["|".join(names) for names in self.sets]}

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Return a dict an image, with the columns of `write_csv`, for `pandas.DataFrame`."""
        columns: dict[str, Sequence[Any]] = {
            "file": self.files,
            "predicted": self.predicted,
            "confidence": self.confidence.tolist(),
            **{f"p_{name}": self.probabilities[:, k].tolist() for k, name in enumerate(self.class_names)},
            **self.extra,
        }
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def write_csv(self, path: str | PathLike[str]) -> None:
        """Write `file,predicted,confidence,p_<class>...`, then `decision` and `set` where there are any."""
        write_prediction_table(Path(path), self.files, None, self.probabilities, self.class_names, self.extra)

    def __len__(self) -> int:
        return len(self.files)

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in Counter(self.predicted).most_common())
        lines = [f"Predictions of {len(self)} images: {counts}"]
        for i, (file, name, p) in enumerate(zip(self.files, self.predicted, self.confidence[:_SHOWN], strict=False)):
            more = "".join(f", {column} {texts[i]}" for column, texts in self.extra.items())
            lines.append(f"{file}: {name} {p:.1%}{more}")
        lines += ["…"] if len(self) > _SHOWN else []
        return "\n".join(lines)


@dataclass(frozen=True)
class Predictor:
    """A trained network at work, or several whose probabilities are averaged.

    Args:
        name: of the run, the checkpoint or the ensemble.
        tasks: networks in evaluation mode, on their device.
        cards: the data card of each, all with the same classes.
    """

    name: str
    tasks: "tuple[InferenceNetwork | ClassificationTask, ...]"
    cards: tuple[DataCard, ...]

    @property
    def card(self) -> DataCard:
        """Data card of the first network."""
        return self.cards[0]

    def __call__(
        self, images: Images, on_bad_image: Literal["error", "skip"] = "error", progress: bool = False
    ) -> Predictions:
        """Predict images, each resized and converted to what the network takes.

        Args:
            images: files, folders and globs, one or many; or uint8 arrays: (N, H, W) or (N, H, W, 1 or 3), one image
                (H, W) or (H, W, 1 or 3), or a list of those.
            on_bad_image: `skip` leaves out what cannot be read.
            progress: draw a bar for work of more than a second.

        Raises:
            InputError: no such image, a bad one, or with `skip` none that is good.
        """
        arrays = _arrays(images)
        found: Sequence[Any] = arrays if arrays is not None else expand_images(images)  # type: ignore[arg-type]
        names = [f"image {i}" for i in range(len(found))] if arrays is not None else [str(file) for file in found]
        read: Callable[[DataCard, Any, Any], tuple[Tensor, list[int], list[Skipped]]]
        read = read_images_for if arrays is None else _prepare_arrays
        kept: list[str] = []
        tables: list[Tensor] = []
        skipped: list[Skipped] = []
        with torch.inference_mode(), progress_bar("predicting", len(found), shown=progress) as advance:
            for start in range(0, len(found), _BLOCK):
                block = found[start : start + _BLOCK]
                try:
                    pixels, good, bad = read(self.card, block, on_bad_image)
                except NothingReadable as error:
                    pixels, good, bad = torch.empty(0), [], list(error.skipped)
                if good:
                    by_want = {_wanted(self.card): pixels}
                    for card in self.cards[1:]:
                        if _wanted(card) not in by_want:
                            by_want[_wanted(card)] = read(card, [block[i] for i in good], "error")[0]
                    tables.append(self._mean([by_want[_wanted(card)] for card in self.cards]))
                kept += [names[start + index] for index in good]
                skipped += bad
                advance(len(block))
        if not kept:
            raise InputError(f"none of {len(found)} images can be read, the first is {names[0]}: nothing was written")
        return Predictions(
            files=tuple(kept), class_names=self.card.class_names, probabilities=torch.cat(tables).numpy(),
            skipped=tuple(skipped), synthetic=any(card.source == "synthetic" for card in self.cards),
        )  # fmt: skip

    def _mean(self, pixels: Sequence[Tensor]) -> Tensor:
        """Compute mean probabilities (N, C), float64 on the CPU, from what each network takes of N images."""
        logits = [
            task.predict_logits(card.normalise(own.to(task.device))).double()
            for task, card, own in zip(self.tasks, self.cards, pixels, strict=True)
        ]
        return torch.stack([one.softmax(dim=1).cpu() for one in logits]).mean(dim=0)


def load(run: str | PathLike[str], device: str | None = None, weights: str | PathLike[str] | None = None) -> Predictor:
    """Load a trained network, or all of an ensemble, to predict with.

    Args:
        run: run folder (its best checkpoint is taken), .ckpt file or the name of a shipped one, ensemble, or
            `imagenet/NETWORK` for torchvision's, before any training.
        device: such as `cpu` or `cuda:1`; None for CUDA where there is any, else the CPU.
        weights: file of `imagenet/NETWORK`; None for torchvision's cache, or a download.

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
            task, card = _load(path, network, file)
        try:
            task.to(device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"device {device}: {str(error).splitlines()[0]}; use cpu") from None
        tasks.append(task)
        cards.append(card)
        if card.class_names != cards[0].class_names:
            raise InputError(f"{path} and {paths[0]} know other classes: expected an ensemble of the same")
    return Predictor(name, tuple(tasks), tuple(cards))


def _load(
    path: Path, network: str | None, weights: Path | None
) -> "tuple[InferenceNetwork | ClassificationTask, DataCard]":
    """Load a checkpoint's network or torchvision's; a task, which needs Lightning, only where it has to be."""
    if network is not None:
        from defectlab.tasks.imagenet import load_imagenet_classifier

        return load_imagenet_classifier(network, weights)
    found = load_network(path)
    if found is None:
        from defectlab.tasks.checkpoint import load_task

        return load_task(path)
    return found


def read_images_for(
    card: DataCard, files: Sequence[Path], on_bad_image: Literal["error", "skip"] = "error"
) -> tuple[Tensor, list[int], list[Skipped]]:
    """Read images (M, C, H, W) uint8 as a data card wants them, their indices, and what was skipped: see `read_images`."""
    return read_images(
        files, card.image_size, card.channels, on_bad_image, resize_size=card.resize_size, white_level=card.white_level
    )


def _wanted(card: DataCard) -> tuple[int, int, int | None, float | None]:
    """Return what the pixels that a network takes depend on."""
    return card.image_size, card.channels, card.resize_size, card.white_level


def _arrays(images: Images) -> list[npt.NDArray[np.uint8]] | None:
    """Return single images (H, W) or (H, W, 1 or 3); None for what names files."""
    if not isinstance(images, np.ndarray | str | PathLike | Sequence):
        raise InputError(f"images are given as {type(images).__name__}: expected paths or uint8 arrays of NumPy")
    if isinstance(images, np.ndarray):
        one = images.ndim == 2 or (images.ndim == 3 and images.shape[2] in (1, 3))
        found = [images] if one else list(images)
    elif isinstance(images, str | PathLike) or not any(isinstance(image, np.ndarray) for image in images):
        return None
    else:
        found = [np.asarray(image) for image in images]
    for image in found:
        colour = image.ndim == 3 and image.shape[2] in (1, 3)
        if image.dtype != np.uint8 or not (image.ndim == 2 or colour) or image.size == 0:
            raise InputError(
                f"an image of shape {image.shape} and type {image.dtype}: expected uint8 (H, W) or (H, W, 1 or 3)"
            )
    if not found:
        raise InputError("no image given: expected at least one")
    return found


def _prepare_arrays(
    card: DataCard, arrays: Sequence[npt.NDArray[np.uint8]], on_bad_image: Literal["error", "skip"]
) -> tuple[Tensor, list[int], list[Skipped]]:
    """Convert arrays as `read_images_for` does files."""
    try:
        pixels = [decode_array(image, card.image_size, card.channels, card.resize_size) for image in arrays]
    except BadImage as error:
        raise InputError(str(error)) from None
    return torch.from_numpy(np.stack(pixels)), list(range(len(arrays))), []
