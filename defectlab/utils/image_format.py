"""The image format: what decides how a file becomes the pixels that a network takes."""

from __future__ import annotations

from dataclasses import dataclass, fields

from defectlab.errors import InputError

_LARGEST = 2**14  # pixels of a side: a card from elsewhere must not ask for all memory


@dataclass(frozen=True, kw_only=True)
class ImageFormat:
    """Size, channels and grey levels of decoded images: uint8 `(channels, height, width)`.

    Args:
        image_size: side in pixels of the square that the network sees.
        channels: 1 (grey) or 3 (RGB).
        resize_size: of the shorter side before a centre crop; None stretches the image to the square.
        white_level: what is white in images of more than 8 bits, such as 4095; None where nothing is known.

    Raises:
        InputError: a value out of range.
    """

    image_size: int
    channels: int
    resize_size: int | None = None
    white_level: float | None = None

    def __post_init__(self) -> None:
        for name, low in (("image_size", 1), ("channels", 1), ("resize_size", self.image_size)):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not (whole and low <= value <= _LARGEST) and not (name == "resize_size" and value is None):
                raise InputError(f"{name} is {value!r}, expected a whole number of at least {low}, at most {_LARGEST}")
        if self.channels not in (1, 3):
            raise InputError(f"channels is {self.channels}, expected 1 (grey) or 3 (RGB)")
        white = self.white_level
        if white is not None and (
            isinstance(white, bool) or not isinstance(white, int | float) or not 0 < white < 2**32
        ):
            raise InputError(f"white_level is {white!r}, expected a number above 0, such as 4095")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return channels, height and width of a decoded image."""
        return self.channels, self.image_size, self.image_size

    @property
    def image_format(self) -> ImageFormat:
        """Return the fields of this class alone, to compare two by."""
        return ImageFormat(**{field.name: getattr(self, field.name) for field in fields(ImageFormat)})
