"""The split by file and content: yesterday's test stays the test, whatever happens to the data in between."""

import csv
import dataclasses
import logging
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import striped, write_class_folders
from helpers import refusal
from PIL import Image

from defectlab.data import Augmentation, ImageFolderDataModule, MNISTDataModule, NEUDataModule, SplitTable
from defectlab.data.pipeline.split_table import SplitRow, content_hash


def folder(root: Path, kept: SplitTable | None = None, **arguments: Any) -> ImageFolderDataModule:
    """Set up, with the split of `kept`."""
    module = ImageFolderDataModule(str(root), image_size=24, channels=1, **arguments)
    if kept is not None:
        module.keep_split(kept)
    module.setup()
    return module


def arrays(root: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    root.mkdir(exist_ok=True)
    np.save(root / "images.npy", images)
    np.save(root / "labels.npy", labels)
    return root


def test_the_table_names_every_image_once(class_folders: Path) -> None:
    data = folder(class_folders)
    table = data.split_table()
    assert [row.part for row in table.rows] == ["train"] * 24 + ["val"] * 5 + ["test"] * 7
    for part in ("train", "val", "test"):
        assert [row.file for row in table.rows if row.part == part] == data.files(part)
    row = table.rows[0]
    content = (class_folders / row.file).read_bytes()
    assert (row.label, row.size, row.hash) == (row.file.split("/")[0], len(content), content_hash(content))


def test_it_comes_back_as_it_was_written(tmp_path: Path) -> None:
    names = (
        'a,"b"',
        "=1+1",
        "'=x",
        "-1",
        "line\nbreak",
        "a\rb",
        "größe",
        " ",
        b"\xff".decode("utf-8", "surrogateescape"),
    )
    table = SplitTable(
        tuple(SplitRow(part="val", label=name, size=3, hash="0f" * 16, file=f"{name}/1.png") for name in names)
    )
    table.write(tmp_path / "split.csv")
    assert SplitTable.read(tmp_path / "split.csv") == table
    text = (tmp_path / "split.csv").read_bytes().decode("utf-8", "surrogateescape")
    assert '"=1+1' not in text
    assert '"-1' not in text
    assert [path.name for path in tmp_path.iterdir()] == ["split.csv"]


def test_it_is_plain_csv(class_folders: Path, tmp_path: Path) -> None:
    folder(class_folders).split_table().write(tmp_path / "split.csv")
    with (tmp_path / "split.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["part", "label", "size", "hash", "file"]
    assert Counter(row["part"] for row in rows) == {"train": 24, "val": 5, "test": 7}


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: "\0" * 100,
        lambda text: text.splitlines()[0] + "\n",
        lambda text: text.replace("part", "parts", 1),
        lambda text: text.replace("train", "training", 1),
        lambda text: text[: len(text) - 20],
        lambda text: text + text.splitlines()[-1] + "\n",
        lambda text: text + "test,good,1\n",
        lambda text: text + 'test,"good\n',
        lambda text: text + "test,good,-1," + "0" * 32 + ",x.png\n",
        lambda text: text + "test,good,1," + "0" * 31 + ",x.png\n",
        lambda text: text + "x" * 200_000,
    ],
)
def test_what_is_no_table_is_refused(class_folders: Path, tmp_path: Path, change: Any) -> None:
    path = tmp_path / "split.csv"
    folder(class_folders).split_table().write(path)
    path.write_text(change(path.read_text()))
    refusal(lambda: SplitTable.read(path), "split.csv")
    refusal(lambda: SplitTable.read(tmp_path / "none.csv"), "none.csv", "No such file")


def test_new_images_stay_out(class_folders: Path, caplog: pytest.LogCaptureFixture) -> None:
    augmentation = Augmentation(rotation=20, noise=0.1)
    before = folder(class_folders, augmentation=augmentation)
    for index in range(100, 105):
        Image.fromarray(striped(1, index)).save(class_folders / "good" / f"{index - 100}_new.png")
    with caplog.at_level(logging.WARNING):
        after = folder(class_folders, before.split_table(), augmentation=augmentation)
    assert "5 images" in caplog.text
    assert "good/0_new.png, good/1_new.png, good/2_new.png" in caplog.text
    assert after.split_table() == before.split_table()
    assert after.describe() == before.describe()
    assert [after.files(part) for part in ("train", "val", "test")] == [
        before.files(part) for part in ("train", "val", "test")
    ]
    # Training goes on as if nothing had come: the same order, and the same augmentation of each image.
    for (one, label), (other, same) in zip(before.train_dataloader(), after.train_dataloader(), strict=True):
        assert torch.equal(one, other)
        assert torch.equal(label, same)
    assert folder(class_folders).split_table() != before.split_table()


