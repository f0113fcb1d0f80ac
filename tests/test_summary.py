"""`summary`: sizes, parameters, multiply-adds and receptive fields, each checked against another way to know them."""

import csv
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import write_class_folders
from helpers import write_config
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import get_model

from defectlab.cli.main import main
from defectlab.errors import InputError
from defectlab.networks import (
    BipyramidalCNN,
    CompactCNN,
    LabCNN,
    LeNet5,
    MobileNetV1,
    PretrainedNetwork,
    SimpleDefectCNN,
    SmallResNet,
)
from defectlab.runs import RunFolder
from defectlab.summary.latency import latencies
from defectlab.summary.layers import Layer, NetworkSummary
from defectlab.summary.trace import summarize

NETWORKS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "simple": SimpleDefectCNN,
    "compact": CompactCNN,
    "lab": LabCNN,
    "lenet5": LeNet5,
    "classic": partial(LeNet5, variant="classic"),
    "bipyramidal": partial(BipyramidalCNN, norm="batch"),
    "v1": MobileNetV1,
    "v2": partial(PretrainedNetwork, backbone="mobilenet_v2"),
    "v3 middle": partial(PretrainedNetwork, backbone="mobilenet_v3_small", stages="middle"),
    "v3 large": partial(PretrainedNetwork, backbone="mobilenet_v3_large", hidden=16),
    "small resnet": SmallResNet,
    "resnet18": partial(PretrainedNetwork, backbone="resnet18"),
    "vgg16": partial(PretrainedNetwork, backbone="vgg16"),
}
# Stated for the last map before global pooling by Araujo, Norris and Sim 2019 ("Computing receptive fields of
# convolutional neural networks", Distill): MobileNetV1 315, VGG-16 212. The others by the same arithmetic elsewhere.
FIELDS = {"v1": (315, 32), "v2": (491, 32), "resnet18": (435, 32), "vgg16": (212, 32), "lenet5": (16, 4)}


def shown(name: str, side: int = 64) -> NetworkSummary:
    return summarize(NETWORKS[name](5, 1, side), (1, side, side))


def field(layer: Layer) -> tuple[int, int] | None:
    assert layer.receptive_field is not None
    return layer.receptive_field.field


@pytest.mark.parametrize("name", NETWORKS)
def test_counts_and_sizes_agree_with_torch(name: str) -> None:
    network = NETWORKS[name](5, 1, 64).eval()
    whole = summarize(network, (1, 64, 64))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        logits = network(torch.zeros(1, 1, 64, 64))
    assert sum(layer.multiply_adds for layer in whole.layers) == counter.get_total_flops() / 2 > 0
    assert sum(layer.parameters for layer in whole.layers) == sum(p.numel() for p in network.parameters())
    assert (whole.parameters_elsewhere, whole.multiply_adds_elsewhere) == (0, 0)
    windows = [layer for layer in whole.layers if layer.window is not None]
    assert all(layer.agrees and layer.expected is not None for layer in windows)
    assert len(windows) >= 4
    assert whole.layers[-1].output == tuple(logits.shape[1:])


@pytest.mark.parametrize("name", FIELDS)
def test_receptive_fields_are_the_published_ones(name: str) -> None:
    maps = [layer for layer in shown(name).layers if len(layer.output) == 3 and field(layer) is not None]
    side, jump = FIELDS[name]
    assert maps[-1].receptive_field is not None
    assert (maps[-1].receptive_field.field, maps[-1].receptive_field.jump) == ((side, side), (jump, jump))


def test_published_sizes_of_whole_networks() -> None:
    """VGG-16: 138,357,544 parameters, 15.47 billion multiply-adds; ResNet-18: 11,689,512 and 1.81 billion."""
    vgg, resnet = (summarize(get_model(name, weights=None), (3, 224, 224)) for name in ("vgg16", "resnet18"))
    assert (vgg.parameters, round(vgg.multiply_adds / 1e9, 2)) == (138_357_544, 15.47)
    assert (resnet.parameters, round(resnet.multiply_adds / 1e9, 2)) == (11_689_512, 1.81)
    sums = [layer for layer in resnet.layers if layer.kind == "add"]
    assert len(sums) == 8
    assert sums[0].name == "layer1.0"


