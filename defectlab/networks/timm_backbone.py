"""timm's networks as backbones: their levels of feature maps, without the layers after the deepest one that is read."""

from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from defectlab.errors import InputError
from defectlab.networks.backbones import Stages, check_stages
from defectlab.utils.text import first_line

PREFIX = "timm/"


class TimmBackbone(nn.Module):
    """Turn images (N, in_channels, H, W) into the maps (N, D, h, w) of some levels of a network of timm's.

    A level is what timm lists in `feature_info`: a stage of a convolutional or hierarchical network, a block of a vision
    transformer. The names of tensors are those of timm's files, which those of its `features_only` need not be.

    Args:
        backbone: `timm/<name>`, of a network or with the tag of its weights.
        in_channels: channels of the images.
        image_size: height and width of the images, which most transformers are built for.
        stages: `last` for the deepest level; `middle` for those of a quarter to a sixteenth of the image's side, or
            where all have one size for those at a quarter, half and three quarters of the depth; or ascending numbers.
        batch_norm_momentum: weight of the newest batch in the running statistics.

    Attributes:
        stages: the levels that are read, None for `last`.
        channels: of the map of each level that is read.

    Raises:
        InputError: timm is not installed or has no such network, or it cannot take such images.
    """

    def __init__(
        self, backbone: str, in_channels: int, image_size: tuple[int, int], stages: Stages, batch_norm_momentum: float
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.in_channels = in_channels
        self._shape = (in_channels, *image_size)
        self.model = self.build_whole()
        reductions = [int(level["reduction"]) for level in self.model.feature_info]
        if stages == "middle":
            stages = _middle(reductions)
        if stages != "last":
            check_stages(stages, len(reductions))
        self.stages = None if stages == "last" else list(stages)
        self.levels = self.stages or [len(reductions) - 1]
        self.channels = [int(self.model.feature_info[level]["num_chs"]) for level in self.levels]
        self.model.prune_intermediate_layers(self.levels, prune_norm=True, prune_head=True)
        for module in self.model.modules():
            if isinstance(module, _NormBase):
                module.momentum = batch_norm_momentum
        self._check_maps()

    def build_whole(self) -> Any:
        """Build timm's whole network for such images, freshly initialised; nothing is looked for or downloaded."""
        import timm

        channels, height, width = self._shape
        name = check_name(self.backbone)
        fixed = getattr(timm.models.get_pretrained_cfg(name), "fixed_input_size", False)
        size: dict[str, Any] = {"img_size": (height, width)} if fixed else {}
        try:
            return timm.create_model(name, pretrained=False, in_chans=channels, **size)
        except Exception as error:  # of any network
            raise self._refused(error) from None

    def stage_maps(self, images: Tensor) -> list[Tensor]:
        """Turn images (N, in_channels, H, W) into the maps (N, D, h, w) of the levels that are read."""
        maps: list[Tensor] = self.model.forward_intermediates(
            images, indices=self.levels, norm=False, output_fmt="NCHW", intermediates_only=True
        )
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """Turn images (N, in_channels, H, W) into the map of the deepest level that is read."""
        return self.stage_maps(images)[-1]

    def _check_maps(self) -> None:
        """Raise InputError unless an image gives maps of these channels, and no pixel of it is left out by patches."""
        first = next((layer for layer in self.model.modules() if isinstance(layer, nn.Conv2d)), None)
        if first is not None and first.kernel_size == first.stride and first.padding == (0, 0):
            patch = first.stride[0]
            if any(side % patch for side in self._shape[1:]):
                raise self._refused(f"it reads patches of {patch} pixels, and a part of one would not be seen")
        if any(tensor.is_meta for tensor in self.model.parameters()):  # shapes alone are wanted
            return
        try:
            with torch.no_grad():
                maps = self.eval().stage_maps(torch.zeros(1, *self._shape))
        except Exception as error:  # of any network
            raise self._refused(error) from None
        if [each.shape[1] for each in maps if each.ndim == 4] != self.channels:
            raise self._refused("it gives no feature maps (N, D, h, w)")

    def _refused(self, reason: Exception | str) -> InputError:
        text = f"{type(reason).__name__}: {first_line(reason)[:150]}" if isinstance(reason, Exception) else reason
        channels, height, width = self._shape
        return InputError(
            f"{self.backbone} cannot take images of {height}×{width} pixels and {channels} channels, the pixels that are "
            f"mirrored around tiles included ({text}): change image_size, model.stages or model.backbone"
        )


def check_name(backbone: str) -> str:
    """Return timm's name of a network that it has, without `timm/`; nothing else is ever built.

    Raises:
        InputError: timm is not installed, or has none of this name; the nearest are suggested.
    """
    if find_spec("timm") is None:
        raise InputError(f"backbone is {backbone!r}, and timm is not installed: pip install 'defectlab[timm]'")
    import timm

    name = backbone.removeprefix(PREFIX)[:100]
    names = timm.list_models()
    if name not in names and name not in timm.list_pretrained():
        near = [f"{PREFIX}{each}" for each in get_close_matches(name, names, n=3)]
        hint = f"did you mean {' or '.join(near)}?" if near else "expected a name that timm.list_models() lists"
        raise InputError(f"backbone is {backbone[:100]!r}, and timm {timm.__version__} has no such network: {hint}")
    return name


def _middle(reductions: list[int]) -> list[int]:
    count = len(reductions)
    if len(set(reductions)) == 1:
        return sorted({max(0, round(count * quarter / 4) - 1) for quarter in (1, 2, 3)})
    return [level for level, reduction in enumerate(reductions) if 4 <= reduction <= 16]
