"""What `transfer.py` does with some labelled images: a linear probe on frozen features, or training of all layers."""

import copy
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor
from torch.nn import functional

from defectlab.data.pipeline.augment import Augmentation, augment, draw
from defectlab.engine.probe import linear_probe
from defectlab.networks import PretrainedNetwork
from defectlab.networks.backbones import Backbone, Stages
from defectlab.networks.weights import load_backbone_weights

__all__ = ["Source", "draw_labelled", "fine_tune", "probe"]

_BATCH = 24
_LEAST_STEPS, _EPOCHS = 60, 4  # of fine-tuning: so many steps, or epochs if these are more
_FLIPS = Augmentation(horizontal_flip=0.5, vertical_flip=0.5)


@dataclass(frozen=True)
class Source:
    """Where a backbone comes from: a name for the table, and what PretrainedTask would be given."""

    name: str
    weights: str | None
    backbone: Backbone
    width: float

    @property
    def channels(self) -> Literal[1, 3]:
        """ImageNet's weights are for colour; a grey image goes in three times."""
        return 3 if self.name.startswith("imagenet") else 1

    @property
    def heads(self) -> tuple[Stages, ...]:
        """Where the features may be read; weights of surfaces end at the last middle layer."""
        return ("last", "middle") if self.weights is None or self.channels == 3 else ("middle",)

    def network(self, classes: int, size: int, stages: Stages, symmetric: bool = False) -> PretrainedNetwork:
        """The network with its weights, its BatchNorm statistics frozen where they are worth something."""
        network = PretrainedNetwork(
            classes, self.channels, size, self.backbone, self.width, stages=stages,
            freeze_batch_norm=self.weights is not None, symmetric=symmetric,
        )  # fmt: skip
        if self.weights is not None:
            load_backbone_weights(network, self.weights)
        return network.to(memory_format=torch.channels_last)

    def normalise(self, images: Tensor, statistics: tuple[float, float]) -> Tensor:
        """Floats (N, channels, S, S) from (N, 1, S, S) in [0, 1]: of ImageNet's statistics, or of the set's own."""
        if self.channels == 3:
            mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
            deviation = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
        else:
            mean, deviation = (torch.tensor(value) for value in statistics)
        return ((images - mean) / deviation).contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def embed(self, network: PretrainedNetwork, images: Tensor) -> np.ndarray:
        """Features (N, E) of images (N, 1, S, S) uint8."""
        network.eval()
        statistics = statistics_of(images)
        blocks = [network.embed(self.normalise(block.float() / 255, statistics)) for block in torch.split(images, 64)]
        features: np.ndarray = torch.cat(blocks).numpy()
        return features


def statistics_of(images: Tensor) -> tuple[float, float]:
    """Mean and sd of uint8 images on [0, 1]; labels play no part."""
    values = images.float() / 255
    return values.mean().item(), values.std().item()


def draw_labelled(labels: np.ndarray, per_class: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of `per_class` images a class, and of all others: the same for every row of the table."""
    rng = np.random.default_rng(seed)
    chosen = [rng.permutation(np.flatnonzero(labels == label))[:per_class] for label in np.unique(labels)]
    train = np.concatenate(chosen)
    return train, np.setdiff1d(np.arange(len(labels)), train)


def probe(features: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray) -> float:
    """Per cent, mean over the classes: standardised features, logistic regression."""
    model = linear_probe().fit(features[train], labels[train])
    return 100 * float(balanced_accuracy_score(labels[test], model.predict(features[test])))


def fine_tune(
    source: Source,
    network: PretrainedNetwork,
    images: Tensor,
    labels: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    seed: int,
) -> float:
    """Per cent, mean over the classes, after training a copy of the network: first the head, then all layers."""
    torch.manual_seed(seed)
    network, statistics = copy.deepcopy(network).train(), statistics_of(images)
    targets = torch.from_numpy(labels)
    steps = max(_LEAST_STEPS, _EPOCHS * len(train) // _BATCH)
    pretrained = source.weights is not None
    rates = [3e-3, 3e-4 if pretrained else 3e-3]
    parts = [network.head.parameters(), network.features.parameters()]
    groups = [{"params": list(part), "lr": rate} for part, rate in zip(parts, rates, strict=True)]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, steps, pct_start=0.25)
    rng = np.random.default_rng(seed)
    turns = np.concatenate([rng.permutation(train) for _ in range(-(-steps * _BATCH // len(train)))])
    for step in range(steps):
        rows = torch.from_numpy(turns[step * _BATCH : (step + 1) * _BATCH])
        batch = augment(images[rows].float() / 255, draw(len(rows), (seed, step)), _FLIPS)
        logits = network(source.normalise(batch, statistics))
        loss = functional.cross_entropy(logits, targets[rows], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    network.eval()
    with torch.no_grad():
        rest = torch.split(images[torch.from_numpy(test)], 64)
        predicted = torch.cat([network(source.normalise(block.float() / 255, statistics)).argmax(1) for block in rest])
    return 100 * float(balanced_accuracy_score(labels[test], predicted.numpy()))
