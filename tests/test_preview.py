"""`data preview` and `data augment`: what training does to images, to be looked at and as files."""

import json
import signal
from collections import Counter
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from helpers import start, wait_for, write_config
from PIL import Image
from torch import Tensor

from defectlab.cli.main import main
from defectlab.data import Augmentation, FashionMNISTDataModule, ImageFolderDataModule
from defectlab.data.pipeline.augment import MIXING
from defectlab.data.sources.files import new_folder
from defectlab.data.tools.offline import augment_to_folder
from defectlab.data.tools.preview import PreviewRow, mixed_row, operation_row, training_row, typical
from defectlab.errors import InputError

ON = ["--data.augmentation.rotation", "20", "--data.augmentation.horizontal_flip", "0.5"]
ALONE = [name for name in Augmentation.names() if name not in MIXING]


@pytest.fixture
def config(tmp_path: Path, class_folders: Path) -> Path:
    return write_config(tmp_path, class_folders)


@pytest.fixture
def data(class_folders: Path) -> ImageFolderDataModule:
    settings = Augmentation(rotation=20, horizontal_flip=0.5, noise=0.1, mixup=0.4)
    module = ImageFolderDataModule(
        str(class_folders), image_size=16, channels=1, batch_size=6, val_size=6, test_size=7, augmentation=settings
    )
    module.setup("fit")
    return module


def picture() -> Tensor:
    return torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2


def numbers(row: PreviewRow) -> list[float]:
    """The first number of each caption but the original's."""
    return [float(caption.lstrip("×sd ").split()[0].rstrip("%°")) for caption in row.captions[1:]]


@pytest.mark.parametrize("name", ALONE)
def test_each_operation_begins_with_the_original_and_does_something(name: str) -> None:
    row = operation_row(picture(), name, typical(name), seed=0)
    assert row.title == name
    assert row.detail
    assert len(row.images) == len(row.captions) == (2 if "flip" in name else 7)
    assert torch.equal(row.images[0], picture())
    assert not torch.equal(row.images[-1], picture())
    assert row.images.min() >= 0
    assert row.images.max() <= 1


def test_captions_say_what_was_done() -> None:
    flat = torch.full((1, 16, 16), 0.5)
    brighter = operation_row(flat, "brightness", Augmentation(brightness=0.2), 0)
    assert numbers(brighter)[0] == -0.2
    assert numbers(brighter)[-1] == 0.2
    assert [float(image.mean()) - 0.5 for image in brighter.images[1:]] == pytest.approx(numbers(brighter), abs=0.006)
    contrast = operation_row(picture(), "contrast", Augmentation(contrast=0.3), 0)
    spread = [float(image.std() / picture().std()) for image in contrast.images[1:]]
    assert spread == pytest.approx(numbers(contrast), abs=0.006)
    noise = operation_row(torch.full((1, 64, 64), 0.5), "noise", Augmentation(noise=0.1), 0)
    assert [float(image.std()) for image in noise.images[1:]] == pytest.approx(numbers(noise), abs=0.004)
    snr = operation_row(torch.full((1, 64, 64), 0.5), "snr", Augmentation(snr=20), 0)
    levels = [10 * float(torch.log10(0.25 / (image - 0.5).square().mean())) for image in snr.images[1:]]
    assert levels == pytest.approx(numbers(snr), abs=0.6)
    erased = operation_row(torch.rand(1, 64, 64), "erasing", Augmentation(erasing=0.3), 0)
    shares = [100 * float((image != erased.images[0]).float().mean()) for image in erased.images[1:]]
    assert shares == pytest.approx(numbers(erased), rel=0.2, abs=1)


