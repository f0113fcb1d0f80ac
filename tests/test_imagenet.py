"""torchvision's ImageNet classifiers before any training; the classes of an image in the terminal and as a figure."""

import csv
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.datasets
import torch
from conftest import striped
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torchvision.models import get_model, get_model_weights

from defectlab.cli.bars import answer_lines, bar_lines
from defectlab.cli.main import main
from defectlab.data.sources.decode import decode
from defectlab.data.sources.reading import read_images
from defectlab.explain.answers import Answer, probabilities_figure
from defectlab.inference.predictor import load
from defectlab.networks.backbones import BACKBONES
from defectlab.runs import read_prediction_table
from defectlab.tasks.imagenet import load_imagenet_classifier
from defectlab.utils.image_format import ImageFormat
from defectlab.utils.text import percent

CATEGORIES = get_model_weights("mobilenet_v2").DEFAULT.meta["categories"]
Refused = Callable[..., str]


def random_state(backbone: str) -> dict[str, Tensor]:
    """Weights of torchvision's network, each row the one before it moved by one, so that VGG-16 takes no space."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in get_model(backbone, weights=None).state_dict().items()}
    state = {}
    for key, shape in shapes.items():
        if not shape:
            state[key] = torch.tensor(0)
        elif "running_" in key:
            state[key] = torch.full(shape, 1.0 if "var" in key else 0.0)
        else:
            inputs = shape[1:].numel()
            numbers = torch.randn(shape[0] + inputs, generator=generator) * (2 / inputs) ** 0.5
            state[key] = (
                numbers.as_strided((shape[0], inputs), (1, 1)).reshape(shape) if len(shape) > 1 else 1 + numbers[1:] / 9
            )
    return state


def reference(backbone: str, state: dict[str, Tensor]) -> torch.nn.Module:
    with torch.device("meta"):
        network: torch.nn.Module = get_model(backbone, weights=None)
    network.load_state_dict(state, assign=True)
    return network.eval()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torchvision's cache, which holds nothing, where nothing can be downloaded from."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def keep(cache: Path, backbone: str) -> Path:
    """Random weights under the name that torchvision's have in its cache."""
    path = cache / Path(get_model_weights(backbone).DEFAULT.url).name
    torch.save(random_state(backbone), path)
    return path


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A colour image that is not square."""
    path = tmp_path / "photo.png"
    Image.fromarray(colourful(90, 61)).save(path)
    return path


def colourful(width: int, height: int) -> Any:
    pixels = np.random.default_rng(width * height).integers(0, 256, (max(2, height // 9), max(2, width // 9), 3))
    return np.asarray(Image.fromarray(pixels.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that has to fail; gives its one line."""

    def run(*words: str) -> str:
        capsys.readouterr()
        assert main(words) == 1
        # torch.hub says on standard error what it is about to download.
        said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("Downloading")]
        assert len(said) == 1, said
        return said[0]

    return run


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_network_gives_what_torchvision_gives(backbone: str, cache: Path, photo: Path, tmp_path: Path) -> None:
    state = random_state(backbone)
    preset = get_model_weights(backbone).DEFAULT.transforms()
    with torch.no_grad(), Image.open(photo) as image:
        images = torch.stack([preset(image), preset(image.rotate(90))])
        # Probabilities that differ, and by no more than rounding if logits do.
        last = [key for key in state if key.endswith("weight")][-1]
        state[last] = state[last] / reference(backbone, state)(images).std()
        expected, other = reference(backbone, state)(images).softmax(dim=1)
    assert (expected - other).abs().max() > 1e-4, "these weights tell images apart"
    torch.save(state, cache / Path(get_model_weights(backbone).DEFAULT.url).name)
    out = tmp_path / "out.csv"
    assert main(["predict", f"imagenet/{backbone}", str(photo), "--output", str(out), "--device", "cpu"]) == 0
    table = read_prediction_table(out)
    assert table.class_names == CATEGORIES
    np.testing.assert_allclose(table.probabilities[0], expected, atol=2e-6)


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "resnet18"])  # resized to 232 and 256 px
@pytest.mark.parametrize("size", [(300, 500), (501, 299), (224, 224), (256, 256), (37, 40), (1, 9), (640, 233)])
def test_preprocessing_equals_torchvisions(backbone: str, size: tuple[int, int], cache: Path, tmp_path: Path) -> None:
    preset = get_model_weights(backbone).DEFAULT.transforms()
    Image.fromarray(colourful(*size)).save(tmp_path / "image.jpg", quality=90)
    keep(cache, backbone)
    _, card = load_imagenet_classifier(backbone)
    pixels, _, _ = read_images([tmp_path / "image.jpg"], card)
    with Image.open(tmp_path / "image.jpg") as image:
        expected = preset(image)[None]
    assert torch.equal((card.denormalise(expected) * 255).round().to(torch.uint8), pixels)
    torch.testing.assert_close(card.normalise(pixels), expected, rtol=0, atol=1e-5)


