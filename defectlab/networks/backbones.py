"""torchvision's networks up to their last feature map, as one `Sequential` of numbered layers."""

from difflib import get_close_matches
from functools import partial
from typing import Any, Literal, get_args

from torch import Tensor, nn

from defectlab.errors import InputError, check_at_least
from defectlab.networks.base import check_width
from defectlab.utils._compat import torchvision_models, vgg_features

Backbone = Literal["mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "resnet18", "resnet50", "vgg16"]
BACKBONES: tuple[Backbone, ...] = get_args(Backbone)
Stages = list[int] | Literal["last", "middle"]
# MobileNets: chosen on validation images of NEU-CLS (benchmarks). Not measured: ResNet's stages and VGG's pools before
# the last, whose statistics describe texture (Gatys, Ecker & Bethge 2015).
MIDDLE_STAGES: dict[str, list[int]] = {
    "mobilenet_v2": [6, 9, 12, 15],
    "mobilenet_v3_small": [3, 6, 8, 11],
    "mobilenet_v3_large": [6, 10, 12, 15],
    "resnet18": [4, 5, 6],
    "resnet50": [4, 5, 6],
    "vgg16": [9, 16, 23],
}
# What torchvision calls the layers of a ResNet, in the order of `features`.
RESNET_LAYERS = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")


class LayeredBackbone(nn.Sequential):
    """Turn images (N, in_channels, H, W) into the map of the last layer, or of the layers in `stages`.

    Args:
        features: of `backbone_features`.
        backbone: which network they are of.
        stages: `last`, `middle` for `MIDDLE_STAGES`, or ascending numbers; layers after the deepest are left out.

    Attributes:
        stages: the layers that are read, None for `last`.
        channels: of the map of each layer that is read.
    """

    def __init__(self, features: nn.Sequential, backbone: str, stages: Stages) -> None:
        layers = MIDDLE_STAGES[backbone] if stages == "middle" else None if stages == "last" else list(stages)
        channels = layer_channels(features)
        if layers is not None:
            check_stages(layers, len(features))
            features = features[: layers[-1] + 1]
        super().__init__(*features)
        self.stages = layers
        self.channels = channels[-1:] if layers is None else [channels[layer] for layer in layers]

    def __getitem__(self, index: Any) -> Any:
        """Return a layer, or some of them as an `nn.Sequential`."""
        return nn.Sequential(*list(self)[index]) if isinstance(index, slice) else super().__getitem__(index)

    def stage_maps(self, images: Tensor) -> list[Tensor]:
        """Turn images (N, in_channels, H, W) into the maps (N, D, h, w) of the layers in `stages`."""
        maps = []
        for index, layer in enumerate(self):
            images = layer(images)
            if index in (self.stages or ()):
                maps.append(images)
        return maps


def check_stages(stages: list[int], layers: int) -> None:
    """Raise InputError unless `stages` are ascending numbers of a backbone's layers."""
    if not stages or stages != sorted(set(stages)) or stages[0] < 0 or stages[-1] >= layers:
        raise InputError(
            f"stages is {stages}: expected ascending numbers from 0 to {layers - 1}, the backbone's layers, "
            "last, or middle; change stages"
        )


def check_width_of(backbone: str, width: float) -> None:
    """Raise InputError unless the backbone comes in this width."""
    check_width(width)
    if width != 1 and not has_widths(backbone):
        raise InputError(f"width is {width}, and {backbone} comes in width 1.0 alone: change width, or backbone")


def backbone_features(backbone: str, width: float, in_channels: int, batch_norm_momentum: float = 0.1) -> nn.Sequential:
    """Build torchvision's feature layers, freshly initialised, with a first convolution for `in_channels`.

    Args:
        backbone: Which network: MobileNetV2 (Sandler et al. 2018), MobileNetV3 (Howard et al. 2019), ResNet (He et
            al. 2016) or VGG-16 without BatchNorm (Simonyan & Zisserman 2015).
        width: Multiplier of the channels of a MobileNet's layers; 1.0 for the others.
        in_channels: Channels of the images.
        batch_norm_momentum: Weight of the newest batch in the running statistics, in (0, 1].

    Raises:
        InputError: If `backbone` is none of these, or it does not come in that width.
    """
    if backbone not in BACKBONES:
        near = get_close_matches(str(backbone), BACKBONES, n=1)
        hint = f"did you mean {near[0]}?" if near else "change backbone"
        expected = f"expected one of {', '.join(BACKBONES)}, or timm/<name> for one of timm's"
        raise InputError(f"backbone is {backbone!r}: {expected}; {hint}")
    check_at_least("in_channels", in_channels, 1)
    check_width_of(backbone, width)
    if backbone == "vgg16":
        features = _vgg16()
    elif backbone in ("resnet18", "resnet50"):
        norm_layer = partial(nn.BatchNorm2d, momentum=batch_norm_momentum)
        whole = torchvision_models().get_model(backbone, weights=None, norm_layer=norm_layer)
        features = nn.Sequential(*(getattr(whole, name) for name in RESNET_LAYERS))
    else:
        epsilon = 1e-5 if backbone == "mobilenet_v2" else 1e-3  # torchvision's, which its weights expect
        norm_layer = partial(nn.BatchNorm2d, eps=epsilon, momentum=batch_norm_momentum)
        whole = torchvision_models().get_model(backbone, weights=None, width_mult=width, norm_layer=norm_layer)
        features = whole.features
    for layer in features:
        if isinstance(layer, nn.ReLU):
            layer.inplace = False  # or it would change the map of the layer before it, which may be read as a stage
    if in_channels != 3:
        _take_channels(features, in_channels)
    return features


def has_widths(backbone: str) -> bool:
    """Return whether the network comes with a multiplier of its channels."""
    return backbone.startswith("mobilenet")


def kernel_for_channels(kernel: Tensor, in_channels: int) -> Tensor:
    """Turn the first kernel (D, C, K, K) into (D, in_channels, K, K) for the same response to grey images."""
    if kernel.ndim != 4 or kernel.shape[1] == in_channels:
        return kernel
    return kernel.sum(dim=1, keepdim=True).expand(-1, in_channels, -1, -1) / in_channels


def layer_channels(features: nn.Sequential) -> list[int]:
    """Return the channels of each layer's output."""
    found = []
    channels = 0
    for layer in features:
        # The last convolution of a block makes its output; layers without one keep the number.
        for module in layer.modules():
            channels = module.out_channels if isinstance(module, nn.Conv2d) else channels
        found.append(channels)
    return found


def smallest_image(features: nn.Sequential) -> int:
    """Return the smallest side in pixels: unpadded pools halve it, padded layers never reach zero."""
    pools = [layer for layer in features if isinstance(layer, nn.MaxPool2d) and layer.padding == 0]
    return int(2 ** len(pools))


def _vgg16() -> nn.Sequential:
    """Build the layers alone: torchvision's constructor draws the 124 million numbers of the classifier, too."""
    features = vgg_features("D")
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            _initialise(layer)
    return features


def _initialise(layer: nn.Conv2d) -> None:
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")  # as torchvision does
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _take_channels(features: nn.Sequential, in_channels: int) -> None:
    """Replace the first convolution by one for images of so many channels."""
    first = features[0]
    parent = first if isinstance(first, nn.Sequential) else features
    old: Any = parent[0]
    new = nn.Conv2d(in_channels, old.out_channels, old.kernel_size, old.stride, old.padding, bias=old.bias is not None)
    _initialise(new)
    parent[0] = new
