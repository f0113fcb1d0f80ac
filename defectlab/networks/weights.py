"""Pretrained weights of a backbone: torchvision's, timm's, shipped ones, or a file's; no code is executed."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from defectlab.errors import InputError
from defectlab.networks import timm_weights
from defectlab.networks.backbones import (
    BACKBONES,
    RESNET_LAYERS,
    backbone_features,
    has_widths,
    kernel_for_channels,
)
from defectlab.networks.pretrained import PretrainedNetwork
from defectlab.networks.timm_backbone import TimmBackbone
from defectlab.utils._compat import torchvision_models
from defectlab.utils.files import atomic
from defectlab.utils.resources import check_card, shipped_files
from defectlab.utils.tensors import COUNTER, check_finite, first_mismatch, read_tensors, safetensors_bytes
from defectlab.utils.text import first_line

SHIPPED_WEIGHTS = ("surface", "surface-distilled")
_WIDE = {"surface-distilled": 1.5}  # the wider of two is the more accurate
ALTERNATIVES = (
    f"or set weights to {' or '.join(SHIPPED_WEIGHTS)} (shipped, for mobilenet_v3_small with stages: middle), to the path "
    "of a .pth, .safetensors or .ckpt file, or to null for none"
)
USUAL_WIDTHS = (1.0, 0.25, 0.35, 0.5, 0.75, 1.3, 1.4, 1.5)


def load_backbone_weights(network: PretrainedNetwork, weights: str) -> None:
    """Load pretrained weights into `network.features`; the head stays as it is.

    A first kernel for other channels is summed over its own and shared out evenly over those of the network: the response
    to grey images stays the same, if all channels are normalised equally.

    Args:
        network: The network to fill, of the backbone and width that the weights were trained with.
        weights: `imagenet` for torchvision's weights, downloaded once and kept in the cache of torch.hub, or timm's of that
            name, kept in the cache of its hub;
            `surface` or `surface-distilled` for those shipped with this package; or the path of a .safetensors, .pth,
            .pt, .bin or .ckpt file with the whole network of torchvision's or timm's, its features alone, or a checkpoint of
            defectlab's; of timm's also a folder with model.safetensors or pytorch_model.bin.

    Raises:
        InputError: If the weights cannot be found, cannot be read without running code, or do not fit.
    """
    timm = network.features if isinstance(network.features, TimmBackbone) else None
    alternatives = ALTERNATIVES if timm is None else timm_weights.ALTERNATIVES
    if weights == "imagenet" and timm is None:
        if network.width != 1:
            raise InputError(
                f"width is {network.width}, and torchvision has imagenet weights for width 1.0 alone: "
                f"change width, {ALTERNATIVES}"
            )
        source, state = cached_imagenet(network.backbone, ALTERNATIVES)
    else:
        source = _source(network, weights, alternatives)
        state = read_state(source, alternatives)
    own = network.features.state_dict()
    kept = (
        _layer_tensors(network, state, source) if timm is None else timm_weights.backbone_tensors(timm, state, source)
    )
    counters = {key: value for key, value in own.items() if key.endswith(COUNTER)}
    network.features.load_state_dict({**counters, **kept})
    found = _projection_part(state)
    wanted = {} if network.projection is None else network.projection.state_dict()
    if mismatch := first_mismatch(found, wanted, "projection."):
        needed = f"set projection to {str(bool(found)).lower()}, and stages to middle"
        raise InputError(f"the projection of the embedding in {source} does not fit: {mismatch}; {needed}")
    if network.projection is not None:
        network.projection.load_state_dict(found)


def width_of(weights: str | None, backbone: str) -> float:
    """Return the width of a backbone that weights serve best at: 1.5 of `surface-distilled`, 1.0 of all others."""
    return _WIDE.get(weights or "", 1.0) if backbone == "mobilenet_v3_small" else 1.0


def save_backbone_weights(network: PretrainedNetwork, path: Path, half: bool) -> None:
    """Write `network.features` and its projection as a .safetensors file that `load_backbone_weights` reads; whole or not at all.

    Args:
        network: Whose backbone to keep.
        path: The file, replaced if it is there.
        half: Whether convolution kernels are kept in half precision; BatchNorm and projection, sensitive, never are.

    Raises:
        InputError: If the file cannot be written.
    """
    state = {
        f"features.{key}": (value.half() if half and value.ndim > 1 else value).contiguous()
        for key, value in network.features.state_dict().items()
        if not key.endswith(COUNTER)
    }
    if network.projection is not None:
        state |= {f"projection.{key}": value.contiguous() for key, value in network.projection.state_dict().items()}
    with atomic(path) as draft:
        draft.write_bytes(safetensors_bytes(state, {"backbone": network.backbone, "width": str(network.width)}))


def imagenet_file(backbone: str) -> tuple[Path, str]:
    """Return where torch.hub keeps torchvision's default weights of a backbone, and the address that they come from."""
    url = str(torchvision_models().get_model_weights(backbone).DEFAULT.url)
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2], url


