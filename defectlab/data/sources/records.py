"""What a table says of each image beside its class: soft targets, weight, group, time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class ImageRecords:
    """What is known of N images.

    Args:
        targets: (N, C) float32, the probability of each class, which training takes in place of the label.
        weights: (N,) float32 above 0, of an image in the training loss.
        groups: what an image belongs to, such as a coil.
        times: (N,) float64, seconds or any other number that grows with time.
        columns: every column of the table as text.
    """

    targets: npt.NDArray[np.float32] | None = None
    weights: npt.NDArray[np.float32] | None = None
    groups: Sequence[str] | None = None
    times: npt.NDArray[np.float64] | None = None
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def select(self, indices: Sequence[int]) -> ImageRecords:
        """Return the records of the images at `indices`."""
        chosen = list(indices)
        return ImageRecords(
            targets=None if self.targets is None else self.targets[chosen],
            weights=None if self.weights is None else self.weights[chosen],
            groups=None if self.groups is None else [self.groups[index] for index in chosen],
            times=None if self.times is None else self.times[chosen],
            columns={name: [values[index] for index in chosen] for name, values in self.columns.items()},
        )

    def with_classes(self, columns: Sequence[int]) -> ImageRecords:
        """Return the records with these columns of the targets, in that order."""
        return self if self.targets is None else replace(self, targets=self.targets[:, list(columns)])
