"""A residual network of a few thousand weights."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from defectlab.errors import InputError, check_at_least
from defectlab.networks.base import Network, check_dropout
from defectlab.networks.blocks import convolution, pooled_head
from defectlab.utils.image_format import Size


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with batch normalisation, added to their input (He et al. 2016, "Deep
    residual learning for image recognition", figure 2).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Sequential(*convolution(channels, channels, 3, 1, "batch"))
        self.second = nn.Sequential(*convolution(channels, channels, 3, 1, "batch")[:2])

    def forward(self, images: Tensor) -> Tensor:
        """Turn feature maps (N, channels, h, w) into others of the same shape."""
        return functional.relu(images + self.second(self.first(images)))


class SmallResNet(Network):
    """A stage for each width: a 3×3 convolution to that width, a residual block; a 2×2 max pool between stages.

    Global average pooling and one linear layer follow, so the parameters do not depend on the image size: at 1
    channel and 10 classes 84,154 for the default widths, 9,464 for 8, 12, 13. As the residual networks for
    CIFAR-10 (He et al. 2016, section 4.2), with one block per stage and pools in place of strides.

    Args:
        widths: Channels of each stage.
        dropout: Probability of dropping a pooled feature before the linear layer, in [0, 1).
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: Size,
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
            layers += [nn.Sequential(*convolution(channels, width, 3, 1, "batch")), ResidualBlock(width)]
            channels = width
        self.features = nn.Sequential(*layers)
        self.head = pooled_head(channels, dropout, num_classes)