def test_captions_of_light_and_lens_say_what_was_done() -> None:
    dot = torch.zeros(1, 65, 65)
    dot[0, 32, 32] = 1
    places = torch.arange(65) - 32.0
    blur = operation_row(dot, "blur", Augmentation(blur=3, chance=0.25), 0)
    assert "25%" in blur.detail
    widths = [float((image[0].sum(dim=0) @ places.square()).sqrt()) for image in blur.images[1:]]
    assert widths == pytest.approx([float(caption.split()[1]) for caption in blur.captions[1:]], abs=0.1)
    gamma = operation_row(torch.full((1, 8, 8), 0.5), "gamma", Augmentation(gamma=1), 0)
    assert [-float(image[0, 0, 0].log2()) for image in gamma.images[1:]] == pytest.approx(numbers(gamma), abs=0.006)
    contrast = operation_row(picture(), "lowest_contrast", Augmentation(lowest_contrast=0.1), 0)
    spread = [float(image.std() / picture().std()) for image in contrast.images[1:]]
    assert spread == pytest.approx(numbers(contrast), abs=0.006)
    shot = operation_row(torch.full((1, 64, 64), 0.5), "shot_snr", Augmentation(shot_snr=20), 0)
    levels = [10 * float(torch.log10(0.25 / (image - 0.5).square().mean())) for image in shot.images[1:]]
    assert levels == pytest.approx(numbers(shot), abs=0.6)


def test_captions_say_where_it_went() -> None:
    """A dot right of and above the middle: where is it afterwards?"""
    dot = torch.zeros(1, 65, 65)
    dot[0, 20:23, 43:46] = 1

    def place(image: Tensor) -> tuple[float, float]:
        rows, columns = (torch.arange(65) - 32.0 for _ in range(2))
        weight = image[0] / image.sum()
        return float((weight.sum(dim=0) * columns).sum()), float(-(weight.sum(dim=1) * rows).sum())

    x, y = place(dot)
    moved = operation_row(dot, "translation", Augmentation(translation=0.1), 0)
    assert moved.captions[1] == "10.0% right, down"
    assert place(moved.images[1]) == pytest.approx((x + 6.5, y - 6.5), abs=0.3)
    assert moved.captions[-1] == "10.0% left, up"
    turned = operation_row(dot, "rotation", Augmentation(rotation=30), 0)
    assert numbers(turned)[-1] == 30
    angle = np.degrees(np.arctan2(*place(turned.images[-1])[::-1]) - np.arctan2(y, x))
    assert angle == pytest.approx(30, abs=2), "a positive angle turns anticlockwise"
    zoomed = operation_row(dot, "scale", Augmentation(scale=0.5), 0)
    assert place(zoomed.images[-1]) == pytest.approx((x * numbers(zoomed)[-1], y * numbers(zoomed)[-1]), abs=0.3)


def test_all_together_is_what_training_gives(data: ImageFolderDataModule) -> None:
    assert data.augmentation is not None
    data.augmentation = Augmentation(rotation=20, horizontal_flip=0.5, noise=0.1)
    index = int(data.parts.train[3])
    row = training_row(data.data.images[index].float() / 255, index, "hole", data.augmentation, data.seed)
    loader = data.train_dataloader()
    mean, std = data.card.mean, data.card.std
    for shown in row.images[1:3]:
        wanted = (shown - mean[0]) / std[0]
        batches = torch.cat([images for images, _ in loader])
        assert float((batches - wanted).abs().amax(dim=(1, 2, 3)).min()) < 1e-5


@pytest.mark.parametrize("name", MIXING)
def test_mixtures_carry_their_soft_labels(name: str) -> None:
    images = torch.stack([torch.full((1, 20, 20), value) for value in (0.0, 0.5, 1.0)])
    row = mixed_row(images, ["good", "hole", "scratch"], name, typical(name), seed=0)
    assert row.captions[0] == "original\ngood"
    for image, caption in zip(row.images[1:], row.captions[1:], strict=True):
        first, second = caption.split(" +\n")
        share, partner = float(first.split()[0]), second.split()[1]
        assert first.split()[1] == "good"
        assert share + float(second.split()[0]) == pytest.approx(1, abs=0.011)
        assert float(image.mean()) == pytest.approx((1 - share) * {"hole": 0.5, "scratch": 1.0}[partner], abs=0.01)


