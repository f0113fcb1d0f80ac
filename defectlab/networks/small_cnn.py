"""The small CNNs of the courses: a few convolutions and pools, then one to three linear layers."""

import math
from typing import Literal

from torch import nn

from defectlab.networks.base import Network, check_dropout
from defectlab.networks.blocks import Norm, activated, convolution
from defectlab.utils.image_format import Size, sides


class SimpleDefectCNN(Network):
    """Two blocks of 3×3 convolution (16, 32), ReLU and 2×2 pool, then linear layers of 128 and num_classes.

    10,245,702 parameters at 200 px, 1 channel, 6 classes; all but 5,574 sit in the two linear layers.

    Args:
        dropout: Probability of dropping one of the 128 hidden units, in [0, 1).
        norm: Normalisation after each convolution, which then has no bias; see `normalisation`.
    """

    def __init__(
        self, num_classes: int, in_channels: int, image_size: Size, dropout: float = 0.0, norm: Norm = "none"
    ) -> None:
        super().__init__(num_classes, in_channels, image_size, smallest=4)
        check_dropout(dropout)
        self.features = nn.Sequential(*_block(in_channels, 16, 3, norm), *_block(16, 32, 3, norm))
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(32 * _quartered(image_size), 128),
            activated(nn.ReLU, dropout),
            nn.Linear(128, num_classes),
        )


class CompactCNN(Network):
    """Two blocks of 3×3 convolution (12, 24), ReLU and 2×2 pool, then linear layers of 64 and num_classes.

    78,714 parameters at 28 px, 1 channel, 10 classes.

    Args:
        dropout: Probability of dropping one of the 64 hidden units, in [0, 1).
        norm: Normalisation after each convolution, which then has no bias; see `normalisation`.
    """

    def __init__(
        self, num_classes: int, in_channels: int, image_size: Size, dropout: float = 0.2, norm: Norm = "none"
    ) -> None:
        super().__init__(num_classes, in_channels, image_size, smallest=4)
        check_dropout(dropout)
        self.features = nn.Sequential(*_block(in_channels, 12, 3, norm), *_block(12, 24, 3, norm))
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(24 * _quartered(image_size), 64),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(64, num_classes),
        )


class LabCNN(Network):
    """Two blocks of 5×5 convolution (16, 32), ReLU and 2×2 pool, then one linear layer.

    28,938 parameters at 28 px, 1 channel, 10 classes.

    Args:
        norm: Normalisation after each convolution, which then has no bias; see `normalisation`.
    """

    def __init__(self, num_classes: int, in_channels: int, image_size: Size, norm: Norm = "none") -> None:
        super().__init__(num_classes, in_channels, image_size, smallest=4)
        self.features = nn.Sequential(*_block(in_channels, 16, 5, norm), *_block(16, 32, 5, norm))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(32 * _quartered(image_size), num_classes))


class LeNet5(Network):
    """LeNet-5 (LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document
    recognition", section II.B): 5×5 convolutions (6, 16), then linear layers of 120, 84 and num_classes.

    61,706 parameters at 28 px, 1 channel, 10 classes. As courses teach it, the first convolution pads a
    28 px image to the paper's 32 px, every map of C3 sees all six of S2, and the output is linear.

    Args:
        variant: `modern` has ReLU and max pools. `classic` is nearer to the paper: tanh and average pools
            (which there have a weight and a bias for each map; here they have none).
        dropout: Probability of dropping a unit of either hidden layer, in [0, 1).
        norm: Normalisation after each convolution, which then has no bias; see `normalisation`.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: Size,
        variant: Literal["modern", "classic"] = "modern",
        dropout: float = 0.0,
        norm: Norm = "none",
    ) -> None:
        super().__init__(num_classes, in_channels, image_size, smallest=12)
        check_dropout(dropout)
        pool, activation = (nn.AvgPool2d, nn.Tanh) if variant == "classic" else (nn.MaxPool2d, nn.ReLU)
        self.features = nn.Sequential(
            *convolution(in_channels, 6, 5, 2, norm, activation),
            pool(2),
            *convolution(6, 16, 5, 0, norm, activation),
            pool(2),
        )
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(16 * math.prod((side // 2 - 4) // 2 for side in sides(image_size)), 120),
            activated(activation, dropout),
            nn.Linear(120, 84),
            activated(activation, dropout),
            nn.Linear(84, num_classes),
        )


def _block(in_channels: int, out_channels: int, kernel_size: int, norm: Norm) -> list[nn.Module]:
    """Return a convolution that keeps the size, ReLU, and a pool that halves it."""
    return [*convolution(in_channels, out_channels, kernel_size, kernel_size // 2, norm), nn.MaxPool2d(2)]


def _quartered(image_size: Size) -> int:
    """Return the positions of a map after two pools that halve it."""
    return math.prod(side // 4 for side in sides(image_size))