class Branches(nn.Module):
    """A strided stem, then a long and a short way that are added, of odd kernels and dilation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 2, (3, 5), stride=2, padding=1)
        self.long = nn.Sequential(nn.Conv2d(2, 2, 3, padding=2, dilation=2), nn.AvgPool2d(3, stride=1, padding=1))
        self.short = nn.Conv2d(2, 2, 1)
        self.end = nn.AvgPool2d(2, ceil_mode=True)

    def forward(self, images: Tensor) -> Tensor:
        stem = self.stem(images)
        result: Tensor = self.end(self.long(stem) + self.short(stem))
        return result


def test_a_field_is_where_the_gradient_is() -> None:
    network = Branches().double()
    for parameter in network.parameters():
        nn.init.ones_(parameter)  # nothing cancels
    image = torch.rand(1, 1, 41, 41, dtype=torch.float64, requires_grad=True)
    made = network(image)
    made[0, 0, made.shape[2] // 2, made.shape[3] // 2].backward()
    assert image.grad is not None
    seen = image.grad[0, 0] != 0
    last = summarize(network, (1, 41, 41)).layers[-1]
    assert last.agrees
    assert field(last) == (int(seen.any(dim=1).sum()), int(seen.any(dim=0).sum())) == (17, 19)


def test_a_gate_sees_the_whole_image_beside_its_window() -> None:
    layers = {(layer.name, layer.kind): layer.receptive_field for layer in shown("v3 middle").layers}
    before, pool = layers["features.1.block.0.0", "Conv2d"], layers["features.1.block.1.avgpool", "AdaptiveAvgPool2d"]
    after = layers["features.1.block.1", "mul"]
    assert before is not None and pool is not None and after is not None  # noqa: PT018 (for the type checker)
    assert (before.field, before.whole) == ((7, 7), False)
    assert (pool.field, pool.whole) == (None, True)
    assert (after.field, after.whole) == ((7, 7), True)


class Padded(nn.Conv2d):
    """Pads by itself, which its arguments do not say."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(nn.functional.pad(images, (1, 1, 1, 1)))


class PaddedNetwork(nn.Sequential):
    """A network by import path."""

    def __init__(self, num_classes: int, in_channels: int, image_size: int) -> None:
        linear = nn.Linear(2 * image_size**2, num_classes)
        super().__init__(Padded(in_channels, 2, 3), nn.Flatten(), linear)


