"""All labelled images of another datamodule as one test part."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch

from defectlab.data.datamodules.base import ImageDataModule
from defectlab.data.pipeline.splits import Split
from defectlab.data.sources.images import ImageSet
from defectlab.errors import InputError
from defectlab.utils.card import DataCard


class WholeDataModule(ImageDataModule):
    """Every image of `inner` as test part, labelled by the classes of a trained network, of which some may be absent.

    Args:
        inner: reads the images.
        card: of the network: its classes, in their order, and its normalisation.
    """

    def __init__(self, inner: ImageDataModule, card: DataCard) -> None:
        channels: Literal[1, 3] = 1 if card.channels == 1 else 3
        super().__init__(
            image_size=card.image_size, channels=channels, batch_size=inner.batch_size,
            eval_batch_size=inner.eval_batch_size, seed=0, val_size=0, test_size=None, split="auto",
            group_duplicates=False, augmentation=None, mean=card.mean, std=card.std,
        )  # fmt: skip
        self._inner, self._names = inner, list(card.class_names)

    @property
    def class_names(self) -> Sequence[str]:
        """Return the network's."""
        return self._names

    @property
    def source(self) -> str:
        """Return `real` or `synthetic`."""
        return self._inner.source

    @property
    def location(self) -> str:
        """Return where the images come from."""
        return self._inner.location

    def prepare_data(self) -> None:
        """Download what is to be downloaded."""
        self._inner.prepare_data()

    def load(self) -> ImageSet:
        """Read every image; InputError for one of a class that the network does not know."""
        found = self._inner.load()
        counts = np.bincount(found.labels.numpy(), minlength=len(found.class_names))
        unknown = [
            name for name, count in zip(found.class_names, counts, strict=True) if count and name not in self._names
        ]
        if unknown:
            raise InputError(
                f"{self.location} has images of {', '.join(unknown[:3])}: expected classes of the run, "
                f"{', '.join(self._names)}"
            )
        order = torch.tensor([self._names.index(name) if name in self._names else 0 for name in found.class_names])
        return replace(found, labels=order[found.labels], class_names=self._names, splits=None)

    def _divide(self, data: ImageSet) -> Split:
        none = np.zeros(0, dtype=np.int64)
        return Split(none, none, np.arange(len(data.labels)))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing: the card came from the checkpoint."""
