"""Networks as plain `torch.nn.Module`s, each called with (num_classes, in_channels, image_size)."""

from typing import TYPE_CHECKING

from defectlab.utils.lazy import lazy_names

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
    "BipyramidalCNN",
    "CompactCNN",
    "DepthwiseSeparableConv",
    "LabCNN",
    "LeNet5",
    "MobileNetV1",
    "Network",
    "PretrainedNetwork",
    "ResidualBlock",
    "SimpleDefectCNN",
    "SmallResNet",
    "StandardScaler",
    "load_backbone_weights",
]

HOMES = {
    "Network": "base",
    "BipyramidalCNN": "bipyramidal",
    "DepthwiseSeparableConv": "depthwise",
    "MobileNetV1": "depthwise",
    "PretrainedNetwork": "pretrained",
    "StandardScaler": "scaler",
    "CompactCNN": "small_cnn",
    "LabCNN": "small_cnn",
    "LeNet5": "small_cnn",
    "SimpleDefectCNN": "small_cnn",
    "ResidualBlock": "small_resnet",
    "SmallResNet": "small_resnet",
    "load_backbone_weights": "weights",
}
__getattr__ = lazy_names(globals(), HOMES)
