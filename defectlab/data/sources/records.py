"""What a table says of each image beside its class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class ImageRecords:
    """What is known of N images, each None where nothing is.

    Args:
        targets: (N, C) float32, the probability of each class, which training takes in place of the label.
        weights: (N,) float32 above 0, of an image in the training loss.
        groups: (N,) text, such as the coil that an image is of.
        times: (N,) float64, seconds or another number that grows with time.
        columns: every column of the table, (N,) text.
    """

    targets: npt.NDArray[Any] | None = None
    weights: npt.NDArray[Any] | None = None
    groups: npt.NDArray[Any] | None = None
    times: npt.NDArray[Any] | None = None
    columns: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)

    def select(self, indices: Sequence[int]) -> ImageRecords:
        """Return the records of the images at `indices`, in that order."""
        chosen = np.array(indices, dtype=np.int64)
        known = {name: values for name, values in vars(self).items() if name != "columns" and values is not None}
        columns = {name: values[chosen] for name, values in self.columns.items()}
        return ImageRecords(**{name: values[chosen] for name, values in known.items()}, columns=columns)

    def with_classes(self, order: Sequence[int]) -> ImageRecords:
        """Return the records with these columns of the targets, in that order."""
        return self if self.targets is None else replace(self, targets=self.targets[:, list(order)])
