"""Networks: shapes, sizes, parameter counts, frozen backbones, and pretrained weights from every source."""

import hashlib
import os
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights

from defectlab.errors import InputError
from defectlab.networks import (
    BipyramidalCNN,
    CompactCNN,
    DepthwiseSeparableConv,
    LabCNN,
    LeNet5,
    MobileNetV1,
    Network,
    PretrainedNetwork,
    SimpleDefectCNN,
    SmallResNet,
    load_backbone_weights,
)
from defectlab.networks.backbones import BACKBONES, Backbone, backbone_features
from defectlab.networks.weights import save_backbone_weights
from defectlab.utils import resources
from defectlab.utils.image_format import Tiles, sides

NETWORKS: list[Callable[[int, int, int], Network]] = [
    SimpleDefectCNN,
    CompactCNN,
    LabCNN,
    LeNet5,
    partial(LeNet5, variant="classic"),
    BipyramidalCNN,
    partial(BipyramidalCNN, channels=4, depth=2, hidden=8, norm="batch", dropout=0.5),
    partial(CompactCNN, norm="layer"),
    partial(LeNet5, norm="group", dropout=0.5),
    partial(SimpleDefectCNN, norm="batch", dropout=0.5),
    partial(LabCNN, norm="group"),
    MobileNetV1,
    SmallResNet,
    partial(SmallResNet, widths=[4], dropout=0.5),
    partial(PretrainedNetwork, width=0.5),
    partial(PretrainedNetwork, backbone="mobilenet_v2", width=0.35, stages=[2, 5]),
    partial(PretrainedNetwork, backbone="mobilenet_v3_large", width=0.25, hidden=16),
    partial(PretrainedNetwork, backbone="resnet18"),
    partial(PretrainedNetwork, backbone="resnet50", stages=[1, 4]),
    partial(PretrainedNetwork, backbone="vgg16", stages="middle"),
]


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def small_v2(in_channels: int = 3, **options: bool | list[int]) -> PretrainedNetwork:
    torch.manual_seed(0)
    return PretrainedNetwork(4, in_channels, 32, backbone="mobilenet_v2", width=0.35, **options)  # type: ignore[arg-type]


def trained_v2() -> Any:
    """Return torchvision's MobileNetV2 0.35 with running statistics that are not the initial ones."""
    torch.manual_seed(1)
    network = get_model("mobilenet_v2", weights=None, width_mult=0.35, num_classes=7)
    network.train()
    network(torch.randn(4, 3, 32, 32))
    return network.eval()


@pytest.mark.parametrize("tiles", [None, Tiles(16, 8)])
def test_a_mirror_image_has_the_same_embedding_if_that_is_asked_for(tiles: Tiles | None) -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 1, 32, 48)
    for symmetric in (False, True):
        network = PretrainedNetwork(3, 1, (32, 48), width=0.5, stages=[3, 6], tiles=tiles, symmetric=symmetric).eval()
        with torch.no_grad():
            wanted, maps = network.embed(images), network.forward_features(images)
            for sides in ((3,), (2,), (2, 3)):
                mirrored = images.flip(sides)
                assert torch.allclose(network.embed(mirrored), wanted, atol=1e-5) == symmetric
                assert torch.allclose(network.forward_features(mirrored), maps.flip(sides), atol=1e-5) == symmetric
            assert torch.allclose(network(images), network.classify(wanted), atol=1e-5)


