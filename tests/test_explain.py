"""Looking into networks: the command on a run, a checkpoint and images, and its figures one by one."""

import base64
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import striped, write_class_folders
from helpers import write_config
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from defectlab.cli.main import main
from defectlab.errors import InputError
from defectlab.explain import embedding
from defectlab.explain.activations import choose_images, collect_activations
from defectlab.explain.answers import Answer
from defectlab.explain.embedding import add_projector, principal_components
from defectlab.explain.feature_maps import feature_maps_figure
from defectlab.explain.filters import filters_figure
from defectlab.explain.kernels import KERNELS, apply_kernel, kernels_figure, parse_kernel
from defectlab.explain.layers import convolution, feature_maps
from defectlab.explain.run import explain
from defectlab.explain.units import choose_units
from defectlab.networks import (
    BipyramidalCNN,
    CompactCNN,
    LabCNN,
    LeNet5,
    MobileNetV1,
    Network,
    PretrainedNetwork,
    SimpleDefectCNN,
)
from defectlab.runs import read_scalars
from defectlab.utils.image_format import sides

OF_IMAGES = {"probabilities.png", "filters.png", "feature_maps.png", "attribution.png"}
OF_TESTS = {"units.png", "neighbours.png", "embedding.png"}
OTHERS = {"explain.html", "projector_config.pbtxt", "00000"}
NETWORKS: dict[str, Callable[[], Network]] = {
    "simple": lambda: SimpleDefectCNN(3, 1, 32),
    "lenet": lambda: LeNet5(3, 1, 32),
    "lab": lambda: LabCNN(3, 1, 32),
    "compact": lambda: CompactCNN(3, 1, 32),
    "bipyramidal": lambda: BipyramidalCNN(3, 1, 32, channels=4, norm="batch", dropout=0.5),
    "mobilenet_v1": lambda: MobileNetV1(3, 1, 64),
    "mobilenet_v2": lambda: PretrainedNetwork(3, 1, 32, "mobilenet_v2", width=0.35, stages="last", hidden=8),
    "mobilenet_v3": lambda: PretrainedNetwork(3, 1, 64, "mobilenet_v3_small", stages="middle"),
    "resnet18": lambda: PretrainedNetwork(3, 1, 32, "resnet18"),
    "vgg16": lambda: PretrainedNetwork(3, 1, 32, "vgg16"),
}


