"""All labelled images of another datamodule as one test part."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from defectlab.data.datamodules.base import ImageDataModule, check_white
from defectlab.data.pipeline.splits import Split
from defectlab.data.sources.images import ImageSet
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
        self._inner, self._for = inner, card

    @property
    def class_names(self) -> Sequence[str]:
        """Return the network's."""
        return self._for.class_names

    @property
    def source(self) -> str:
        """Return `real` or `synthetic`."""
        return self._inner.source

    @property
    def generated(self) -> bool:
        """Return whether the images come from a generator."""
        return self._inner.generated

    @property
    def location(self) -> str:
        """Return where the images come from."""
        return self._inner.location

    def prepare_data(self) -> None:
        """Download what is to be downloaded."""
        self._inner.prepare_data()

    def load(self) -> ImageSet:
        """Read every image; InputError for one of a class that the network does not know."""
        data = self._inner.load_whole(self._for)
        check_white(self.location, self._for.white_level, data.white_level)
        return replace(data, splits=None)

    def _divide(self, data: ImageSet) -> Split:
        none = np.zeros(0, dtype=np.int64)
        return Split(none, none, np.arange(len(data.labels)))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing: the card came from the checkpoint."""
