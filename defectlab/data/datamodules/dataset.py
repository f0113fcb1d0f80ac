"""Any torch Dataset, or the data set of a DataLoader, as a datamodule."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from defectlab.data.datamodules.base import ImageDataModule, check_class_names, resized
from defectlab.data.pipeline.augment import Augmentation
from defectlab.data.pipeline.fitting import camera_aspects
from defectlab.data.pipeline.loader import Sampling
from defectlab.data.sources.decode import planes
from defectlab.data.sources.images import ImageSet
from defectlab.data.sources.levels import BadImage
from defectlab.errors import InputError
from defectlab.utils.image_format import Size

Source = Dataset[Any] | DataLoader[Any]


class DatasetDataModule(ImageDataModule):
    """Images and labels of torch Datasets, each item read once: random changes belong in `augmentation`.

    An item is `(image, label)`: a PIL image, or an array or tensor `(H, W)`, `(C, H, W)` or `(H, W, C)`, uint8 or floats in
    [0, 1], not normalised; and a whole number from 0.

    Args:
        train: a Dataset with a length, or a DataLoader, of which the data set is taken.
        val: a Dataset or DataLoader; None holds `val_size` of the training images out.
        test: a Dataset or DataLoader; None holds `test_size` of them out, a fifth if that is None and there is no `val`.
        class_names: in the order of the labels; None takes the `classes` of the training set, else numbers.
        image_size: side in pixels of the square that images are stretched to, or [height, width]; None takes those of the
            first image.
        channels: 1 (grey) or 3 (RGB); None takes those of the first image.

    The other arguments are those of `ImageDataModule`.

    Raises:
        InputError: items of another form, or an argument out of range.
    """

    def __init__(
        self,
        train: Source,
        val: Source | None = None,
        test: Source | None = None,
        class_names: Sequence[str] | None = None,
        image_size: Size | None = None,
        channels: int | None = None,
        batch_size: int = 32,
        eval_batch_size: int = 128,
        seed: int = 0,
        val_size: int | float = 0.15,
        test_size: int | float | None = None,
        augmentation: Augmentation | None = None,
        mean: Sequence[float] | float | None = None,
        std: Sequence[float] | float | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
        sampling: Sampling = "shuffled",
    ) -> None:
        parts = {"train": train, "val": val, "test": test}
        self._sets: dict[str, Any] = {
            part: source.dataset if isinstance(source, DataLoader) else source
            for part, source in parts.items()
            if source is not None
        }
        for part, source in self._sets.items():
            if not hasattr(source, "__len__") or not len(source):
                raise InputError(f"data.{part} is a {type(source).__name__} without items: expected one with a length")
        first = _pixels(self._sets["train"][0], "data.train[0]")
        super().__init__(
            image_size=(first.shape[1], first.shape[2]) if image_size is None else image_size,
            channels=len(first) if channels is None else channels, batch_size=batch_size, eval_batch_size=eval_batch_size,
            seed=seed, val_size=val_size, test_size=test_size, augmentation=augmentation, mean=mean, std=std,
            transform=transform, sampling=sampling,
        )  # fmt: skip
        names = getattr(self._sets["train"], "classes", None) if class_names is None else class_names
        self._given_names = check_class_names(names)

    @property
    def class_names(self) -> Sequence[str]:
        """Return the names given, else the data set's own, else numbers."""
        if self._given_names is None:
            return [str(label) for label in range(max(int(label) for _, _, label, _ in self._items) + 1)]
        return self._given_names

    @property
    def location(self) -> str:
        """Return the class of the training set."""
        return type(self._sets["train"]).__qualname__

    def load(self) -> ImageSet:
        """Read every item."""
        names, images, kinds, shapes = zip(*self._items, strict=True)
        labels = torch.stack(kinds)
        if labels.max() >= self.num_classes:
            raise InputError(
                f"data.train has the label {labels.max()}: expected at most {self.num_classes - 1}, see data.class_names"
            )
        files = list(names)
        splits = [name.partition("[")[0] for name in files] if len(self._sets) > 1 else None
        return ImageSet(
            images=torch.stack(images), labels=labels, class_names=list(self.class_names), files=files, splits=splits,
            aspects=camera_aspects(np.array(shapes), len(files), self.image_format),
        )  # fmt: skip

    @cached_property
    def _items(self) -> list[tuple[str, Tensor, Tensor, tuple[int, int]]]:
        """Return name, image, label, and height and width before the stretch of every item."""
        items = []
        for part, source in self._sets.items():
            for index in range(len(source)):
                item, name = source[index], f"{part}[{index}]"
                image, label = _pixels(item, f"data.{name}"), _label(item, f"data.{name}")
                items.append((name, self._fitted(image), label, (image.shape[1], image.shape[2])))
        return items

    def _fitted(self, image: Tensor) -> Tensor:
        """Return it as uint8 `(channels, H, W)` of `image_size`."""
        if len(image) != self.channels:
            grey = (image.float() * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0, keepdim=True)
            image = grey.round().to(torch.uint8) if self.channels == 1 else image.expand(3, -1, -1)
        return resized(image[None].float(), self.image_size)[0].round().clamp(0, 255).to(torch.uint8)


def _pixels(item: Any, name: str) -> Tensor:
    """Return the image of an item, uint8 `(1 or 3, H, W)`."""
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise InputError(f"{name} is a {type(item).__name__}: expected (image, label)")
    if isinstance(item[0], Image.Image):
        try:
            return torch.from_numpy(planes(item[0]))
        except BadImage as error:
            raise InputError(f"{name}: {error}") from None
    image = item[0] if isinstance(item[0], Tensor) else torch.from_numpy(np.array(item[0]))
    if image.ndim == 2:
        image = image[None]
    if image.ndim == 3 and image.shape[0] not in (1, 3) and image.shape[2] in (1, 3):
        image = image.permute(2, 0, 1)
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise InputError(f"{name} has an image of shape {tuple(image.shape)}: expected (C, H, W) with 1 or 3 channels")
    if image.is_floating_point() and image.min() >= 0 and image.max() <= 1:
        return (image * 255).round().to(torch.uint8)
    if image.dtype != torch.uint8:
        raise InputError(f"{name} has {image.dtype} from {image.min():g} to {image.max():g}: expected uint8 or [0, 1]")
    return image


def _label(item: Any, name: str) -> Tensor:
    try:
        label = int(item[1])
        whole = not isinstance(item[1], str) and float(item[1]) == label
    except (TypeError, ValueError, RuntimeError):
        label, whole = -1, False
    if label < 0 or not whole:
        raise InputError(f"{name} has the label {item[1]!r}: expected a whole number from 0")
    return torch.tensor(label)
