"""A residual network of a few thousand weights: much accuracy for few parameters."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from defectlab.errors import InputError
from defectlab.networks.base import Network, check_at_least, check_dropout


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with batch normalisation, added to what they were given (He et al. 2016, "Deep
    residual learning for image recognition", figure 2).

    Args:
        channels: Of the input and of the output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels)
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Turn feature maps (N, channels, h, w) into others of the same shape."""
        return functional.relu(images + self.second(self.first(images)))


class SmallResNet(Network):
    """A stage for each width: a 3×3 convolution to that width, a residual block; a 2×2 max pool between stages.

    Global average pooling and one linear layer follow, so the parameters do not depend on the image size: at 1
    channel and 10 classes 84,154 for the default widths, 9,464 for 8, 12, 13. It is what the residual networks
    for CIFAR-10 (He et al. 2016, section 4.2) become with one block a stage and pools in place of strides.

    Args:
        num_classes: Number of logits.
        in_channels: Channels of the images.
        image_size: Height and width of the images in pixels, at least 2 for each pool.
        widths: Channels of each stage.
        dropout: Probability of dropping a pooled feature before the linear layer, in [0, 1).

    Raises:
        InputError: If an argument is out of its range.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: int,
        widths: Sequence[int] = (16, 32, 48),
        dropout: float = 0.0,
    ) -> None:
        if not widths:
            raise InputError("widths is empty: expected the channels of each stage, such as [16, 32, 48]")
        super().__init__(num_classes, in_channels, image_size, smallest=2 ** (len(widths) - 1))
        check_dropout(dropout)
        channels = in_channels
        layers: list[nn.Module] = []
        for width in widths:
            check_at_least("widths", width, 1)
            if layers:
                layers.append(nn.MaxPool2d(2))
            layers += [_convolution(channels, width), ResidualBlock(width)]
            channels = width
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(channels, num_classes),
        )


def _convolution(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )
