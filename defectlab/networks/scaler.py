"""Standardisation of every pixel by itself."""

import torch
from torch import Tensor, nn

from defectlab.utils.image_format import Size, sides


class StandardScaler(nn.Module):
    """Subtract a mean image and divide by an image of scales: scikit-learn's StandardScaler on flattened images.

    Both are buffers `(in_channels, H, W)`, and so in the checkpoint and in every export.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, in_channels: int, image_size: Size) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(in_channels, *sides(image_size)))
        self.register_buffer("scale", torch.ones(in_channels, *sides(image_size)))

    def fit(self, mean: Tensor, scale: Tensor) -> None:
        """Set the mean and scale of the training images."""
        self.mean.copy_(mean)
        self.scale.copy_(scale)

    def forward(self, images: Tensor) -> Tensor:
        """Turn images (N, in_channels, H, W) into standardised ones."""
        return (images - self.mean) / self.scale