def test_images_of_every_mode(cache: Path, tmp_path: Path) -> None:
    """Grey, 16-bit, palette and transparent versions of an image are the same image."""
    grey = np.asarray(Image.fromarray(colourful(80, 60)).convert("L"))
    versions = {
        "grey": Image.fromarray(grey),
        "deep": Image.fromarray(grey.astype(np.uint16) * 257),
        "palette": Image.fromarray(grey).convert("P"),
        "rgba": Image.fromarray(grey).convert("RGBA"),
    }
    for name, image in versions.items():
        image.save(tmp_path / f"{name}.png")
    keep(cache, "mobilenet_v3_small")
    predictor = load("imagenet/mobilenet_v3_small", "cpu")
    pixels, _, _ = read_images([tmp_path / f"{name}.png" for name in versions], predictor.card)
    assert pixels.shape == (4, 3, 224, 224)
    assert (pixels == pixels[:1]).all()


def test_a_crop_has_a_cache_of_its_own(photo: Path, tmp_path: Path) -> None:
    for _ in range(2):
        for resize_size in (None, 8):
            wanted = ImageFormat(image_size=6, channels=1, resize_size=resize_size)
            read, _, _ = read_images([photo], wanted, cache=tmp_path / "pixels")
            np.testing.assert_array_equal(read[0], decode(photo, wanted))


