"""Novelty: embeddings beside logits, the score, its promise, and what predict makes of it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from defectlab.networks import CompactCNN, PretrainedNetwork
from defectlab.networks.base import embed_and_classify
from defectlab.tasks.tta import tta_embeddings, tta_logits
from defectlab.utils.image_format import Tiles


def foreign() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(32 * 32, 7), nn.ReLU(), nn.Linear(7, 3))


@pytest.mark.parametrize(
    ("make", "width"),
    [
        (lambda: CompactCNN(3, 1, 32), 24),
        (lambda: PretrainedNetwork(3, 1, 32, stages="middle"), 416),
        (lambda: PretrainedNetwork(3, 1, 32, stages="last", tiles=Tiles(size=16, overlap=8)), 2 * 576),
        (lambda: PretrainedNetwork(3, 1, 32, tiles=Tiles(size=16, overlap=8), pooling="attention"), 576),
        (foreign, 7),
    ],
)
def test_one_pass_gives_embedding_and_the_same_logits(make: Callable[[], nn.Module], width: int) -> None:
    network, images = make().eval(), torch.rand(4, 1, 32, 32)
    with torch.no_grad():
        embedding, logits = embed_and_classify(network, images)
        torch.testing.assert_close(logits, network(images))
    assert len(embedding) == 4
    assert embedding.shape[1] == width


def test_views_are_averaged() -> None:
    network, images = CompactCNN(3, 1, 32).eval(), torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        embedding, logits = tta_embeddings(network.embed_and_classify, images, "flip")
        torch.testing.assert_close(logits, tta_logits(network, images, "flip"))
        views: list[Tensor] = [network.embed_and_classify(view)[0] for view in (images, images.flip(3))]
    torch.testing.assert_close(embedding, (views[0] + views[1]) / 2)
