"""Tiles: overlapping squares that an image is read by."""

from dataclasses import dataclass

from defectlab.errors import InputError


@dataclass(frozen=True)
class Tiles:
    """Overlapping squares of an image, in pixels of what the network sees.

    Args:
        size: side of a tile, at least 8.
        overlap: of neighbours, at least 0 and below `size`.

    Raises:
        InputError: a value out of range.
    """

    size: int = 64
    overlap: int = 32

    def __post_init__(self) -> None:
        for name, value, low, high in (("size", self.size, 8, 2**14), ("overlap", self.overlap, 0, self.size - 1)):
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise InputError(f"tiles.{name} is {value!r}: expected a whole number from {low} to {high}")
