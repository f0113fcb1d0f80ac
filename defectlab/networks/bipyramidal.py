"""The bi-pyramid: twice the feature maps at every halving of the resolution."""

import math
from itertools import pairwise

from torch import nn

from defectlab.errors import check_at_least
from defectlab.networks.base import Network, check_dropout
from defectlab.networks.blocks import Norm, convolution
from defectlab.utils.image_format import Size, sides


class BipyramidalCNN(Network):
    """`depth` blocks of 3×3 convolution, ReLU and 2×2 pool, each with twice the channels of the one before.

    The name is LeCun et al.'s (1998, "Gradient-based learning applied to document recognition", section
    II.A): the number of feature maps grows as the spatial resolution falls. The defaults with `depth=2`
    (32-64) have 421,642 parameters at 28 px, 1 channel, 10 classes; with `depth=3` (32-64-128) they have
    10,333,574 at 200 px, 1 channel, 6 classes.

    Args:
        channels: Channels of the first block.
        depth: Number of blocks.
        hidden: Units of the hidden linear layer.
        norm: Normalisation after each convolution, which then has no bias; see `normalisation`.
        dropout: Probability of dropping one of the hidden units, in [0, 1).
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: Size,
        channels: int = 32,
        depth: int = 3,
        hidden: int = 128,
        norm: Norm = "none",
        dropout: float = 0.0,
    ) -> None:
        check_at_least("depth", depth, 1)
        super().__init__(num_classes, in_channels, image_size, smallest=2 ** min(depth, 40))
        check_at_least("channels", channels, 1)
        check_at_least("hidden", hidden, 1)
        check_dropout(dropout)
        widths = [in_channels] + [channels * 2**block for block in range(depth)]
        layers: list[nn.Module] = []
        for narrow, wide in pairwise(widths):
            layers += [*convolution(narrow, wide, 3, 1, norm), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(widths[-1] * math.prod(side // 2**depth for side in sides(image_size)), hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, num_classes),
        )
