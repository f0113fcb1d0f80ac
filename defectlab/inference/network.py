"""Load a checkpoint's network without its task: Lightning takes two seconds to import, and prediction needs none of it."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from defectlab.networks import HOMES
from defectlab.tasks.tta import Views, check_tta, tta_logits
from defectlab.utils.card import DataCard
from defectlab.utils.lazy import resolve

_CARD = {"class_names", "mean", "std", "image_size", "channels"}


class InferenceNetwork(nn.Module):
    """A trained network for evaluation: normalised images (N, C, H, W) to logits, averaged over the views of `tta`."""

    def __init__(self, network: nn.Module, tta: Views, channels_last: bool) -> None:
        super().__init__()
        check_tta(tta)
        self.network = network
        self.tta: Views = tta
        self.channels_last = channels_last

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits of one view."""
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.network(images)
        return logits

    def predict_logits(self, images: Tensor) -> Tensor:
        """Compute logits `(N, num_classes)` of one view or, with `tta`, of several."""
        return tta_logits(self, images, self.tta)


def load_network(path: Path) -> tuple[InferenceNetwork, DataCard] | None:
    """Load a network of `defectlab.networks` from a checkpoint of ours, on the CPU and in evaluation mode.

    None for anything else: `load_task` takes foreign tasks, and says what is wrong with a file.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        card = next(value for value in checkpoint.values() if isinstance(value, dict) and set(value) >= _CARD)
        given = checkpoint["hyper_parameters"]
        network = _build(str(checkpoint["task"]), given)
        if network is None or given.get("compile"):
            return None
        channels_last = given.get("channels_last", True)  # what a task has without; older checkpoints lack some
        if channels_last:
            network.to(memory_format=torch.channels_last)
        found = InferenceNetwork(network, given.get("tta", "none"), channels_last)
        found.load_state_dict(checkpoint["state_dict"])
        return found.eval(), DataCard.from_dict(card)
    except Exception:  # a damaged file makes torch.load raise anything
        return None


def _build(task: str, given: Mapping[str, Any]) -> nn.Module | None:
    """Build the network of one of our two tasks from its hyper-parameters; None for others."""
    package, _, name = task.rpartition(".")
    if not f"{package}.".startswith("defectlab.tasks."):
        return None
    if name == "PretrainedTask":
        from defectlab.networks.pretrained import PretrainedNetwork

        known = inspect.signature(PretrainedNetwork).parameters
        own = {key: value for key, value in given.items() if key in known}
        return PretrainedNetwork(**{"stages": "middle", **own})
    module, _, cls = str(given["network"]["class_path"]).rpartition(".")
    if name != "SmallCNNTask" or not f"{module}.".startswith("defectlab.networks.") or cls not in HOMES:
        return None
    make = resolve("defectlab.networks", HOMES[cls])  # it alone, without torchvision
    shape = given["num_classes"], given["in_channels"], given["image_size"]
    network: nn.Module = make(*shape, **given["network"].get("init_args") or {})
    if given.get("standard_scaler"):
        network.standardise_pixels()  # type: ignore[operator]
    return network
