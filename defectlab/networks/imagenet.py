"""torchvision's ImageNet classifiers with their own heads, and the preprocessing of their weights."""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from defectlab.errors import InputError
from defectlab.networks.backbones import BACKBONES, RESNET_LAYERS, Backbone
from defectlab.networks.base import Network
from defectlab.networks.weights import cached_imagenet, read_state
from defectlab.utils._compat import torchvision_models
from defectlab.utils.card import DataCard
from defectlab.utils.tensors import COUNTER, first_mismatch

_ALTERNATIVES = "or give the file of torchvision's whole network by --weights"


class ImageNetClassifier(Network):
    """One of torchvision's networks with its own head: images (N, 3, H, W) to logits (N, 1000).

    Args:
        backbone: Which network.
        state: The tensors of the whole network under torchvision's names; they are not copied.
        image_size: Side of the images in pixels.
    """

    def __init__(self, backbone: Backbone, state: Mapping[str, Tensor], image_size: int) -> None:
        whole = _empty(backbone)
        whole.load_state_dict(state, strict=True, assign=True)
        super().__init__(_classes(whole), in_channels=3, image_size=image_size)
        if backbone.startswith("resnet"):
            features = nn.Sequential(*(getattr(whole, name) for name in RESNET_LAYERS))
        else:
            features = whole.features
        for layer in features:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False  # or it would change the map of the layer before it, which explain shows
        pool = whole.avgpool if hasattr(whole, "avgpool") else nn.AdaptiveAvgPool2d(1)
        self.features = features
        self.head = nn.Sequential(pool, nn.Flatten(), whole.fc if hasattr(whole, "fc") else whole.classifier)


def check_backbone(name: str) -> Backbone:
    """Return the name if it is one of `BACKBONES`.

    Raises:
        InputError: It is not; the nearest is suggested.
    """
    for backbone in BACKBONES:
        if name == backbone:
            return backbone
    near = get_close_matches(name.lower(), BACKBONES, n=1)
    hint = f"did you mean imagenet/{near[0]}?" if near else f"expected one of {', '.join(BACKBONES)}"
    raise InputError(f"there is no network imagenet/{name}: {hint}")


def load_imagenet_network(backbone: Backbone, weights: Path | None = None) -> tuple[ImageNetClassifier, DataCard]:
    """Load one of torchvision's classifiers of ImageNet and its data card.

    Args:
        backbone: Which network.
        weights: A .pth, .pt or .safetensors file of torchvision's whole network; None for torchvision's default
            weights, downloaded once and kept in the cache of torch.hub. The file's name tells the preprocessing,
            where it is one of torchvision's.

    Raises:
        InputError: The weights cannot be had, cannot be read without running code, or are another network's.
    """
    kinds = torchvision_models().get_model_weights(backbone)
    chosen = kinds.DEFAULT
    if weights is None:
        source, content = cached_imagenet(backbone, _ALTERNATIVES)
    else:
        source = weights.expanduser()
        if not source.is_file():
            raise InputError(f"--weights is {weights}, and no such file exists: name one, or leave it out to download")
        content = read_state(source, f"or give another file by --weights, such as {Path(chosen.url).name}")
        chosen = next((kind for kind in kinds if Path(kind.url).name == source.name), chosen)
    preset = chosen.transforms()
    (resize_size,), (image_size,) = preset.resize_size, preset.crop_size
    card = DataCard(
        class_names=tuple(chosen.meta["categories"]), mean=tuple(preset.mean), std=tuple(preset.std),
        image_size=image_size, channels=3, source="imagenet", resize_size=resize_size,
    )  # fmt: skip
    return ImageNetClassifier(backbone, _whole(content, backbone, source), image_size), card


def _empty(backbone: Backbone) -> Any:
    """Build torchvision's network without tensors: drawing those of VGG-16 takes seconds."""
    with torch.device("meta"):
        return torchvision_models().get_model(backbone, weights=None)


def _classes(whole: nn.Module) -> int:
    return [module.out_features for module in whole.modules() if isinstance(module, nn.Linear)][-1]


def _whole(content: Mapping[str, object], backbone: Backbone, source: Path) -> dict[str, Tensor]:
    """Return the tensors of `backbone` in float32, checked by name and shape."""
    # Prefixes of torch.compile and DataParallel.
    named = {str(key).replace("_orig_mod.", "").removeprefix("module."): value for key, value in content.items()}
    state = {key: value for key, value in named.items() if isinstance(value, Tensor)}
    own = _empty(backbone).state_dict()
    if mismatch := first_mismatch(state, own):
        raise InputError(f"{source} does not fit {backbone}: {_advice(state, backbone, mismatch)}")
    counters = {key: torch.tensor(0) for key in own if key.endswith(COUNTER)}
    floats = {key: value.float() for key, value in state.items() if not key.endswith(COUNTER)}
    return {**counters, **floats}


def _advice(state: Mapping[str, Tensor], backbone: Backbone, mismatch: str) -> str:
    for other in BACKBONES:
        if not first_mismatch(state, _empty(other).state_dict()):
            return f"it holds {other}; name imagenet/{other}, {_ALTERNATIVES}"
    return f"{mismatch}; expected torchvision's whole {backbone}, its classifier included"