def cached_imagenet(backbone: str, alternatives: str) -> tuple[Path, Mapping[str, object]]:
    """Return the path and the content of torchvision's file in its cache, downloaded if it is not there.

    Args:
        backbone: Whose default weights.
        alternatives: What else one can do, from "or" on, for the end of an error.

    Raises:
        InputError: If it can neither be found nor downloaded, or is damaged.
    """
    cached, url = imagenet_file(backbone)
    if not cached.exists():
        try:
            chosen = torchvision_models().get_model_weights(backbone).DEFAULT
            chosen.get_state_dict(progress=True, check_hash=True, map_location="cpu", weights_only=True)
        except Exception as error:  # the network, or the disk
            raise InputError(
                f"the imagenet weights of {backbone} could not be downloaded ({first_line(error)}): put "
                f"{cached.name} from {url} into {cached.parent}, {alternatives}"
            ) from None
    return cached, read_state(cached, f"delete it to download it anew, {alternatives}")


def _source(network: PretrainedNetwork, weights: str, alternatives: str) -> Path:
    """Return the file of weights that are no network's of torchvision's cache."""
    if weights in SHIPPED_WEIGHTS:
        return _shipped(network, weights)
    timm = isinstance(network.features, TimmBackbone)
    if weights == "imagenet":
        return timm_weights.pretrained_file(network.backbone)
    source = Path(weights).expanduser()
    if timm and source.is_dir():
        return timm_weights.file_in_folder(source, network.backbone)
    if not source.is_file():
        raise InputError(f"weights is {weights!r}, and no such file exists: set it to imagenet, {alternatives}")
    return source


def _layer_tensors(network: PretrainedNetwork, state: Mapping[str, object], source: Path) -> dict[str, Tensor]:
    """Return the tensors of a file under the names and with the shapes of torchvision's layers."""
    features = _backbone_part(state, source)
    own = network.features.state_dict()
    first = next(iter(own))  # the kernel of the first convolution, (D, in_channels, K, K)
    if first in features and features[first].shape[:1] == own[first].shape[:1]:
        features[first] = kernel_for_channels(features[first], network.in_channels)
    kept, layers = features, len(list(network.features.children()))
    if network.stages is not None:  # the layers after the last of them were left out
        kept = {key: value for key, value in features.items() if _layer(key) < layers}
    mismatch = first_mismatch(kept, own, "features.")
    deepest = max(_layer(key) for key in features)
    if mismatch and not first_mismatch(kept, {key: value for key, value in own.items() if _layer(key) <= deepest}):
        raise InputError(
            f"{source} holds the layers up to {deepest} of {layers} that are read: set stages to middle, "
            f"or to numbers up to {deepest}"
        )
    if mismatch:
        raise InputError(
            f"{source} does not fit {network.backbone} at width {network.width}: {mismatch}; {_advice(features)}"
        )
    return kept


