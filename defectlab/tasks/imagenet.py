"""torchvision's ImageNet classifiers as a task and its data card."""

from pathlib import Path

from defectlab.networks.imagenet import check_backbone, load_imagenet_network
from defectlab.tasks.base import ClassificationTask
from defectlab.utils.card import DataCard


def load_imagenet_classifier(name: str, weights: Path | None = None) -> tuple[ClassificationTask, DataCard]:
    """Load one of torchvision's networks with its ImageNet weights, as `load_task` loads a checkpoint.

    Args:
        name: One of `defectlab.networks.backbones.BACKBONES`, such as mobilenet_v2.
        weights: File of torchvision's whole network; None for torchvision's cache, else a download.

    Returns:
        The task in evaluation mode on the CPU, and its data card, whose `resize_size` asks for a centre crop.

    Raises:
        InputError: An unknown name, or weights that cannot be had, read or used.
    """
    network, card = load_imagenet_network(check_backbone(name), weights)
    return ClassificationTask(network, len(card.class_names), channels_last=False).eval(), card
