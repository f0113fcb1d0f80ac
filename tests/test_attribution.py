"""Attributions: right where the answer is known, and nothing of the network is left changed."""

import copy

import pytest
import torch
from torch import Tensor, nn

from defectlab.errors import InputError
from defectlab.explain.attribution import CAMS, METHODS, Method, attribute
from defectlab.networks import CompactCNN
from defectlab.networks.pretrained import PretrainedNetwork

SIDE = 32


class SpotNetwork(nn.Module):
    """Class 1 is as bright as the brightest spots are, class 0 the opposite: weights set by hand, nothing learned."""

    def __init__(self) -> None:
        super().__init__()
        self.blur = nn.Conv2d(1, 1, kernel_size=3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AvgPool2d(2)
        self.head = nn.Linear(1, 2, bias=False)
        with torch.no_grad():
            self.blur.weight.fill_(1 / 9)
            self.head.weight.copy_(torch.tensor([[-1.0], [1.0]]))

    def forward(self, images: Tensor) -> Tensor:
        maps = self.pool(self.relu(self.blur(images))) ** 2
        logits: Tensor = self.head(maps.mean(dim=(2, 3)))
        return logits


def spots(rows: list[int], columns: list[int]) -> Tensor:
    """A bright square of 6 px for each place, on faint noise."""
    generator = torch.Generator().manual_seed(0)
    images = 0.05 * torch.randn(len(rows), 1, SIDE, SIDE, generator=generator)
    for image, row, column in zip(images, rows, columns, strict=True):
        image[0, row : row + 6, column : column + 6] += 2
    return images


@pytest.mark.parametrize("method", METHODS)
def test_the_evidence_is_found_where_it_was_put(method: Method) -> None:
    rows, columns = [2, 20, 12], [24, 3, 13]
    maps = attribute(SpotNetwork(), spots(rows, columns), torch.ones(3, dtype=torch.int64), method)
    assert maps.shape == (3, SIDE, SIDE)
    assert maps.min() >= 0
    for found, row, column in zip(maps, rows, columns, strict=True):
        y, x = divmod(int(found.argmax()), SIDE)
        assert row - 1 <= y < row + 7
        assert column - 1 <= x < column + 7
        around = found[max(row - 2, 0) : row + 8, max(column - 2, 0) : column + 8]
        assert around.sum() > 0.6 * found.sum()  # SmoothGrad's noise leaves a third all over the image


@pytest.mark.parametrize("method", CAMS)
def test_a_cam_is_empty_where_nothing_speaks_for_the_class(method: Method) -> None:
    maps = attribute(SpotNetwork(), spots([2], [3]), torch.zeros(1, dtype=torch.int64), method)
    assert torch.equal(maps, torch.zeros(1, SIDE, SIDE))


def test_hires_cam_knows_which_place_a_flattening_head_reads() -> None:
    keep, head = nn.Conv2d(1, 1, kernel_size=1, bias=False), nn.Linear(SIDE * SIDE, 2)
    reads = torch.zeros(2, SIDE, SIDE)
    reads[1, SIDE // 2 :] = 1  # the lower half speaks for class 1, the upper one for nothing
    with torch.no_grad():
        keep.weight.fill_(1)
        head.weight.copy_(reads.flatten(1))
    images = (spots([4], [9]) + spots([22], [9])).clamp(min=0)
    network = nn.Sequential(keep, nn.Flatten(), head)
    averaged, own = (attribute(network, images, torch.ones(1, dtype=torch.int64), method)[0] for method in CAMS)
    assert averaged[: SIDE // 2].sum() > 0.4 * averaged.sum()
    assert own[: SIDE // 2].sum() == 0
    # What all places add, with the bias, is the logit.
    with torch.no_grad():
        torch.testing.assert_close(own.sum() + head.bias[1], network(images)[0, 1])


def test_hires_cam_counts_the_spread_that_a_head_reads() -> None:
    network = mobilenet().eval()
    images, target = torch.randn(1, 1, SIDE, SIDE), torch.tensor([2])
    linear = network.head[-1]
    assert isinstance(linear, nn.Linear)
    channels = linear.in_features // 2
    with torch.no_grad():  # the head reads spreads alone
        linear.weight[:, :channels] = 0
        linear.weight[:, channels:].abs_()
    averaged, own = (attribute(network, images, target, method)[0] for method in CAMS)
    assert averaged.max() < 1e-3 * own.max()


def test_the_gradient_is_the_gradient() -> None:
    network, images = SpotNetwork(), spots([4], [9])
    copied = images.clone().requires_grad_()
    network(copied)[0, 1].backward()
    assert copied.grad is not None
    found = attribute(network, images, torch.ones(1, dtype=torch.int64), "gradient")
    torch.testing.assert_close(found, copied.grad.abs()[:, 0])


def test_integrated_gradients_add_up_to_the_logit() -> None:
    network, images = SpotNetwork(), spots([4], [9])
    found = attribute(network, images, torch.ones(1, dtype=torch.int64), "integrated_gradients")
    # Completeness (Sundararajan et al. 2017, proposition 1); hardly any share here is negative, so signs do not matter.
    with torch.no_grad():
        gained = network(images)[0, 1] - network(torch.zeros_like(images))[0, 1]
    torch.testing.assert_close(found.sum(), gained, rtol=0.02, atol=0)


def mobilenet() -> PretrainedNetwork:
    """In-place Hardswish and ReLU, a frozen backbone in evaluation mode below a head in training mode."""
    torch.manual_seed(0)
    network = PretrainedNetwork(3, 1, SIDE, width=0.35, stages="middle")
    network.freeze_backbone()
    return network


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", [mobilenet, lambda: CompactCNN(3, 1, SIDE), SpotNetwork])
def test_nothing_is_left_behind(make: "type[nn.Module]", method: Method) -> None:
    torch.manual_seed(1)
    network = make().train()
    state = copy.deepcopy(network.state_dict())
    modes = [module.training for module in network.modules()]
    learns = [parameter.requires_grad for parameter in network.parameters()]
    images, targets = torch.randn(3, 1, SIDE, SIDE), torch.tensor([0, 1, 1])
    kept, random = images.clone(), torch.get_rng_state()

    with torch.inference_mode():
        maps = attribute(network, images.clone(), targets.clone(), method)
    again = attribute(network, images, targets, method)

    torch.testing.assert_close(maps, again)
    assert maps.max() > 0
    assert not maps.requires_grad
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(images, kept)
    assert not images.requires_grad
    assert [module.training for module in network.modules()] == modes
    assert [parameter.requires_grad for parameter in network.parameters()] == learns
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks or module._backward_hooks for module in network.modules())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize("method", METHODS)
def test_a_map_does_not_depend_on_its_neighbours(method: Method) -> None:
    network = mobilenet()
    images, targets = torch.randn(5, 1, SIDE, SIDE), torch.tensor([0, 1, 2, 0, 1])
    together = attribute(network, images, targets, method)
    torch.testing.assert_close(together[3:4], attribute(network, images[3:4], targets[3:4], method))
    assert attribute(network, images[:0], targets[:0], method).shape == (0, SIDE, SIDE)


def test_the_seed_draws_the_noise() -> None:
    network, images, targets = mobilenet(), torch.randn(1, 1, SIDE, SIDE), torch.tensor([1])
    zero, same, other = (attribute(network, images, targets, "smoothgrad", seed) for seed in (0, 0, 1))
    assert torch.equal(zero, same)
    assert not torch.equal(zero, other)


def test_what_cannot_be_explained_is_said() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 2))
    images, targets = torch.zeros(2, 1, SIDE, SIDE), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(InputError, match="feature maps"):
        attribute(flat, images, targets, "hires_cam")
    with pytest.raises(InputError, match="expected one of gradient"):
        attribute(flat, images, targets, "guess")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"expected \(N, C, H, W\) and \(N,\)"):
        attribute(flat, images, targets[:1], "gradient")
    assert attribute(flat, images, targets, "gradient").shape == (2, SIDE, SIDE)
