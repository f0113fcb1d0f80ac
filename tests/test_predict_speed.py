"""What makes a prediction fast: no import that it does not need, and one image in a straight line of operators."""

import copy
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

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
    assert type(light.features[-1]).__module__ == type(ordinary.features[-1]).__module__ or "_torchvision" in str(
        type(light.features[-1])
    )
    assert str(light) == str(ordinary)
    for name, tensor in ordinary.state_dict().items():
        assert torch.equal(light.state_dict()[name], tensor), name


def test_torchvision_is_imported_as_usual_where_its_files_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    monkeypatch.delitem(sys.modules, "torchvision")
    monkeypatch.setitem(sys.modules, "defectlab.utils._torchvision", None)  # its import fails
    for name in [name for name in sys.modules if name.startswith("defectlab.utils._torchvision.")]:
        monkeypatch.delitem(sys.modules, name)
    assert _compat.torchvision_models("vgg") is torchvision.models


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
    several = model([image, image]).probabilities
    for one in (image, pixels):
        found = model(one)
        assert len(found) == 1
        np.testing.assert_allclose(found.probabilities[0], several[0], rtol=0, atol=1e-6)
    assert len(model.lines) == 1
    pair = Predictor("pair", (first, copy.deepcopy(first)), (model.card, model.card))
    np.testing.assert_allclose(pair(image).probabilities, found.probabilities, rtol=0, atol=1e-6)
    assert len(pair.lines) == 2