class NoConvolution(nn.Module):
    """One linear layer."""

    def __init__(self, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits


class Pair(nn.Module):
    """Two convolutions for another module to call."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3)
        self.second = nn.Conv2d(4, 2, 3)


class Wrapped(nn.Module):
    """Layers inside a module of its own, one of them called twice, and no linear one."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Pair()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.relu(self.inner.second(self.relu(self.inner.first(images))))
        mean: Tensor = maps.mean(dim=(2, 3))
        return mean


def fit(folder: Path, pictures: Path, *words: str) -> Path:
    assert main(["fit", "--config", str(write_config(folder, pictures)), *words]) == 0
    (run,) = (folder / "runs" / "tiny").iterdir()
    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests write into its explain folder alone."""
    folder = tmp_path_factory.mktemp("finished")
    return fit(folder, write_class_folders(folder / "images", 12))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def events_of(folder: Path) -> list[Path]:
    return list(folder.glob("events.out.tfevents.*"))


def pictures_in(page: str) -> list[bytes]:
    return [base64.b64decode(code) for code in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]


def test_explain_returns_what_is_on_the_page(finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = explain(str(finished), output=str(tmp_path / "out"))
    assert list(found.sheets) == [
        "probabilities",
        "filters",
        "feature_maps",
        "attribution",
        "units",
        "neighbours",
        "embedding",
    ]
    assert found.page == tmp_path / "out" / "explain.html"
    assert f"<h1>tiny/{finished.name}</h1>" in found.page.read_text(encoding="utf-8")
    assert found.probabilities.shape == (len(found.files), 3)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1)
    assert found.class_names == ("good", "hole", "scratch")
    assert found.pointing is None
    assert capfd.readouterr().out == ""


def test_a_run_explained(finished: Path, tmp_path: Path) -> None:
    before, losses = contents(finished), read_scalars(finished, "train/loss_step")
    target = finished / "explain"
    target.mkdir()
    (target / "notes.txt").write_text("mine", encoding="utf-8")
    assert main(["explain", str(finished)]) == 0
    names = {path.name for path in target.iterdir()}
    (events,) = events_of(target)
    assert names == OF_IMAGES | OF_TESTS | OTHERS | {"notes.txt", events.name}
    page = (target / "explain.html").read_text(encoding="utf-8")
    order = ["probabilities", "filters", "feature_maps", "attribution", "units", "neighbours", "embedding"]
    assert pictures_in(page) == [(target / f"{name}.png").read_bytes() for name in order]
    assert "<script" not in page
    assert f"<h1>tiny/{finished.name}</h1>" in page
    assert f"<title>tiny/{finished.name}: " in page
    assert "http" not in page
    # The run's own files, and what TensorBoard reads from them, are as they were.
    assert contents(finished) == before
    assert read_scalars(finished, "train/loss_step") == losses

    shown = EventAccumulator(str(target))
    shown.Reload()
    assert set(shown.Tags()["images"]) == {f"explain/{name}" for name in order}
    header, *rows = (target / "00000/test_images/metadata.tsv").read_text(encoding="utf-8").splitlines()
    assert header.split("\t") == ["class", "predicted", "verdict", "confidence", "file"]
    assert len(rows) == 7  # the test images
    for row in rows:
        label, predicted, verdict, _, file = row.split("\t")
        assert label == Path(file).parent.name
        assert verdict == ("right" if label == predicted else "wrong")
    points = (target / "00000/test_images/tensors.tsv").read_text(encoding="utf-8").splitlines()
    assert [len(point.split("\t")) for point in points] == [64] * 7  # what CompactCNN's last layer takes in
    with Image.open(target / "00000/test_images/sprite.png") as sprite:
        assert sprite.size == (3 * 16, 3 * 16)

    # Again: the same images, and nothing piles up.
    first = contents(target)
    assert main(["explain", str(finished)]) == 0
    second = contents(target)
    assert {name: second[name] for name in first if name != events.name} == {
        name: first[name] for name in first if name != events.name
    }
    assert len(events_of(target)) == 1
    # Images that were named, into another folder.
    some = [str(path) for path in sorted((finished.parents[2] / "images" / "hole").glob("*.png"))[:2]]
    assert main(["explain", str(finished), *some, "--output", str(tmp_path / "out"), "--layer", "features.3"]) == 0
    assert (tmp_path / "out" / "units.png").read_bytes() != first["units.png"]
    assert contents(target) == second


def test_a_checkpoint_needs_pictures_and_has_no_tests(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    best = str(finished / "checkpoints" / "best.ckpt")
    assert main(["explain", best]) == 1
    assert "give a run folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    target = tmp_path / "explain"
    assert main(["explain", str(finished), "--output", str(target)]) == 0
    assert (target / "units.png").is_file()
    Image.fromarray(striped(1, 99)).save("new.png")
    assert main(["explain", best, "new.png"]) == 0
    assert "left out" in capsys.readouterr().out
    # What the run had shown there, and this does not, is gone.
    assert {path.name for path in target.glob("*.png")} == OF_IMAGES
    page = (target / "explain.html").read_text(encoding="utf-8")
    assert len(pictures_in(page)) == 4
    assert "A checkpoint alone has no test images" in page


def test_the_shipped_classifier_on_a_picture(tmp_path: Path) -> None:
    Image.fromarray(striped(2, 0, 64)).save(tmp_path / "strip.png")
    assert main(["explain", "neu_mobilenet.ckpt", str(tmp_path), "--output", str(tmp_path / "out")]) == 0
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == OF_IMAGES


def test_colour_and_a_network_without_convolutions(tmp_path: Path, class_folders: Path) -> None:
    run = fit(
        tmp_path, class_folders, "--data.channels", "3", "--trainer.max_epochs", "1",
        "--model.network", f"{__name__}.NoConvolution",
    )  # fmt: skip
    moved = class_folders.rename(tmp_path / "moved")
    assert main(["explain", str(run)]) == 1  # the images are no longer there
    assert not (run / "explain").exists()
    assert main(["explain", str(run), "--data.root", str(moved)]) == 0
    assert {path.name for path in (run / "explain").glob("*.png")} == {
        "probabilities.png", "attribution.png", "neighbours.png", "embedding.png",
    }  # fmt: skip
    assert "filters are left out" in (run / "explain" / "explain.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--layer", "features.1"],
            "--layer features.1 is no convolution of the network: expected one of features.0, features.3",
        ),
        (["--layer", "xyz"], "--layer xyz is no convolution"),
        (["nowhere.png"], "nowhere.png: no such file"),
        (["--output", "FILE"], "expected a folder"),
        (["--output", "FILE/inside"], "expected a folder"),
    ],
)
def test_what_explain_refuses(
    finished: Path, tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    words = [word.replace("FILE", str(file)) for word in words]
    target = [] if "--output" in words else ["--output", str(tmp_path / "out")]
    assert main(["explain", str(finished), *words, *target]) == 1
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_can_be_looked_into(name: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    images = torch.randn(3, 1, *sides(network.image_size))
    modules = dict(network.named_modules())
    layers = feature_maps(network, images[:1])
    assert all(layer.name in modules and layer.maps.ndim == 3 for layer in layers)
    # The first maps are what the first convolution alone makes of the image.
    first, layer = convolution(network)
    with torch.inference_mode():
        assert np.allclose(layers[0].maps, layer(images[:1])[0], atol=1e-4)
    assert layers[0].name == first
    figure = feature_maps_figure(striped(0, 0, 16)[None], layers, name)
    assert any(layers[-1].name == text.get_text() for text in figure.axes[0].texts)  # also where layers are left out
    found = collect_activations(network, [images[:2], images[2:]], 3, layers[-1].name)
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    with torch.inference_mode():
        logits = network(images)
        again = last(torch.from_numpy(found.embedding))
    assert np.allclose(found.probabilities, logits.softmax(dim=1), atol=1e-5)
    assert torch.allclose(again, logits, atol=1e-4)  # so the embedding is what the last layer takes in
    assert np.allclose(found.peaks[0], layers[-1].maps.max(axis=(1, 2)), atol=1e-4)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_layers_inside_a_module_in_place_and_called_twice() -> None:
    torch.manual_seed(0)
    network = Wrapped().eval()
    layers = feature_maps(network, torch.randn(1, 1, 12, 12))
    assert [layer.name for layer in layers] == ["inner.first", "relu", "inner.second", "relu"]
    assert layers[0].maps.min() < 0  # ReLU in place has not written over it
    assert np.array_equal(layers[1].maps, layers[0].maps.clip(min=0))
    found = collect_activations(network, [torch.randn(5, 1, 12, 12)], 5, "inner.second")
    assert found.embedding.shape == (5, 2)  # no linear layer: the logits


def test_units_find_the_place_of_their_pattern() -> None:
    layer = nn.Conv2d(1, 3, 1, bias=False)
    network = nn.Sequential(layer, nn.ReLU(), nn.Flatten(), nn.Linear(3 * 100, 2)).eval()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, -1.0, 0.0]).view(3, 1, 1, 1))  # bright, dark, nothing
    images = torch.zeros(4, 1, 10, 10)
    images[1, 0, 7, 2] = 5.0
    images[3, 0, 0, 9] = -3.0
    found = collect_activations(network, torch.split(images, 3), 4, "1")
    assert found.peaks[:, 0].argmax() == 1
    assert found.places[1, 0] == pytest.approx([0.25, 0.75])
    assert found.peaks[:, 1].argmax() == 3
    assert found.places[3, 1] == pytest.approx([0.95, 0.05])
    assert choose_units(found.peaks, np.array([2, 0, 2, 1])) == [(0, 0), (1, 1)]  # the silent one is none to show
    with pytest.raises(InputError, match="count is 5: found 4"):
        collect_activations(network, [images], 5, "1")


def test_images_are_chosen_by_class_and_confidence() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    sure = np.array([0.5, 0.9, 0.7, 0.6, 0.8, 0.95])
    predicted = np.array([0, 0, 0, 1, 0, 1])  # 4 and 5 are mistakes, of class 2 nothing is right
    assert choose_images(labels, predicted == labels, sure) == [2, 3, 5, 4]
    assert choose_images(labels, predicted == labels, sure, most_right=1, most_wrong=1) == [2, 5]
    assert len(choose_images(np.arange(30), np.ones(30, bool), np.ones(30))) == 8


@pytest.mark.parametrize("shape", [(40, 6), (6, 40), (1, 5)])
def test_principal_components_are_those_of_the_svd(shape: tuple[int, int]) -> None:
    points = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    scores, share = principal_components(points, 2)
    centred = points - points.mean(axis=0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    expected = (left * singular)[:, :2]
    assert np.allclose(np.abs(scores), np.abs(expected), atol=1e-3)
    if shape[0] > 1:
        assert share == pytest.approx((singular[:2] ** 2).sum() / (singular**2).sum(), abs=1e-4)


def test_embedding_tells_many_classes_apart() -> None:
    for classes in (10, 102):
        labels = np.arange(3 * classes) % classes
        points = np.random.default_rng(0).normal(size=(len(labels), 4)).astype(np.float32)
        names = [f"_{index}" for index in range(classes)]  # matplotlib would leave such names out of a legend
        (axes,) = embedding.embedding_figure(points, labels, labels > 0, names).axes
        assert len({str(shown.get_facecolor()) for shown in axes.collections[:classes]}) == classes
        legend = axes.get_legend()
        assert legend is not None
        assert [text.get_text() for text in legend.get_texts()] == [*names, "mistaken"]


def test_the_sprite_stays_within_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "_SPRITE", 64)
    monkeypatch.setattr(embedding, "_DIMENSIONS", 8)
    images = torch.zeros(30, 1, 24, 24, dtype=torch.uint8)
    images[17] = 255
    points = np.random.default_rng(0).normal(size=(30, 20)).astype(np.float32)
    with SummaryWriter(str(tmp_path)) as writer:
        add_projector(writer, points, images, ["class", "file"], [["a\tb", f"{i}.png"] for i in range(30)])
    with Image.open(tmp_path / "00000/test_images/sprite.png") as sprite:
        assert sprite.size == (60, 60)  # 6 × 6 of 10 px, not of 24
        pixels = np.asarray(sprite.convert("L"))
    assert (pixels[20:30, 50:60] == 255).all()  # the 18th of 6 a row
    assert pixels.sum() == 100 * 255
    config = (tmp_path / "projector_config.pbtxt").read_text(encoding="utf-8")
    assert config.count("single_image_dim: 10") == 2
    paths = re.findall(r'_path: "(.+)"', config)
    assert len(paths) == 3
    assert all((tmp_path / path).is_file() for path in paths)
    lines = (tmp_path / "00000/test_images/metadata.tsv").read_text(encoding="utf-8").splitlines()
    assert lines[1] == "a b\t0.png"
    values = (tmp_path / "00000/test_images/tensors.tsv").read_text(encoding="utf-8").splitlines()
    assert {len(line.split("\t")) for line in values} == {8}


@pytest.mark.parametrize(
    ("layer", "tiles", "said"),
    [
        (nn.Conv2d(1, 6, 5), 6, "6 filters of 1 × 5 × 5"),
        (nn.Conv2d(3, 100, 3), 64, "the first 64"),
        (nn.Conv2d(16, 16, 3, groups=16), 16, "16 filters of 1 × 3 × 3"),
        (nn.Conv2d(20, 30, 3), 120, "12 filters, 10 inputs of each"),
        (nn.Conv2d(40, 10, 1), 1, "10 filters of 40 × 1 × 1"),
    ],
)
def test_filters_of_every_kind(layer: nn.Conv2d, tiles: int, said: str) -> None:
    figure = filters_figure(layer, "conv")
    (axes,) = figure.axes
    assert len(axes.images) == tiles
    assert said in axes.texts[0].get_text()


def test_an_answer_says_what_is_known() -> None:
    image, shares = np.zeros((1, 4, 4), dtype=np.uint8), np.array([0.1, 0.9])
    names = ["good", "hole"]
    assert Answer(image, "a.png", shares, None).verdict(names) == ["predicted hole", "90.0%"]
    assert Answer(image, "a.png", shares, 1).verdict(names)[-1] == "right"
    assert Answer(image, "a.png", shares, 0).verdict(names)[-1] == "is good"


def test_kernels_are_what_a_convolution_layer_computes() -> None:
    image = striped(1, 0, 20)[:, :15] / 255
    for kernel in [*KERNELS, parse_kernel("[[1, 2, 0.5], [0, 0, -1], [1e-1, 3, 7]]"), parse_kernel("[[1,0,-1]]")]:
        weights = torch.from_numpy(kernel.weights)[None, None]
        expected = nn.functional.conv2d(torch.from_numpy(image)[None, None], weights)[0, 0]
        assert np.allclose(apply_kernel(image, kernel), expected)
    by_name = {kernel.name: kernel for kernel in KERNELS}
    assert set(by_name) == {
        "identity", "edge", "sharpen", "emboss", "box blur", "Gaussian blur", "Sobel x", "Sobel y", "Laplacian",
    }  # fmt: skip
    flat = np.full((9, 9), 0.4)
    for kernel in KERNELS:  # brightness stays, or nothing is left of it
        assert np.allclose(apply_kernel(flat, kernel), 0.4 if kernel.keeps_brightness else 0)
    assert sum(kernel.keeps_brightness for kernel in KERNELS) == 5


def test_kernels_say_what_was_clipped() -> None:
    image = np.zeros((9, 9), dtype=np.uint8)
    image[4, 4] = 255
    figure = kernels_figure(image, [next(kernel for kernel in KERNELS if kernel.name == "sharpen")])
    said = "\n".join(text.get_text() for text in figure.texts)
    assert "7 × 7 px" in said
    assert "from -1.00 to 5.00" in said
    assert f"{5 / 49:.1%} clipped" in said


def test_kernels_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # 16 bits, not square, as a camera gives it
    pixels = (striped(0, 0, 40)[:, :30].astype(np.uint16) * 257).astype(np.uint16)
    Image.fromarray(pixels).save(tmp_path / "strip.png")
    out = tmp_path / "made" / "kernels.png"
    assert main(["explain", "kernels", str(tmp_path / "strip.png"), "--output", str(out)]) == 0
    assert "9 kernels" in capsys.readouterr().out
    with Image.open(out) as sheet:
        assert sheet.width > sheet.height > 500
    words = ["--kernel", "[[1,0,-1],[1,0,-1],[1,0,-1]]", "--kernel", "[[5]]", "--output", str(out)]
    assert main(["explain", "kernels", str(tmp_path / "strip.png"), *words]) == 0
    assert "2 kernels" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        ("[[1,0],[0,1]]", "--kernel is 2 × 2: expected odd sides"),
        ("[[1,0,1]", "cannot be read"),
        ("[[1,0,1],[1,0]]", "rows of 3, 2 numbers"),
        ("[1,0,1]", "no list of rows"),
        ("[]", "no list of rows"),
        ("[[]]", "no list of rows"),
        ('{"a": 1}', "no list of rows"),
        ('[["x",0,1]]', 'holds "x", which is not a finite number'),
        ("[[NaN,0,1]]", "holds NaN"),
        ("[[1e999,0,1]]", "holds Infinity"),
        ("[[true,0,1]]", "holds true"),
        ("[[1,0,-1,0,0,0,0,0,0,0,0]]", "is 1 × 11, the image 10 × 10"),
    ],
)
def test_bad_kernels_end_in_one_line(
    tmp_path: Path, kernel: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(striped(0, 0, 10)).save(tmp_path / "a.png")
    out = tmp_path / "out.png"
    assert main(["explain", "kernels", str(tmp_path / "a.png"), "--kernel", kernel, "--output", str(out)]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_kernels_refuse_what_is_no_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").write_text("text", encoding="utf-8")
    assert main(["explain", "kernels", str(tmp_path / "a.png"), "--output", str(tmp_path / "out.png")]) == 1
    assert "not an image" in capsys.readouterr().err
    assert main(["explain", "kernels", str(tmp_path / "a.png"), "--output", str(tmp_path)]) == 1
    assert ".png file" in capsys.readouterr().err