def test_several_images_and_folders(cache: Path, photo: Path, tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for index in range(3):
        Image.fromarray(striped(index, 0)).save(folder / f"{index}.png")
    keep(cache, "mobilenet_v3_small")
    figure = tmp_path / "made" / "sheet.png"
    words = [str(photo), str(folder), "--figure", str(figure)]
    assert main(["predict", "imagenet/mobilenet_v3_small", *words]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["file", "class", "probability"]
    assert [line.split()[0] for line in lines[:4]] == [*(str(folder / f"{i}.png") for i in range(3)), str(photo)]
    with Image.open(figure) as image:
        assert image.width > image.height > 400
    assert [path.name for path in figure.parent.iterdir()] == ["sheet.png"]


def test_one_image_prints_the_likeliest(cache: Path, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(cache, "mobilenet_v2")
    assert main(["predict", "imagenet/mobilenet_v2", str(photo)]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert len(lines) == 7
    assert lines[0].startswith(str(photo))
    assert lines[-1] == "the 5 likeliest of 1000 classes"
    assert said.err == ""


def test_explain_shows_an_untouched_network(
    cache: Path, photo: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    keep(cache, "mobilenet_v3_small")
    assert main(["explain", "imagenet/mobilenet_v3_small", str(photo)]) == 0
    made = {path.name for path in (tmp_path / "explain").iterdir() if path.suffix != ".0"}
    sheets = {"attribution.png", "feature_maps.png", "filters.png", "probabilities.png", "explain.html"}
    assert {name for name in made if not name.startswith("events")} == sheets
    assert "has no images of its own" in refused("explain", "imagenet/mobilenet_v3_small")
    assert "run folder" in refused("explain", "imagenet/mobilenet_v3_small", str(photo), "--boxes", str(tmp_path))
    assert "leave it out" in refused("explain", "imagenet/mobilenet_v3_small", str(photo), "--data.root", "x")


def test_names_that_mean_no_network(photo: Path, refused: Refused) -> None:
    assert "did you mean imagenet/mobilenet_v2?" in refused("predict", "imagenet/mobilnet_v2", str(photo))
    assert "did you mean imagenet/vgg16?" in refused("explain", "imagenet/VGG16", str(photo))
    for name in ("imagenet/foo", "imagenet/", "imagenet"):
        assert "expected one of mobilenet_v2" in refused("predict", name, str(photo))
    assert "did you mean imagenet/resnet18" in refused("predict", "resnet18", str(photo))
    assert "expected a run folder" in refused("export", "imagenet/resnet18", "--output", "x.ckpt")


def test_weights_that_cannot_be_used(
    cache: Path, photo: Path, tmp_path: Path, finished: Path, refused: Refused
) -> None:
    def predict(backbone: str, *words: str) -> str:
        return refused("predict", f"imagenet/{backbone}", str(photo), *words)

    name = Path(get_model_weights("resnet18").DEFAULT.url).name
    missing = predict("resnet18")
    assert f"put {name} from https://" in missing
    assert str(cache) in missing
    assert "--weights" in missing
    resnet = keep(cache, "resnet18")
    assert "name imagenet/resnet18" in predict("mobilenet_v2", "--weights", str(resnet))
    features = {key: value for key, value in random_state("mobilenet_v2").items() if key.startswith("features")}
    torch.save(features, tmp_path / "features.pth")
    assert "its classifier included" in predict("mobilenet_v2", "--weights", str(tmp_path / "features.pth"))
    torch.save(random_state("resnet18") | {"fc.bias": torch.full((1000,), torch.nan)}, tmp_path / "nan.pth")
    assert "no finite numbers" in predict("resnet18", "--weights", str(tmp_path / "nan.pth"))
    torch.save([1, 2], tmp_path / "list.pth")
    assert "absent in the file" in predict("resnet18", "--weights", str(tmp_path / "list.pth"))
    assert "no such file" in predict("resnet18", "--weights", str(tmp_path / "none.pth"))
    resnet.write_bytes(resnet.read_bytes()[:1000])
    assert "is damaged" in predict("resnet18", "--weights", str(resnet))
    assert "delete it to download it anew" in predict("resnet18")
    assert "leave it out" in refused("predict", str(finished), str(photo), "--weights", str(resnet))
    assert "leave it out" in refused("explain", str(finished), str(photo), "--weights", str(resnet))
    assert "max_error needs a run folder" in predict("resnet18", "--max-error", "0.1")
    assert "sets needs a run folder" in predict("resnet18", "--sets", "0.9")


def test_weights_from_a_file(cache: Path, photo: Path, tmp_path: Path) -> None:
    """Wrapped and in half precision; one under torchvision's older name wants another size before the crop."""
    state = {f"module.{key}": value.half() for key, value in random_state("mobilenet_v2").items() if value.ndim}
    torch.save({"state_dict": state}, tmp_path / "mine.pth")
    task, card = load_imagenet_classifier("mobilenet_v2", tmp_path / "mine.pth")
    assert next(task.parameters()).dtype == torch.float32
    assert (card.resize_size, card.image_size, card.channels) == (232, 224, 3)
    older = tmp_path / Path(get_model_weights("mobilenet_v2").IMAGENET1K_V1.url).name
    torch.save(random_state("mobilenet_v2"), older)
    assert load_imagenet_classifier("mobilenet_v2", older)[1].resize_size == 256


def test_a_run_prints_every_class(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = finished.parents[2] / "images"
    words = ["predict", str(finished), str(pictures / "hole" / "0.png")]
    figure = tmp_path / "answer.png"
    assert main([*words, "--figure", str(figure), "--sets", "0.5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split()[0] for line in lines[1:4]) == ["good", "hole", "scratch"]
    assert lines[4].startswith("set: ")
    assert figure.stat().st_size > 0
    out = tmp_path / "out.csv"
    assert main([*words, "--output", str(out)]) == 0
    assert capsys.readouterr().out.startswith("1 images -> ")
    (row,) = csv.DictReader(io.StringIO(out.read_text(encoding="utf-8")))
    assert list(row) == ["file", "predicted", "confidence", "p_good", "p_hole", "p_scratch"]


def test_a_terminal_without_blocks(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = finished.parents[2] / "images"
    strange = pictures.parent / "schräg\n.png"
    Image.fromarray(striped(0, 0)).save(strange)
    for images in ([strange], [strange, pictures]):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
        assert main(["predict", str(finished), *map(str, images)]) == 0
        sys.stdout.flush()
        said = raw.getvalue().decode("ascii")
        assert "schr?g?.png" in said
        assert ("#" in said) == (len(images) == 1)


def test_figures_that_cannot_be_drawn(finished: Path, tmp_path: Path, refused: Refused) -> None:
    pictures = finished.parents[2] / "images"
    image = pictures / "good" / "0.png"

    def predict(*words: object) -> str:
        return refused("predict", str(finished), str(image), *map(str, words))

    (tmp_path / "a.png").mkdir()
    assert "a.png is a folder" in predict("--figure", tmp_path / "a.png")
    assert ".png file" in predict("--figure", tmp_path / "a.jpg")
    assert "CSV file" in predict("--output", tmp_path / "b.png")
    assert "is a folder" in predict("--output", tmp_path)
    before = image.read_bytes()
    assert "one of the images" in predict("--figure", image)
    assert image.read_bytes() == before
    assert "at most 12 images, and 36" in predict(pictures, "--figure", tmp_path / "b.png")
    assert "cannot be written" in predict("--figure", image / "b.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_bars() -> None:
    shares = np.array([0.1, 0.8, 0.0999, 0.0001])
    lines = bar_lines(shares, ["one", "two", "three", "a name of four words"], 60, "utf-8")
    assert [line.rsplit(maxsplit=1)[1] for line in lines] == ["80.0%", "10.0%", "10.0%", "<0.1%"]
    assert all(len(line) <= 60 for line in lines)
    assert lines[3].startswith("a name of four words")
    assert lines[0].count("█") == int(0.8 * (60 - 20 - 11))
    assert "█" not in "".join(bar_lines(shares, list("abcd"), 60, "cp1252"))
    assert len(bar_lines(shares, ["x" * 90, *"abc"], 20, "utf-8")[0]) > 90, "names are not cut"
    many = [str(index) for index in range(21)]
    assert len(bar_lines(np.full(20, 0.05), many[:20], 60, "utf-8")) == 20
    assert bar_lines(np.full(21, 1 / 21), many, 60, "utf-8")[-1] == "the 5 likeliest of 21 classes"
    assert [percent(share) for share in (0.0, 0.0004, 0.9999, 1.0)] == ["0.0%", "<0.1%", ">99.9%", "100.0%"]
    assert answer_lines({"file": ["a", "bcdef"], "class": ["x", "y"]}, "utf-8") == [
        "file   class",
        "a      x",
        "bcdef  y",
    ]


def drawn(figure: Figure) -> list[int]:
    return [len(axes.patches) for axes in figure.axes if axes.patches]


@pytest.mark.parametrize(("classes", "bars"), [(2, 2), (6, 6), (10, 10), (11, 5), (1000, 5)])
def test_a_figure_draws_every_bar_of_up_to_ten_classes(classes: int, bars: int) -> None:
    shares = np.linspace(1, 2, classes) / np.linspace(1, 2, classes).sum()
    answers = [Answer(np.zeros((1, 4, 4), dtype=np.uint8), "a.png", shares, label) for label in (0, None)]
    names = [f"class {index}" for index in range(classes)]
    for count in (1, 2):
        figure = probabilities_figure(answers[:count], names)
        assert drawn(figure) == [bars] * count
        labels = [text.get_text() for text in figure.axes[1].get_yticklabels()]
        assert "class 0" in labels, "the true class"


@pytest.mark.realdata
def test_mobilenet_v2_knows_a_palace(real_data: Path, tmp_path: Path) -> None:
    weights = real_data / "weights" / "mobilenet_v2_imagenet.pth"
    if not weights.is_file():
        pytest.skip(f"no {weights}")
    with Image.open(Path(sklearn.datasets.__file__).parent / "images" / "china.jpg") as image:
        colour = image.convert("RGB")
    grey = np.asarray(colour.convert("L"))
    versions = {
        "colour": colour, "grey": Image.fromarray(grey), "deep": Image.fromarray(grey.astype(np.uint16) * 257),
        "rgba": colour.convert("RGBA"), "palette": colour.convert("P"),
    }  # fmt: skip
    for name, version in versions.items():
        version.save(tmp_path / f"{name}.png")
    out = tmp_path / "out.csv"
    words = ["--weights", str(weights), "--output", str(out)]
    assert (
        main(["predict", "imagenet/mobilenet_v2", *(str(tmp_path / f"{name}.png") for name in versions), *words]) == 0
    )
    table = read_prediction_table(out)
    assert table.class_names == CATEGORIES
    assert [table.class_names[index] for index in table.predicted] == ["palace"] * len(versions)
    np.testing.assert_allclose(table.probabilities.sum(axis=1), 1, atol=1e-3)
