"""Data that other trainers read wrongly without a word: here it is read rightly, or refused in one line."""

import logging
import os
import shutil
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import striped, write_class_folders
from helpers import read, refusal, write_config
from PIL import EpsImagePlugin, Image

from defectlab.cli.main import main
from defectlab.data import (
    Augmentation,
    DatasetDataModule,
    ImageDataModule,
    ImageFolderDataModule,
    MNISTDataModule,
    NEUDataModule,
)
from defectlab.data.sources.files import FORMATS, SUFFIXES, image_files, safe_names
from defectlab.data.sources.idx import read_idx_pair
from defectlab.data.sources.layouts import NEU_CLASSES, list_folders
from defectlab.data.sources.reading import read_images
from defectlab.data.synthesis.strip import synthesize
from defectlab.data.tools.offline import augment_to_folder
from defectlab.errors import InputError
from defectlab.utils.image_format import ImageFormat

NAMES = ("good", "hole", "scratch")
links = pytest.mark.skipif(sys.platform == "win32", reason="links and pipes need rights there")


def folder(root: Path, **arguments: Any) -> ImageFolderDataModule:
    """Set up."""
    module = ImageFolderDataModule(str(root), **{"image_size": 24, "channels": 1, **arguments})
    module.setup()
    return module


def counts(data: ImageDataModule) -> list[list[int]]:
    return [data.class_counts(part) for part in ("train", "val", "test")]


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def arrays(root: Path, images: np.ndarray, labels: Any = None) -> Path:
    root.mkdir(exist_ok=True)
    np.save(root / "images.npy", images)
    np.save(root / "labels.npy", np.arange(len(images)) % 2 if labels is None else labels)
    return root


# Parts without a class


def test_grouping_that_empties_a_part_is_refused(class_folders: Path) -> None:
    for index in range(1, 12):
        shutil.copy(class_folders / "hole/0.png", class_folders / f"hole/{index}.png")
    refusal(lambda: folder(class_folders, group_duplicates=True), "hole in 1 groups", "group_duplicates")


def test_a_class_without_training_images_is_refused_and_without_others_told(
    split_folders: Path, caplog: pytest.LogCaptureFixture
) -> None:
    items = [(striped(index % 2, index), index % 2) for index in range(20)]
    data = DatasetDataModule(items, class_names=NAMES)  # type: ignore[arg-type]
    refusal(data.setup, "no image of scratch in the train part")
    shutil.rmtree(split_folders / "test/hole")
    assert counts(folder(split_folders)) == [[6] * 3, [2] * 3, [3, 0, 3]]
    assert "no image of hole in the test part" in caplog.text


# Which files are images


def test_what_pillow_reads_counts() -> None:
    Image.init()
    known = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
    assert known <= set(SUFFIXES)
    assert not {"EPS", "WMF", "PDF", "HDF5", "GRIB", "BUFR"} & set(FORMATS)  # these ask other programs