def test_preview_writes_a_picture(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few, many = tmp_path / "few.png", tmp_path / "made" / "many.png"
    assert main(["data", "preview", "--config", str(config), "--output", str(few), *ON]) == 0
    assert "on in this config: horizontal_flip, rotation" in capsys.readouterr().out
    assert main(["data", "preview", "--config", str(config), "--output", str(many), "--all"]) == 0
    # Three rows of three classes together are of the first alone; the other shows every operation.
    sizes = [matplotlib.image.imread(path).shape for path in (few, many)]
    assert sizes[0][1] == sizes[1][1]
    assert sizes[1][0] > 2 * sizes[0][0]
    assert not (tmp_path / "runs").exists()


def test_a_synthetic_set_is_told(tmp_path: Path) -> None:
    output = tmp_path / "strip.png"
    words = ["--data.source", "synthetic", "--data.synthetic_per_class", "12", "--data.image_size", "32"]
    assert main(["data", "preview", "--config", "neu_mobilenet.yaml", "--output", str(output), *words]) == 0
    pixels = matplotlib.image.imread(output)[:30, :, :3]  # the margin above all rows
    assert ((pixels[..., 0] > 0.6) & (pixels[..., 1] < 0.4)).any(), "a red line"


def test_augmented_files(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = tmp_path / "made"
    words = ["--config", str(config), "--copies", "2", *ON, "--data.augmentation.mixup", "0.2"]
    assert main(["data", "augment", "--output", str(made), *words]) == 0
    said = capsys.readouterr().out
    assert "left out     mixup" in said
    assert "train        69 files: 2 copies of each of 23 training images and the images themselves" in said
    told = json.loads((made / "augmentation.json").read_text())
    assert told["files"] == {"train": 69, "val": 6, "test": 7}
    assert told["augmentation"]["rotation"] == 20
    # An image, its copies included, is on one side of the split.
    where: dict[str, set[str]] = {}
    for path in made.rglob("*.png"):
        source = f"{path.parent.name}/{path.stem.split('_aug')[0]}"
        where.setdefault(source, set()).add(path.parent.parent.name)
    assert len(where) == 36
    assert Counter(next(iter(parts)) for parts in where.values() if len(parts) == 1) == told["files"] | {"train": 23}
    assert not any("_aug" in path.name for part in ("val", "test") for path in (made / part).rglob("*.png"))

    again = ImageFolderDataModule(str(made), image_size=16, channels=1)
    again.setup("fit")
    assert [len(part) for part in (again.parts.train, again.parts.val, again.parts.test)] == [69, 6, 7]
    assert list(again.class_names) == ["good", "hole", "scratch"]

    same = tmp_path / "same"
    assert main(["data", "augment", "--output", str(same), "--no-originals", *words]) == 0
    copies = sorted(path.relative_to(same) for path in same.rglob("*.png"))
    assert len(copies) == 46 + 6 + 7
    assert all((same / path).read_bytes() == (made / path).read_bytes() for path in copies)
    other = tmp_path / "other"
    assert main(["data", "augment", "--output", str(other), *words, "--data.seed", "1"]) == 0
    assert told["split_hash"] != json.loads((other / "augmentation.json").read_text())["split_hash"]


def test_copies_are_the_pictures_of_training(data: ImageFolderDataModule, tmp_path: Path) -> None:
    made = tmp_path / "made"
    assert augment_to_folder(data, made, copies=2, originals=True) == {"train": 69, "val": 6, "test": 7}
    index = int(data.parts.train[0])
    original = made / "train" / Path(data.data.files[index]).with_suffix(".png")
    assert np.array_equal(np.asarray(Image.open(original)), data.data.images[index, 0].numpy())
    settings = Augmentation(rotation=20, horizontal_flip=0.5, noise=0.1)
    row = training_row(data.data.images[index].float() / 255, index, "", settings, data.seed)
    for copy in (1, 2):
        written = np.asarray(Image.open(original.with_name(f"{original.stem}_aug{copy}.png")))
        assert np.array_equal(written, (row.images[copy][0] * 255).round().byte().numpy())


def test_odd_names_stay_apart(tmp_path: Path) -> None:
    """The same name in two folders, a name like a copy's, and names that differ in their suffix alone."""
    root = tmp_path / "odd"
    for name in ("a/1.png", "a/deep/1.png", "a/deep_1.bmp", "a/1_aug1.png", "a/1.bmp", "a/ü $x.png"):
        for label, other in enumerate(("", "b")):
            path = root / name.replace("a/", f"{other or 'a'}/", 1)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8), 40 * label + len(name), np.uint8)).save(path)
    module = ImageFolderDataModule(
        str(root), image_size=8, channels=3, val_size=2, test_size=2, augmentation=Augmentation(brightness=0.2)
    )
    module.setup("fit")
    counts = augment_to_folder(module, tmp_path / "made", copies=1, originals=True)
    assert len(list((tmp_path / "made").rglob("*.png"))) == sum(counts.values()) == 8 * 2 + 2 + 2