@pytest.mark.parametrize("make", NETWORKS)
@pytest.mark.parametrize(("in_channels", "image_size"), [(1, 28), (2, 33), (3, 64)])
def test_logits_from_two_halves(make: Callable[[int, int, int], Network], in_channels: int, image_size: int) -> None:
    torch.manual_seed(0)
    network = make(5, in_channels, image_size).eval()
    images = torch.randn(3, in_channels, image_size, image_size)
    with torch.no_grad():
        features = network.forward_features(images)
        logits = network(images)
        assert features.ndim == 4
        assert features.shape[0] == 3
        assert logits.shape == (3, 5)
        torch.testing.assert_close(network.forward_head(features), logits)
        assert network(images[:0]).shape == (0, 5)
        torch.testing.assert_close(network(images[1:2]), logits[1:2], atol=1e-4, rtol=1e-4)
        network = network.to(memory_format=torch.channels_last)
        channels_last = network(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(channels_last, logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("make", NETWORKS)
def test_every_parameter_learns(make: Callable[[int, int, int], Network]) -> None:
    torch.manual_seed(0)
    network = make(3, 1, 32)
    network(torch.randn(4, 1, 32, 32)).logsumexp(dim=1).sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    ("network", "parameters"),
    [
        (CompactCNN(10, 1, 28), 78_714),
        (LabCNN(10, 1, 28), 28_938),
        (LeNet5(10, 1, 28), 61_706),
        (LeNet5(10, 1, 28, variant="classic"), 61_706),
        (SimpleDefectCNN(6, 1, 200), 10_245_702),
        (BipyramidalCNN(10, 1, 28, depth=2), 421_642),
        (BipyramidalCNN(6, 1, 200, depth=3), 10_333_574),
        (MobileNetV1(1000, 3, 224, width=1.0), 4_231_976),  # the paper's 4.2 million
        (MobileNetV1(1000, 3, 224, width=0.25), 470_072),  # the paper's 0.5 million
        (MobileNetV1(6, 1, 200, width=0.25), 214_470),
        (MobileNetV1(6, 1, 200, width=0.5), 821_382),
        (MobileNetV1(6, 1, 200, width=1.0), 3_212_550),
        (PretrainedNetwork(6, 3, 200), 930_470),
        (PretrainedNetwork(6, 3, 200, hidden=1024), 1_524_006),
        (PretrainedNetwork(6, 3, 200).features, 927_008),
        (SmallResNet(10, 1, 28), 84_154),
        (SmallResNet(10, 1, 28, widths=(8, 12, 13)), 9_464),
        (PretrainedNetwork(6, 3, 64, backbone="resnet18").features, 11_176_512),  # torchvision's less `fc`
        (PretrainedNetwork(6, 3, 64, backbone="resnet50").features, 23_508_032),
        (PretrainedNetwork(6, 3, 64, backbone="vgg16").features, 14_714_688),  # torchvision's less `classifier`
        (DepthwiseSeparableConv(8, 16), 9 * 8 + 8 * 16 + 2 * (8 + 16)),
    ],
)
def test_parameter_counts(network: nn.Module, parameters: int) -> None:
    assert count(network) == parameters


@pytest.mark.parametrize(
    ("make", "smallest"),
    [
        (SimpleDefectCNN, 4),
        (CompactCNN, 4),
        (LabCNN, 4),
        (LeNet5, 12),
        (partial(BipyramidalCNN, depth=4), 16),
        (MobileNetV1, 1),
        (SmallResNet, 4),
        (PretrainedNetwork, 1),
    ],
)
def test_smallest_image(make: Callable[[int, int, int], Network], smallest: int) -> None:
    network = make(2, 1, smallest).eval()
    assert network(torch.zeros(1, 1, smallest, smallest)).shape == (1, 2)
    with pytest.raises(InputError, match=rf"image_size is {smallest - 1}: .* at least {smallest}"):
        make(2, 1, smallest - 1)


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: LabCNN(1, 1, 28), "num_classes"),
        (lambda: LabCNN(2, 0, 28), "in_channels"),
        (lambda: CompactCNN(2, 1, 28, dropout=1.0), "dropout"),
        (lambda: LeNet5(2, 1, 28, dropout=-0.1), "dropout"),
        (lambda: LabCNN(2, 1, 28, norm="instance"), "norm"),  # type: ignore[arg-type]
        (lambda: BipyramidalCNN(2, 1, 28, depth=0), "depth"),
        (lambda: BipyramidalCNN(2, 1, 28, channels=0), "channels"),
        (lambda: BipyramidalCNN(2, 1, 28, hidden=0), "hidden"),
        (lambda: DepthwiseSeparableConv(1, 1, stride=0), "stride"),
        (lambda: MobileNetV1(2, 1, 28, width=0.0), "width"),
        (lambda: SmallResNet(2, 1, 28, widths=[]), "widths"),
        (lambda: SmallResNet(2, 1, 28, widths=[4, 0]), "widths"),
        (lambda: PretrainedNetwork(2, 1, 28, backbone="resnet19"), "backbone"),
        (lambda: PretrainedNetwork(2, 0, 28), "in_channels"),
        (lambda: PretrainedNetwork(2, 1, 28, backbone="resnet18", width=0.5), "width"),
        (lambda: PretrainedNetwork(2, 1, 31, backbone="vgg16"), "image_size"),
        (lambda: PretrainedNetwork(2, 1, 64, backbone="vgg16", stages=[31]), "stages"),
        (lambda: PretrainedNetwork(2, 1, 28, width=-1.0), "width"),
        (lambda: PretrainedNetwork(2, 1, 28, dropout=-0.1), "dropout"),
        (lambda: PretrainedNetwork(2, 1, 28, batch_norm_momentum=0.0), "batch_norm_momentum"),
        (lambda: PretrainedNetwork(2, 1, 28, hidden=-1), "hidden"),
        (lambda: PretrainedNetwork(2, 1, 28, stages=[]), "stages"),
        (lambda: PretrainedNetwork(2, 1, 28, stages=[4, 4]), "stages"),
        (lambda: PretrainedNetwork(2, 1, 28, stages=[4, 13]), "stages"),
        (lambda: PretrainedNetwork(2, 1, 28, stages=[-1]), "stages"),
    ],
)
def test_argument_out_of_range(make: Callable[[], nn.Module], argument: str) -> None:
    with pytest.raises(InputError, match=f"^{argument} is ") as caught:
        make()
    assert "\n" not in str(caught.value)