def test_images_of_any_suffix_are_read_and_the_rest_is_counted(
    class_folders: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for index, suffix in enumerate((".jfif", ".ppm", ".gif", ".jpe", ".jp2", ".tga", ".heic", ".heic", "")):
        for name in NAMES:
            path = class_folders / name / f"{index}.png"
            if suffix in (".heic", ""):
                path.rename(path.with_suffix(suffix))
            else:
                Image.open(path).convert("RGB").save(path.with_suffix(suffix))
                path.unlink()
    (class_folders / "notes.txt").touch()
    data = folder(class_folders)
    assert np.sum(counts(data), axis=0).tolist() == [9, 9, 9]
    assert "6 of .heic, 3 of no suffix" in caplog.text
    assert "good/6.heic" in caplog.text
    assert ".txt" not in caplog.text


@links
def test_a_file_counts_once_and_in_its_own_class(class_folders: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = [path.relative_to(class_folders) for path in image_files(class_folders)]
    (class_folders / "good" / "more").symlink_to(class_folders / "hole")
    (class_folders / "good" / "one.png").symlink_to(class_folders / "scratch/0.png")
    for name in NAMES:
        for other in NAMES:
            (class_folders / name / f"to_{other}").symlink_to(class_folders / other)
    assert [path.relative_to(class_folders) for path in image_files(class_folders)] == before
    assert "11 links" in caplog.text
    assert np.sum(counts(folder(class_folders)), axis=0).tolist() == [12] * 3


@links
def test_links_out_of_the_folder_are_followed(class_folders: Path, tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / "linked" / name).mkdir(parents=True)
        for path in sorted((class_folders / name).iterdir()):
            (tmp_path / "linked" / name / path.name).symlink_to(path)
    (tmp_path / "whole").mkdir()
    for name in NAMES:
        (tmp_path / "whole" / name).symlink_to(class_folders / name)
    expected = folder(class_folders)
    for root in (tmp_path / "linked", tmp_path / "whole"):
        assert folder(root).split_table() == expected.split_table()
    (tmp_path / "linked/hole/0.png").unlink()
    (tmp_path / "linked/hole/0.png").symlink_to(class_folders / "good/0.png")
    refusal(lambda: folder(tmp_path / "linked"), "good/0.png", "hole/0.png", "links to one image")


# What is white


def deep(
    root: Path, white: int, dtype: str = "u2", suffix: str = ".png", change: Callable[[Any], Any] = lambda x: x
) -> Path:
    """The images of `class_folders` with 12 bits, or others."""
    for label, name in enumerate(NAMES):
        for index in range(12):
            pixels = striped(label, index).astype(np.float64) / 255 * white
            save(root / name / f"{index}{suffix}", change(pixels).astype(dtype))
    return root


@pytest.mark.parametrize("white", [1023, 4095, 16383, 65535])
def test_white_is_that_of_the_camera(class_folders: Path, tmp_path: Path, white: int) -> None:
    eight, more = folder(class_folders), folder(deep(tmp_path / "deep", white))
    assert more.card.white_level == more.describe()["white_level"] == white
    assert eight.card.white_level is None
    assert (eight.data.images.int() - more.data.images.int()).abs().max() <= 1
    assert eight.files("test") == more.files("test")
    array = np.stack([np.asarray(Image.open(tmp_path / "deep" / file)) for file in more.data.files])
    npy = folder(arrays(tmp_path / "npy", array, more.data.labels.numpy()))
    assert torch.equal(npy.data.images, more.data.images)
    assert npy.card.white_level == white


def test_a_dark_image_is_read_as_its_set(tmp_path: Path) -> None:
    root = deep(tmp_path / "set", 4095)
    save(root / "hole/dark.png", np.full((24, 24), 200, np.uint16))
    data = folder(root)
    dark = data.data.images[data.data.files.index("hole/dark.png")]
    assert np.unique(dark.numpy()).tolist() == [round(200 / 4095 * 255)]
    path = [root / "hole/dark.png"]
    assert torch.equal(
        read_images(path, ImageFormat(image_size=24, channels=1, white_level=data.card.white_level))[0][0], dark
    )
    refusal(
        lambda: read_images([root / "good/0.png"], ImageFormat(image_size=24, channels=1, white_level=1023)),
        "expected 0 to 1023",
    )
    refusal(
        lambda: read_images(path, ImageFormat(image_size=24, channels=1)), "nothing says what is white"
    )  # as a network of 8 bits would


def test_a_hot_pixel_is_cut_off(tmp_path: Path) -> None:
    root = deep(tmp_path / "set", 4095)
    expected = folder(root)
    pixels = np.kron(np.asarray(Image.open(root / "good/0.png")), np.ones((4, 4), np.uint16)).astype(np.uint16)
    save(root / "good/0.png", pixels)
    plain = folder(root).data.images
    pixels[5, 5] = 65535
    save(root / "good/0.png", pixels)
    told = folder(root)
    assert torch.equal(folder(root, white_level=4095).data.images, told.data.images)
    assert told.card.white_level == 4095
    assert torch.equal(told.data.images[1:], expected.data.images[1:])
    assert (told.data.images.int() - plain.int()).abs().max() <= 16
    refusal(lambda: folder(root, white_level=255), "expected 0 to 255")


def test_a_network_is_not_shown_another_white(
    class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, class_folders)
    assert main(["fit", "--config", str(config), "--trainer.max_epochs=1"]) == 0
    (run,) = (tmp_path / "runs/tiny").iterdir()
    root = deep(tmp_path / "deep", 4095)
    assert main(["test", str(run), "--on", str(root)]) == 1
    assert "8 bits" in capsys.readouterr().err
    assert main(["predict", str(run), str(root), "--output", str(tmp_path / "out.csv")]) == 1
    assert "8 bits" in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()
    known = folder(root).state_dict()
    half = folder(deep(tmp_path / "half", 1023))
    refusal(lambda: half.load_state_dict(known), "1023 is white", "4095 is for the checkpoint")
    told = folder(tmp_path / "half", white_level=4095)
    told.load_state_dict(known)
    assert told.card.white_level == 4095
    assert told.data.images.max() < 70


def test_floats_have_one_scale(class_folders: Path, tmp_path: Path) -> None:
    root = deep(tmp_path / "tiff", 255, "f4", ".tiff")
    save(root / "good/dark.tiff", np.full((24, 24), 0.85, np.float32))
    data = folder(root)
    assert data.card.white_level == 255
    assert data.data.images[data.data.files.index("good/dark.tiff")].max() == 1
    one = folder(deep(tmp_path / "one", 1, "f4", ".tiff"))
    assert one.card.white_level == 1
    assert (one.data.images.int() - folder(class_folders).data.images.int()).abs().max() <= 1


def test_one_value_does_not_turn_the_scale(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = np.random.default_rng(0).random((30, 8, 8)).astype(np.float32)
    expected = np.rint(images * 255)
    images[3, 2, 2] = expected[3, 2, 2] = 1.0000002
    found = folder(arrays(tmp_path / "a", images), image_size=8).data.images[:, 0].numpy()
    assert np.abs(np.delete(found, 3, axis=0) - np.delete(expected, 3, axis=0)).max() == 0
    for value in (1.7, 30, 200, 1e9):
        images[3, 2, 2] = value
        caplog.clear()
        again = folder(arrays(tmp_path / "a", images), image_size=8)
        assert again.card.white_level == 1
        assert np.abs(again.data.images[3, 0].numpy() - np.where(images[3] > 1, 255, expected[3])).max() == 0
        assert "1 images have values beyond" in caplog.text
        assert "images.npy[3]" in caplog.text
    images[3, 2, 2] = np.inf
    refusal(lambda: folder(arrays(tmp_path / "a", images), image_size=8), "inf")


def png(width: int, height: int, rows: bytes, bits: int = 8, kind: int = 0) -> bytes:
    """A PNG file of raw rows; `kind` is 0 for grey and 2 for RGB."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_colours_of_16_bits_are_not_taken_for_black(class_folders: Path, tmp_path: Path) -> None:
    def coloured(factor: int) -> Path:
        for path in sorted(class_folders.rglob("*.png")):
            pixels = np.repeat(
                np.asarray(Image.open(path).convert("L")).astype(np.uint16)[..., None] * factor, 3, axis=2
            )
            place = tmp_path / str(factor) / path.relative_to(class_folders)
            place.parent.mkdir(parents=True, exist_ok=True)
            rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
            place.write_bytes(png(24, 24, rows, bits=16, kind=2))
        return tmp_path / str(factor)

    assert torch.equal(folder(coloured(257)).data.images, folder(class_folders).data.images)
    refusal(lambda: folder(coloured(16)), "colours of 16 bits")


# Sets that show nothing


def test_a_set_without_contrast_is_told(class_folders: Path, caplog: pytest.LogCaptureFixture) -> None:
    transparent = Image.open(class_folders / "good/0.png").convert("RGBA")
    transparent.putalpha(0)
    transparent.save(class_folders / "good/0.png")
    refusal(lambda: folder(class_folders), "good/0.png", "transparent")
    assert [skipped.file for skipped in folder(class_folders, on_bad_image="skip").data.skipped] == ["good/0.png"]
    for path in class_folders.rglob("*.png"):
        Image.new("L", (24, 24), 90).save(path)
    caplog.clear()
    folder(class_folders)
    assert "36 of 36 images are of one grey value" in caplog.text


# Layouts


@pytest.mark.parametrize(
    "names",
    [
        ("seg_train", "seg_test"), ("train_data", "test_data"), ("Training_Set", "Test_Set"), ("training", "validation"),
        ("TrainSet", "ValSet", "TestSet"), ("train2017", "val2017"), ("train_images", "valid_images", "test_images"),
    ],
)  # fmt: skip
def test_folders_of_a_split_are_known_by_many_names(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        write_class_folders(tmp_path / "set" / name, 4)
    listing = list_folders(tmp_path / "set")
    assert listing.class_names == list(NAMES)
    parts = {
        file.relative_to(tmp_path / "set").parts[0]: part
        for file, part in zip(listing.files, listing.splits or [], strict=True)
    }
    assert set(parts) == set(names)
    assert parts[names[0]] == "train"
    assert set(parts.values()) - {"train"} <= {"val", "test"}


def test_folders_that_may_be_a_split_are_refused(tmp_path: Path) -> None:
    for name in ("seg_train", "seg_test", "seg_pred"):
        write_class_folders(tmp_path / "intel" / name, 4)
    refusal(lambda: list_folders(tmp_path / "intel"), "seg_pred", "stands beside")
    for name in ("train_images", "test_images"):
        save(tmp_path / "flat" / name / "1.png", striped(0, 0))
    refusal(lambda: list_folders(tmp_path / "flat"), "test_images and train_images", "folder for each class")
    for name in ("valid", "invalid"):  # these are classes
        save(tmp_path / "tickets" / name / "1.png", striped(0, 0))
    assert list_folders(tmp_path / "tickets").class_names == ["invalid", "valid"]


def mask(path: Path, defect: bool) -> None:
    pixels = np.zeros((24, 24), np.uint8)
    pixels[8:12, 8:12] = 255 * defect
    save(path, pixels)


def test_masks_beside_images_are_no_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dagm = tmp_path / "dagm"
    for number in (1, 2, 3):
        for part in ("Train", "Test"):
            for index in range(10):
                save(dagm / f"Class{number}/{part}/{index:04}.PNG", striped(number, index))
                if index < 3:
                    mask(dagm / f"Class{number}/{part}/Label/{index:04}_label.PNG", True)
    data = folder(dagm, val_size=6)
    assert list(data.class_names) == ["Class1", "Class2", "Class3"]
    assert counts(data) == [[8] * 3, [2] * 3, [10] * 3]
    assert {Path(file).parent.name for file in data.files("test")} == {"Test"}
    assert "18 masks" in caplog.text
    bottle = tmp_path / "mvtec/bottle"
    for index in range(10):
        save(bottle / f"train/good/{index:03}.png", striped(0, index))
    for label, name in enumerate(("good", "broken", "stained")):
        for index in range(6):
            save(bottle / f"test/{name}/{index:03}.png", striped(label, 20 + index))
            if label:
                mask(bottle / f"ground_truth/{name}/{index:03}_mask.png", True)
    refusal(lambda: folder(bottle), "broken is not among the training classes", "data.split random")
    assert np.sum(counts(folder(bottle, split="random")), axis=0).tolist() == [6, 16, 6]
    shutil.copytree(bottle, tmp_path / "mvtec/cable")
    refusal(lambda: folder(tmp_path / "mvtec"), "bottle/test", "inside of a class folder")
    tiles = tmp_path / "tiles"
    for label, name in enumerate(("MT_Free", "MT_Crack")):
        for index in range(8):
            save(tiles / name / f"Imgs/{index}.jpg", striped(label, index))
            mask(tiles / name / f"Imgs/{index}.png", bool(label))
    assert np.sum(counts(folder(tiles)), axis=0).tolist() == [8, 8]


def test_masks_that_tell_the_classes_are_not_passed_over(tmp_path: Path) -> None:
    for number in range(1, 6):
        for index in range(8):
            save(tmp_path / f"kolektor/kos{number:02}/Part{index}.jpg", striped(number, index))
            mask(tmp_path / f"kolektor/kos{number:02}/Part{index}_label.bmp", index == 2)
    refusal(lambda: folder(tmp_path / "kolektor"), "each image has a mask", "kos01")
    for index in range(8):
        save(tmp_path / f"pairs/images/{index}.png", striped(0, index))
        save(tmp_path / f"pairs/labels/{index}.png", striped(0, index) // 100)
    refusal(lambda: folder(tmp_path / "pairs"), "labels", "masks")
    for index in range(8):  # two images of one name are no masks
        save(tmp_path / f"kinds/a/{index}.png", striped(0, index))
        save(tmp_path / f"kinds/a/{index}.jpg", striped(1, index))
        save(tmp_path / f"kinds/label/{index + 8}.png", striped(2, index))
    assert np.sum(counts(folder(tmp_path / "kinds")), axis=0).tolist() == [16, 8]


# Names of classes


def test_numbers_are_named_or_stay_numbers(tmp_path: Path) -> None:
    images, labels = np.stack([striped(index % 3, index) for index in range(36)]), np.arange(36) % 3
    assert list(folder(arrays(tmp_path / "a", images, labels - 1)).class_names) == ["-1", "0", "1"]
    assert list(folder(arrays(tmp_path / "a", images, labels * 5)).class_names) == ["0", "5", "10"]
    named = folder(arrays(tmp_path / "a", images, labels), class_names=["zebra", "apple", "mouse"])
    assert [named.class_names[label] for label in named.data.labels[:3]] == ["zebra", "apple", "mouse"]
    six = np.stack([striped(index % 6, index) for index in range(48)])
    neu = NEUDataModule(str(arrays(tmp_path / "b", six, np.arange(48) % 6)), image_size=24)
    assert list(neu.class_names) == list("012345")
    own = list(reversed(NEU_CLASSES))
    named_neu = NEUDataModule(str(tmp_path / "b"), image_size=24, class_names=own)
    named_neu.setup()
    assert [named_neu.class_names[label] for label in named_neu.data.labels[:6]] == own


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\0b", "a\rb"])
def test_names_that_cannot_be_written_are_refused(tmp_path: Path, name: str) -> None:
    images = np.stack([striped(index % 2, index) for index in range(20)])
    if not name.endswith("\0b"):
        root = arrays(tmp_path / "a", images, np.array([["ok", name][index % 2] for index in range(20)]))
        refusal(lambda: folder(root), "a class is called")
    refusal(lambda: ImageFolderDataModule(str(tmp_path), class_names=["ok", name]), "a class is called")


def test_bytes_that_are_no_text_are_not_one_class(tmp_path: Path) -> None:
    images = np.stack([striped(index % 2, index) for index in range(20)])
    root = arrays(tmp_path / "a", images, np.array([[b"\xff", b"\xfe"][index % 2] for index in range(20)]))
    refusal(lambda: folder(root), "labels.npy", "UTF-8")


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are Unicode there")
def test_a_class_folder_that_is_no_utf8(class_folders: Path) -> None:
    (class_folders / "hole").rename(class_folders / os.fsdecode(b"h\xf6le"))
    refusal(lambda: folder(class_folders), "a class is called", "rename it")


def test_paths_made_of_names_stay_in_their_folder(tmp_path: Path) -> None:
    names = ["../up", "A/B", "A_B", "a_b", "..", "CON", "x" * 300, "größe"]
    images = np.stack([striped(index % 8, index) for index in range(80)])
    data = folder(arrays(tmp_path / "a", images, np.array([names[index % 8] for index in range(80)])),
                  augmentation=Augmentation(rotation=20))  # fmt: skip
    augment_to_folder(data, tmp_path / "out", copies=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "out"]
    made = ImageFolderDataModule(str(tmp_path / "out"), image_size=24, channels=1)
    made.setup()
    assert len(made.class_names) == 8
    assert sum(map(sum, counts(made))) == 80 + len(data.parts.train)
    assert len({name.lower() for name in safe_names(names)}) == 8
    assert not {"..", ".", "", "CON"} & set(safe_names(names))


# Synthetic is said everywhere


def test_generated_images_say_so_wherever_they_go(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    synthesize(tmp_path / "made", 6, 0, size=32)
    shutil.move(tmp_path / "made/crazing", tmp_path / "other/crazing")
    shutil.move(tmp_path / "made/patches", tmp_path / "other/patches")
    data = folder(tmp_path / "other", augmentation=Augmentation(rotation=10))
    assert data.source == data.card.source == data.describe()["source"] == "synthetic"
    assert "12 of 12 images are SYNTHETIC" in caplog.text
    augment_to_folder(data, tmp_path / "copies", copies=1)
    assert ImageFolderDataModule(str(tmp_path / "copies"), image_size=24).source == "synthetic"
    synthesize(tmp_path / "neu", 8, 0, size=32)
    neu = NEUDataModule(str(tmp_path / "neu"), image_size=24)
    neu.setup()
    assert (neu.source, neu.generated, neu.location) == ("synthetic", False, str(tmp_path / "neu"))


# A labelled set as a whole


def whole(root: Path, **arguments: Any) -> ImageFolderDataModule:
    return folder(root, split="test", mean=0.5, std=0.25, **{"class_names": NAMES, **arguments})


def test_a_labelled_set_is_read_whole(class_folders: Path, tmp_path: Path) -> None:
    shutil.rmtree(class_folders / "good")
    data = whole(class_folders)
    assert counts(data) == [[0] * 3, [0] * 3, [0, 12, 12]]
    assert list(data.class_names) == list(NAMES)
    refusal(data.train_dataloader, "none to train on")
    images, labels = next(iter(data.test_dataloader()))
    torch.testing.assert_close(images, (data.data.images / 255 - 0.5) / 0.25)
    assert labels.tolist() == [1] * 12 + [2] * 12
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in sorted(class_folders.rglob("*.png")):
            archive.write(path, Path("deep/test") / path.relative_to(class_folders))
    assert counts(whole(tmp_path / "set.zip")) == counts(data)
    (tmp_path / "table.csv").write_text("file,label,more\nimages/hole/1.png,good,1\nimages/scratch/2.png,hole,2\n")
    assert counts(whole(tmp_path / "table.csv"))[2] == [1, 1, 0]
    (tmp_path / "table.csv").write_text("file,label\nimages/hole/1.png,dent\n")
    refusal(lambda: whole(tmp_path / "table.csv"), "images/hole/1.png: dent", "good, hole, scratch")
    (tmp_path / "table.csv").write_text("file,label\nimages/hole/1.png,hole\nimages/hole/1.png,good\n")
    refusal(lambda: whole(tmp_path / "table.csv"), "each once")
    pixels = np.stack([striped(1, index) for index in range(5)])
    assert counts(whole(arrays(tmp_path / "a", pixels, ["hole"] * 5)))[2] == [0, 5, 0]
    assert counts(whole(arrays(tmp_path / "a", pixels, [2] * 5)))[2] == [0, 0, 5]
    refusal(lambda: whole(arrays(tmp_path / "a", pixels, ["dent"] * 5)), "dent")
    save(class_folders / "dent/1.png", striped(0, 0))
    refusal(lambda: whole(class_folders), "1 of 25 images", "dent/1.png")


def test_neu_is_read_whole_in_its_own_layout(neu_folder: Path) -> None:
    for path in neu_folder.glob("crazing*"):
        path.unlink()
    names = list(reversed(NEU_CLASSES))
    data = NEUDataModule(str(neu_folder), image_size=24, split="test", mean=0.5, std=0.25, class_names=names)
    data.setup()
    assert counts(data)[2] == [10, 10, 10, 10, 10, 0]


# Doors


def test_an_image_starts_no_program(class_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: started.append(1))
    text = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    (class_folders / "good/0.png").write_bytes(text)
    refusal(lambda: folder(class_folders), "good/0.png", "not an image")
    assert not started


@links
def test_pipes_and_devices_are_not_read(class_folders: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", Path("/dev/zero")):
        refusal(lambda place=place: folder(place), str(place), "a pipe, a device")  # type: ignore[misc]
        root = tmp_path / f"arrays_{place.name}"
        for name in ("images", "labels"):
            arrays(root, np.stack([striped(0, index) for index in range(20)]))
            (root / f"{name}.npy").unlink()
            (root / f"{name}.npy").symlink_to(place)
            refusal(lambda root=root: folder(root), f"{name}.npy", "a pipe, a device")  # type: ignore[misc]
            (root / f"{name}.npy").unlink()
        (class_folders / "good/0.png").unlink()
        (class_folders / "good/0.png").symlink_to(place)
        refusal(lambda: folder(class_folders), "good/0.png", "a pipe or a device")
        assert folder(class_folders, on_bad_image="skip").data.skipped[0].file == "good/0.png"


def test_bombs_are_not_unpacked_and_large_images_are(class_folders: Path) -> None:
    (class_folders / "good/0.png").write_bytes(png(60_000, 60_000, b"\0"))
    refusal(lambda: folder(class_folders), "60000 × 60000 px")
    Image.new("1", (14_000, 14_000), 1).save(class_folders / "good/0.png")
    assert np.unique(folder(class_folders).data.images[0].numpy()).tolist() == [255]


# Errors that are the machine's


@pytest.mark.parametrize("code", ["EMFILE", "EIO", "ENOMEM", "ESTALE"])
def test_an_error_of_the_machine_is_no_damage(class_folders: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    import errno

    number = getattr(errno, code)
    opened = open

    def failing(path: Any, *more: Any, **how: Any) -> Any:
        if str(path).endswith("hole/3.png"):
            raise OSError(number, os.strerror(number))
        return opened(path, *more, **how)

    monkeypatch.setattr("builtins.open", failing)
    refusal(lambda: folder(class_folders, on_bad_image="skip"), "hole/3.png", os.strerror(number))


def test_a_fax_with_bad_codes_is_damaged(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "fax.tif"
    Image.fromarray(np.random.default_rng(0).random((64, 64)) > 0.5).save(path, compression="group4")
    with Image.open(path) as image:
        start, length = image.tag_v2[273][0], image.tag_v2[279][0]
    content = bytearray(path.read_bytes())
    assert read_images([path], ImageFormat(image_size=64, channels=1))[0].float().std() > 100
    for place in range(start + 3, start + length, 40):
        content[place] ^= 255
    path.write_bytes(content)
    refusal(lambda: read_images([path], ImageFormat(image_size=64, channels=1)), "fax.tif", "damaged")
    assert capfd.readouterr().err == ""


def test_pillows_warnings_are_not_shown(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.save(tmp_path / "palette.png", transparency=b"\0\xff")
    assert np.unique(
        read_images([tmp_path / "palette.png"], ImageFormat(image_size=8, channels=1))[0].numpy()
    ).tolist() == [18]
    assert not [warning for warning in recwarn if "PIL" in str(warning.filename)]


# Arguments and odd files


def test_one_number_is_for_all_channels(class_folders: Path) -> None:
    assert folder(class_folders, channels=3, mean=0.5, std=0.25).card.mean == (0.5, 0.5, 0.5)
    refusal(lambda: folder(class_folders, mean=0.5), "go together")
    refusal(lambda: ImageFolderDataModule("x", on_bad_image="ignore"), "on_bad_image is 'ignore'")  # type: ignore[arg-type]


def test_arrays_with_any_header_are_read_or_refused(tmp_path: Path) -> None:
    root = arrays(tmp_path / "a", np.stack([striped(index % 2, index) for index in range(20)]))
    whole_file = (root / "images.npy").read_bytes()
    said = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        content = bytearray(whole_file)
        for place in rng.integers(0, 128, rng.integers(1, 6)):
            content[place] = rng.integers(256)
        (root / "images.npy").write_bytes(content)
        try:
            assert folder(root).data.images.shape[0] == 20
        except InputError as error:
            said.append(str(error))
    assert len(said) > 200
    assert all("images" in text and "\n" not in text for text in said)


def test_idx_files_of_odd_shapes(idx_folder: Path) -> None:
    def replaced(shape: tuple[int, ...], content: bytes) -> None:
        head = struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape)
        (idx_folder / "train-images-idx3-ubyte").write_bytes(head + content)

    for shape, content in (
        ((200, 0, 28), b""),
        ((1,) * 100, b"1"),
        ((2**31, 2**31, 8), b"1"),
        ((200, 784), b"1" * 156_800),
    ):
        replaced(shape, content)
        refusal(lambda: read_idx_pair(idx_folder, "train"), "train-images-idx3-ubyte")
    replaced((200, 14, 28), bytes(range(196)) * 400)
    replaced_test = (idx_folder / "t10k-images-idx3-ubyte").read_bytes()
    (idx_folder / "t10k-images-idx3-ubyte").write_bytes(
        struct.pack(">BBBB3I", 0, 0, 8, 3, 50, 14, 28) + replaced_test[16 : 16 + 50 * 392]
    )
    data = MNISTDataModule(str(idx_folder), val_size=50)
    data.setup()
    assert data.data.images.shape[1:] == (1, 28, 28)


def test_items_of_any_kind_are_the_image_that_they_show() -> None:
    rng = np.random.default_rng(0)
    red = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).quantize(16)
    kinds = [red, red.convert("RGBA"), red.convert("RGB"), np.asarray(red.convert("RGB"))]
    for kind in kinds:
        data = DatasetDataModule([(kind, index % 2) for index in range(20)])  # type: ignore[arg-type]
        data.setup()
        assert (data.data.images[3].permute(1, 2, 0).numpy() == np.asarray(red.convert("RGB"))).all()
    deep_image = Image.fromarray(striped(0, 0).astype(np.uint16) * 16)
    refusal(lambda: DatasetDataModule([(deep_image, 0)]), "data.train[0]", "white")  # type: ignore[arg-type]
    for label in (0.5, "1", np.array([0, 1]), torch.tensor([0, 1]), None, -1):
        refusal(DatasetDataModule([(kinds[0], label)] * 9).setup, "label")  # type: ignore[arg-type]


# Through the front door


def test_what_is_left_out_is_in_the_runs_words(
    class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (class_folders / "good/0.png").rename(class_folders / "good/0.heic")
    synthesize(tmp_path / "made", 1, 0, size=32)
    shutil.copy(tmp_path / "made/crazing/crazing_1.png", class_folders / "hole/made.png")
    config = write_config(tmp_path, class_folders)
    assert main(["fit", "--config", str(config), "--trainer.max_epochs=1"]) == 0
    told = capsys.readouterr().err
    assert "1 of .heic" in told
    assert "1 of 36 images are SYNTHETIC" in told
    (run,) = (tmp_path / "runs/tiny").iterdir()
    assert read(run)["data"]["source"] == "synthetic"
    assert logging.getLogger("defectlab").level <= logging.INFO
