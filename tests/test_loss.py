"""The loss under class weights: where its minimum lies."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from defectlab.tasks.loss import weighted_cross_entropy

SMOOTHING = 0.05


def balanced(labels: Tensor) -> Tensor:
    counts = torch.bincount(labels).double()
    return len(labels) / (len(counts) * counts)


@pytest.mark.parametrize("ratio", [5, 50, 500])
def test_the_minimum_calls_good_parts_good_at_any_ratio(ratio: int) -> None:
    """Two kinds of images that tell good (0) from bad (1) without doubt: smoothing alone keeps them from certainty."""
    labels = torch.tensor([0] * (20 * ratio) + [1] * 20)
    logits = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)  # of a good and of a bad image
    optimizer = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = weighted_cross_entropy(logits[labels], labels, balanced(labels), SMOOTHING)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(step)  # type: ignore[no-untyped-call]
    right = 1 - SMOOTHING / 2
    expected = torch.tensor([[right, 1 - right], [1 - right, right]], dtype=torch.float64)
    assert torch.allclose(logits.detach().softmax(dim=1), expected, atol=1e-4)


@pytest.mark.parametrize("ratio", [5, 50, 500])
def test_small_batches_have_the_minimum_of_the_whole(ratio: int) -> None:
    """Images that tell nothing: with balanced weights both classes are equally likely, also in batches without bad ones."""
    labels = torch.tensor([0] * (20 * ratio) + [1] * 20)[torch.randperm(20 * (ratio + 1))]
    logits = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    batches = torch.split(labels, 20)
    weights = balanced(labels)
    losses = [weighted_cross_entropy(logits.expand(20, 2), batch, weights, SMOOTHING) for batch in batches]
    torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert torch.allclose(logits.grad, torch.zeros_like(logits), atol=1e-12)


def test_without_weights_it_is_torchs() -> None:
    logits, labels = torch.randn(9, 4), torch.arange(9) % 4
    shares = torch.rand(9, 4).softmax(dim=1)
    ones = torch.ones(4)
    for targets in (labels, shares):
        expected = functional.cross_entropy(logits, targets, label_smoothing=0.1)
        assert torch.allclose(weighted_cross_entropy(logits, targets, ones, 0.1), expected)
        assert torch.allclose(weighted_cross_entropy(logits, targets, None, 0.1), expected)
    # Targets times a weight an image weigh its whole loss, label smoothing included.
    each = functional.cross_entropy(logits, labels, label_smoothing=0.1, reduction="none")
    weighted = functional.one_hot(labels, 4) * torch.arange(9.0)[:, None]
    assert torch.allclose(weighted_cross_entropy(logits, weighted, None, 0.1), (each * torch.arange(9.0)).mean())


def test_indices_and_one_hot_rows_are_the_same() -> None:
    logits, labels, weights = torch.randn(9, 4), torch.arange(9) % 4, torch.tensor([0.5, 2.0, 1.0, 0.5])
    rows = functional.one_hot(labels, 4).float()
    by_index, by_row = (weighted_cross_entropy(logits, targets, weights, 0.1) for targets in (labels, rows))
    assert torch.allclose(by_index, by_row)
