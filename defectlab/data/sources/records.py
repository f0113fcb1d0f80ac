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
        targets: (N, C) float32, the probability of each class, which training takes in place of the label; with
            `multilabel` 1 for each class of the image, which may have several or none.
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
    multilabel: bool = False

    def select(self, indices: Sequence[int]) -> ImageRecords:
        """Return the records of the images at `indices`, in that order."""
        chosen = np.array(indices, dtype=np.int64)
        arrays: dict[str, Any] = {
            name: values[chosen] for name, values in vars(self).items() if isinstance(values, np.ndarray)
        }
        return replace(self, **arrays, columns={name: values[chosen] for name, values in self.columns.items()})

    def with_classes(self, order: Sequence[int]) -> ImageRecords:
        """Return the records with these columns of the targets, in that order."""
        return self if self.targets is None else replace(self, targets=self.targets[:, list(order)])


def rarest_class(members: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return the rarest class (N,) of each image, from which image is of which class (N, C); C for none."""
    padded = np.hstack((members, np.ones((len(members), 1), np.bool_)))
    counts = np.append(members.sum(axis=0), len(members) + 1)
    rarest: npt.NDArray[np.int64] = np.where(padded, counts, len(members) + 2).argmin(axis=1)
    return rarest