def test_class_names_that_are_no_folder_names(idx_folder: Path, tmp_path: Path) -> None:
    module = FashionMNISTDataModule(root=str(idx_folder), val_size=50, augmentation=Augmentation(rotation=5))
    module.setup("fit")
    augment_to_folder(module, tmp_path / "made", copies=1, originals=False)
    assert (tmp_path / "made" / "train" / "T-shirt_top").is_dir()
    again = ImageFolderDataModule(str(tmp_path / "made"), image_size=28, channels=1)
    again.setup("fit")
    assert [len(part) for part in (again.parts.train, again.parts.val, again.parts.test)] == [150, 50, 50]


def test_what_goes_wrong_leaves_nothing(data: ImageFolderDataModule, tmp_path: Path) -> None:
    def stumble() -> None:
        with new_folder(tmp_path / "new") as folder:
            (folder / "half.png").write_bytes(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stumble()
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith((".", "new"))]
    used = tmp_path / "used"
    used.mkdir()
    (used / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty"):
        augment_to_folder(data, used, copies=1, originals=True)
    assert [path.name for path in used.iterdir()] == ["mine.txt"]


def test_a_stop_half_way_leaves_nothing(config: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    process = start("data", "augment", "--config", str(config), "--output", str(made), "--copies", "100000", *ON)
    wait_for(".defectlab-*/made/train/*/*_aug2.png", tmp_path, process)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped" in error
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith((".", "made"))]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["preview", "--config", "CONFIG"], "nothing switched on"),
        (["preview", "--config", "CONFIG", *ON, "--output", "preview.jpg"], "expected the name of a .png file"),
        (["preview"], "required: --config"),
        (["preview", "--config", "CONFIG", "--data.augmentation.rotatoin", "3"], "rotation"),
        (["augment", "--config", "CONFIG", "--output", "out"], "nothing that changes a single image"),
        (
            ["augment", "--config", "CONFIG", "--output", "out", "--data.augmentation.mixup", "1"],
            "nothing that changes",
        ),
        (["augment", "--config", "CONFIG", "--output", "out", *ON, "--copies", "0"], "copies is 0"),
        (["augment", "--config", "CONFIG", "--output", "CONFIG", *ON], "is a file"),
        (["augment", "--config", "CONFIG", *ON], "required: --output"),
    ],
)
def test_bad_input(
    words: list[str], told: str, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(["data", *(str(config) if word == "CONFIG" else word for word in words)]) == 1
    error = capsys.readouterr().err
    assert told in error
    assert len(error.strip().splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before
