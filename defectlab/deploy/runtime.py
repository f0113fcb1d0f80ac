"""Predict by an exported folder, without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from defectlab.data.sources.decode import decode, decode_array
from defectlab.data.sources.depth import tell_beyond
from defectlab.data.sources.levels import BadImage
from defectlab.data.sources.opening import file_shapes, pillow_hushed
from defectlab.data.sources.skipped import Skipped, check_on_bad_image
from defectlab.deploy.exported import read_card
from defectlab.deploy.session import Outputs, open_session
from defectlab.errors import InputError, check_at_least
from defectlab.inference.images import ImageInput, Images, list_images
from defectlab.inference.predictions import BadImages, Predictions
from defectlab.inference.promises import Promises, choose_promises
from defectlab.utils.image_format import Box, images_at_once
from defectlab.utils.progress import progress_bars
from defectlab.utils.text import first_line

_BLOCK = 128  # images at a time


class Runtime:
    """A network of an exported folder at work.

    Args:
        folder: that `defectlab export` has made; None for the one that this file is in.
        provider: of ONNX Runtime, such as `cpu` or `cuda`, or a device of OpenVINO.
        threads: that decode and compute; one by default, as a small network at one image gains nothing by more, and a box
            beside a belt has other work.

    Raises:
        InputError: a folder, a model or a provider that cannot be used.
    """

    def __init__(
        self, folder: str | PathLike[str] | None = None, provider: str = "cpu", threads: int | None = None
    ) -> None:
        self.threads = 1 if threads is None else threads
        check_at_least("threads", self.threads, 1)
        self.folder = Path(__file__).parent if folder is None else Path(folder)
        self.card = read_card(self.folder)
        self._session = open_session(self.card, provider, self.threads)
        self.input_names = list(self._session.inputs)

    def run(self, images: Sequence[npt.NDArray[np.uint8]]) -> Outputs:
        """Compute the outputs by name, N rows each, from uint8 (N, C, H, W) for each input; InputError where that fails."""
        try:
            return self._session.run(images)
        except Exception as error:  # such as a full memory
            shapes = ", ".join(str(each.shape) for each in images)
            raise InputError(f"{self.card.model} cannot compute images {shapes}: {first_line(error)}") from None

    def __call__(
        self,
        images: Images,
        *,
        max_error: float | None = None,
        sets: float | None = None,
        novelty: float | None = None,
        on_bad_image: Literal["error", "skip"] = "error",
    ) -> Predictions:
        """Predict files, folders and globs, one or many, or uint8 arrays, as `defectlab predict` does.

        Args:
            images: what is to be predicted.
            max_error: share of wrong ones among the images decided, such as 0.01; the others get the decision `review`.
            sets: coverage such as 0.95: for each image a set of classes, which holds the true one that often.
            novelty: share of false alarms such as 0.01: images that are like none of the run's are `novel`.
            on_bad_image: `skip` leaves out what cannot be read; else that is an error after the last image.

        Raises:
            BadImages: an InputError whose `predictions` are those of the images that could be read.
            InputError: no image, none that can be read, or a promise that the validation images do not show.
        """
        check_on_bad_image(on_bad_image)
        promises = self.promises(max_error, sets, novelty)
        with progress_bars(False):
            found = promises.apply(self.predict(list_images(images, self.card.formats[0])))
        if not found.files:
            bad = found.skipped
            raise InputError(f"none of {len(bad)} images can be read, the first is {bad[0]}: nothing was written")
        if found.skipped and on_bad_image == "error":
            raise BadImages(found)
        return found

    def promises(
        self, max_error: float | None = None, sets: float | None = None, novelty: float | None = None
    ) -> Promises:
        """Choose what is promised, see `__call__`."""
        if max_error is None and sets is None and novelty is None:
            return Promises()
        if self.card.calibration is None:
            raise InputError("the export has no validation images, which promises stand on: export a run folder")
        return choose_promises(self.card.calibration, self.card.class_names, max_error, sets, novelty)

    def predict(self, images: Sequence[ImageInput]) -> Predictions:
        """Predict single images; those that cannot be read are `skipped`."""
        card, outputs = self.card, self._session.outputs
        size = min(images_at_once(wanted.image_size, _BLOCK) for wanted in card.formats)
        files: list[str] = []
        skipped: list[Skipped] = []
        beyond: list[Any] = []
        boxes: list[Box] = []
        probabilities, scores = [np.empty((0, len(card.class_names)), np.float32)], [np.empty(0, np.float32)]
        with pillow_hushed(), progress_bars(False):
            for start in range(0, len(images), size):
                block = images[start : start + size]
                pixels = self._each(lambda image: self._decoded(image, beyond), block)
                good = [k for k, own in enumerate(pixels) if not isinstance(own, Skipped)]
                skipped += [own for own in pixels if isinstance(own, Skipped)]
                files += [str(block[k]) if isinstance(block[k], Path) else f"image {start + k}" for k in good]
                if good:
                    found = self.run([np.stack(each) for each in zip(*(pixels[k] for k in good), strict=True)])
                    probabilities.append(found["probabilities"])
                    scores += [found["novelty"]] if "novelty" in outputs else []
                    boxes += self._boxes([block[k] for k in good], found)
        tell_beyond(list(dict.fromkeys(beyond)), card.formats[0])
        return Predictions(
            files=tuple(files), class_names=card.class_names, skipped=tuple(skipped), synthetic=card.synthetic,
            probabilities=np.concatenate(probabilities).astype(np.float64), checkpoint=card.values.get("fingerprint"),
            tiles=None if card.boxes is None else tuple(boxes), thresholds=card.thresholds,
            novelty=np.concatenate(scores) if "novelty" in outputs else None,
        )  # fmt: skip

    def _decoded(self, image: ImageInput, beyond: list[Any]) -> list[npt.NDArray[np.uint8]] | Skipped:
        """Return an image in each format, or why its file cannot be used."""
        try:
            if isinstance(image, Path):
                return [decode(image, wanted, beyond) for wanted in self.card.formats]
            both = [decode_array(image, wanted) for wanted in self.card.formats]
        except BadImage as error:
            if not isinstance(image, Path):
                raise InputError(str(error)) from None
            return Skipped(image.as_posix(), str(error))
        beyond += ["an array"] * any(cut_off for _, cut_off in both)
        return [pixels for pixels, _ in both]

    def _each(self, function: Callable[[ImageInput], Any], images: Sequence[ImageInput]) -> list[Any]:
        if self.threads == 1 or len(images) == 1:
            return [function(image) for image in images]
        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(function, images))

    def _boxes(self, images: Sequence[ImageInput], outputs: Outputs) -> list[Box]:
        """Return the deciding tile of each image, in its pixels; none of a network without tiles."""
        if self.card.boxes is None:
            return []
        files = [one for one in images if isinstance(one, Path)]
        shapes = (
            file_shapes(files).tolist() if files else [one.shape[:2] for one in images if not isinstance(one, Path)]
        )
        rows = zip(outputs["tile"].tolist(), shapes, strict=True)
        return [self.card.formats[0].box_on_image(self.card.boxes[k], *shape) for k, shape in rows]
