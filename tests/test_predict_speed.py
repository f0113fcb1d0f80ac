"""What makes a prediction fast: no import that it does not need, and one image in a straight line of operators."""

import copy
import csv
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import refusal
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import defectlab as dl
from defectlab.cli.main import main
from defectlab.deploy.benchmark import BenchmarkRow
from defectlab.inference.network import InferenceNetwork
from defectlab.inference.predictor import Predictor, load
from defectlab.inference.straight import straight_line
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
from defectlab.networks.backbones import BACKBONES, Backbone
from defectlab.tasks.tta import Views
from defectlab.utils import _compat
from defectlab.utils.resources import shipped_files
from defectlab.utils.turns import in_turns

SHIPPED = "neu_mobilenet.ckpt"
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    **{f"{b}-last": partial(PretrainedNetwork, backbone=b) for b in BACKBONES},
    "middle": partial(PretrainedNetwork, stages="middle", hidden=8),
    "stem": partial(PretrainedNetwork, backbone="resnet18", stages=[0, 1, 4]),  # reads what comes before BatchNorm
    **{cls.__name__: cls for cls in (BipyramidalCNN, CompactCNN, LabCNN, LeNet5, MobileNetV1, SimpleDefectCNN, SmallResNet)},
}  # fmt: skip


def trained(network: nn.Module) -> nn.Module:
    """Set the statistics of BatchNorm to others than 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-0.1, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return network.eval()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 60), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    return tmp_path / "one.png"


def test_a_prediction_imports_nothing_that_it_does_not_need(image: Path) -> None:
    code = (
        "import sys; from defectlab.cli.main import main; status = main(sys.argv[1:]); heavy = {'torch._dynamo', 'sympy', "
        "'torchvision', 'lightning', 'torchmetrics', 'matplotlib', 'scipy', 'rich.console'}; print(status, sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "predict", SHIPPED, str(image)], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "0 []"


def test_the_program_ends_with_its_status_and_all_that_it_wrote(image: Path, tmp_path: Path) -> None:
    def status(*words: str) -> tuple[int, str, str]:
        done = subprocess.run([sys.executable, "-m", "defectlab", *words], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    output = tmp_path / "out.csv"
    code, said, _ = status("predict", SHIPPED, str(image), "--output", str(output))
    assert (code, said.splitlines()[0].startswith("1 images")) == (0, True)
    assert len(output.read_text(encoding="utf-8").splitlines()) == 2
    image.write_bytes(b"no image")
    code, _, told = status("predict", SHIPPED, str(image))
    assert code == 1
    assert told.splitlines()[-1].startswith("defectlab: error: ")


@pytest.mark.parametrize("backbone", BACKBONES)
def test_networks_are_the_same_without_the_rest_of_torchvision(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision

    built = []
    for alone in (False, True):
        with monkeypatch.context() as patch:
            if alone:
                patch.delitem(sys.modules, "torchvision")
            torch.manual_seed(0)
            built.append(PretrainedNetwork(3, 1, 32, backbone=backbone))
    assert sys.modules["torchvision"] is torchvision
    ordinary, light = built
    alone_in = [any("_torchvision" in type(module).__module__ for module in each.modules()) for each in built]
    assert alone_in == [False, backbone != "vgg16"]  # whose layers are torch's
    assert str(light) == str(ordinary)
    for name, tensor in ordinary.state_dict().items():
        assert torch.equal(light.state_dict()[name], tensor), name


def test_torchvision_is_imported_as_usual_where_its_files_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    monkeypatch.delitem(sys.modules, "torchvision")
    monkeypatch.setitem(sys.modules, "defectlab.utils._torchvision", None)  # its import fails
    assert _compat.torchvision_models() is torchvision.models


@pytest.mark.parametrize("name", NETWORKS)
def test_a_straight_line_is_the_network(name: str) -> None:
    network = trained(NETWORKS[name](3, 1, 32))
    images = torch.rand(2, 1, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        line = straight_line(network, images[0])
        assert line is not None
        for each in images:
            torch.testing.assert_close(line(each), network(each), rtol=0, atol=2e-5)
            torch.testing.assert_close(line(each), line(each), rtol=0, atol=0)  # it keeps nothing


def test_batch_norm_is_folded_where_nobody_else_reads_the_convolution() -> None:
    class Net(nn.Module):
        def __init__(self, twice: bool) -> None:
            super().__init__()
            self.convolution, self.norm, self.twice = nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), twice

        def forward(self, images: Tensor) -> Tensor:
            maps = self.convolution(images)
            normed = self.norm(maps)
            found: Tensor = normed + maps if self.twice else normed
            return found.mean(dim=(2, 3))

    images = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for twice in (False, True):
            network = trained(Net(twice))
            line = straight_line(network, images)
            assert line is not None
            assert ("batch_norm" in line.__self__.code) == twice  # type: ignore[attr-defined]
            torch.testing.assert_close(line(images), network(images), rtol=0, atol=1e-5)


def test_what_is_no_straight_line() -> None:
    def two(images: Tensor) -> Tensor:
        return torch.cat(images.flatten(1).chunk(2, dim=1))

    def written(images: Tensor) -> Tensor:
        images = images.flatten(1) * 2
        images[:, 0] = 0
        return images

    def by_value(images: Tensor) -> Tensor:
        flat = images.flatten(1)
        return flat if float(flat[0, 0]) < float(flat[0, -1]) else -flat

    images = torch.linspace(0, 1, 16).view(1, 1, 4, 4)
    with torch.inference_mode():
        for forward in (two, written, by_value):
            assert straight_line(forward, images) is None
        assert straight_line(lambda images: F.relu(images).flatten(1), images) is not None


@pytest.mark.parametrize("tta", ["none", "flip", "dihedral", "shift"])
def test_one_image_alone_and_among_others(tta: Views, image: Path) -> None:
    model = load(SHIPPED, "cpu")
    first = model.tasks[0]
    assert isinstance(first, InferenceNetwork)
    first.tta = tta
    pixels = np.asarray(Image.open(image))
    other = image.with_name("other.png")
    Image.fromarray(255 - np.asarray(Image.open(image))).save(other)
    several = model([image, other]).probabilities
    assert len(several) == 2
    for one in (image, pixels):
        found = model(one)
        assert len(found) == 1
        np.testing.assert_allclose(found.probabilities[0], several[0], rtol=0, atol=1e-6)
    assert len(model.lines) == 1
    pair = Predictor("pair", (first, copy.deepcopy(first)), (model.card, model.card))
    np.testing.assert_allclose(pair(image).probabilities, found.probabilities, rtol=0, atol=1e-6)
    assert len(pair.lines) == 2


def test_calls_are_measured_in_turns() -> None:
    order: list[str] = []

    def measure(name: str) -> int:
        order.append(name)
        return len(order)

    found = in_turns([partial(measure, "a"), partial(measure, "b")], turns=2)
    assert order == ["a", "b"] * (len(order) // 2)
    assert found == [[len(order) - 3, len(order) - 1], [len(order) - 2, len(order)]]


def test_a_benchmark_has_a_row_for_each_kind_of_call(tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    rows = dl.benchmark(SHIPPED, batch=(1, 3), threads=(2,), turns=3, output=table)
    assert [(row.batch, row.source) for row in rows] == [(1, "file"), (1, "array"), (3, "file"), (3, "array")]
    size = shipped_files(SHIPPED)[0].stat().st_size / 1e6
    for row in rows:
        assert (row.subject, row.format, row.threads, row.ratio) == (SHIPPED, "torch", 2, 1)
        assert 0 < row.low_ms <= row.median_ms <= row.high_ms
        assert row.start_s > 0
        assert row.start_cpu_s > 0
        assert row.size_mb == size
        assert (row.peak_mb is not None and row.peak_mb > 50) or sys.platform != "linux"
        parts = (row.decode_ms, row.resize_ms, row.network_ms, row.rest_ms)
        assert all((part is not None and part >= 0) == ((row.batch, row.source) == (1, "file")) for part in parts)
    with table.open(newline="", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    assert list(written[0]) == [field.name for field in fields(BenchmarkRow)]
    assert [float(line["median_ms"]) for line in written] == [row.median_ms for row in rows]


def test_an_exported_folder_beside_a_checkpoint(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    folder, table = pytest.importorskip("test_runtime").export(tmp_path / "exported"), tmp_path / "rows.csv"
    words = [SHIPPED, str(folder), "--images", str(image), "--turns", "2", "--output", str(table)]
    assert main(["benchmark", *words]) == 0
    assert "onnx" in capsys.readouterr().out
    with table.open(newline="", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    assert [line["format"] for line in written] == ["torch", "torch", "onnx", "onnx"]
    assert [line["ratio"] == "1.0" for line in written] == [True, True, False, False]
    peaks = [float(line["peak_mb"] or 0) for line in written]
    assert peaks[2] <= peaks[0] / 2  # its process has no torch


@pytest.mark.parametrize(
    ("content", "told"),
    [("raise ImportError", "is not installed"), ("import os; os._exit(3)", "ended, with status 3")],
)
def test_a_runtime_that_is_missing_or_dies(
    content: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pytest.importorskip("test_runtime").export(tmp_path / "exported")
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "onnxruntime.py").write_text(content, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path / "first")
    refusal(lambda: dl.benchmark(folder), str(folder), told)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "subjects"),
        (["nowhere"], "nowhere"),
        (["."], "card.json"),
        ([SHIPPED, "--batch", "0"], "batch is 0"),
        ([SHIPPED, "--threads", "1", "0"], "threads is 0"),
        ([SHIPPED, "--turns", "0"], "turns is 0"),
        ([SHIPPED, "--images", "no.png"], "no.png"),
        ([SHIPPED, "--output", "."], ". is a folder"),
    ],
)
def test_what_cannot_be_measured(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["benchmark", *words]) == 1
    error = capsys.readouterr().err
    assert told in error
    assert len(error.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
    refusal(lambda: dl.benchmark([]), "nothing to measure")
