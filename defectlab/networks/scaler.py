"""Standardisation of every pixel by itself."""

import torch
from torch import Tensor, nn


class StandardScaler(nn.Module):
    """Subtracts a mean image and divides by an image of scales: scikit-learn's StandardScaler on flattened images.

    Both are buffers, so they are in the checkpoint, and whatever runs the network runs them too.

    Args:
        in_channels: Channels of the images.
        image_size: Height and width of the images, in pixels.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, in_channels: int, image_size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(in_channels, image_size, image_size))
        self.register_buffer("scale", torch.ones(in_channels, image_size, image_size))

    def fit(self, mean: Tensor, scale: Tensor) -> None:
        """Take over what was measured on training images, (in_channels, image_size, image_size) each."""
        self.mean.copy_(mean)
        self.scale.copy_(scale)

    def forward(self, images: Tensor) -> Tensor:
        """Turn images (N, in_channels, image_size, image_size) into standardised ones."""
        return (images - self.mean) / self.scale
