"""What every network shares: its first three arguments, its two halves, and the checks on arguments."""

from torch import Tensor, nn

from defectlab.errors import InputError
from defectlab.networks.scaler import StandardScaler


class Network(nn.Module):
    """An image classifier: `features` up to the last feature map, `head` from there to the logits.

    A subclass sets both in its constructor, which begins with the same three arguments. `standardise_pixels` puts a
    `StandardScaler` before the features.

    Args:
        num_classes: Number of logits, at least 2.
        in_channels: Channels of the images, 1 for grey and 3 for colour.
        image_size: Height and width of the square images, in pixels.
        smallest: The smallest image size that leaves at least one pixel after all pools.

    Raises:
        InputError: If an argument is out of its range.
    """

    features: nn.Sequential
    head: nn.Sequential
    scaler: StandardScaler | None

    def __init__(self, num_classes: int, in_channels: int, image_size: int, smallest: int = 1) -> None:
        super().__init__()
        check_at_least("num_classes", num_classes, 2)
        check_at_least("in_channels", in_channels, 1)
        if image_size < smallest:
            raise InputError(
                f"image_size is {image_size}: {type(self).__name__} with these settings needs at least "
                f"{smallest} pixels; give larger images or a network with fewer pools"
            )
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.image_size = image_size
        self.scaler = None

    def standardise_pixels(self) -> StandardScaler:
        """Give the network a scaler, which leaves images as they are until it is fitted, and return it."""
        self.scaler = StandardScaler(self.in_channels, self.image_size)
        return self.scaler

    def forward_features(self, images: Tensor) -> Tensor:
        """Turn images (N, in_channels, image_size, image_size) into the last feature map (N, D, h, w)."""
        features: Tensor = self.features(images if self.scaler is None else self.scaler(images))
        return features

    def forward_head(self, features: Tensor) -> Tensor:
        """Turn the last feature map (N, D, h, w) into logits (N, num_classes)."""
        logits: Tensor = self.head(features)
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Turn images (N, in_channels, image_size, image_size) into logits (N, num_classes)."""
        return self.forward_head(self.forward_features(images))


def check_at_least(name: str, value: int, smallest: int) -> None:
    """Raise InputError unless the argument called `name` is at least `smallest`."""
    if value < smallest:
        raise InputError(f"{name} is {value}: expected at least {smallest}; change {name}")


def check_width(width: float) -> None:
    """Raise InputError unless the width multiplier lies in (0, 10]; the papers use 0.25 to 1.4."""
    if not 0 < width <= 10:
        raise InputError(f"width is {width}: expected a multiplier such as 0.25, 0.5 or 1.0; change width")


def check_dropout(dropout: float) -> None:
    """Raise InputError unless the dropout probability lies in [0, 1)."""
    if not 0 <= dropout < 1:
        raise InputError(f"dropout is {dropout}: expected a probability in [0, 1); change dropout")
