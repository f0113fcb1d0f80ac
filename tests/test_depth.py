"""Bit depths, levels, pages, transparency and channels: read rightly, or refused in one line."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SIDE, striped
from helpers import read, refusal, write_config
from PIL import Image

import defectlab as dl
from defectlab.cli.main import main
from defectlab.data import ImageFolderDataModule
from defectlab.data.sources.decode import decode
from defectlab.data.sources.levels import BadImage
from defectlab.inference.predictions import Predictions
from defectlab.utils.card import DataCard
from defectlab.utils.image_format import ImageFormat

NAMES = ("good", "hole", "scratch")
FORMAT = ImageFormat(image_size=SIDE, channels=1)


def folder(root: Path, **arguments: Any) -> ImageFolderDataModule:
    """Set up."""
    module = ImageFolderDataModule(str(root), **{"image_size": SIDE, "channels": 1, **arguments})
    module.setup()
    return module


def write_set(root: Path, save: Callable[[Path, np.ndarray], object], suffix: str = ".tif") -> Path:
    """Twelve images a class, of values from 0 to 1, by `save`."""
    for label, name in enumerate(NAMES):
        (root / name).mkdir(parents=True)
        for index in range(12):
            save(root / name / f"{index}{suffix}", striped(label, index).astype(np.float64) / 255)
    return root


def as_type(dtype: str, white: float, black: float = 0.0) -> Callable[[Path, np.ndarray], object]:
    """Save with these levels."""
    return lambda path, v: Image.fromarray((black + v * (white - black)).round(6).astype(dtype)).save(path)


def eight(root: Path, **arguments: Any) -> torch.Tensor:
    return folder(
        write_set(root, lambda path, v: Image.fromarray((v * 255).astype("u1")).save(path)), **arguments
    ).data.images


# Levels


@pytest.mark.parametrize(
    ("dtype", "white", "black", "levels"),
    [
        ("u2", 4080, 0, (4095, 0)),
        ("u2", 2040, 0, None),  # half of 12 bits
        ("u2", 65535, 0, (65535, 0)),
        ("u2", 40300, 40000, None),  # a pedestal
        ("i4", 900_000, 0, None),
        ("i4", 500, -500, None),
        ("f4", 1, 0, (1, 0)),
        ("f4", 255, 0, (255, 0)),
        ("f4", 3, -2, None),
        ("f4", 1e-4, 0, None),
    ],
)
def test_by_default_the_range_is_used(
    tmp_path: Path, dtype: str, white: float, black: float, levels: tuple[float, float] | None
) -> None:
    found = folder(write_set(tmp_path / "set", as_type(dtype, white, black)))
    card = found.card
    if levels is not None:
        assert (card.white_level, card.black_level) == levels
    assert card.white_level is not None
    assert black - 1e-9 <= card.black_level < card.white_level
    pixels = found.data.images
    assert pixels.max() - pixels.min() >= 200
    linear = np.corrcoef(pixels.flatten(), eight(tmp_path / "eight").flatten())[0, 1]
    assert linear > 0.999
    again = DataCard.from_dict(found.describe() | {"mean": card.mean, "std": card.std})
    assert again.image_format == card.image_format


def test_levels_are_those_of_the_training_part(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", as_type("u2", 1000))
    first = folder(root, white_level="auto", black_level="auto")
    for part in ("val", "test"):
        for file in first.files(part):
            Image.fromarray((np.asarray(Image.open(root / file)) * 1.3).astype("u2")).save(root / file)
    again = folder(root, white_level="auto", black_level="auto")
    assert again.card.reading == first.card.reading
    assert again.card.mean == first.card.mean


def test_levels_that_are_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_set(tmp_path / "set", as_type("u2", 1000, 500))
    assert folder(root, white_level="file").card.reading["white_level"] == 65535
    assert "of 256 grey levels" in caplog.text
    told = folder(root, white_level=1000, black_level=500)
    assert (told.card.white_level, told.card.black_level) == (1000, 500)
    assert (told.data.images.int() - eight(tmp_path / "eight").int()).abs().max() <= 1
    floats = write_set(tmp_path / "floats", as_type("f4", 0.1))
    assert folder(floats, white_level="file", black_level="file").card.white_level == 1


def test_dark_images_of_8_bits_are_told_and_helped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_set(tmp_path / "set", as_type("u1", 120, 100), ".png")
    plain = folder(root)
    assert plain.card.white_level is None
    assert "of 256 grey levels" in caplog.text
    assert plain.data.images.min() >= 100
    caplog.clear()
    helped = folder(root, white_level="auto", black_level="auto")
    assert helped.data.images.max() - helped.data.images.min() > 200
    assert "of 256 grey levels" not in caplog.text
    assert helped.card.pixel_type == "uint8"
    assert folder(root, white_level="file").card.white_level is None
    assert torch.equal(folder(root, white_level=4095).data.images, plain.data.images)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"white_level": 0}, "white_level"), ({"white_level": -3}, "white_level"), ({"white_level": float("nan")}, "finite"),
        ({"white_level": 5, "black_level": 5}, "black_level"), ({"black_level": float("inf")}, "finite"),
        ({"white_level": "bright"}, "auto"), ({"white_level": True}, "auto"), ({"channels": 0}, "channels"),
        ({"channels": 65}, "channels"), ({"page": -1}, "page"), ({"page": "last"}, "all"), ({"alpha": "drop"}, "compose"),
        ({"alpha": "channel"}, "channels 3"),
    ],
)  # fmt: skip
def test_arguments_out_of_range_are_refused(tmp_path: Path, arguments: dict[str, Any], word: str) -> None:
    refusal(lambda: ImageFolderDataModule(str(tmp_path), **arguments), word)


def test_sets_of_which_nothing_can_be_measured_are_refused(tmp_path: Path) -> None:
    constant = write_set(tmp_path / "constant", lambda path, v: Image.fromarray(np.full((8, 8), 700, "u2")).save(path))
    refusal(lambda: folder(constant, white_level="auto", black_level="auto"), "700", "white above black")
    mixed = write_set(tmp_path / "mixed", as_type("u2", 4000))
    Image.fromarray(np.ones((8, 8), "f4")).save(mixed / "good/0.tif")
    refusal(lambda: folder(mixed), "35 integers", "1 floats (good/0.tif)")
    for bad in (np.nan, np.inf):
        values = np.full((8, 8), 0.5, "f4")
        values[0, 0] = bad
        floats = write_set(tmp_path / str(bad), as_type("f4", 1))
        Image.fromarray(values).save(floats / "hole/3.tif")
        refusal(lambda floats=floats: folder(floats), "hole/3.tif", "finite")  # type: ignore[misc]
        assert [one.file for one in folder(floats, on_bad_image="skip").data.skipped] == ["hole/3.tif"]


def test_8_bits_beside_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, white in (("full", 4095), ("half", 2000)):
        root = write_set(tmp_path / name, as_type("u2", white))
        for index in (0, 1, 2, 3):
            Image.fromarray(striped(0, index)).save(root / f"good/{index}.tif")
    assert (folder(tmp_path / "full").data.images.int() - eight(tmp_path / "eight").int()).abs().max() <= 1
    assert "4 uint8 (good/0.tif, good/1.tif, good/2.tif and so on) and 32 integers" in caplog.text
    refusal(
        lambda: folder(tmp_path / "half"),
        "4 uint8 (good/0.tif, good/1.tif, good/2.tif and so on) and 32 integers",
        "data.white_level",
    )


def test_an_image_beyond_the_levels_is_told_or_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bright = striped(0, 0).astype("u2") * 16
    bright[:4] = 5000
    Image.fromarray(bright).save(tmp_path / "bright.png")
    Image.fromarray(bright * 8).save(tmp_path / "far.png")
    wanted = ImageFormat(image_size=SIDE, channels=1, white_level=4095, pixel_type="integers")
    beyond: list[Path] = []
    assert (decode(tmp_path / "bright.png", wanted, beyond)[0, :4] == 255).all()
    assert beyond == [tmp_path / "bright.png"]
    with pytest.raises(BadImage, match="are beyond"):
        decode(tmp_path / "far.png", wanted)


def test_a_run_reads_by_its_own_levels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_set(tmp_path / "set", as_type("u2", 1500, 900))
    config = write_config(tmp_path, root)
    assert main(["fit", "--config", str(config), "--trainer.max_epochs=1"]) == 0
    (run,) = (tmp_path / "runs/tiny").iterdir()
    data = read(run)["data"]
    assert data["white_level"] < 1600
    assert data["black_level"] > 400
    table = dl.predict(run, [root])
    tested = {row.split(",")[0]: row.split(",")[3] for row in (run / "predictions.csv").read_text().splitlines()[1:]}
    assert isinstance(table, Predictions)
    found = dict(
        zip((Path(file).relative_to(root).as_posix() for file in table.files), table.probabilities.max(1), strict=True)
    )
    assert all(abs(float(value) - found[file]) < 1e-5 for file, value in tested.items())
    darker = write_set(tmp_path / "darker", as_type("u2", 1300, 900))
    capsys.readouterr()
    assert main(["test", str(run), "--on", str(darker)]) == 0  # measured anew it would be as bright
    other = read(next(run.glob("test-*")))["data"]
    assert (other["white_level"], other["black_level"]) == (data["white_level"], data["black_level"])
    floats = write_set(tmp_path / "floats", as_type("f4", 1))
    capsys.readouterr()
    assert main(["test", str(run), "--on", str(floats)]) == 1
    assert "integers" in capsys.readouterr().err
    assert main(["predict", str(run), str(floats), "--output", str(tmp_path / "out.csv")]) == 1
    assert not (tmp_path / "out.csv").exists()
    Image.fromarray(striped(0, 0)).save(tmp_path / "eight.png")
    refusal(lambda: dl.predict(run, [tmp_path / "eight.png"]), "8 bits, expected integers")


# Pages and transparency


def stacks(path: Path, values: np.ndarray) -> None:
    pages = [Image.fromarray((values * scale).astype("u1")) for scale in (255, 128, 64)]
    pages[0].save(path, save_all=True, append_images=pages[1:])


def test_pages_of_a_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_set(tmp_path / "set", stacks)
    first = folder(root)
    assert "36 files hold several images (0.tif, 1.tif, 2.tif and so on)" in caplog.text
    assert torch.equal(first.data.images, eight(tmp_path / "eight"))
    assert torch.equal(folder(root, page=1).data.images, (first.data.images.double() / 255 * 128).byte())
    refusal(lambda: folder(root, page=3), "3 pages", "data.page 3")
    every = folder(root, page="all")
    assert len(every.data.files) == 108
    assert every.data.files[:4] == ["good/0.tif[0]", "good/0.tif[1]", "good/0.tif[2]", "good/1.tif[0]"]
    assert torch.equal(every.data.images[::3], first.data.images)
    sides = [{file.partition("[")[0] for file in every.files(part)} for part in ("train", "val", "test")]
    assert sum(map(len, sides)) == 36  # no file on two sides
    (root / "good/0.tif").write_bytes((root / "good/0.tif").read_bytes()[:-40])
    refusal(lambda: folder(root, page="all"), "good/0.tif", "damaged")


def test_predict_takes_each_page(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", stacks)
    config = write_config(tmp_path, root)
    assert main(["fit", "--config", str(config), "--trainer.max_epochs=1", "--data.page=all"]) == 0
    (run,) = (tmp_path / "runs/tiny").iterdir()
    table = dl.predict(run, [root / "good/0.tif", root / "hole/1.tif[2]"])
    assert table.files == tuple(
        f"{root}/{name}" for name in ("good/0.tif[0]", "good/0.tif[1]", "good/0.tif[2]", "hole/1.tif[2]")
    )
    assert main(["validate", str(run)]) == 0


def test_transparency(tmp_path: Path) -> None:
    grey = striped(0, 0)
    pixels = np.stack([grey, grey, grey, np.full_like(grey, 128)], axis=-1)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels[..., 2:]).save(tmp_path / "la.png")
    Image.fromarray(grey).save(tmp_path / "plain.png")

    def image(name: str, channels: int, alpha: Any) -> np.ndarray:
        return decode(tmp_path / name, ImageFormat(image_size=SIDE, channels=channels, alpha=alpha))

    assert (image("a.png", 1, "ignore")[0] == grey).all()
    assert (np.abs(image("a.png", 1, "compose")[0] - grey / 255 * 128) <= 1).all()
    assert (image("a.png", 4, "channel") == pixels.transpose(2, 0, 1)).all()
    assert (image("la.png", 4, "channel") == pixels.transpose(2, 0, 1)).all()
    assert (image("la.png", 2, "channel")[1] == 128).all()
    for name, channels, alpha in (("plain.png", 4, "channel"), ("a.png", 4, "compose")):
        with pytest.raises(BadImage):
            image(name, channels, alpha)


# Channels


def lights(path: Path, values: np.ndarray) -> None:
    """Four lights, of 12 bits."""
    np.save(
        path, np.stack([values, values**2, 1 - values, values * 0.5], axis=0 if "3" in path.name else 2).astype("f4")
    )


def test_channels_are_resized_as_pillow_does(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (30, 40, 5), np.uint8)
    np.save(tmp_path / "a.npy", values)
    found = decode(tmp_path / "a.npy", ImageFormat(image_size=16, channels=5))
    for index in range(5):
        alone = Image.fromarray(np.ascontiguousarray(values[..., index])).resize((16, 16), Image.Resampling.BILINEAR)
        assert (found[index] == np.asarray(alone)).all()
    colours = np.asarray(
        Image.fromarray(np.ascontiguousarray(values[..., :3])).resize((16, 16), Image.Resampling.BILINEAR)
    )
    assert (found[:3] == colours.transpose(2, 0, 1)).all()
    with pytest.raises(BadImage, match="5 channels, expected 4"):
        decode(tmp_path / "a.npy", ImageFormat(image_size=16, channels=4))


def test_four_channels_from_fit_to_explain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_set(tmp_path / "set", lights, ".npy")
    config = write_config(tmp_path, root)
    augmentation = "{horizontal_flip: 0.5, rotation: 5, brightness: 0.1, contrast: 0.1, noise: 0.5}"
    words = ["--data.channels=4", "--data.white_level=1"]
    assert main(["fit", "--config", str(config), *words, "--data.augmentation", augmentation]) == 0
    (run,) = (tmp_path / "runs/tiny").iterdir()
    data = read(run)["data"]
    assert len(data["mean"]) == len(data["std"]) == data["channels"] == 4
    assert abs(data["mean"][0] + data["mean"][2] - 1) < 0.01
    assert main(["test", str(run)]) == 0
    one = dl.predict(run, [root / "good/3.npy"])
    same = dl.load(run)(np.load(root / "good/3.npy").transpose(1, 2, 0))
    assert np.allclose(one.probabilities, same.probabilities, atol=1e-6)
    assert main(["explain", str(run)]) == 0
    assert (run / "explain/explain.html").is_file() or list((run / "explain").glob("*.html"))
    assert main(["robustness", str(run)]) == 0
    assert main(["summary", str(run)]) == 0
    preview = tmp_path / "preview.png"
    assert main(["data", "preview", "--config", str(run / "config.yaml"), "--output", str(preview)]) == 0
    capsys.readouterr()
    Image.fromarray(striped(0, 0)).convert("RGB").save(tmp_path / "rgb.png")
    assert main(["predict", str(run), str(tmp_path / "rgb.png")]) == 1
    assert "3 channels, expected 4" in capsys.readouterr().err


def test_arrays_of_four_channels(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (36, 4, 8, 8), np.uint8)
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "labels.npy", np.arange(36) % 3)
    assert (folder(tmp_path, image_size=8, channels=4).data.images.numpy() == images).all()
    refusal(lambda: folder(tmp_path, image_size=8, channels=5), "(36, 4, 8, 8)", "data.channels is 5")


def test_tiffs_that_pillow_does_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile = pytest.importorskip("tifffile")
    rng = np.random.default_rng(0)
    values = rng.integers(0, 65536, (SIDE, SIDE, 5), np.uint16)
    written = {
        "rgb": (values[..., :3], {}),
        "planar": (values[..., :3].transpose(2, 0, 1), {"planarconfig": "separate", "photometric": "rgb"}),
        "five": (values.transpose(2, 0, 1), {"planarconfig": "separate", "photometric": "minisblack"}),
        "stack": (values.transpose(2, 0, 1), {"photometric": "minisblack"}),
        "grey": (values[..., 0], {"photometric": "miniswhite"}),
    }
    for name, (pixels, arguments) in written.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels, **arguments)

    def image(name: str, channels: int) -> np.ndarray:
        wanted = ImageFormat(image_size=SIDE, channels=channels, white_level=65535, pixel_type="integers")
        return np.moveaxis(decode(tmp_path / f"{name}.tif", wanted), 0, 2)

    expected = np.rint(values / 257).astype(np.uint8)
    for name in ("rgb", "planar"):
        assert (image(name, 3) == expected[..., :3]).all()
    for name in ("five", "stack"):
        assert (image(name, 5) == expected).all()
    with pytest.raises(BadImage, match="5 channels, expected 3"):
        image("five", 3)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    assert np.abs(image("rgb", 3).astype(int) - expected[..., :3]).max() <= 1  # the upper 8 bits
    for name in ("planar", "five"):
        with pytest.raises(BadImage, match=r"pip install 'defectlab\[tiff\]'"):
            image(name, 3 if name == "planar" else 5)
