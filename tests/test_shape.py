"""Images of any shape: canvases, how images are fitted to them, and what `auto` makes of a set."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from helpers import read, refusal, write_config
from PIL import Image

from defectlab.cli.main import main
from defectlab.data import ImageFolderDataModule, MNISTDataModule, NEUDataModule
from defectlab.data.pipeline.fitting import FitChoice, Fitting, choose_fitting
from defectlab.data.sources.decode import decode
from defectlab.data.sources.opening import peek
from defectlab.networks import CompactCNN, LeNet5, PretrainedNetwork, SimpleDefectCNN, SmallResNet
from defectlab.networks.base import build_network
from defectlab.utils.card import DataCard
from defectlab.utils.image_format import ImageFormat, Placement, Tiles

HEIGHT, WIDTH = 24, 64


def write_strips(root: Path, shape: tuple[int, int] = (HEIGHT, WIDTH), per_class: int = 8) -> Path:
    """Two classes: noise, and noise with a dark square."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(("good", "hole")):
        (root / name).mkdir(parents=True)
        for index in range(per_class):
            pixels = rng.normal(120, 10, shape)
            y, x = (int(rng.integers(side - 5)) for side in shape)
            pixels[y : y + 6, x : x + 6] -= 90 * label
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / name / f"{index}.png")
    return root


def square_of(path: Path, shape: tuple[int, int]) -> Path:
    """A grey ramp to the right, brighter by 2 a pixel."""
    Image.fromarray(np.broadcast_to(np.arange(shape[1]) * 2, shape).astype(np.uint8)).save(path)
    return path


def formatted(size: Any = (8, 8), **rest: Any) -> ImageFormat:
    return ImageFormat(image_size=size, channels=1, **rest)


def pixels(path: Path, **wanted: Any) -> npt.NDArray[np.uint8]:
    plane: npt.NDArray[np.uint8] = decode(path, formatted(**wanted))[0]
    return plane


# Sizes


def test_a_square_pair_is_its_side() -> None:
    assert formatted([8, 8]) == formatted(8)
    assert formatted([8, 8]).image_size == 8
    assert formatted([8, 16]).shape == (1, 8, 16)


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "8", None, [8], [8, 8, 8], [0, 8], [8, 1.5], 2**14 + 1])
def test_sizes_that_are_none(size: Any) -> None:
    refusal(lambda: formatted(size), "image_size is", "[height, width]")
    refusal(lambda: ImageFolderDataModule("x", image_size=size), "data.image_size is")


def test_arguments_of_another_fit() -> None:
    refusal(lambda: formatted(fit="stretch", scale=1.0), "expected pad")
    refusal(lambda: formatted(fit="pad", scale=0.0), "scale is 0.0")
    refusal(lambda: formatted(fit="pad", pad_value=256), "pad_value is 256")
    refusal(lambda: formatted(fit="fill"), "fit is 'fill'")
    refusal(lambda: ImageFolderDataModule("x", fit="fill"), "data.fit is 'fill'")  # type: ignore[arg-type]
    refusal(lambda: ImageFolderDataModule("x", fit="crop", scale=1.0), "data.scale")
    refusal(lambda: ImageFolderDataModule("x", fit="pad", tiles=Tiles(8)), "data.tiles")
    for size, overlap in ((0, 0), (8, 8), (8, -1), (2.5, 0)):
        refusal(lambda size=size, overlap=overlap: Tiles(size, overlap), "tiles.")  # type: ignore[misc]


# One image


@pytest.mark.parametrize(
    ("wanted", "shape", "place"),
    [
        (formatted((8, 16)), (5, 50), (8, 16, 0, 0)),
        (formatted((8, 16), fit="pad"), (4, 16), (4, 16, 2, 0)),
        (formatted((8, 16), fit="pad"), (2, 2), (8, 8, 0, 4)),  # as large as it goes
        (formatted((8, 16), fit="pad", scale=1.0), (2, 2), (2, 2, 3, 7)),
        (formatted((8, 16), fit="pad", scale=1.0), (16, 16), (8, 8, 0, 4)),  # it sticks out, and is made to fit
        (formatted((8, 16), fit="pad", scale=0.5), (1, 4000), (1, 16, 4, 0)),
        (formatted((8, 16), fit="crop"), (8, 32), (8, 32, 0, -8)),
        (formatted((8, 16), fit="crop"), (4, 4), (16, 16, -4, 0)),
        (formatted(8, resize_size=10), (20, 40), (10, 20, -1, -6)),
    ],
)
def test_where_an_image_comes_to_lie(wanted: ImageFormat, shape: tuple[int, int], place: Placement) -> None:
    assert wanted.placement(*shape) == place


