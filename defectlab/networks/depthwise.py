"""Depthwise separable convolutions, and the first MobileNet, which is made of them."""

from torch import Tensor, nn

from defectlab.errors import check_at_least
from defectlab.networks.base import Network, check_dropout, check_width
from defectlab.networks.blocks import pooled_head
from defectlab.utils.image_format import Size


class DepthwiseSeparableConv(nn.Module):
    """A 3×3 convolution of each channel by itself, then a 1×1 convolution across the channels.

    Both are followed by batch normalisation and ReLU (Howard et al. 2017, "MobileNets", section 3.1 and
    figure 3). For M channels in and N out the two kernels hold 9·M + M·N weights, where the plain 3×3
    convolution holds 9·M·N.

    Args:
        in_channels: Channels of the input, M.
        out_channels: Channels of the output, N.
        stride: Step of the depthwise convolution; 2 halves the size, rounding up.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        check_at_least("in_channels", in_channels, 1)
        check_at_least("out_channels", out_channels, 1)
        check_at_least("stride", stride, 1)
        self.depthwise = nn.Sequential(
            nn.Conv2d(in_channels, in_channels, 3, stride, padding=1, groups=in_channels, bias=False),
            nn.BatchNorm2d(in_channels),
            nn.ReLU(),
        )
        self.pointwise = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU()
        )

    def forward(self, images: Tensor) -> Tensor:
        """Turn feature maps (N, in_channels, h, w) into (N, out_channels, ⌈h/stride⌉, ⌈w/stride⌉)."""
        features: Tensor = self.pointwise(self.depthwise(images))
        return features


# Table 1 of the paper: the output channels and stride of each block. The last stride is 1, as in every
# implementation: the 2 of the table contradicts the table's own sizes.
_BLOCKS = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]


class MobileNetV1(Network):
    """MobileNet (Howard et al. 2017, "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
    Applications", table 1): a convolution, 13 depthwise separable ones, global average pooling, one linear.

    The size is divided by 32. At 1 channel and 6 classes, and any image size, the parameters number
    214,470 at width 0.25, 821,382 at 0.5 and 3,212,550 at 1.0.

    Args:
        width: Multiplier of every layer's channels, the paper's α. The default makes the smallest network
            of the paper, right for a few thousand images and for training on a CPU.
        dropout: Probability of dropping a pooled feature before the linear layer, in [0, 1).
    """

    def __init__(
        self, num_classes: int, in_channels: int, image_size: Size, width: float = 0.25, dropout: float = 0.0
    ) -> None:
        super().__init__(num_classes, in_channels, image_size)
        check_width(width)
        check_dropout(dropout)
        channels = _scaled(32, width)
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, channels, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        ]
        for block_channels, stride in _BLOCKS:
            out_channels = _scaled(block_channels, width)
            layers.append(DepthwiseSeparableConv(channels, out_channels, stride))
            channels = out_channels
        self.features = nn.Sequential(*layers)
        self.head = pooled_head(channels, dropout, num_classes)


def _scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width))
