"""Labels from tables, COCO, Pascal VOC and Severstal's masks in place of class folders; several roots."""

import builtins
import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import striped
from helpers import read, refusal, write_config
from PIL import Image

from defectlab.cli.main import main
from defectlab.data import ImageFolderDataModule, NEUDataModule
from defectlab.data.sources.label_table import LabelColumns
from defectlab.data.sources.tables import read_columns

COUNT = 24  # images, of which each second one is of the second kind


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """`set/pictures/000.png` and so on."""
    folder = tmp_path / "set" / "pictures"
    folder.mkdir(parents=True)
    for index in range(COUNT):
        Image.fromarray(striped(index % 2, index)).save(folder / f"{index:03}.png")
    return tmp_path / "set"


def names() -> list[str]:
    return [f"pictures/{index:03}.png" for index in range(COUNT)]


def table(path: Path, header: str, row: Callable[[int], str]) -> Path:
    """A line for each of the images."""
    path.write_text("\n".join([*([header] if header else []), *map(row, range(COUNT))]) + "\n", encoding="utf-8")
    return path


def folder(root: Any, **arguments: Any) -> ImageFolderDataModule:
    module = ImageFolderDataModule(
        root if isinstance(root, list) else str(root), image_size=24, channels=1, **arguments
    )
    module.setup()
    return module


def classes(data: ImageFolderDataModule) -> dict[str, str]:
    """The class of each image by its file."""
    return {
        file: data.class_names[label] for file, label in zip(data.data.files, data.data.labels.tolist(), strict=True)
    }


EXPECTED = {f"pictures/{index:03}.png": ("hole" if index % 2 else "good") for index in range(COUNT)}


def kind(index: int) -> str:
    return "hole" if index % 2 else "good"


@pytest.mark.parametrize(
    ("name", "header", "row"),
    [
        ("labels.csv", "image,label", lambda i: f"pictures/{i:03}.png,{kind(i)}"),
        ("labels.csv", "", lambda i: f"pictures/{i:03}.png,{kind(i)}"),
        ("data.tsv", "label\tFile Name", lambda i: f"{kind(i)}\tpictures\\{i:03}.png"),
        ("data.csv", "filename;other;class", lambda i: f"./pictures/{i:03}.png;1,5;{kind(i)}"),
        ("data.txt", "path   category", lambda i: f"{i:03}   {kind(i)}  "),
        ("data.csv", "id,good,hole", lambda i: f"{i:03}.png,{1 - i % 2},{i % 2}"),
        ("data.csv", "id,hole,scratch", lambda i: f"{i:03}.png,{i % 2},0"),
    ],
)
def test_tables_in_use_are_found(flat: Path, name: str, header: str, row: Any) -> None:
    table(flat / name, header, row)
    data = folder(flat)
    assert classes(data) == EXPECTED
    assert sum(map(sum, (data.class_counts(part) for part in ("train", "val", "test")))) == COUNT