def test_pixels_of_every_fit(tmp_path: Path) -> None:
    path = square_of(tmp_path / "ramp.png", (4, 8))
    ramp = np.arange(8) * 2
    assert (pixels(path, size=(4, 8)) == ramp).all()
    padded = pixels(path, size=(4, 12), fit="pad", scale=1.0)
    assert padded[0].tolist() == [2, 0, *ramp.tolist(), 14, 12]
    far = pixels(path, size=(4, 40), fit="pad", scale=1.0)[0]  # mirrored again and again
    assert far[:24].tolist() == [*ramp, *ramp[::-1], *ramp]
    filled = pixels(path, size=(6, 8), fit="pad", scale=1.0, pad_value=77)
    assert (filled[[0, -1]] == 77).all()
    assert (filled[1:-1] == ramp).all()
    assert (pixels(path, size=(4, 4), fit="crop") == ramp[2:6]).all()


def test_an_upright_image_is_fitted(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90°
    for suffix in ("jpg", "png", "tif"):
        path = tmp_path / f"a.{suffix}"
        Image.new("L", (400, 100), 50).save(path, exif=exif)
        assert peek(path).shape == (400, 100), suffix
        padded = pixels(path, size=(40, 40), fit="pad", pad_value=200)
        assert (padded[:, 15:25] == 50).all()
        assert (padded[:, :14] == 200).all()


def test_a_large_jpeg_is_placed_by_its_own_size(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(np.tile(np.repeat([0, 255], 400).astype(np.uint8), (300, 1))).save(path)
    padded = pixels(path, size=(30, 40), fit="pad", scale=0.05, pad_value=100)
    assert (padded[8:22, 1:18] < 3).all()
    assert (padded[8:22, 22:39] > 252).all()
    assert (padded[:7] == 100).all()


# Sets


def chosen(
    shapes: list[tuple[int, int]], size: Any = "auto", fit: FitChoice = "auto", tiles: Tiles | None = None
) -> Fitting:
    return choose_fitting(np.array(shapes), size, fit, formatted(1), tiles)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (chosen([(200, 200)] * 9), ("stretch", 128, None)),
        (chosen([(200, 230)] * 9), ("stretch", 128, None)),
        (chosen([(200, 200)] * 9, 64), ("stretch", 64, None)),
        (chosen([(100, 100), (400, 400)] * 9), ("tiles", 400, 1.0)),
        (chosen([(400, 400)] * 9), ("tiles", 400, 1.0)),
        (chosen([(40, 90)] * 9), ("pad", (40, 90), 1.0)),
        (chosen([(100, 100), (400, 400)] * 9, 64), ("stretch", 64, None)),
        (chosen([(300, 400)] * 9), ("tiles", (300, 400), 1.0)),
        (chosen([(300, 400)] * 9, 150), ("tiles", (150, 200), 0.5)),
        (chosen([(3000, 4000)] * 9), ("tiles", (554, 739), (256 * 1600 / 12e6) ** 0.5)),
        (chosen([(256, 1600)] * 9), ("tiles", (256, 1600), 1.0)),
        (chosen([(512, 3200)] * 9), ("tiles", (256, 1600), 0.5)),
        (chosen([(512, 3200)] * 9, fit="tiles"), ("tiles", (512, 3200), 1.0)),
        (chosen([(256, 1600)] * 9, 128), ("tiles", (128, 800), 0.5)),
        (chosen([(256, 1600)] * 9, 128, fit="pad"), ("pad", 128, 0.08)),
        (chosen([(256, 1600)] * 9, (128, 800)), ("stretch", (128, 800), None)),
        (chosen([(256, 1600)] * 9, fit="crop"), ("crop", (256, 1600), None)),
        (chosen([(256, 1600)] * 9, fit="stretch"), ("stretch", 128, None)),
        (chosen([(1, 4000)] * 9), ("pad", (1, 4000), 1.0)),
        (chosen([(40, 50)] * 9, 80, fit="pad"), ("pad", 80, 1.6)),  # a set that is smaller as a whole
    ],
)
def test_what_auto_comes_to(found: Fitting, expected: tuple[Any, ...]) -> None:
    fit, size, scale = expected
    wanted = found.image_format
    assert (wanted.fit if found.tiles is None else "tiles", wanted.image_size) == (fit, size)
    assert wanted.scale == (None if scale is None else pytest.approx(scale))
    assert found.tiles is None or wanted.fit == "pad"