def test_depthwise_keeps_channels_apart() -> None:
    block = DepthwiseSeparableConv(3, 5, stride=2).eval()
    images = torch.randn(1, 3, 9, 9)
    other = images.clone()
    other[:, 2] += 1
    changed = (block.depthwise(images) != block.depthwise(other)).flatten(2).any(dim=2)
    assert changed.tolist() == [[False, False, True]]
    assert block(images).shape == (1, 5, 5, 5)


def test_lenet_variants() -> None:
    kinds = {type(layer) for layer in LeNet5(10, 1, 28).modules()}
    assert {nn.ReLU, nn.MaxPool2d} <= kinds
    kinds = {type(layer) for layer in LeNet5(10, 1, 28, variant="classic").modules()}
    assert {nn.Tanh, nn.AvgPool2d} <= kinds
    assert not {nn.ReLU, nn.MaxPool2d} & kinds


SMALL: list[Callable[..., Network]] = [SimpleDefectCNN, CompactCNN, LabCNN, LeNet5, partial(BipyramidalCNN, depth=2)]


@pytest.mark.parametrize("make", SMALL)
def test_every_convolution_is_normalised(make: Callable[..., Network]) -> None:
    """Each image, or for batch each channel, has mean 0 and sd 1 before its activation."""
    torch.manual_seed(0)
    images = torch.randn(8, 1, 28, 28) * 3 + 5
    over: dict[str, Callable[[Tensor], Tensor]] = {
        "batch": lambda maps: maps.transpose(0, 1).flatten(1),
        "layer": lambda maps: maps.flatten(1),
        "group": lambda maps: maps.reshape(-1, (2 if maps.shape[1] == 6 else 4) * maps[0, 0].numel()),
    }
    for norm, rows in over.items():
        network = make(10, 1, 28, norm=norm)
        layers = list(network.features)
        places = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Conv2d)]
        assert len(places) == 2
        for place in places:
            normalised = rows(network.features[: place + 2](images))
            torch.testing.assert_close(normalised.mean(dim=1), torch.zeros(len(normalised)), atol=1e-4, rtol=0)
            torch.testing.assert_close(
                normalised.std(dim=1, correction=0), torch.ones(len(normalised)), atol=1e-2, rtol=0
            )
        # A gain and a shift a channel in place of the bias.
        channels = sum(layer.out_channels for layer in layers if isinstance(layer, nn.Conv2d))
        assert count(network) == count(make(10, 1, 28)) + channels