def test_columns_are_named_and_numbers_mean_classes(flat: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = table(flat.parent / "t.csv", "a,b,c", lambda i: f"{i:03}.png,{i % 2}.0,{kind(i)}")
    with caplog.at_level(logging.INFO):
        data = folder(
            flat, labels=str(path), label_columns=LabelColumns(image="a", label="b"), class_names=["good", "hole"]
        )
    assert classes(data) == EXPECTED
    assert "image in column a" in caplog.text
    assert set(classes(folder(flat, labels=str(path), label_columns=LabelColumns(image="a", label="b"))).values()) == {
        "0",
        "1",
    }
    assert classes(folder(flat, labels=str(path), label_columns=LabelColumns(image="a", label="c"))) == EXPECTED
    refusal(
        lambda: folder(flat, labels=str(path), label_columns=LabelColumns(image="a", label="cc")),
        "column cc",
        "mean c?",
    )
    refusal(lambda: folder(flat, labels=str(path)), "a, b, c", "label_columns.image")


def test_parquet_is_read_as_csv(flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {
        "image": names(),
        "label": [kind(i) for i in range(COUNT)],
        "weight": [1.5] * COUNT,
        "raw": [b"x"] * COUNT,
    }
    parquet.write_table(pyarrow.table(columns), flat / "labels.parquet")
    data = folder(flat)
    assert classes(data) == EXPECTED
    assert data.data.records.weights is not None
    (flat / "labels.parquet").write_bytes(b"PAR1 nothing")
    refusal(lambda: folder(flat, labels=str(flat / "labels.parquet")), "labels.parquet")
    original = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError
        return original(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    refusal(lambda: read_columns(flat / "labels.parquet"), "pip install 'defectlab[parquet]'")


def test_elpv_is_read_as_it_is(flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    levels = ("0.0", "0.3333333333333333", "0.6666666666666666", "1.0")
    table(flat / "labels.csv", "", lambda i: f"pictures/{i:03}.png  {levels[i % 4]:20}{'mono' if i < 9 else 'poly'}")
    config = write_config(tmp_path, flat)
    assert main(["fit", "--config", str(config), "--trainer.max_epochs=1"]) == 0
    (run,) = (tmp_path / "runs" / "tiny").iterdir()
    counts = read(run)["data"]["counts"]
    assert Counter(name for part in counts.values() for name in part) == {"bad": 3, "good": 3}
    assert sum(part["bad"] for part in counts.values()) == COUNT // 2
    data = folder(flat, labels=str(flat / "labels.csv"), label_columns=LabelColumns(soft=True))
    assert data.data.records.targets is not None
    expected = [[float(levels[i % 4]), 1 - float(levels[i % 4])] for i in range(COUNT)]
    np.testing.assert_allclose(data.data.records.targets, expected, atol=1e-6)
    assert list(data.class_names) == ["bad", "good"]
    # Two groups cannot be train, val and test, and that is said before anything is written.
    capsys.readouterr()
    assert main(["fit", "--config", str(config), "--data.group_by", "type"]) == 1
    assert "bad in 2 groups" in capsys.readouterr().err
    assert len(list((tmp_path / "runs" / "tiny").iterdir())) == 1
    assert main(["data", "inspect", str(flat), "--output", str(tmp_path / "out")]) == 0


def test_probabilities_and_weights_reach_the_loss(flat: Path) -> None:
    path = table(
        flat / "t.csv",
        "image,good,hole,weight",
        lambda i: f"{i:03}.png,{0.75 - i % 2 / 2},{0.25 + i % 2 / 2},{1 + i % 3}",
    )
    data = folder(flat)
    assert classes(data) == EXPECTED
    train = torch.from_numpy(data.parts.train)
    weights = 1 + torch.tensor([int(file[-7:-4]) % 3 for file in data.files("train")]).float()
    sums = torch.cat([targets for _, targets in data.train_dataloader()]).sum(dim=1)
    torch.testing.assert_close(sums.sort()[0], (weights / weights.mean()).sort()[0])
    reordered = folder(flat, class_names=["hole", "good"])
    assert data.data.records.targets is not None
    assert reordered.data.records.targets is not None
    np.testing.assert_array_equal(reordered.data.records.targets, data.data.records.targets[:, ::-1])
    assert all(labels.dtype == torch.int64 for _, labels in data.val_dataloader())
    hard = folder(flat, labels=str(path), label_columns=LabelColumns(soft=False))
    assert hard.data.records.targets is None
    assert len(train)


def test_the_split_of_a_table_is_kept(flat: Path) -> None:
    parts = ["train", "train", "valid", "testing"]
    table(flat / "t.csv", "image,label,split", lambda i: f"{i:03}.png,{kind(i)},{parts[i // 2 % 4]}")
    data = folder(flat)
    assert {int(file[-7:-4]) // 2 % 4 for file in data.files("test")} == {3}
    assert {int(file[-7:-4]) // 2 % 4 for file in data.files("val")} == {2}
    assert {int(file[-7:-4]) // 2 % 4 for file in folder(flat, split="random").files("test")} != {3}
    table(flat / "t.csv", "image,label,split", lambda i: f"{i:03}.png,{kind(i)},{'sometimes' if i == 7 else 'train'}")
    refusal(lambda: folder(flat), "1 (sometimes)", "column split")


def test_several_classes_of_an_image_are_refused_or_chosen(flat: Path) -> None:
    path = table(flat / "t.csv", "image,label", lambda i: f"{i:03}.png,{kind(i)}{'|dent' if i in (3, 5, 7, 9) else ''}")
    refusal(lambda: folder(flat), "4 (003.png: hole, dent", "and so on", "label_columns.several")
    assert classes(folder(flat, labels=str(path), label_columns=LabelColumns(several="first"))) == EXPECTED
    table(flat / "t.csv", "image,good,hole", lambda i: f"{i:03}.png,1,{i % 2}")
    refusal(lambda: folder(flat), "12 (001.png: good, hole")
    table(flat / "t.csv", "image,good,hole", lambda i: f"{i:03}.png,0.9,{0.1 + i % 2 / 2}")
    refusal(lambda: folder(flat), "12 (001.png, 003.png, 005.png and so on)", "sum to 1")


def coco(path: Path, boxes: list[tuple[int, int, list[float]]], images: range = range(COUNT)) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({
        "images": [{"id": i, "file_name": f"{i:03}.png", "width": 24, "height": 24} for i in images],
        "categories": [{"id": 1, "name": "hole"}, {"id": 2, "name": "dent"}],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": box, "iscrowd": 0} for n, (i, c, box) in enumerate(boxes)
        ],
    }))  # fmt: skip
    return path


def test_coco_is_read_as_it_is(flat: Path, caplog: pytest.LogCaptureFixture) -> None:
    odd = [(i, 1, [2.0, 2.0, 9.0, 9.0]) for i in range(1, COUNT, 2)]
    path = coco(flat / "annotations" / "instances.json", odd)
    with caplog.at_level(logging.INFO):
        assert classes(folder(flat)) == EXPECTED
    assert "12 of 24 images have no defect: they are good" in caplog.text
    assert classes(folder(path.parent.parent, labels=str(path))) == EXPECTED
    coco(path, [*odd, (1, 2, [0.0, 0.0, 20.0, 20.0])])
    refusal(lambda: folder(flat), "1 (001.png: hole, dent)")
    coco(path, [*odd, (1, 1, [30.0, 2.0, 4.0, 4.0]), (3, 1, [2.0, 2.0, 0.0, 4.0])])
    refusal(lambda: folder(flat), "2 (001.png: [30.0, 2.0, 4.0, 4.0], 003.png", "no pixel")
    coco(path, [(99, 1, [2.0, 2.0, 9.0, 9.0])])
    refusal(lambda: folder(flat), "instances.json", "KeyError: 99")
    path.write_text("{")
    refusal(lambda: folder(flat, labels=str(path)), "instances.json")
    path.unlink()
    for part, images in (("train", range(16)), ("valid", range(16, 20)), ("test", range(20, 24))):
        coco(flat / part / "_annotations.coco.json", [box for box in odd if box[0] in images], images)
    assert [int(name[-7:-4]) for name in folder(flat).files("test")] == [20, 21, 22, 23]


def test_pascal_voc_is_read_as_it_is(flat: Path, caplog: pytest.LogCaptureFixture) -> None:
    (flat / "pictures").rename(flat / "JPEGImages")
    (flat / "Annotations").mkdir()
    (flat / "SegmentationClass").mkdir()
    box = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
    for i in range(COUNT - 2):
        text = f"<annotation><size><width>24</width><height>24</height></size>{box.format('hole', 2) * (i % 2)}</annotation>"
        (flat / "Annotations" / f"{i:03}.xml").write_text(text)
        shutil.copy(flat / "JPEGImages" / f"{i:03}.png", flat / "SegmentationClass")
    (flat / "JPEGImages" / "023.png").unlink()
    found = classes(folder(flat))
    assert {file.removeprefix("JPEGImages/"): name for file, name in found.items()} == {
        file.removeprefix("pictures/"): name for file, name in EXPECTED.items() if "023" not in file
    }
    assert "1 of 23 images have no .xml file" in caplog.text
    outside = f"<annotation><size><width>24</width><height>24</height></size>{box.format('hole', 50)}</annotation>"
    (flat / "Annotations" / "001.xml").write_text(outside)
    refusal(lambda: folder(flat), "001.xml", "holds no pixel")


def test_severstal_is_read_as_it_is(flat: Path) -> None:
    (flat / "pictures").rename(flat / "train_images")
    (flat / "test_images").mkdir()
    Image.fromarray(striped(0, 99)).save(flat / "test_images" / "100.png")
    (flat / "sample_submission.csv").write_text("ImageId,EncodedPixels,ClassId\n100.png,1 409600,1\n")
    rows = [f"{i:03}.png,{3 + 1 * (i % 4 == 1)},{29 + i} 5 60 7" for i in range(1, COUNT, 2)]
    (flat / "train.csv").write_text("\n".join(["ImageId,ClassId,EncodedPixels", *rows]))
    found = classes(folder(flat))
    assert Counter(found.values()) == {"good": 12, "3": 6, "4": 6}
    assert found["train_images/001.png"] == "4"
    (flat / "train.csv").write_text(
        "\n".join(["ImageId,ClassId,EncodedPixels", *rows, "001.png,3,1 50", "005.png,3,1 2"])
    )
    refusal(lambda: folder(flat), "2 (001.png: 4, 3, 005.png: 4, 3)", "of 24 images")
    path = str(flat / "train.csv")
    assert (
        classes(folder(flat, labels=path, label_columns=LabelColumns(several="first")))["train_images/001.png"] == "4"
    )
    largest = classes(folder(flat, labels=path, label_columns=LabelColumns(several="largest")))
    assert (largest["train_images/001.png"], largest["train_images/005.png"]) == ("3", "4")
    (flat / "train.csv").write_text("\n".join(["ImageId,ClassId,EncodedPixels", *rows, "001.png,3,1 50 x"]))
    refusal(lambda: folder(flat), "1 (001.png)", "start and length")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            lambda i: f"{i if i > 3 else i + 500:03}.png,{kind(i)}",
            ("4 (500.png, 501.png, 502.png and so on)", "missing"),
        ),
        (lambda i: f"{i // 2:03}.png,{kind(i)}", ("24 (000.png, 000.png, 001.png and so on)", "listed twice")),
        (lambda i: f"{i:03}.png,{kind(i) if i > 1 else ''}", ("2 (000.png, 001.png)", "no label")),
        (lambda i: f"{i:03}.png,{kind(i) if i > 1 else ' | '}", ("2 (000.png, 001.png)", "no label")),
        (lambda i: f"{i:03}.png,{kind(i) if i > 1 else 'hle'}", ("2 (000.png: hle, 001.png: hle)", "good, hole")),
        (lambda i: f"{i:03}.png,{kind(i)}{',more' * (i == 4)}", ("1 (6)",)),
        (lambda i: f"{i:03}.png,good", ("1 classes without an image (hole)",)),
        (lambda i: f",{kind(i)}", ("24 (an empty cell",)),
    ],
)
def test_rows_that_cannot_be_used_are_named(
    flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], row: Any, words: tuple[str, ...]
) -> None:
    path = table(tmp_path / "t.csv", "image,label", row)
    more = ["--data.labels", str(path), "--data.class_names", "[good, hole]"]
    assert main(["fit", "--config", str(write_config(tmp_path, flat)), *more]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert all(word in said[-1] for word in words), said
    assert not (tmp_path / "runs").exists()


def test_other_bad_tables(flat: Path, tmp_path: Path) -> None:
    def with_text(text: str) -> Callable[[], object]:
        (tmp_path / "t.csv").write_text(text)
        return lambda: folder(flat, labels=str(tmp_path / "t.csv"))

    refusal(with_text(""), "no row")
    refusal(with_text("image,label\n"), "no row")
    refusal(with_text("image,label,label\na,b,c\n"), "two columns label")
    refusal(with_text("image,label,weight\n000.png,a,0\n001.png,b,x\n"), "2 (0, x)", "weights")
    refusal(with_text("image,label\n000.png,0.5\n001.png,1.5\n"), "1 (1.5)")
    refusal(lambda: folder(flat, labels="nowhere.csv"), "nowhere.csv")
    shutil.copytree(flat / "pictures", flat / "again")
    refusal(with_text("image,label\n000.png,a\n001.png,b\n"), "2 (000.png, 001.png)", "several of that name")


def test_missing_images_may_be_left_out(flat: Path, caplog: pytest.LogCaptureFixture) -> None:
    table(flat / "t.csv", "image,label", lambda i: f"{i:03}.png,{kind(i)}")
    (flat / "pictures" / "004.png").unlink()
    (flat / "pictures" / "new.png").write_bytes((flat / "pictures" / "005.png").read_bytes())
    assert len(folder(flat, on_bad_image="skip").data.files) == COUNT - 1
    assert "1 images without a row, and 1 rows without an image" in caplog.text


def test_class_folders_stay_the_easy_way(class_folders: Path, caplog: pytest.LogCaptureFixture) -> None:
    (class_folders / "notes.csv").write_text("image,label\n1.png,odd\n2.png,even\n")
    assert list(folder(class_folders).class_names) == ["good", "hole", "scratch"]
    assert "notes.csv are not read" in caplog.text


def test_neu_takes_a_table_of_any_names_in_use(tmp_path: Path) -> None:
    short = ["Cr", "In", "Pa", "PS", "RS", "Sc"]
    rows = []
    for index in range(30):
        Image.fromarray(striped(index % 6, index)).save(tmp_path / f"{index}.png")
        rows.append(f"{index}.png,{short[index % 6]}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    data = NEUDataModule(str(tmp_path), image_size=24, labels=str(tmp_path / "labels.csv"), val_size=6, test_size=6)
    data.setup()
    assert data.data.labels.bincount().tolist() == [5] * 6
    assert {
        data.class_names[label]: int(Path(file).stem) % 6
        for file, label in zip(data.data.files, data.data.labels, strict=True)
    }["scratches"] == 5


def test_a_run_from_a_table_comes_back(flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = table(flat / "t.csv", "image,label,coil", lambda i: f"{i:03}.png,{kind(i)},{i // 4}")
    config, more = write_config(tmp_path, flat), ["--data.labels", str(path), "--data.group_by", "coil"]
    assert main(["fit", "--config", str(config), *more, "--trainer.max_epochs=1"]) == 0
    (run,) = (tmp_path / "runs" / "tiny").iterdir()
    before = read(run)
    assert before["data"]["group_by"] == "coil"
    assert sum(before["data"]["groups"].values()) == 6
    assert main(["test", str(run)]) == 0
    assert read(run)["test"]["accuracy"] == before["test"]["accuracy"]
    other = tmp_path / "other"
    shutil.copytree(flat, other)  # moved, with its table
    shutil.rmtree(flat)
    assert main(["test", str(run), "--data.root", str(other), "--data.labels", str(other / "t.csv")]) == 0
    assert read(run)["test"]["accuracy"] == before["test"]["accuracy"]
    new = tmp_path / "new"
    (new / "hole").mkdir(parents=True)
    for index in range(5):
        Image.fromarray(striped(1, 100 + index)).save(new / "hole" / f"{index}.png")
    assert main(["test", str(run), "--on", str(new)]) == 0
    (new / "t.csv").write_text("file,label\n" + "".join(f"hole/{index}.png,hole\n" for index in range(3)))
    capsys.readouterr()
    assert main(["test", str(run), "--on", str(new / "t.csv")]) == 0
    assert "of 3 images" in capsys.readouterr().out


def test_several_roots_and_patterns(class_folders: Path, tmp_path: Path) -> None:
    for line in ("line_1", "line_2"):
        shutil.copytree(class_folders, tmp_path / "lines" / line)
    shutil.rmtree(tmp_path / "lines" / "line_2" / "hole")
    lines = tmp_path / "lines"
    data = folder([str(lines / "line_1"), str(lines / "line_2")])
    assert len(data.data.files) == 60
    assert data.data.files[0] == "line_1/good/0.png"
    assert classes(data)["line_2/scratch/3.png"] == "scratch"
    assert classes(folder(lines / "line_*")) == classes(data)
    assert classes(folder(lines / "*" / "*" / "*.png")) == classes(data)
    refusal(lambda: folder([str(lines), str(lines / "line_1")]), "below two roots")
    refusal(lambda: folder([str(lines / "line_1"), str(lines / "line_3")]), "line_3")
    refusal(lambda: folder(lines / "*" / "good"), "classes good")
    (lines / "line_1" / "good").rename(lines / "line_1" / "train")
    refusal(lambda: folder(lines / "line_*"), "folders of a split, train")
    config = write_config(tmp_path, class_folders)
    words = ["fit", "--config", str(config), "--trainer.max_epochs=1", "--data.root"]
    assert main([*words, json.dumps([str(class_folders), str(lines / "line_2")])]) == 0
    (run,) = (tmp_path / "runs" / "tiny").iterdir()
    assert main(["test", str(run)]) == 0