def _shipped(network: PretrainedNetwork, weights: str) -> Path:
    """Return the path of the weights of this name shipped for the network's backbone, of its width where there are."""
    name = f"{network.backbone}-{weights}.safetensors"
    found = shipped_files(f"{network.backbone}_{network.width}-{weights}.safetensors") or shipped_files(name)
    if found:
        return check_card(found[0])
    there = [path.name for path in shipped_files("*.safetensors")]
    raise InputError(
        f"weights is {weights!r}, but {name} is not among the shipped files ({', '.join(there) or 'none is there'}): "
        "change backbone, or set weights to imagenet, to the path of a file, or to null for none"
    )


def read_state(path: Path, alternatives: str) -> Mapping[str, object]:
    """Return the state dict in a file of tensors and plain values, out of its wrapping if it has one.

    Args:
        path: A .safetensors file, or one that torch.load reads without running code.
        alternatives: What one can do, from "or" on, for the end of an error.

    Raises:
        InputError: If it cannot be read.
    """
    content = read_tensors(path, alternatives.removeprefix("or "))
    for wrapping in ("state_dict", "model"):  # Lightning's; torchvision's own training script's
        if isinstance(content, dict) and isinstance(content.get(wrapping), dict):
            content = content[wrapping]
    state = {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}
    check_finite(state, path, alternatives.removeprefix("or "))
    return state


def _backbone_part(state: Mapping[str, object], source: Path) -> dict[str, Tensor]:
    """Return the tensors under `features.`, by their names in it."""
    # torch.compile puts `_orig_mod.` into names. The prefixes are ours, DataParallel's and torchvision's.
    tensors = {str(k).replace("_orig_mod.", ""): v for k, v in state.items() if isinstance(v, Tensor)}
    for prefix in ("network.features.", "module.features.", "features."):
        part = {key.removeprefix(prefix): v for key, v in tensors.items() if key.startswith(prefix)}
        if part:
            return part
    part = {_resnet_name(key.removeprefix("module.")): v for key, v in tensors.items()}
    if {"0.weight", "4.0.conv1.weight"} <= set(part):
        return {key: v for key, v in part.items() if _layer(key) >= 0}
    found = f"names such as {next(iter(tensors))!r}" if tensors else "no tensors by name"
    raise InputError(
        f"{source} holds {found}: expected a backbone's weights, named features.0.0.weight and so on, or as torchvision "
        "names a ResNet's; "
        f"{ALTERNATIVES.removeprefix('or ')}"
    )


def _projection_part(state: Mapping[str, object]) -> dict[str, Tensor]:
    """Return the tensors under `projection.`, by their names in it; none where weights come without one."""
    tensors = {key.replace("_orig_mod.", "").removeprefix("network."): v for key, v in state.items()}
    part = {key: v for key, v in tensors.items() if key.startswith("projection.") and isinstance(v, Tensor)}
    return {key.removeprefix("projection."): v for key, v in part.items()}


def _resnet_name(key: str) -> str:
    """Turn torchvision's name of a tensor of a ResNet into the one in `features`, if it is in there."""
    layer, dot, rest = key.partition(".")
    return f"{RESNET_LAYERS.index(layer)}{dot}{rest}" if layer in RESNET_LAYERS else key


def _layer(key: str) -> int:
    number = key.partition(".")[0]
    return int(number) if number.isdigit() else -1


def _advice(features: Mapping[str, Tensor]) -> str:
    """Say which backbone and width these weights fit, if it is one of the usual ones."""
    deepest = max(map(_layer, features))  # the layers after it may have been left out
    for backbone in BACKBONES:
        for width in USUAL_WIDTHS if has_widths(backbone) else (1.0,):
            with torch.device("meta"):  # shapes alone: no memory, no random numbers
                candidate = backbone_features(backbone, width, in_channels=3).state_dict()
            first = next(iter(candidate))
            candidate = {key: value for key, value in candidate.items() if _layer(key) <= deepest}
            same_but_for_colour = {**features, first: candidate[first]} if first in features else features
            if not first_mismatch(same_but_for_colour, candidate):
                return f"it fits backbone {backbone} at width {width}: change backbone and width"
    return "change backbone and width to those it was trained with, or weights"
