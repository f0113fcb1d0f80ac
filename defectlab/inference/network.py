"""Load a checkpoint's network without its task: Lightning takes two seconds to import, and prediction needs none of it."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from defectlab.errors import InputError
from defectlab.networks import HOMES
from defectlab.networks.base import Network, embed_and_classify
from defectlab.networks.novelty import NoveltyScorer
from defectlab.tasks.contents import build_like, card_of, read_checkpoint, scorer_of, thresholds_of
from defectlab.tasks.tta import Views, tta_embeddings, tta_logits
from defectlab.utils.card import DataCard
from defectlab.utils.lazy import resolve
from defectlab.utils.typed import check_arguments


class InferenceNetwork(nn.Module):
    """A trained network for evaluation: normalised images (N, C, H, W) to logits, averaged over the views of `tta`.

    `thresholds` are those of a multi-label task, `novelty` scores how strange an image is, see `ClassificationTask`.
    """

    def __init__(
        self, network: nn.Module, tta: Views, channels_last: bool, thresholds: list[float] | None = None,
        novelty: NoveltyScorer | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.network = network
        self.tta: Views = tta
        self.channels_last = channels_last
        self.thresholds = thresholds
        self.novelty = novelty

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

    def embed_and_classify(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the embeddings `(N, E)` and logits of one view, see `defectlab.networks.base`."""
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return embed_and_classify(self.network, images)

    def predict_logits(self, images: Tensor) -> Tensor:
        """Compute logits `(N, num_classes)` of one view or, with `tta`, of several."""
        return tta_logits(self, images, self.tta, self.thresholds is not None)

    def predict_embeddings(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the embeddings `(N, E)`, means over views, and the logits of `predict_logits`, in one pass."""
        return tta_embeddings(self.embed_and_classify, images, self.tta, self.thresholds is not None)


def load_network(path: Path) -> tuple[InferenceNetwork, DataCard] | None:
    """Load a network of `defectlab.networks` from a checkpoint of ours, on the CPU and in evaluation mode.

    None for other networks, which `load_task` takes.

    Raises:
        InputError: as `load_task`.
    """
    checkpoint = read_checkpoint(path)
    given = checkpoint["hyper_parameters"]
    card = card_of(checkpoint, path)
    try:
        make = _network_of(str(checkpoint.get("task", "")), given)
        # Older checkpoints lack some.
        views, channels_last = given.get("tta", "none"), given.get("channels_last", True) is not False
        thresholds = thresholds_of(checkpoint, len(card.class_names)) if card.multilabel else None
        novelty = scorer_of(checkpoint)
        if make is None or views not in get_args(Views):
            return None
    except (InputError, TypeError, KeyError):  # `load_task` says what is wrong with it
        return None

    def build() -> InferenceNetwork:
        network = make()
        if given.get("standard_scaler"):
            network.standardise_pixels()  # type: ignore[operator]
        if channels_last:
            network.to(memory_format=torch.channels_last)
        return InferenceNetwork(network, views, channels_last, thresholds, novelty)

    state = checkpoint["state_dict"]
    return build_like(build, state, path, lambda network: network.load_state_dict(state), ours=True), card


def _network_of(task: str, given: Mapping[str, Any]) -> Callable[[], nn.Module] | None:
    """Return what makes the network of one of our two tasks from its hyper-parameters; None for others."""
    package, _, name = task.rpartition(".")
    if not f"{package}.".startswith("defectlab.tasks."):
        return None
    if name == "PretrainedTask":
        from defectlab.networks.pretrained import PretrainedNetwork

        known = inspect.signature(PretrainedNetwork).parameters
        own = {"stages": "middle", **{key: value for key, value in given.items() if key in known}}
        check_arguments(PretrainedNetwork, own)
        return partial(PretrainedNetwork, **own)
    module, _, cls = str(given["network"]["class_path"]).rpartition(".")
    if name != "SmallCNNTask" or not f"{module}.".startswith("defectlab.networks.") or cls not in HOMES:
        return None
    make = resolve("defectlab.networks", HOMES[cls])  # it alone, without torchvision
    if not (inspect.isclass(make) and issubclass(make, Network)):
        return None
    shape = {key: given[key] for key in ("num_classes", "in_channels", "image_size")}
    own = {**(given["network"].get("init_args") or {}), **shape}
    check_arguments(make, own)
    return partial(make, **own)
