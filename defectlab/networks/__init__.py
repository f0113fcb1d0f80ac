"""Networks as plain `torch.nn.Module`s, each called with (num_classes, in_channels, image_size)."""

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