def test_tiles_of_a_set() -> None:
    assert chosen([(256, 1600)] * 9).tiles == Tiles(64, 32)
    assert chosen([(40, 700)] * 9, fit="tiles").tiles == Tiles(40, 20)
    assert chosen([(200, 200)] * 9, tiles=Tiles(100, 5)).tiles == Tiles(100, 5)
    assert chosen([(200, 200)] * 9, fit="pad").tiles is None
    refusal(lambda: chosen([(200, 900)] * 9, tiles=Tiles(201)), "data.tiles.size is 201", "at most 200")


def test_auto_of_folders_and_arrays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    data = ImageFolderDataModule(str(write_strips(tmp_path / "strips")), channels=1)
    assert (data.image_size, data.fit, data.image_format.scale) == ((HEIGHT, WIDTH), "pad", 1.0)
    data.prepare_data()
    data.setup()
    assert data.pixels("train").shape[1:] == (1, HEIGHT, WIDTH)
    (line,) = [record.message for record in caplog.records if "data.fit" in record.message]
    assert "images of 24 × 64 px: 24 × 64 px by pad at a scale of 1 (" in line
    assert data.describe()["image_size"] == [HEIGHT, WIDTH]
    assert DataCard.from_dict(dataclasses.asdict(data.card)) == data.card
    assert data.card.fit == "pad"

    np.save(tmp_path / "x.npy", np.zeros((9, 20, 30), np.uint8) + np.arange(9, dtype=np.uint8)[:, None, None])
    np.save(tmp_path / "y.npy", np.arange(9) % 3)
    (tmp_path / "arrays").mkdir()
    for name in "xy":
        (tmp_path / f"{name}.npy").rename(tmp_path / "arrays" / f"{name}.npy")
    arrays = ImageFolderDataModule(str(tmp_path / "arrays"), channels=1)
    assert (arrays.image_size, arrays.fit) == ((20, 30), "pad")


def test_a_pixel_is_as_long_in_every_image(tmp_path: Path) -> None:
    """An image that comes alone, as in prediction, is placed as the set's were."""
    root = write_strips(tmp_path / "set", (30, 48), per_class=20)
    Image.fromarray(np.full((10, 16), 99, np.uint8)).save(root / "good" / "0.png")
    data = ImageFolderDataModule(str(root), image_size=15, channels=1)
    data.setup()
    assert (data.card.image_size, data.card.fit, data.card.scale) == ((15, 24), "pad", 0.5)
    alone = decode(root / "good" / "0.png", data.card)
    assert data.card.placement(10, 16) == (5, 8, 5, 8)
    index = data.data.files.index("good/0.png")
    assert (data.data.images[index].numpy() == alone).all()


def test_a_stretch_that_distorts_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = str(write_strips(tmp_path / "strips"))
    for fit, told in (("stretch", True), ("pad", False), ("crop", False)):
        caplog.clear()
        ImageFolderDataModule(root, 32, 1, fit=fit).prepare_data()  # type: ignore[arg-type]
        assert any("2.7 times" in record.message for record in caplog.records) == told
    caplog.clear()
    ImageFolderDataModule(root, (12, 32), 1, fit="stretch").prepare_data()
    assert not caplog.records


def test_generated_squares_are_stretched() -> None:
    data = NEUDataModule(source="synthetic", synthetic_per_class=6, image_size=(50, 60), val_size=6)
    data.setup()
    assert data.data.images.shape == (36, 1, 50, 60)
    assert data.data.aspects is not None
    assert data.data.aspects.tolist() == [1.0] * 36


