"""Where images come from: files, folders, arrays, IDX and zip archives."""

import gzip
import os
import stat
import struct
import sys
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from defectlab.data.sources.archive import extract_archive, open_root, publish
from defectlab.data.sources.array_labels import read_labels
from defectlab.data.sources.arrays import find_arrays, load_arrays
from defectlab.data.sources.files import expand_images, image_files
from defectlab.data.sources.idx import find_idx, read_idx, read_idx_pair
from defectlab.data.sources.images import ImageSet, read_listing
from defectlab.data.sources.layouts import NEU_CLASSES, Listing, list_folders, list_neu
from defectlab.data.sources.reading import read_images
from defectlab.errors import InputError
from defectlab.utils import progress
from defectlab.utils.image_format import ImageFormat


def read_image(path: Path, size: int, channels: int) -> Tensor:
    return read_images([path], ImageFormat(image_size=size, channels=channels))[0][0]


def picture(path: Path, value: int = 100, size: tuple[int, int] = (8, 8), mode: str = "L") -> Path:
    """Saves an image of one grey value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).convert(mode).save(path)
    return path


def pictures(root: Path, names: Iterable[str]) -> Path:
    for value, name in enumerate(names):
        picture(root / name, value)
    return root


def refusal(call: Callable[[], object], *words: object) -> str:
    """The one line that a call is refused with; every word has to be in it."""
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message
    return message


# One image


def test_reads_grey_and_colour_and_stretches_the_whole_picture(tmp_path: Path) -> None:
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:, 4:] = (200, 100, 0)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    colour = read_image(tmp_path / "wide.png", 8, 3)
    assert colour.shape == (3, 8, 8)
    assert colour.dtype == torch.uint8
    assert colour[:, 4, 0].tolist() == [0, 0, 0]
    assert colour[:, 4, 7].tolist() == [200, 100, 0]
    grey = read_image(tmp_path / "wide.png", 8, 1)
    assert grey.shape == (1, 8, 8)
    assert grey[0, 4, 7] == round(0.299 * 200 + 0.587 * 100)


def test_shrinking_averages_instead_of_dropping_pixels(tmp_path: Path) -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    assert 120 < read_image(tmp_path / "stripes.png", 8, 1).float().mean() < 135
    assert read_image(tmp_path / "stripes.png", 8, 1).float().std() < 10


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_sixteen_bits_are_scaled_by_a_fixed_factor(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"deep{suffix}"
    Image.fromarray(np.array([[0, 257 * 40], [257 * 128, 65535]], np.uint16)).save(path)
    assert read_image(path, 2, 1).flatten().tolist() == [0, 40, 128, 255]


def test_float_tiff_is_read_by_its_range_and_refused_outside(tmp_path: Path) -> None:
    path = tmp_path / "float.tiff"
    Image.fromarray(np.array([[0.0, 1.0], [0.2, 0.4]], np.float32)).save(path)
    assert read_image(path, 2, 1).flatten().tolist() == [0, 255, 51, 102]
    Image.fromarray(np.array([[-1.0, 1.0]], np.float32)).save(path)
    refusal(lambda: read_image(path, 2, 1), path, "from -1 to 1")


def test_palette_and_transparency(tmp_path: Path) -> None:
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.save(tmp_path / "palette.png")
    assert read_image(tmp_path / "palette.png", 4, 3)[:, 0, 0].tolist() == [10, 20, 30]
    alpha = Image.new("RGBA", (4, 4), (200, 100, 50, 255))
    alpha.putpixel((0, 0), (200, 100, 50, 0))
    alpha.save(tmp_path / "alpha.png")
    pixels = read_image(tmp_path / "alpha.png", 4, 3)
    assert pixels[:, 0, 0].tolist() == [0, 0, 0]
    assert pixels[:, 3, 3].tolist() == [200, 100, 50]


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_exif_orientation_turns_the_picture_once(tmp_path: Path, suffix: str) -> None:
    pixels = np.zeros((16, 16), np.uint8)
    pixels[:8] = 250  # bright above; stored so that a quarter turn clockwise is needed to look at it
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / f"turned{suffix}"
    Image.fromarray(pixels).save(path, exif=exif)
    upright = read_image(path, 16, 1)[0].float()
    assert upright[:, 9:].mean() > 200
    assert upright[:, :7].mean() < 50


def test_large_jpeg_is_close_to_a_full_decode(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 60), np.uint8)
    image = Image.fromarray(noise).resize((720, 720), Image.Resampling.BICUBIC).convert("RGB")
    image.save(tmp_path / "large.jpg", quality=95)
    with Image.open(tmp_path / "large.jpg") as full:
        expected = np.asarray(full.convert("L").resize((64, 64), Image.Resampling.BILINEAR)).astype(int)
    difference = np.abs(read_image(tmp_path / "large.jpg", 64, 1)[0].numpy().astype(int) - expected)
    assert difference.max() <= 4


def _bad_files(folder: Path) -> dict[str, str]:
    """File name and a word of its reason."""
    picture(folder / "whole.jpg", size=(64, 64))
    picture(folder / "whole.png", size=(64, 64))
    (folder / "cut.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:-60])
    (folder / "cut.png").write_bytes((folder / "whole.png").read_bytes()[:60])
    (folder / "text.jpg").write_text("this is not an image")
    (folder / "empty.png").touch()
    (folder / "folder.jpg").mkdir()
    reasons = {
        "cut.jpg": "truncated",
        "cut.png": "truncated",
        "text.jpg": "not an image",
        "empty.png": "empty",
    }
    return {**reasons, "folder.jpg": "a folder", "gone.jpg": "no such file"}


def test_a_bad_picture_is_refused_with_its_name_and_reason(tmp_path: Path) -> None:
    for name, reason in _bad_files(tmp_path).items():
        refusal(lambda name=name: read_image(tmp_path / name, 8, 1), tmp_path / name, reason)  # type: ignore[misc]


def test_an_unreadable_picture_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    picture(tmp_path / "locked.png")
    monkeypatch.setattr("builtins.open", denied)
    refusal(lambda: read_image(tmp_path / "locked.png", 8, 1), "locked.png", "permission denied")


@pytest.mark.parametrize(("size", "channels", "word"), [(0, 1, "size"), (8, 2, "channels"), (8, 4, "channels")])
def test_impossible_shapes_are_refused(tmp_path: Path, size: int, channels: int, word: str) -> None:
    refusal(lambda: read_image(picture(tmp_path / "a.png"), size, channels), word)


# Many images


def test_pictures_keep_their_order(tmp_path: Path) -> None:
    files = [picture(tmp_path / f"{value}.png", value) for value in (7, 200, 3, 90, 41)]
    images, indices, skipped = read_images(files, ImageFormat(image_size=4, channels=1))
    assert images.shape == (5, 1, 4, 4)
    assert images[:, 0, 0, 0].tolist() == [7, 200, 3, 90, 41]
    assert (indices, skipped) == ([0, 1, 2, 3, 4], [])


@pytest.mark.parametrize("mapped", [False, True])
def test_bad_pictures_stop_or_are_skipped_by_choice(tmp_path: Path, mapped: bool) -> None:
    good = [picture(tmp_path / "good" / f"{value}.png", value) for value in (10, 20, 30)]
    reasons = _bad_files(tmp_path)
    files = [good[0], *(tmp_path / name for name in reasons), *good[1:]]
    cache = tmp_path / "cache" / "pixels" if mapped else None
    refusal(lambda: read_images(files, ImageFormat(image_size=4, channels=1), cache=cache), files[1], "on_bad_image")
    for _ in range(2):  # the second time from the cache
        images, indices, skipped = read_images(
            files, ImageFormat(image_size=4, channels=1), "skip", cache, root=tmp_path
        )
        assert images[:, 0, 0, 0].tolist() == [10, 20, 30]
        assert indices == [0, len(files) - 2, len(files) - 1]
        assert [left.file for left in skipped] == list(reasons)
        assert all(reason in left.reason for left, reason in zip(skipped, reasons.values(), strict=True))
    refusal(lambda: read_images(files, ImageFormat(image_size=4, channels=1), cache=cache), files[1])
    refusal(lambda: read_images(files[1:3], ImageFormat(image_size=4, channels=1), "skip", cache), "none of 2")
    refusal(lambda: read_images([], ImageFormat(image_size=4, channels=1)), "empty")


@pytest.mark.parametrize("mapped", [False, True])
def test_a_set_of_several_blocks_keeps_its_order(tmp_path: Path, mapped: bool) -> None:
    files = [picture(tmp_path / f"{value}.png", value) for value in range(8)]  # 12 MiB each, 5 a block
    for index in (1, 6):
        files[index].write_text("text")
    images, indices, skipped = read_images(
        files, ImageFormat(image_size=2048, channels=3), "skip", tmp_path / "set" if mapped else None, root=tmp_path
    )
    assert images[:, 2, -1, -1].tolist() == [0, 2, 3, 4, 5, 7]
    assert indices == [0, 2, 3, 4, 5, 7]
    assert [left.file for left in skipped] == ["1.png", "6.png"]


def test_a_mapped_set_is_reused_until_a_file_changes(tmp_path: Path) -> None:
    files = [picture(tmp_path / f"{value}.png", value) for value in (10, 20)]
    cache = tmp_path / "cache" / "set.uint8"
    built, _, _ = read_images(files, ImageFormat(image_size=4, channels=1), cache=cache)
    assert torch.equal(built, read_images(files, ImageFormat(image_size=4, channels=1))[0])
    assert cache.stat().st_size == 2 * 16
    inode = cache.stat().st_ino
    assert torch.equal(read_images(files, ImageFormat(image_size=4, channels=1), cache=cache)[0], built)
    assert cache.stat().st_ino == inode
    picture(files[1], 77)
    os.utime(files[1], ns=(0, 12345))
    assert read_images(files, ImageFormat(image_size=4, channels=1), cache=cache)[0][:, 0, 0, 0].tolist() == [10, 77]
    assert read_images(files, ImageFormat(image_size=2, channels=1), cache=cache)[0].shape == (2, 1, 2, 2)
    assert read_images(files, ImageFormat(image_size=2, channels=3), cache=cache)[0].shape == (2, 3, 2, 2)
    assert read_images(files[:1], ImageFormat(image_size=2, channels=3), cache=cache)[0].shape == (1, 3, 2, 2)
    assert sorted(os.listdir(cache.parent)) == ["set.uint8", "set.uint8.json"]


def test_a_damaged_cache_is_built_anew(tmp_path: Path) -> None:
    files = [picture(tmp_path / f"{value}.png", value) for value in (10, 20)]
    cache = tmp_path / "set"
    note = tmp_path / "set.json"
    read_images(files, ImageFormat(image_size=4, channels=1), cache=cache)
    for damage in (
        lambda: cache.write_bytes(b"short"),
        lambda: cache.write_bytes(bytes(32)),  # the right size, other pixels
        lambda: note.write_text("not json"),
        lambda: note.write_text("[1]"),
        lambda: cache.unlink(),
    ):
        damage()
        assert read_images(files, ImageFormat(image_size=4, channels=1), cache=cache)[0][:, 0, 0, 0].tolist() == [
            10,
            20,
        ]


def test_a_skipped_file_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [picture(tmp_path / f"{value}.png", value) for value in (10, 20)]
    opened = open

    def out_of_reach(path: Path, mode: str = "r", **how: Any) -> Any:
        if path == files[1]:
            raise PermissionError(13, "Permission denied")
        return opened(path, mode, **how)

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", out_of_reach)
        assert len(read_images(files, ImageFormat(image_size=4, channels=1), "skip", tmp_path / "set")[0]) == 1
    assert len(read_images(files, ImageFormat(image_size=4, channels=1), "skip", tmp_path / "set")[0]) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="resource limits are POSIX")
def test_a_full_disk_leaves_nothing_of_a_cache(tmp_path: Path) -> None:
    import resource

    files = [picture(tmp_path / f"{value}.png", value) for value in range(40)]
    cache = tmp_path / "cache" / "set"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # writes beyond it fail as on a full disk
    try:
        refusal(lambda: read_images(files, ImageFormat(image_size=32, channels=1), cache=cache), cache, "MiB")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not cache.parent.exists()


def test_a_disk_without_room_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [picture(tmp_path / "a.png"), picture(tmp_path / "b.png")]
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100})())
    refusal(
        lambda: read_images(files, ImageFormat(image_size=32, channels=1), cache=tmp_path / "set"),
        "only 0.0 MiB are free",
    )


def test_a_listing_becomes_a_set_and_a_large_one_is_mapped(tmp_path: Path) -> None:
    root = pictures(tmp_path / "data", ["a/1.png", "a/2.png", "b/1.png", "b/2.png"])
    (root / "a" / "2.png").write_text("text")
    listing = list_folders(root)
    data = read_listing(listing, ImageFormat(image_size=4, channels=3), "skip", cache_folder=tmp_path / "cache")
    assert data.images.shape == (3, 1, 4, 4), "all channels are equal"
    assert data.labels.dtype == torch.int64
    assert data.labels.tolist() == [0, 1, 1]
    assert data.files == ["a/1.png", "b/1.png", "b/2.png"]
    assert [str(left) for left in data.skipped] == ["a/2.png: not an image, whatever its name says"]
    assert not (tmp_path / "cache").exists()
    mapped = read_listing(
        listing, ImageFormat(image_size=4, channels=3), "skip", cache_folder=tmp_path / "cache", backing="mapped"
    )
    assert torch.equal(mapped.images, data.images)
    assert sum(name.endswith(".uint8") for name in os.listdir(tmp_path / "cache")) == 1
    (root / "a" / "1.png").write_text("text")
    refusal(lambda: read_listing(listing, ImageFormat(image_size=4, channels=3), "skip"), "no image of a")


def test_progress_shows_late_and_on_rank_zero_alone(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(after: float) -> str:
        with progress.progress_bar("counting", 3, after=after) as advance:
            for _ in range(3):
                advance(1)
        captured = capfd.readouterr()
        assert captured.out == ""
        return captured.err

    assert "3/3" in work(after=0)
    assert work(after=60) == ""
    monkeypatch.setenv("RANK", "1")
    assert work(after=0) == ""


# Finding files


def test_image_files_are_sorted_naturally_and_junk_is_passed_over(tmp_path: Path) -> None:
    names = ["img_10.png", "img_2.JPG", "sub/img_1.jpeg", "a.bmp", "b.tif", "c.tiff", "d.webp", "e.PGM"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for name in ("notes.txt", ".hidden.png", "__MACOSX/x.png", ".git/y.png", "Thumbs.db"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in image_files(tmp_path)]
    assert found == [
        "a.bmp",
        "b.tif",
        "c.tiff",
        "d.webp",
        "e.PGM",
        "img_2.JPG",
        "img_10.png",
        "sub/img_1.jpeg",
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_linked_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    picture(tmp_path / "elsewhere" / "x.png")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "circle").symlink_to(tmp_path / "root")
    assert [path.name for path in image_files(tmp_path / "root")] == ["x.png"]


def test_expanding_files_folders_and_globs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path, ["img_10.png", "img_2.png", "deep/er/img_1.png", "odd[1].png"])
    (tmp_path / "img_3.txt").touch()
    monkeypatch.chdir(tmp_path)
    names = expand_images(["img_*", "deep", str(tmp_path / "img_2.png"), "img_10.png"])
    assert [path.name for path in names] == ["img_1.png", "img_2.png", "img_10.png"]
    assert expand_images(["**/img_1.png"]) == [Path("deep/er/img_1.png")]
    assert expand_images(["odd[1].png"]) == [Path("odd[1].png")]
    assert expand_images(["img_3.txt"]) == [Path("img_3.txt")]
    (tmp_path / "nothing").mkdir()
    refusal(lambda: expand_images(["img_2.png", "gone.png"]), "gone.png", "no such file")
    refusal(lambda: expand_images(["img_2.png", "*.webp"]), "*.webp", "no image")
    refusal(lambda: expand_images(["nothing"]), "nothing", "no image")
    refusal(lambda: expand_images([]), "no image")


# Folder layouts


def test_class_folders_in_natural_order(tmp_path: Path) -> None:
    root = pictures(tmp_path, ["grade10/a.png", "grade2/b.png", "grade2/deeper/c.png", ".git/d.png"])
    listing = list_folders(root)
    assert listing.class_names == ["grade2", "grade10"]
    assert [path.name for path in listing.files] == ["b.png", "c.png", "a.png"]
    assert listing.labels == [0, 0, 1]
    assert listing.splits is None


@pytest.mark.parametrize("wrapper", ["", "download/", "download/set v2/"])
@pytest.mark.parametrize("inner", ["", "images/"])
@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_split_folders_behind_wrappers(tmp_path: Path, wrapper: str, inner: str, val: str) -> None:
    names = [f"{wrapper}{split}/{inner}{name}/{split}_{name}.png" for split in ("train", val, "test") for name in "ab"]
    root = pictures(tmp_path, names)
    (root / wrapper / "train" / "annotations").mkdir()
    (root / wrapper / "train" / "annotations" / "a.xml").touch()
    listing = list_folders(root)
    assert listing.class_names == ["a", "b"]
    assert listing.splits is not None
    told = {path.name: (label, split) for path, label, split in zip(*_columns(listing), strict=True)}
    expected = {"train": "train", val: "val", "test": "test"}
    assert told == {f"{s}_{n}.png": ("ab".index(n), expected[s]) for s in expected for n in "ab"}


def _columns(listing: Listing) -> tuple[list[Path], list[int], Sequence[str]]:
    return listing.files, listing.labels, listing.splits or [""] * len(listing.files)


def test_a_test_folder_may_lack_a_class(tmp_path: Path) -> None:
    listing = list_folders(pictures(tmp_path, ["train/a/1.png", "train/b/2.png", "test/b/deeper/3.png"]))
    assert listing.class_names == ["a", "b"]
    assert (listing.labels, listing.splits) == ([1, 0, 1], ["test", "train", "train"])


def test_folders_that_cannot_be_used_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(names: list[str], *words: object, folders: Sequence[str] = ()) -> None:
        root = tmp_path / str(len(os.listdir(tmp_path)))
        root.mkdir()
        for folder in folders:
            (root / folder).mkdir(parents=True)
        refusal(lambda: list_folders(pictures(root, names)), root, *words)

    refuse([], "no image")
    refuse(["1.png", "2.png"], "1.png", "no class folder")
    refuse(["a/1.png", "b/2.png", "stray.png"], "stray.png")
    refuse(["a/1.png", "a/2.png"], "one class a")
    refuse(["wrapper/a/1.png", "wrapper/a/2.png"], "one class")
    refuse(["a/1.png", "b/2.png"], "hollow", folders=["hollow"])
    refuse(["train/a/1.png", "train/b/2.png", "test/a/3.png"], "test/b", folders=["test/b"])
    refuse(["train/a/1.png", "train/b/2.png", "test/a/3.png"], "/val", folders=["val"])
    refuse(["train/a/1.png", "train/b/2.png", "test/c/3.png"], "3.png", "class c", "a, b")
    refuse(["train/a/1.png", "train/b/2.png", "ground_truth/a/3.png"], "ground_truth: stands beside train")
    refuse(["train/a/1.png", "train/b/2.png", "test/a/3.png", "4.png"], "4.png")
    refuse(["val/a/1.png", "test/b/2.png"], "train")
    refusal(lambda: list_folders(tmp_path / "gone"), tmp_path / "gone", "No such file")
    refusal(lambda: list_folders(picture(tmp_path / "file.png")), "a file")

    def denied(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", denied)
    refusal(lambda: list_folders(tmp_path / "locked"), tmp_path / "locked", "Permission denied")


SHORT = ("Cr", "In", "Pa", "PS", "RS", "Sc")
CASED = ("Crazing", "Inclusion", "Patches", "Pitted", "Rolled", "Scratches")
LOWER = ("crazing", "inclusion", "patches", "pitted surface", "rolled_in-scale", "scratch")


@pytest.mark.parametrize(
    "pattern",
    [
        "{name}/{number}.png",
        "NEU-CLS/{name}/img_{number}.png",
        "{name}_{number}.png",
        "NEU-DET/IMAGES/{name}_{number}.png",
        "a/b/c/{name}-{number}.png",
        "{name}_{number}_png.rf.0a1b2c.png",
    ],
)
@pytest.mark.parametrize("names", [NEU_CLASSES, SHORT, CASED, LOWER])
def test_neu_in_any_layout(tmp_path: Path, pattern: str, names: Sequence[str]) -> None:
    paths = [pattern.format(name=name, number=number) for name in names for number in (1, 2)]
    listing = list_neu(pictures(tmp_path, paths))
    assert tuple(listing.class_names) == NEU_CLASSES
    labels = {path.relative_to(tmp_path).as_posix(): label for path, label, _ in zip(*_columns(listing), strict=True)}
    assert labels == {path: index // 2 for index, path in enumerate(paths)}
    assert listing.splits is None


def test_neu_det_is_one_pool_and_its_annotations_are_no_pictures(tmp_path: Path) -> None:
    names = [f"IMAGES/{name}_1.jpg" for name in NEU_CLASSES] + ["Validation_Images/crazing_2.jpg"]
    root = pictures(tmp_path / "NEU-DET", names)
    (root / "ANNOTATIONS").mkdir()
    (root / "ANNOTATIONS" / "crazing_1.xml").touch()
    listing = list_neu(tmp_path)
    assert (len(listing.files), listing.splits) == (7, None)


@pytest.mark.parametrize("pattern", ["{split}/{name}/{number}.png", "NEU-DET/{split}/images/{name}/x_{number}.png"])
def test_neu_with_named_splits(tmp_path: Path, pattern: str) -> None:
    splits = ("train", "valid", "test")
    names = [
        pattern.format(split=split, name=name, number=number) for number, split in enumerate(splits) for name in CASED
    ]
    listing = list_neu(pictures(tmp_path, names))
    assert listing.splits is not None
    assert sorted(listing.splits) == ["test"] * 6 + ["train"] * 6 + ["val"] * 6
    for path, split in zip(listing.files, listing.splits, strict=True):
        assert path.stem.endswith(str(("train", "val", "test").index(split)))


def test_neu_pictures_of_no_class_or_missing_classes_are_refused(tmp_path: Path) -> None:
    root = pictures(tmp_path / "a", [f"{name}_1.png" for name in NEU_CLASSES] + ["dog_1.png", "cat_1.png"])
    refusal(lambda: list_neu(root), "2 of 8", root / "cat_1.png")
    root = pictures(tmp_path / "b", [f"{name}_1.png" for name in NEU_CLASSES[:4]])
    refusal(lambda: list_neu(root), "rolled-in_scale, scratches")
    names = [f"train/{name}_1.png" for name in NEU_CLASSES]
    root = pictures(tmp_path / "c", [*names, "test/crazing_2.png", "crazing_3.png"])
    refusal(lambda: list_neu(root), "crazing_3.png", "outside")
    root = pictures(tmp_path / "d", [*names[1:], "test/crazing_2.png"])
    refusal(lambda: list_neu(root), "no image of crazing in the train folder")
    (tmp_path / "empty").mkdir()
    refusal(lambda: list_neu(tmp_path / "empty"), "no image")


# Arrays


def arrays(root: Path, size: int, channels: int, class_names: list[str] | None = None) -> ImageSet:
    """What a folder of arrays holds."""
    files = find_arrays(root)
    assert files is not None
    known, names = read_labels(files, class_names)
    return load_arrays(files, names, known, ImageFormat(image_size=size, channels=channels))


def save(folder: Path, **arrays: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", np.asarray(values))
    return folder


RAMP = np.arange(4 * 6 * 6, dtype=np.uint8).reshape(4, 6, 6)


@pytest.mark.parametrize(
    ("images", "channels"),
    [
        (RAMP, 1),
        (RAMP[..., None], 1),
        (RAMP[:, None], 1),
        (RAMP.reshape(4, 36), 1),
        (RAMP.astype(np.int64), 1),
        (RAMP.astype(np.float64), 1),
        (RAMP.astype(np.float32) / 255, 1),
        (np.stack([RAMP] * 3, axis=-1), 3),
        (np.stack([RAMP] * 3, axis=1), 3),
        (np.stack([RAMP] * 3, axis=1), 1),
        (RAMP, 3),
    ],
)
def test_arrays_of_every_form_are_the_same_pictures(tmp_path: Path, images: np.ndarray, channels: int) -> None:
    if images.dtype == np.float32:
        images = images / (images.max() * 1.0)  # a set in [0, 1] that reaches 1
    data = arrays(save(tmp_path, images=images, labels=[1, 0, 1, 0]), 6, channels)
    expected = RAMP if images.max() > 1 else np.rint(RAMP * (255 / RAMP.max()))
    assert data.images.shape == (4, channels, 6, 6)
    assert (data.images[:, -1].numpy() == expected).all()
    assert data.labels.tolist() == [1, 0, 1, 0]
    assert data.class_names == ["0", "1"]
    assert data.files[2] == "images.npy[2]"
    assert data.splits is None


@pytest.mark.parametrize(
    ("labels", "given", "names", "expected"),
    [
        ([10, 2, 10, 2], None, ["2", "10"], [1, 0, 1, 0]),
        ([[1], [0], [1], [0]], None, ["0", "1"], [1, 0, 1, 0]),
        ([0.0, 1.0, 1.0, 0.0], ["ok", "bad"], ["ok", "bad"], [0, 1, 1, 0]),
        ([[0, 1], [1, 0], [0, 1], [1, 0]], ["ok", "bad"], ["ok", "bad"], [1, 0, 1, 0]),
        (["ok", "bad", "ok", "bad"], None, ["bad", "ok"], [1, 0, 1, 0]),
        (["ok", "bad", "ok", "bad"], ["ok", "bad"], ["ok", "bad"], [0, 1, 0, 1]),
        ([b"ok", b"bad", b"ok", b"bad"], ["ok", "bad"], ["ok", "bad"], [0, 1, 0, 1]),
    ],
)
def test_labels_of_every_form(
    tmp_path: Path, labels: list[object], given: list[str] | None, names: list[str], expected: list[int]
) -> None:
    data = arrays(save(tmp_path, images=RAMP, labels=labels), 6, 1, given)
    assert data.class_names == names
    assert data.labels.tolist() == expected


def test_split_arrays_in_a_wrapper_and_any_case_are_resized(tmp_path: Path) -> None:
    save(
        tmp_path / "set",
        X_train=RAMP,
        y_train=[0, 1, 0, 1],
        x_VAL=RAMP[:1],
        Y_val=[1],
        x_test=RAMP[:2],
        y_test=[0, 1],
    )
    assert find_arrays(tmp_path) is not None
    data = arrays(tmp_path, 3, 1, None)
    assert data.images.shape == (7, 1, 3, 3)
    assert data.splits == ["train"] * 4 + ["val"] + ["test"] * 2
    assert data.labels.tolist() == [0, 1, 0, 1, 1, 0, 1]
    assert data.files[4] == "set/x_VAL.npy[0]"
    assert abs(float(data.images[0].float().mean()) - RAMP[0].mean()) < 1


def test_arrays_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    def refuse(*words: object, given: list[str] | None = None, **content: object) -> Path:
        root = save(tmp_path / str(len(os.listdir(tmp_path))), **content)
        refusal(lambda: arrays(root, 6, 1, given), *words)
        return root

    good = [0, 1, 0, 1]
    refuse("images.npy holds 4 images", "labels.npy 3 labels", images=RAMP, labels=[0, 1, 0])
    refuse("no partner of images.npy", images=RAMP)
    refuse(
        "no partner of y_test.npy among x_train.npy, y_test.npy, y_train.npy", x_train=RAMP, y_train=good, y_test=good
    )
    refuse("no images and labels to train on among x_test.npy, y_test.npy", x_test=RAMP, y_test=good)
    refuse("both images.npy and x_train.npy", images=RAMP, labels=good, x_train=RAMP, y_train=good)
    refuse("(4, 35)", images=RAMP.reshape(4, 36)[:, 1:], labels=good)
    refuse("(4, 6, 6, 1, 1)", images=RAMP[..., None, None], labels=good)
    refuse("(4, 6, 6, 4)", images=np.stack([RAMP] * 4, axis=-1), labels=good)
    refuse("from nan to nan", images=np.full((4, 6, 6), np.nan), labels=good)
    refuse("bool", images=RAMP > 9, labels=good)
    refuse("fractions", images=RAMP, labels=[0, 0.5, 1, 1])
    refuse("one-hot", images=RAMP, labels=[[1, 1], [0, 1], [0, 1], [1, 0]])
    refuse("from 0 to 2", images=RAMP, labels=[0, 1, 2, 0], given=["a", "b"])
    refuse("labels c are not", images=RAMP, labels=["a", "b", "c", "a"], given=["a", "b"])
    refuse("no training image of c", images=RAMP, labels=good, given=["a", "b", "c"])
    refuse("labels 7 are not", x_train=RAMP, y_train=good, x_test=RAMP[:1], y_test=[7])
    refuse("one class 0", images=RAMP, labels=[0, 0, 0, 0])
    refuse("at least one row", images=RAMP[:0], labels=[])
    pickled = np.empty(4, object)
    np.save(tmp_path / "pickled.npy", pickled, allow_pickle=True)
    root = refuse("no partner of images.npy", images=RAMP)
    (tmp_path / "pickled.npy").rename(root / "labels.npy")
    refusal(lambda: arrays(root, 6, 1, None), root / "labels.npy")
    (root / "labels.npy").write_text("text")
    refusal(lambda: arrays(root, 6, 1, None), root / "labels.npy")
    (root / "images.npy").write_bytes((root / "images.npy").read_bytes()[:-5])
    refusal(lambda: arrays(root, 6, 1, None), root / "images.npy")
    assert find_arrays(tmp_path / "gone") is None


# IDX


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


def idx_folder(folder: Path, gz: bool, value: int = 0) -> Path:
    folder.mkdir(parents=True)
    for part, count in (("train", 3), ("t10k", 2)):
        images = np.full((count, 28, 28), value, np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", np.arange(count, dtype=np.uint8))):
            data = idx(array)
            name = f"{part}-{kind}-ubyte"
            (folder / (name + ".gz" if gz else name)).write_bytes(gzip.compress(data) if gz else data)
    return folder


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("place", ["", "raw", "MNIST/raw"])
def test_idx_files_are_found_and_read(tmp_path: Path, gz: bool, place: str) -> None:
    folder = idx_folder(tmp_path / "root" / place, gz)
    assert find_idx([tmp_path, tmp_path / "root"], "MNIST") == folder
    images, labels = read_idx_pair(folder, "t10k")
    assert (images.shape, images.dtype) == ((2, 28, 28), torch.uint8)
    assert (labels.tolist(), labels.dtype) == ([0, 1], torch.int64)


def test_idx_finds_the_set_that_was_asked_for(tmp_path: Path) -> None:
    idx_folder(tmp_path / "MNIST" / "raw", gz=False)
    assert find_idx([tmp_path], "FashionMNIST") is None
    fashion = idx_folder(tmp_path / "FashionMNIST" / "raw", gz=True)
    assert find_idx([tmp_path], "FashionMNIST") == fashion
    next(iter(fashion.iterdir())).unlink()
    assert find_idx([tmp_path], "FashionMNIST") is None


def test_idx_reads_other_types_in_their_byte_order(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(struct.pack(">BBBBI3h", 0, 0, 0x0B, 1, 3, 1, -2, 300))
    assert read_idx(tmp_path / "a").tolist() == [1, -2, 300]


@pytest.mark.parametrize("gz", [False, True])
def test_damaged_idx_files_are_refused(tmp_path: Path, gz: bool) -> None:
    whole = idx(np.zeros((3, 4), np.uint8))
    pack = gzip.compress if gz else bytes
    huge = struct.pack(">BBBB2I", 0, 0, 8, 2, 2**31, 2**31)
    cases = [b"", b"PK\3\4", whole[:6], whole[:-1], whole + b"1", huge]
    for index, data in enumerate(cases):
        path = tmp_path / str(index)
        path.write_bytes(pack(data))
        refusal(lambda path=path: read_idx(path), path)  # type: ignore[misc]
    refusal(lambda: read_idx(tmp_path / "gone"), "gone", "No such file")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(whole)[:-9])
    refusal(lambda: read_idx(tmp_path / "cut.gz"), "cut.gz", "cut short")


def test_idx_pairs_have_to_fit(tmp_path: Path) -> None:
    folder = idx_folder(tmp_path / "root", gz=False)
    labels = folder / "train-labels-idx1-ubyte"
    labels.write_bytes(idx(np.zeros(5, np.uint8)))
    refusal(lambda: read_idx_pair(folder, "train"), "3 images", "5 labels", labels)
    labels.write_bytes(idx(np.zeros((3, 1), np.uint8)))
    refusal(lambda: read_idx_pair(folder, "train"), labels, "2 dimensions")
    labels.unlink()
    refusal(lambda: read_idx_pair(folder, "train"), "train-labels-idx1-ubyte")


# Archives


def zipped(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def test_a_zip_is_unpacked_as_it_is(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "a.zip", {"top/x.txt": b"x", "top\\y.txt": b"y", "./z.txt": b"z", "empty/": b""})
    assert extract_archive(archive, tmp_path / "deep" / "out") == tmp_path / "deep" / "out"
    out = tmp_path / "deep" / "out"
    assert {path.relative_to(out).as_posix() for path in out.rglob("*")} == {
        "top", "top/x.txt", "top/y.txt", "z.txt", "empty",
    }  # fmt: skip
    assert (out / "top" / "y.txt").read_bytes() == b"y"
    assert os.listdir(tmp_path / "deep") == ["out"]
    refusal(lambda: extract_archive(archive, out), out, "exists")
    extract_archive(archive, tmp_path / "some", only=["z.txt"])
    assert os.listdir(tmp_path / "some") == ["z.txt"]


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "\\evil", "..\\evil", "C:/evil", "c:evil"])
def test_members_that_lead_outside_are_refused(tmp_path: Path, name: str) -> None:
    archive = zipped(tmp_path / "a.zip", {"fine.txt": b"x", name: b"evil"})
    refusal(lambda: extract_archive(archive, tmp_path / "in" / "out"), archive, "leads outside")
    assert os.listdir(tmp_path) == ["a.zip"]


def _link(path: Path) -> Path:
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(info, "/etc")
    return path


def _patched(path: Path, offset: int, value: bytes) -> Path:
    """A zip of one member with bytes of its central directory replaced."""
    data = bytearray(zipped(path, {"x.txt": b"x" * 5000}).read_bytes())
    start = data.index(b"PK\1\2") + offset
    data[start : start + len(value)] = value
    path.write_bytes(data)
    return path


def _damaged(path: Path) -> Path:
    data = zipped(path, {"x.txt": os.urandom(500)}, zipfile.ZIP_STORED).read_bytes()
    path.write_bytes(data[:100] + b"damage" + data[106:])
    return path


def _text(path: Path) -> Path:
    path.write_text("text")
    return path


def _twice(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x.txt", "one")
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("x.txt", "two")
    return path


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (_link, "link"),
        (lambda path: _patched(path, 8, b"\1"), "encrypted"),
        (lambda path: _patched(path, 24, struct.pack("<I", 10)), "damaged"),  # declares less than there is
        (lambda path: _patched(path, 24, struct.pack("<I", 2**31)), "zip bomb"),
        (lambda path: zipped(path, {"x.bin": bytes(110 * 2**20)}), "zip bomb"),
        (_damaged, "damaged"),
        (_text, "no zip archive"),
        (_twice, "twice"),
        (lambda path: zipped(path, {"x": b"1", "x/y": b"2"}), "file and folder"),
    ],
)
def test_bad_archives_are_refused_and_leave_nothing(tmp_path: Path, make: Callable[[Path], Path], word: str) -> None:
    archive = make(tmp_path / "a.zip")
    refusal(lambda: extract_archive(archive, tmp_path / "out"), archive, word)
    assert os.listdir(tmp_path) == ["a.zip"]


def test_archives_have_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = zipped(tmp_path / "a.zip", {f"{index}": os.urandom(100) for index in range(10)})
    for name, most, word in (("MAX_BYTES", 999, "more than"), ("MAX_FILES", 9, "10 members")):
        with monkeypatch.context() as patch:
            patch.setattr(f"defectlab.data.sources.archive.{name}", most)
            refusal(lambda: extract_archive(archive, tmp_path / "out"), word)
    refusal(lambda: extract_archive(tmp_path / "gone.zip", tmp_path / "out"), "gone.zip", "No such file")
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 999})())
        refusal(lambda: extract_archive(archive, tmp_path / "out"), "make room")
    assert os.listdir(tmp_path) == ["a.zip"]
    monkeypatch.setattr("defectlab.data.sources.archive.MAX_BYTES", 1000)
    monkeypatch.setattr("defectlab.data.sources.archive.MAX_FILES", 10)
    extract_archive(archive, tmp_path / "out")


def test_of_two_that_unpack_at_once_one_copy_stays(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    publish(tmp_path / "first", tmp_path / "target")
    publish(tmp_path / "second", tmp_path / "target")
    assert (tmp_path / "target" / "file").read_text() == "first"


def test_a_zip_as_root_is_unpacked_once_until_it_changes(tmp_path: Path) -> None:
    root = pictures(tmp_path / "set", ["a/1.png", "b/2.png"])
    assert open_root(root, tmp_path / "cache") == root
    members = {f"set/{name}": (root / name).read_bytes() for name in ("a/1.png", "b/2.png")}
    archive = zipped(tmp_path / "set.zip", members)
    folder = open_root(archive, tmp_path / "cache")
    assert list_folders(folder).class_names == ["a", "b"]
    (folder / "mark").touch()
    assert open_root(archive, tmp_path / "cache") == folder
    assert (folder / "mark").exists()
    zipped(archive, {**members, "set/c/3.png": members["set/a/1.png"]})
    assert list_folders(open_root(archive, tmp_path / "cache")).class_names == ["a", "b", "c"]
    refusal(lambda: open_root(tmp_path / "gone.zip", tmp_path / "cache"), "gone.zip", "No such file")
    refusal(lambda: open_root(_text(tmp_path / "text.zip"), tmp_path / "cache"), "text.zip", "no zip archive")