def test_other_images_are_told(class_folders: Path) -> None:
    table = folder(class_folders).split_table()
    moved = [row.file for row in table.rows[:4]]
    for file in moved[1:]:
        (class_folders / file).unlink()
    Image.fromarray(striped(2, 99)).save(class_folders / moved[0])
    refusal(lambda: folder(class_folders, table), "3 missing", *moved[1:], f"1 changed ({moved[0]})")


def test_the_same_names_with_other_images_are_another_split(class_folders: Path) -> None:
    first = folder(class_folders)
    state = first.state_dict()
    for path in class_folders.rglob("*.png"):
        Image.fromarray(np.asarray(Image.open(path)) // 2).save(path)
    second = folder(class_folders)
    assert second.files("test") == first.files("test")
    assert second.describe()["split_hash"] != first.describe()["split_hash"]
    refusal(lambda: folder(class_folders, first.split_table()), "36 changed", "and so on")
    again = ImageFolderDataModule(str(class_folders), image_size=24, channels=1)
    again.load_state_dict(state)  # before it is read: only the statistics are taken


def test_another_label_is_a_change(tmp_path: Path) -> None:
    images = np.stack([striped(index % 2, index) for index in range(30)])
    labels = np.arange(30) % 2
    table = folder(arrays(tmp_path / "a", images, labels)).split_table()
    assert folder(arrays(tmp_path / "a", images, labels), table).split_table() == table
    labels[7] = 0
    refusal(lambda: folder(arrays(tmp_path / "a", images, labels), table), "1 changed (images.npy[7])")


def test_rows_appended_to_arrays_stay_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = np.stack([striped(index % 2, index) for index in range(40)])
    labels = np.arange(40) % 2
    table = folder(arrays(tmp_path / "a", images[:30], labels[:30])).split_table()
    after = folder(arrays(tmp_path / "a", images, labels), table)
    assert after.split_table() == table
    assert len(after.data.files) == 30
    assert "10 images" in caplog.text
    # It is the file's pixels that are compared, whatever size they are read at.
    smaller = ImageFolderDataModule(str(tmp_path / "a"), image_size=12, channels=3)
    smaller.keep_split(table)
    smaller.setup()
    assert smaller.split_table() == table
    images[4, 0, 0] += 1
    refusal(lambda: folder(arrays(tmp_path / "a", images, labels), table), "1 changed (images.npy[4])")


def test_a_test_part_that_was_left_out_is_not_new(split_folders: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = folder(split_folders, test_size=0)
    assert len(first.split_table().rows) == 24
    caplog.clear()
    assert folder(split_folders, first.split_table(), test_size=0).describe() == first.describe()
    assert "not in the run's split" not in caplog.text


def test_idx_files_and_generated_images(idx_folder: Path) -> None:
    def mnist(size: int = 28) -> MNISTDataModule:
        return MNISTDataModule(str(idx_folder), val_size=50, image_size=size)

    data = mnist()
    data.setup()
    small = mnist(14)
    small.keep_split(data.split_table())
    small.setup()
    assert small.split_table().rows[0].size == 28 * 28
    path = idx_folder / "t10k-images-idx3-ubyte"
    content = bytearray(path.read_bytes())
    content[16] ^= 1
    path.write_bytes(content)
    changed = mnist()
    changed.keep_split(data.split_table())
    refusal(changed.setup, "1 changed (t10k[0])")

    def strip(seed: int) -> NEUDataModule:
        return NEUDataModule(source="synthetic", synthetic_per_class=8, image_size=16, seed=seed)

    generated, same, other = strip(0), strip(0), strip(1)
    generated.setup()
    for module in (same, other):
        module.keep_split(generated.split_table())
    same.setup()
    assert same.split_table() == generated.split_table()
    refusal(other.setup, "48 changed")


def test_a_split_is_kept_before_the_images_are_read(class_folders: Path) -> None:
    data = ImageFolderDataModule(str(class_folders), image_size=24)
    refusal(data.split_table, "setup")
    data.setup()
    refusal(lambda: data.keep_split(data.split_table()), "before setup")


def test_the_hash_tells_part_label_name_and_content() -> None:
    row = SplitRow(part="train", label="a", size=1, hash="0" * 32, file="a/1.png")
    changes: list[dict[str, Any]] = [{}, {"part": "val"}, {"label": "b"}, {"hash": "1" * 32}, {"file": "a/2.png"}]
    hashes = {SplitTable((dataclasses.replace(row, **change),)).hash for change in changes}
    assert len(hashes) == 5
    assert all(len(name) == 16 for name in hashes)


def test_a_class_that_came_later(class_folders: Path, tmp_path: Path) -> None:
    table = folder(class_folders).split_table()
    write_class_folders(tmp_path / "more", 4, ("new",))
    shutil.move(tmp_path / "more" / "new", class_folders / "zebra")
    after = folder(class_folders, table)
    assert after.split_table() == table
