"""Networks as plain `torch.nn.Module`s, each called with (num_classes, in_channels, image_size)."""

from typing import TYPE_CHECKING

from defectlab.utils.lazy import lazy_names, name_places

if TYPE_CHECKING:
    from defectlab.networks.base import Network
    from defectlab.networks.bipyramidal import BipyramidalCNN
    from defectlab.networks.depthwise import DepthwiseSeparableConv, MobileNetV1
    from defectlab.networks.pretrained import PretrainedNetwork
    from defectlab.networks.scaler import StandardScaler
    from defectlab.networks.small_cnn import CompactCNN, LabCNN, LeNet5, SimpleDefectCNN
    from defectlab.networks.small_resnet import ResidualBlock, SmallResNet
    from defectlab.networks.weights import load_backbone_weights

__all__ = [
    "BipyramidalCNN", "CompactCNN", "DepthwiseSeparableConv", "LabCNN", "LeNet5", "MobileNetV1", "Network",
    "PretrainedNetwork", "ResidualBlock", "SimpleDefectCNN", "SmallResNet", "StandardScaler", "load_backbone_weights",
]  # fmt: skip

HOMES = name_places(
    {
        "base": "Network",
        "bipyramidal": "BipyramidalCNN",
        "depthwise": "DepthwiseSeparableConv MobileNetV1",
        "pretrained": "PretrainedNetwork",
        "scaler": "StandardScaler",
        "small_cnn": "CompactCNN LabCNN LeNet5 SimpleDefectCNN",
        "small_resnet": "ResidualBlock SmallResNet",
        "weights": "load_backbone_weights",
    }
)
__getattr__ = lazy_names(globals(), HOMES)