class Attention(nn.Module):
    """Parameters and products of matrices that belong to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, images: Tensor) -> Tensor:
        tokens = images.flatten(2).transpose(1, 2)
        result: Tensor = self.attention(tokens, tokens, tokens)[0].mean(dim=1)
        return result


def test_what_no_layer_holds_is_told() -> None:
    whole = summarize(Attention(), (8, 4, 4))
    assert whole.parameters == 4 * 8 * 8 + 4 * 8
    assert whole.parameters_elsewhere > 0
    # Three projections, one out, and two products of 16 tokens with 16.
    assert whole.multiply_adds == 4 * 16 * 8 * 8 + 2 * 16 * 16 * 8


def test_a_network_is_left_as_it_was() -> None:
    network = NETWORKS["v1"](5, 1, 32)
    network.eval()
    network.get_submodule("features.1").train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    summarize(network, (1, 32, 32))
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_an_image_it_cannot_take_is_told() -> None:
    with pytest.raises(InputError, match="Sequential cannot take an image of 1×8×8"):
        summarize(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), (1, 8, 8))


def test_separable_savings_are_those_of_the_paper() -> None:
    pairs = shown("v1").separable()
    assert len(pairs) == 13
    for pair in pairs:
        n = pair.pointwise.output[0]
        assert pair.ratio == pytest.approx(1 / n + 1 / 9)
        spent = pair.depthwise.multiply_adds + pair.pointwise.multiply_adds
        assert spent == pair.weights * pair.positions
    # MobileNetV3: the two small convolutions of each gate, between depthwise and 1×1, are passed over.
    names = [(pair.depthwise.name, pair.pointwise.name) for pair in shown("v3 middle").separable()]
    assert names[0] == ("features.1.block.0.0", "features.1.block.2.0")
    assert len(names) == 11
    assert shown("resnet18").separable() == []


@pytest.fixture
def config(tmp_path: Path, class_folders: Path) -> Path:
    return write_config(tmp_path, class_folders)


def test_summary_of_a_config(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "layers.csv"
    assert main(["summary", "--config", str(config), "--data.image_size", "17", "--csv", str(table)]) == 0
    said = capsys.readouterr().out
    assert "tiny.yaml: CompactCNN, 3 classes, an image of 1×17×17" in said
    assert "⌊(W - K + 2P) / S⌋ + 1 = ⌊(17 - 3 + 2 · 1) / 1⌋ + 1 = 17" in said
    assert "K · K · C · N + N = 3 · 3 · 1 · 12 + 12 = 120" in said
    assert f"K · K · C · N · H · W = 3 · 3 · 1 · 12 · 17 · 17 = {3 * 3 * 12 * 17 * 17:,}" in said
    assert "depthwise separable convolutions: none" in said
    assert "DISAGREES" not in said
    assert not (tmp_path / "runs").exists()
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows[:3]] == ["Conv2d", "ReLU", "MaxPool2d"]
    assert rows[2]["output"] == "12×8×8"  # ⌊(17 - 2) / 2⌋ + 1
    assert rows[2]["output_by_formula"] == "8×8"
    assert [row["receptive_field"] for row in rows[:4]] == ["3×3", "3×3", "4×4", "8×8"]
    assert [row["sees_whole_image"] for row in rows[-2:]] == ["true", "true"]
    total = sum(int(row["parameters"]) for row in rows)
    assert f"parameters     {total:,};" in said


def test_weights_are_neither_read_nor_downloaded(class_folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data.root", str(class_folders), "--data.image_size", "32", "--model.weights", "/nowhere/weights.pth"]
    assert main(["summary", "--config", "folder_mobilenet.yaml", *words]) == 0
    said = capsys.readouterr().out
    assert "PretrainedNetwork, 3 classes" in said
    assert "31*" in said
    assert "times as many" in said


def test_a_disagreement_shows(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = f"{PaddedNetwork.__module__}.PaddedNetwork"
    assert main(["summary", "--config", str(config), "--model.network", network]) == 0
    assert "DISAGREES      0: 16×16 came out, the formula gives 14×14" in capsys.readouterr().out


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    pictures = write_class_folders(folder / "images", 12)
    words = ["--trainer.max_epochs", "1", "--trainer.logger", "false"]
    assert main(["fit", "--config", str(write_config(folder, pictures)), *words]) == 0
    (run,) = (folder / "runs" / "tiny").iterdir()
    # What a run folder has to say needs no data any more.
    pictures.rename(folder / "moved away")
    return run


def test_summary_of_a_run_needs_no_data(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", str(run_folder)]) == 0
    assert f"tiny/{run_folder.name}: CompactCNN, 3 classes, an image of 1×16×16" in capsys.readouterr().out


def test_compare(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "networks.csv"
    words = ["neu_depthwise.yaml", "--image-size", "32", "--turns", "2", "--csv", str(table), "--data.image_size", "48"]
    assert main(["summary", "compare", str(run_folder), *words]) == 0
    said = capsys.readouterr().out
    assert "median of 2 passes" in said
    assert "threads:" in said
    with table.open(encoding="utf-8", newline="") as file:
        rows = {row["network"]: row for row in csv.DictReader(file)}
    mine = rows[f"tiny/{run_folder.name}"]
    assert mine["n"] == "7"
    assert 0 <= float(mine["accuracy"]) <= 1
    assert rows["neu_depthwise.yaml"]["image"] == "1×48×48"
    others = [row for name, row in rows.items() if name != f"tiny/{run_folder.name}"]
    assert {row["accuracy"] for row in others} == {""}, "no accuracy where nothing was tested"
    assert {row["image"] for row in others[1:]} == {"1×32×32"}
    assert {row["classes"] for row in others[1:]} == {"3"}
    assert {"SimpleDefectCNN", "LeNet-5", "MobileNetV1", "MobileNetV2", "VGG-16", "ResNet-18"} <= set(rows)
    assert all(0 < float(row["latency_p10_ms"]) <= float(row["latency_median_ms"]) for row in rows.values())


def test_a_well_known_network_is_not_there_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--data.image_size", "32", "--turns", "1", "--csv", str(tmp_path / "t.csv")]
    assert main(["summary", "compare", "neu_simple_cnn.yaml", *small]) == 0
    said = capsys.readouterr().out
    assert "neu_simple_cnn.yaml" in said
    assert "│ SimpleDefectCNN" not in said
    assert "│ LeNet-5" in said


def test_the_seeds_of_a_program_are_one_row(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "mnist-cnn"
    accuracies = [0.9, 0.94]
    for seed, accuracy in enumerate(accuracies):
        shutil.copytree(run_folder, program / f"seed-{seed}")
        metrics = RunFolder(program / f"seed-{seed}").read_metrics()
        RunFolder(program / f"seed-{seed}").write_metrics(
            {**metrics, "test": {**metrics["test"], "accuracy": accuracy}}
        )
    (program / "seed-2").mkdir()  # that is still at work
    table = tmp_path / "networks.csv"
    assert main(["summary", "compare", str(program), "--image-size", "32", "--turns", "1", "--csv", str(table)]) == 0
    with table.open(encoding="utf-8", newline="") as file:
        row = next(csv.DictReader(file))
    assert (row["network"], row["runs"], row["n"]) == ("mnist-cnn, 2 seeds", "2", "7")
    assert float(row["accuracy"]) == pytest.approx(0.92)
    assert float(row["sd"]) == pytest.approx(0.04 / 2**0.5)
    assert "92.00 ± 2.83% of 7" in capsys.readouterr().out


def test_networks_take_turns() -> None:
    order: list[str] = []

    class Named(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, images: Tensor) -> Tensor:
            order.append(self.name)
            return images

    seconds = latencies([Named("a"), Named("b")], [(1, 4, 4), (1, 8, 8)], turns=2)
    assert order == ["a", "b"] * (len(order) // 2)
    assert [len(times) for times in seconds] == [2, 2]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "summary needs one of two"),
        (["nowhere", "--config", "neu_mobilenet.yaml"], "summary needs one of two"),
        (["nowhere"], "run folder nowhere does not exist"),
        (["nowhere.yaml"], "no config nowhere.yaml"),
        (["--config", "neu_mobilenet.yaml", "--csv", "."], ". is a folder"),
        (["--config", "neu_mobilenet.yaml", "--data.nonsense", "1"], "nonsense"),
        (["neu_mobilenet.ckpt", "--data.image_size", "64"], "has its settings already"),
        (["compare", "--turns", "0"], "turns is 0"),
        (["compare", "--data.image_size", "9"], "unrecognized arguments"),
        (["compare", "--image-size", "8"], "image_size is 8"),
    ],
)
def test_bad_input(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", *words]) == 1
    error = capsys.readouterr().err
    assert told in error
    assert len(error.strip().splitlines()) == 1