@pytest.mark.parametrize(("make", "dense"), [(SimpleDefectCNN, 1), (CompactCNN, 1), (LeNet5, 2), (SMALL[-1], 1)])
def test_dropout_follows_every_hidden_dense_layer(make: Callable[..., Network], dense: int) -> None:
    network, plain = make(10, 1, 28, dropout=0.4).train(), make(10, 1, 28, dropout=0.0)
    assert list(network.state_dict()) == list(plain.state_dict())
    seen: list[float] = []
    for layer in network.modules():
        if isinstance(layer, nn.Linear) and layer.out_features != 10:
            nn.init.zeros_(layer.weight)
            nn.init.ones_(layer.bias)
        if isinstance(layer, nn.Dropout):
            layer.register_forward_hook(lambda _, __, output: seen.append(float((output == 0).float().mean())))
    torch.manual_seed(0)
    images = torch.randn(400, 1, 28, 28)
    network(images)
    assert seen == pytest.approx([0.4] * dense, abs=0.02)
    with torch.no_grad():
        assert torch.equal(network.eval()(images), network(images))


def test_compiles_as_one_graph() -> None:
    for network in (CompactCNN(3, 1, 16), small_v2(1, stages=[2, 5])):
        images = torch.randn(2, 1, *sides(network.image_size))
        network.eval()
        compiled = torch.compile(network, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(images), network(images))


@pytest.mark.parametrize(("backbone", "epsilon"), [("mobilenet_v2", 1e-5), ("mobilenet_v3_small", 1e-3)])
def test_batch_norm_momentum(backbone: Backbone, epsilon: float) -> None:
    network = PretrainedNetwork(3, 1, 32, backbone=backbone, width=0.5, batch_norm_momentum=0.2)
    found = {(m.momentum, m.eps) for m in network.features.modules() if isinstance(m, nn.BatchNorm2d)}
    assert found == {(0.2, epsilon)}


def test_head_standardises() -> None:
    network = small_v2()
    embeddings = torch.randn(64, network.embedding_size) * 3 + 5
    standardised = network.head[0](embeddings)
    torch.testing.assert_close(standardised.mean(dim=0), torch.zeros(network.embedding_size), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        standardised.std(dim=0, correction=0), torch.ones(network.embedding_size), atol=1e-3, rtol=0
    )


def test_training_on_one_image() -> None:
    network = PretrainedNetwork(3, 1, 64, width=0.5)
    network(torch.randn(4, 1, 64, 64))
    standardise = network.head[0]
    assert isinstance(standardise, nn.BatchNorm1d)
    assert standardise.running_mean is not None
    before = standardise.running_mean.clone()
    assert network(torch.randn(1, 1, 64, 64)).isfinite().all()
    torch.testing.assert_close(standardise.running_mean, before)