def test_auto_is_for_folders(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="image_size is 'auto'"):
        MNISTDataModule(str(tmp_path), image_size="auto")  # type: ignore[arg-type]


# Networks


@pytest.mark.parametrize("network", [CompactCNN, SimpleDefectCNN, LeNet5, SmallResNet, PretrainedNetwork])
def test_networks_take_rectangles(network: Any) -> None:
    built = build_network(network, 3, 1, (HEIGHT, WIDTH))
    assert built.image_size == (HEIGHT, WIDTH)
    assert built.eval()(torch.zeros(2, 1, HEIGHT, WIDTH)).shape == (2, 3)
    assert network(3, 1, (32, 32)).image_size == 32


def test_the_shorter_side_has_to_do() -> None:
    refusal(lambda: LeNet5(2, 1, (11, 64)), "at least 12 pixels")


def test_a_scaler_has_the_shape_of_the_images() -> None:
    network = CompactCNN(2, 1, (HEIGHT, WIDTH))
    assert network.standardise_pixels().mean.shape == (1, HEIGHT, WIDTH)
    assert network(torch.zeros(1, 1, HEIGHT, WIDTH)).shape == (1, 2)


# The front door


def test_fit_and_test_of_strips(tmp_path: Path) -> None:
    config = write_config(tmp_path, write_strips(tmp_path / "strips"))
    words = ["fit", "--config", str(config), "--trainer.max_epochs=1", "--data.val_size=4", "--data.test_size=4"]
    assert main([*words, "--data.image_size", "[12,32]", "--data.fit", "pad"]) == 0
    assert main([*words, "--data.image_size", "auto"]) == 0
    first, second = sorted((tmp_path / "runs" / "tiny").iterdir())
    assert (read(first)["data"]["image_size"], read(first)["data"]["fit"]) == ([12, 32], "pad")
    assert read(second)["data"]["image_size"] == [HEIGHT, WIDTH]
    saved = (second / "config.yaml").read_text()
    assert "fit: pad" in saved
    assert "scale: 1.0" in saved
    before = read(second)["test"]
    assert main(["test", str(second)]) == 0
    assert read(second)["test"]["loss"] == before["loss"]


def test_a_run_of_before_is_stretched_as_then(tmp_path: Path) -> None:
    config = write_config(tmp_path, write_strips(tmp_path / "strips"))
    words = ["fit", "--config", str(config), "--trainer.max_epochs=1", "--data.val_size=4", "--data.test_size=4"]
    assert main([*words, "--data.fit", "stretch"]) == 0
    (run,) = (tmp_path / "runs" / "tiny").iterdir()
    saved = run / "config.yaml"
    keys = ("fit", "scale", "pad_value", "tiles")
    lines = [line for line in saved.read_text().split("\n") if line.strip().partition(":")[0] not in keys]
    saved.write_text("\n".join(lines))
    before = read(run)["test"]
    assert main(["test", str(run)]) == 0
    assert read(run)["data"]["image_size"] == 16
    assert read(run)["test"]["loss"] == before["loss"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data.image_size", "0"], "data.image_size is 0"),
        (["--data.image_size", "-8"], "data.image_size is -8"),
        (["--data.image_size", "8.5"], "data.image_size is 8.5"),
        (["--data.image_size", "[1,2,3]"], "data.image_size is"),
        (["--data.image_size", "[0,8]"], "data.image_size is"),
        (["--data.fit", "tiles"], "SmallCNNTask has no use for tiles"),
        (["--data.fit", "letterbox"], "data.fit is letterbox"),
        (["--data.tiles.size", "0"], "tiles.size is 0"),
        (["--data.tiles.size", "65"], "data.tiles.size is 65"),
        (["--data.tiles.size", "8", "--data.tiles.overlap", "8"], "tiles.overlap is 8"),
        (["--data.fit", "pad", "--data.scale", "-1"], "scale is -1"),
    ],
)
def test_bad_input(words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path, write_strips(tmp_path / "strips", per_class=2))
    assert main(["fit", "--config", str(config), *words]) == 1
    complaint = capsys.readouterr().err
    assert said in complaint.splitlines()[-1]
    assert not (tmp_path / "runs").exists()