def test_stages_are_mean_and_deviation() -> None:
    network = small_v2(stages=[2, 3, 6]).eval()  # 8×8 pixels twice, then 4×4: no rounding on joining
    whole = small_v2().eval()
    assert len(network.features) == 7
    whole.features[:7].load_state_dict(network.features.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        maps = [whole.features[: stage + 1](images) for stage in (2, 3, 6)]
        embeddings = network.embed(images)
    mean = torch.cat([m.mean(dim=(2, 3)) for m in maps], dim=1)
    deviation = torch.cat([m.flatten(2).std(dim=2, correction=0) for m in maps], dim=1)
    torch.testing.assert_close(embeddings, torch.cat([mean, deviation], dim=1), atol=1e-3, rtol=1e-3)
    assert embeddings.shape[1] == network.embedding_size


def step(network: PretrainedNetwork) -> None:
    """Train for one step, in the mode that a trainer sets."""
    network.train()
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    network(torch.randn(4, network.in_channels, 64, 64)).logsumexp(dim=1).sum().backward()
    optimizer.step()


def changed(before: dict[str, Tensor], network: PretrainedNetwork) -> dict[str, bool]:
    """Say of the backbone's running means, of its other tensors and of the head whether any differs."""
    found = {"statistics": False, "backbone": False, "head": False}
    for name, value in network.state_dict().items():
        part = "statistics" if "running" in name else "backbone"
        part = part if name.startswith("features.") else "head"
        found[part] |= not torch.equal(value, before[name])
    return found


@pytest.mark.parametrize(
    ("backbone_frozen", "freeze_batch_norm", "expected"),
    [
        (False, False, {"statistics": True, "backbone": True, "head": True}),
        (False, True, {"statistics": False, "backbone": True, "head": True}),
        (True, False, {"statistics": False, "backbone": False, "head": True}),
    ],
)
def test_freezing(backbone_frozen: bool, freeze_batch_norm: bool, expected: dict[str, bool]) -> None:
    network = small_v2(freeze_batch_norm=freeze_batch_norm)
    if backbone_frozen:
        network.freeze_backbone()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    step(network)
    assert changed(before, network) == expected
    assert network.head.training
    network.unfreeze_backbone()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    step(network)
    assert changed(before, network) == {"statistics": not freeze_batch_norm, "backbone": True, "head": True}


def test_modes_hold_without_a_call_of_train() -> None:
    def modes() -> tuple[bool, bool]:
        return network.training, network.features.training

    network = small_v2(freeze_batch_norm=True)
    assert modes() == (True, False)
    network = small_v2()
    network.freeze_backbone()
    assert modes() == (True, False)
    network.unfreeze_backbone()
    assert modes() == (True, True)
    network.eval()
    network.unfreeze_backbone()
    assert modes() == (False, False)


@pytest.mark.parametrize("form", ["whole.pth", "features.pt", "lightning.ckpt", "features.safetensors"])
def test_weights_from_a_file(form: str, tmp_path: Path) -> None:
    source = trained_v2()
    state = source.state_dict()
    features = {key: value for key, value in state.items() if key.startswith("features.")}
    path = tmp_path / form
    if form == "whole.pth":
        torch.save(state, path)
    elif form == "features.pt":
        counterless = {k: v for k, v in features.items() if not k.endswith("num_batches_tracked")}
        torch.save(counterless, path)
    elif form == "lightning.ckpt":
        compiled = {f"network._orig_mod.{key}": value for key, value in features.items()}
        torch.save({"state_dict": compiled | {"other": torch.ones(1)}, "epoch": 3}, path)
    else:
        save_file(features, path)
    network = small_v2().eval()
    head = {name: value.clone() for name, value in network.head.state_dict().items()}
    load_backbone_weights(network, str(path))
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(network.embed(images), source.features(images).mean(dim=(2, 3)))
    assert all(torch.equal(value, head[name]) for name, value in network.head.state_dict().items())


@pytest.mark.parametrize(("backbone", "last"), [("resnet18", "layer4"), ("vgg16", "features")])
def test_imagenet_weights_of_larger_networks(
    backbone: Backbone, last: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the cache holds is torchvision's network: its maps come out, from colour and from grey."""
    torch.manual_seed(0)
    with torch.device("meta"):  # VGG's classifier has 124 million parameters, which nothing here reads
        source = get_model(backbone, weights=None)
    for name in ("classifier", "fc"):
        if name in source._modules:
            source._modules[name] = nn.Identity()
    source = source.to_empty(device="cpu").eval()
    source.load_state_dict({name: torch.rand_like(value.float()) * 0.1 for name, value in source.state_dict().items()})
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / Path(get_model_weights(backbone).DEFAULT.url).name
    cached.parent.mkdir(parents=True)
    classifier = {"vgg16": "classifier.0.weight", "resnet18": "fc.weight"}[backbone]
    torch.save(source.state_dict() | {classifier: torch.ones(1)}, cached)
    expected: list[Tensor] = []
    source.get_submodule(last).register_forward_hook(lambda _module, _input, output: expected.append(output))
    images = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        source(images.expand(-1, 3, -1, -1))
        for in_channels in (1, 3):
            network = PretrainedNetwork(3, in_channels, 32, backbone=backbone).eval()
            load_backbone_weights(network, "imagenet")
            found = network.forward_features(images.expand(-1, in_channels, -1, -1))
            torch.testing.assert_close(found, expected[0], rtol=1e-3, atol=1e-4)
    with pytest.raises(InputError, match=f"{backbone}-surface.safetensors is not among the shipped files"):
        load_backbone_weights(network, "surface")
    other = PretrainedNetwork(3, 3, 32, stages="middle")
    with pytest.raises(InputError, match=f"it fits backbone {backbone} at width 1.0: change backbone"):
        load_backbone_weights(other, str(cached))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_layer_can_be_a_stage(backbone: Backbone) -> None:
    """Its map is the one that the layer gives, whatever comes after it, and its channels are known beforehand."""
    torch.manual_seed(0)
    layers = len(backbone_features(backbone, 1.0, 1))
    network = PretrainedNetwork(2, 1, 32, backbone=backbone, stages=list(range(layers))).eval()
    maps: list[Tensor] = []
    for layer in network.features:
        layer.register_forward_hook(lambda _module, _input, output: maps.append(output.clone()))
    with torch.no_grad():
        joined = network.forward_features(torch.randn(1, 1, 32, 32))
    assert network.embedding_size == 2 * joined.shape[1]
    expected = torch.cat([nn.functional.interpolate(map_, size=maps[0].shape[-2:]) for map_ in maps], dim=1)
    torch.testing.assert_close(joined, expected, rtol=0, atol=0)


def test_weights_and_channels(tmp_path: Path) -> None:
    torch.save(trained_v2().state_dict(), tmp_path / "colour.pth")
    colour, grey = small_v2(3).eval(), small_v2(1).eval()
    load_backbone_weights(colour, str(tmp_path / "colour.pth"))
    load_backbone_weights(grey, str(tmp_path / "colour.pth"))
    images = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(grey.embed(images), colour.embed(images.expand(-1, 3, -1, -1)))
    torch.save(grey.state_dict(), tmp_path / "grey.pth")
    again = small_v2(3).eval()
    load_backbone_weights(again, str(tmp_path / "grey.pth"))
    torch.testing.assert_close(again.embed(images.expand(-1, 3, -1, -1)), grey.embed(images))
    four = small_v2(4).eval()
    load_backbone_weights(four, str(tmp_path / "colour.pth"))
    torch.testing.assert_close(four.embed(images.expand(-1, 4, -1, -1)), grey.embed(images))


def test_weights_for_some_stages(tmp_path: Path) -> None:
    source = trained_v2()
    torch.save(source.state_dict(), tmp_path / "whole.pth")
    network = small_v2(stages=[2]).eval()
    load_backbone_weights(network, str(tmp_path / "whole.pth"))
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(network.forward_features(images), source.features[:3](images))


def test_weights_of_another_architecture(tmp_path: Path) -> None:
    path = tmp_path / "whole.pth"
    torch.save(trained_v2().state_dict(), path)
    network = PretrainedNetwork(3, 1, 32, backbone="mobilenet_v2", width=0.5)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(InputError) as caught:
        load_backbone_weights(network, str(path))
    assert str(caught.value) == (
        f"{path} does not fit mobilenet_v2 at width 0.5: "
        "features.2.conv.2.weight is (8, 48, 1, 1) in the file and (16, 48, 1, 1) in the network; "
        "it fits backbone mobilenet_v2 at width 0.35: change backbone and width"
    )
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with pytest.raises(
        InputError, match=r"0\.0\.weight is \(16, 3, 3, 3\) in the file and \(8, 1, 3, 3\) in the network"
    ):
        load_backbone_weights(PretrainedNetwork(3, 1, 32, width=0.5), str(path))
    torch.save({"conv1.weight": torch.ones(1)}, path)
    with pytest.raises(InputError, match=r"whole\.pth holds names such as 'conv1\.weight': expected"):
        load_backbone_weights(network, str(path))
    torch.save([1, 2], path)
    with pytest.raises(InputError, match=r"whole\.pth holds no tensors by name: expected"):
        load_backbone_weights(network, str(path))


class Malicious:
    """Makes a folder on being unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_is_refused(legacy: bool, tmp_path: Path) -> None:
    path, folder = tmp_path / "evil.pth", tmp_path / "executed"
    content = {"features.0.0.weight": Malicious(folder)}
    if legacy:
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path)
    with pytest.raises(InputError, match=r"evil\.pth .* nothing in it was run") as caught:
        load_backbone_weights(small_v2(), str(path))
    assert "mkdir" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not folder.exists()


@pytest.mark.parametrize("name", ["text.pth", "text.ckpt", "text.safetensors", "cut.pth"])
def test_no_weights_in_the_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    torch.save({"features.0.0.weight": torch.ones(100)}, path)
    path.write_bytes(path.read_bytes()[:-200] if name == "cut.pth" else b"some text, no weights\n")
    with pytest.raises(InputError, match=f"{name} .*null for none") as caught:
        load_backbone_weights(small_v2(), str(path))
    assert "\n" not in str(caught.value)
    path.write_bytes(b"")
    with pytest.raises(InputError, match=name):
        load_backbone_weights(small_v2(), str(path))


def test_no_such_file() -> None:
    with pytest.raises(
        InputError, match=r"weights is 'imagnet', and no such file exists: .* imagenet, or set weights to surface"
    ):
        load_backbone_weights(small_v2(), "imagnet")


def test_weights_that_end_before_the_last_stage(tmp_path: Path) -> None:
    network = small_v2(stages=[2, 4])
    save_file(
        {f"features.{key}": value for key, value in network.features.state_dict().items()}, tmp_path / "w.safetensors"
    )
    load_backbone_weights(small_v2(stages=[1, 4]), str(tmp_path / "w.safetensors"))
    with pytest.raises(InputError, match=r"layers up to 4 of 19 that are read: set stages to middle"):
        load_backbone_weights(small_v2(), str(tmp_path / "w.safetensors"))


def test_imagenet_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens: no download can succeed
    network = PretrainedNetwork(3, 3, 32).eval()
    name = Path(get_model_weights("mobilenet_v3_small").DEFAULT.url).name
    with pytest.raises(InputError, match=f"could not be downloaded .*put {name} from https.*null") as caught:
        load_backbone_weights(network, "imagenet")
    assert "\n" not in str(caught.value)
    cached = tmp_path / "hub" / "checkpoints" / name
    assert str(cached.parent) in str(caught.value)
    source = get_model("mobilenet_v3_small", weights=None).eval()
    torch.save(source.state_dict(), cached)
    load_backbone_weights(network, "imagenet")
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(network.embed(images), source.features(images).mean(dim=(2, 3)))
    cached.write_bytes(cached.read_bytes()[:1000])
    with pytest.raises(InputError, match=f"{name} .*delete it to download it anew"):
        load_backbone_weights(network, "imagenet")


def test_the_width_of_a_file_that_ends_early_is_told(tmp_path: Path) -> None:
    save_backbone_weights(PretrainedNetwork(2, 1, 32, width=1.5, stages=[3]), tmp_path / "w.safetensors", half=False)
    with pytest.raises(InputError, match=r"it fits backbone mobilenet_v3_small at width 1\.5"):
        load_backbone_weights(PretrainedNetwork(2, 3, 32, stages=[3]), str(tmp_path / "w.safetensors"))


def test_imagenet_has_one_width() -> None:
    with pytest.raises(InputError, match=r"width is 0\.35, .* 1\.0 alone"):
        load_backbone_weights(small_v2(), "imagenet")


def test_surface_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "SHIPPED", (tmp_path / "none", tmp_path))
    with pytest.raises(InputError, match=r"mobilenet_v2-surface\.safetensors is not among .*none is there.* imagenet"):
        load_backbone_weights(small_v2(), "surface")
    source = trained_v2()
    save_file(source.state_dict(), shipped := tmp_path / "mobilenet_v2-surface.safetensors")
    network = small_v2().eval()
    card = tmp_path / "mobilenet_v2-surface.md"
    card.write_text(f"# {shipped.name}\n\n{hashlib.sha256(b'another file').hexdigest()}\n")
    with pytest.raises(InputError, match="which no card beside it has"):
        load_backbone_weights(network, "surface")
    card.write_text(f"# {shipped.name}\n\n{hashlib.sha256(shipped.read_bytes()).hexdigest()}\n")
    load_backbone_weights(network, "surface")
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(network.embed(images), source.features(images).mean(dim=(2, 3)))
