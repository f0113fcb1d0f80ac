"""The course's files as they lie: train and val folders, and NumPy's arrays under the names that they go by."""

import csv
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from conftest import striped, write_class_folders
from helpers import read, refusal, write_config
from PIL import Image

from defectlab.cli.main import main
from defectlab.data import FashionMNISTDataModule, ImageFolderDataModule, MNISTDataModule, NEUDataModule
from defectlab.data.sources.arrays import find_arrays
from defectlab.data.sources.idx import read_idx_pair
from defectlab.data.sources.layouts import NEU_CLASSES

COURSE_ORDER = ("scratches", "rolled-in_scale", "pitted_surface", "patches", "inclusion", "crazing")
NAMES = ("good", "hole", "scratch")
Said = Callable[..., str]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """Run a command; gives what it printed, or the one line of a failed one."""

    def run(*words: str, status: int = 0) -> str:
        capsys.readouterr()
        assert main(words) == status
        captured = capsys.readouterr()
        if status:
            line: str = captured.err.splitlines()[-1]
            assert line.startswith("defectlab: error: ")
            return line
        return captured.out

    return run


def save(folder: Path, **arrays: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", np.asarray(values))
    return folder


def stripes(labels: npt.NDArray[np.int64], side: int = 16) -> npt.NDArray[np.uint8]:
    """(N, side, side), a class by its stripes."""
    return np.stack([striped(int(label), index, side) for index, label in enumerate(labels)])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


# Folders without a test part


@pytest.fixture(scope="module")
def without_test(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on train and val folders."""
    folder = tmp_path_factory.mktemp("without")
    for part, per_class in (("train", 8), ("val", 3)):
        write_class_folders(folder / "images" / part, per_class)
    config = write_config(folder, folder / "images")
    config.write_text(config.read_text().replace(", test_size: 7", ""))
    assert main(["fit", "--config", str(config)]) == 0
    (run,) = (folder / "runs" / "tiny").iterdir()
    return run


def test_a_run_without_a_test_part_is_judged_on_validation_and_says_so(without_test: Path, said: Said) -> None:
    metrics = read(without_test)
    assert "test" not in metrics
    assert "calibration" not in metrics
    assert "test_split_read" not in metrics["run"]
    assert metrics["val"]["n"] == 9
    assert sum(metrics["data"]["counts"]["test"].values()) == 0
    assert not (without_test / "predictions.csv").exists()
    assert len(rows(without_test / "val_predictions.csv")) == 9
    assert not list(without_test.parents[1].glob("test_reads.csv"))
    page = (without_test / "report.html").read_text(encoding="utf-8")
    assert "No test part." in page
    assert "Not tested yet." not in page
    assert "flatters" not in said("report", str(without_test))


def test_fit_prints_what_the_figure_means(without_test: Path, said: Said) -> None:
    config = without_test.parents[2] / "tiny.yaml"
    printed = said("fit", "--config", str(config), "--trainer.max_epochs", "1")
    assert "val: " in printed
    assert "No test part." in printed
    printed = said("fit", "--config", str(config), "--trainer.max_epochs", "1", "--data.test_size", "0.25")
    assert "test: " in printed
    assert "of 6 images" in printed


def test_what_a_run_without_a_test_part_can_do(without_test: Path, tmp_path: Path, said: Said) -> None:
    run, root = str(without_test), without_test.parents[2] / "images"
    assert "of 9 images right" in said("validate", run)
    out = tmp_path / "out.csv"
    assert "9 images" in said("predict", run, str(root / "val"), "--output", str(out), "--sets", "0.5")
    assert len(rows(out)) == 9
    assert "validation images" in said("explain", run, "--output", str(tmp_path / "explain"))
    page = (tmp_path / "explain" / "explain.html").read_text(encoding="utf-8")
    assert "Each point is a validation image" in page
    assert "Each point is a test image" not in page
    config = str(without_test / "config.yaml")
    crossval = ["crossval", "--config", config, "--folds", "2", "--repeats", "1", "--trainer.max_epochs", "1"]
    assert "pooled" in said(*crossval, "--output", str(tmp_path / "crossval"))
    assert "33 images" in said("data", "inspect", str(root), "--output", str(tmp_path / "inspection"))
    assert "parameters" in said("summary", "compare", run, "--turns", "1", "--image-size", "64")


def test_what_needs_a_test_part_says_so_in_one_line(without_test: Path, tmp_path: Path, said: Said) -> None:
    run = str(without_test)
    before = sorted(without_test.rglob("*"))
    for words in (["test", run], ["robustness", run]):
        line = said(*words, status=1)
        assert "no test images" in line
        assert "data.test_size" in line
        assert "validate" in line
    for command in ("compare", "ensemble"):
        assert "data.test_size" in said(command, run, str(other_run(without_test, tmp_path)), status=1)
    assert sorted(without_test.rglob("*")) == before
    root = str(without_test.parents[2] / "images")
    budget = ["budget", "--config", "folder_mobilenet.yaml", "--data.root", root, "--data.image_size", "32"]
    assert "no test images" in said(*budget, "--output", str(tmp_path / "budget"), status=1)


def other_run(run: Path, folder: Path) -> Path:
    """A copy of what compare and ensemble read."""
    copy = folder / "other"
    copy.mkdir(exist_ok=True)
    for name in ("config.yaml", "metrics.json"):
        (copy / name).write_bytes((run / name).read_bytes())
    return copy


def test_the_course_is_not_run_on_folders_without_a_test_part(tmp_path: Path, said: Said) -> None:
    for part in ("train", "val"):
        write_class_folders(tmp_path / "neu" / part, 3, NEU_CLASSES)
    words = ["course", "run", "neu-no-tta", "--neu", str(tmp_path / "neu"), "--seeds", "1"]
    line = said(*words, "--output", str(tmp_path / "course"), status=1)
    assert "no test images" in line
    assert not (tmp_path / "course").exists() or not any((tmp_path / "course").iterdir())


def test_a_class_in_val_that_train_lacks(split_folders: Path, tmp_path: Path, said: Said) -> None:
    (split_folders / "val" / "good").rename(split_folders / "val" / "dent")
    config = str(write_config(tmp_path, split_folders))
    assert "class dent is not among the training classes" in said("fit", "--config", config, status=1)
    assert not (tmp_path / "runs").exists()


# The order of the classes


def neu_arrays(folder: Path, order: tuple[str, ...] = COURSE_ORDER) -> Path:
    """NEU_train_imgs.npy and the others: a class's stripes are told by its name, its number by `order`."""
    arrays: dict[str, object] = {}
    for part, per_class in (("train", 5), ("test", 2)):
        numbers = np.arange(6 * per_class) % 6
        by_name = np.array([NEU_CLASSES.index(order[number]) for number in numbers])
        arrays |= {f"NEU_{part}_imgs": stripes(by_name)[..., None], f"NEU_{part}_labels": numbers}
    return save(folder, **arrays)


def neu(root: Path, **arguments: Any) -> NEUDataModule:
    data = NEUDataModule(str(root), image_size=16, **{"val_size": 6, **arguments})
    data.setup()
    return data


def check_pictures(data: NEUDataModule) -> None:
    """Every image has the name that its stripes tell."""
    names = [data.class_names[label] for label in data.data.labels.tolist()]
    for pixels, name in zip(data.data.images[:, 0].numpy(), names, strict=True):
        waves = np.abs(np.fft.rfft(pixels.mean(axis=1) - pixels.mean()))
        assert NEU_CLASSES[int(waves.argmax()) - 1] == name


def test_the_course_files_of_neu_get_their_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        data = neu(neu_arrays(tmp_path))
    assert list(data.class_names) == list(NEU_CLASSES)
    check_pictures(data)
    assert data.class_counts("test") == [2] * 6
    (record,) = caplog.records
    assert "0 is scratches, 1 is rolled-in_scale" in record.message
    assert "5 is crazing" in record.message


def test_numbers_under_other_names_stay_numbers_until_they_are_named(tmp_path: Path) -> None:
    root = neu_arrays(tmp_path)
    for path in root.glob("*.npy"):
        path.rename(root / path.name.replace("NEU_", "steel_"))
    data = neu(root)
    assert list(data.class_names) == list("012345")
    named = neu(root, class_names=["Sc", "Rolled in scale", "pitted", "Patches", "In", "crazing"])
    assert list(named.class_names) == list(COURSE_ORDER)
    assert named.data.labels.tolist() == data.data.labels.tolist()
    check_pictures(named)


@pytest.mark.parametrize("labels", [NEU_CLASSES, ("Cr", "In", "Pa", "PS", "RS", "Sc"), (
    "Crazing", "inclusions", "Patch", "pitted surface", "Rolled_in-Scale", "SCRATCHES")])  # fmt: skip
def test_labels_that_are_names_need_no_order(tmp_path: Path, labels: tuple[str, ...]) -> None:
    kinds = np.arange(48) % 6
    data = neu(save(tmp_path, X=stripes(kinds), y=[labels[kind] for kind in kinds]))
    assert list(data.class_names) == list(NEU_CLASSES)
    check_pictures(data)
    assert data.data.labels.tolist() == kinds.tolist()


def test_the_order_of_folders_can_be_given(class_folders: Path, neu_folder: Path) -> None:
    order = ["scratch", "good", "hole"]
    data = ImageFolderDataModule(str(class_folders), class_names=order, image_size=16)
    assert list(data.class_names) == order
    data.setup()
    named = [Path(file).parent.name for file in data.files("test")]
    assert [order[label] for _, labels in data.test_dataloader() for label in labels] == named
    steel = neu(neu_folder, class_names=COURSE_ORDER)
    assert list(steel.class_names) == list(COURSE_ORDER)
    check_pictures_by_file(steel)
    synthetic = NEUDataModule(source="synthetic", synthetic_per_class=10, image_size=16, class_names=COURSE_ORDER)
    synthetic.setup()
    check_pictures_by_file(synthetic)


def check_pictures_by_file(data: NEUDataModule) -> None:
    for file, label in zip(data.data.files, data.data.labels.tolist(), strict=True):
        assert Path(file).name.startswith(data.class_names[label])


def test_names_reach_the_tables_and_the_checkpoint(tmp_path: Path, said: Said) -> None:
    numbers = np.arange(24) % 3
    root = save(tmp_path / "arrays", imgs=stripes(numbers, 16), targets=numbers)
    config = write_config(tmp_path, root)
    names = ["--data.class_names", "[scratch, good, hole]"]
    said("fit", "--config", str(config), "--data.val_size", "3", "--data.test_size", "6", *names)
    (run,) = (tmp_path / "runs" / "tiny").iterdir()
    assert list(read(run)["test"]["per_class"]) == ["scratch", "good", "hole"]
    for row in rows(run / "predictions.csv"):
        index = int(row["file"].split("[")[1].rstrip("]"))
        assert row["label"] == ("scratch", "good", "hole")[numbers[index]]
    checkpoint = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert "['scratch', 'good', 'hole']" in str(checkpoint)
    assert "images right" in said("test", str(run))
    assert "24 images" in said("data", "inspect", str(root), "--output", str(tmp_path / "inspection"))


@pytest.mark.parametrize(
    ("labels", "names", "word"),
    [
        ([0, 1, 3, 0, 1, 3], ["a", "b", "c", "d"], "no training image of c"),
        ([0, 1, 2, 0, 1, 2], ["a", "b"], "labels from 0 to 2, expected 0 to 1"),
        ([0, 1, 0, 1, 0, 1], ["a", "a"], "data.class_names is a, a: expected two or more names, each once"),
        ([0, 1, 0, 1, 0, 1], ["a"], "expected two or more"),
        (["a", "b", "c", "a", "b", "c"], ["a", "b"], "labels c are not among the classes a, b"),
    ],
)
def test_names_that_do_not_fit_are_refused(
    tmp_path: Path, labels: list[object], names: list[str], word: str, said: Said
) -> None:
    root = save(tmp_path / "arrays", x=stripes(np.arange(6)), y=labels)
    config = write_config(tmp_path, root)
    line = said("fit", "--config", str(config), "--data.class_names", json.dumps(names), status=1)
    assert word in line
    assert not (tmp_path / "runs").exists()


def test_names_that_are_not_those_of_the_folders_are_refused(class_folders: Path, neu_folder: Path) -> None:
    data = ImageFolderDataModule(str(class_folders), class_names=["good", "hole", "dent"], image_size=16)
    refusal(data.setup, "data.class_names is good, hole, dent", "good, hole, scratch")
    refusal(lambda: neu(neu_folder, class_names=NEU_CLASSES[:5]), "data.class_names", "scratches", "each once")
    refusal(lambda: neu(neu_folder, class_names=[*NEU_CLASSES[:5], "dog"]), "data.class_names", "dog")


def test_texts_that_are_no_classes_of_neu_are_refused(tmp_path: Path) -> None:
    kinds = np.arange(18) % 6
    texts = np.array(NEU_CLASSES)[kinds]
    refusal(lambda: neu(save(tmp_path / "a", x=stripes(kinds), y=np.where(kinds == 2, "dog", texts))), "labels dog")
    few = kinds < 5
    refusal(lambda: neu(save(tmp_path / "b", x=stripes(kinds)[few], y=texts[few])), "no training image of scratches")


# What arrays are called


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("x_{}", "y_{}"),
        ("{}_X", "{}_y"),
        ("NEU_{}_imgs", "NEU_{}_labels"),
        ("mnist_{}_features", "mnist_{}_targets"),
        ("My-Set.{}.Image", "My-Set.{}.Label"),
        ("IMAGES-{}", "LABELS-{}"),
        ("{}_data", "{}_target"),
        ("img_{}", "img_label_{}"),
        ("x_data_{}", "y_data_{}"),
    ],
)
@pytest.mark.parametrize(
    "parts", [("train", "val", "test"), ("Training", "VALID", "testing"), ("train", "validation", "test")]
)
def test_names_tell_what_is_in_an_array(tmp_path: Path, images: str, labels: str, parts: tuple[str, ...]) -> None:
    numbers = np.arange(6) % 2
    for part in parts:
        save(tmp_path, **{images.format(part): stripes(numbers), labels.format(part): numbers})
    np.save(tmp_path / "mean.npy", np.zeros(3))
    data = ImageFolderDataModule(str(tmp_path), image_size=16, channels=1)
    data.setup()
    assert [len(data.files(part)) for part in ("train", "val", "test")] == [6, 6, 6]
    assert data.files("val")[0] == f"{images.format(parts[1])}.npy[0]"


def test_arrays_without_a_part_beside_those_of_a_test_are_for_training(tmp_path: Path) -> None:
    numbers = np.arange(12) % 2
    root = save(
        tmp_path, features=stripes(numbers), targets=numbers, test_features=stripes(numbers), test_targets=numbers
    )
    data = ImageFolderDataModule(str(root), image_size=16, val_size=2)
    data.setup()
    assert [sum(data.class_counts(part)) for part in ("train", "val", "test")] == [10, 2, 12]


def test_arrays_that_cannot_be_told_apart_are_listed(tmp_path: Path, said: Said) -> None:
    numbers = np.arange(6) % 2
    config = str(write_config(tmp_path, tmp_path / "arrays"))

    def refused(**arrays: object) -> str:
        root = save(tmp_path / str(len(list(tmp_path.iterdir()))), **arrays)
        line = said("fit", "--config", config, "--data.root", str(root), status=1)
        assert not (tmp_path / "runs").exists()
        return line

    pixels = stripes(numbers)
    line = refused(x_train=pixels, train_images=pixels, y_train=numbers)
    assert "found train_images.npy, x_train.npy for the train images, expected one" in line
    assert "found labels.npy, y.npy" in refused(x=pixels, y=numbers, labels=numbers)
    line = refused(pixels=pixels, answers=numbers)
    assert "answers.npy, pixels.npy; expected pairs such as images.npy and labels.npy" in line
    assert "no partner of train_imgs.npy among train_imgs.npy, train_lables.npy" in refused(
        train_imgs=pixels, train_lables=numbers
    )
    assert "labels.npy 5 labels" in refused(images=pixels, labels=numbers[:5])
    assert "(6, 16, 16, 1, 1)" in refused(images=pixels[..., None, None], labels=numbers)
    np.save(tmp_path / "pickled.npy", np.array([{}] * 6), allow_pickle=True)
    root = save(tmp_path / "objects", x=pixels)
    (tmp_path / "pickled.npy").rename(root / "y.npy")
    assert "Python objects" in said("fit", "--config", config, "--data.root", str(root), status=1)


def test_an_array_among_pictures_is_passed_over(class_folders: Path) -> None:
    save(class_folders, features=np.zeros((36, 8)))
    assert find_arrays(class_folders) is None
    assert list(ImageFolderDataModule(str(class_folders)).class_names) == list(NAMES)


def test_an_npz_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    numbers = np.arange(40) % 10
    pixels = stripes(numbers, 28)
    (tmp_path / "set").mkdir()
    np.savez_compressed(tmp_path / "set" / "mnist.npz", x_train=pixels, y_train=numbers, x_test=pixels, y_test=numbers)
    for root in (tmp_path / "set", tmp_path / "set" / "mnist.npz"):
        data = MNISTDataModule(str(root), val_size=10)
        data.prepare_data()
        data.setup()
        assert torch.equal(data.data.images[:, 0], torch.from_numpy(np.concatenate((pixels, pixels))))
        assert data.describe()["root"] == str(root)
        other = ImageFolderDataModule(str(root), image_size=28, val_size=10)
        other.setup()
        assert other.files("test")[0] == "x_test.npy[0]"
    np.savez(tmp_path / "set" / "second.npz", x_train=pixels, y_train=numbers)
    refusal(lambda: find_arrays(tmp_path / "set"), "mnist.npz, second.npz", "data.root")
    np.savez(tmp_path / "odd.npz", a=pixels)
    refusal(lambda: ImageFolderDataModule(str(tmp_path / "odd.npz")).class_names, "a.npy; expected pairs")


# The digits


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """mnist_train_features.npy and the others: 100 training and 20 test images, as rows of pixels."""
    arrays: dict[str, object] = {}
    for part, count in (("train", 100), ("test", 20)):
        labels = np.random.default_rng(count).permutation(np.arange(count) % 10)
        pixels = stripes(labels, 28).reshape(count, 784)
        arrays |= {f"mnist_{part}_features": pixels, f"mnist_{part}_targets": labels}
    return save(tmp_path / "digits", **arrays)


def numbers_of(files: list[str]) -> list[int]:
    return [int(file.split("[")[1].rstrip("]")) for file in files]


@pytest.mark.parametrize("kind", [MNISTDataModule, FashionMNISTDataModule])
def test_the_first_images_of_arrays_are_for_validation(digits: Path, kind: type[MNISTDataModule]) -> None:
    data = kind(str(digits), train_size=90, val_size=10, test_size=20)
    data.prepare_data()
    data.setup()
    assert numbers_of(data.files("val")) == list(range(10))
    assert numbers_of(data.files("train")) == list(range(10, 100))
    assert numbers_of(data.files("test")) == list(range(20))
    assert data.num_classes == 10
    assert data.describe()["root"] == str(digits)
    pixels = np.load(digits / "mnist_test_features.npy").reshape(-1, 28, 28)
    assert torch.equal(data.data.images[data.parts.test, 0], torch.from_numpy(pixels))


def test_sizes_above_what_arrays_hold_take_all_and_say_so(digits: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        data = MNISTDataModule(str(digits), train_size=1000, val_size=0.1, test_size=100)
        data.setup()
    assert [len(data.files(part)) for part in ("train", "val", "test")] == [90, 10, 20]
    told = [record.message.split(":")[0] for record in caplog.records]
    assert told[:2] == ["data.train_size is 1000", "data.test_size is 100"]
    less = MNISTDataModule(str(digits), train_size=50, val_size=10, test_size=10)
    less.setup()
    assert less.class_counts("train") in ([5] * 10, less.class_counts("train"))
    assert [len(less.files(part)) for part in ("train", "val", "test")] == [50, 10, 10]
    for size in (0, 100, 5000, 1.5):
        refusal(MNISTDataModule(str(digits), val_size=size).setup, f"data.val_size is {size}", "100 training images")


def test_digits_without_a_test_part(digits: Path, idx_folder: Path) -> None:
    for path in digits.glob("*test*"):
        path.unlink()
    data = MNISTDataModule(str(digits), val_size=10)
    data.setup()
    refusal(data.test_dataloader, "no test images")
    data = MNISTDataModule(str(idx_folder), val_size=10, test_size=0)
    data.setup()
    refusal(data.test_dataloader, "data.test_size is 0")


def test_digits_with_labels_of_another_set(digits: Path) -> None:
    np.save(digits / "mnist_train_targets.npy", np.arange(100) % 12)
    refusal(MNISTDataModule(str(digits), val_size=10).setup, "labels from 0 to 11", "mnist_train_targets.npy")


# The real files


@pytest.fixture
def real_neu(real_data: Path) -> dict[str, list[Path]]:
    """The files of each class, mixed."""
    rng = np.random.default_rng(0)
    found = {name: sorted((real_data / "neu-cls").glob(f"{name}_*.jpg")) for name in COURSE_ORDER}
    return {name: [files[i] for i in rng.permutation(len(files))] for name, files in found.items()}


@pytest.mark.realdata
def test_real_neu_arrays_reach_the_course(real_neu: dict[str, list[Path]], tmp_path: Path, said: Said) -> None:
    arrays: dict[str, Any] = {}
    for part, share in (("train", slice(50, None)), ("test", slice(50))):
        labels = [number for number, name in enumerate(COURSE_ORDER) for _ in real_neu[name][share]]
        files = [file for name in COURSE_ORDER for file in real_neu[name][share]]
        arrays[f"NEU_{part}_imgs"] = np.stack([np.asarray(Image.open(file).convert("L")) for file in files])[..., None]
        arrays[f"NEU_{part}_labels"] = np.array(labels)
    root = save(tmp_path / "arrays", **arrays)
    words = ["--data.root", str(root), "--trainer.default_root_dir", str(tmp_path / "runs")]
    said("fit", "--config", "neu_npy.yaml", *words)
    (run,) = (tmp_path / "runs" / "neu_npy").iterdir()
    assert read(run)["test"]["n"] == 300
    assert read(run)["test"]["accuracy"] > 0.9267
    said("predict", str(run), *map(str, real_neu["crazing"][:20]), "--output", str(tmp_path / "out.csv"))
    assert [row["predicted"] for row in rows(tmp_path / "out.csv")].count("crazing") >= 18


@pytest.mark.realdata
def test_real_neu_folders_without_a_test_part(real_neu: dict[str, list[Path]], tmp_path: Path, said: Said) -> None:
    for name, files in real_neu.items():
        for index, file in enumerate(files):
            folder = tmp_path / "neu_cls_dataset" / ("val" if index < 50 else "train") / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name[:2]}_{index}.jpg").write_bytes(file.read_bytes())
    words = ["--data.root", str(tmp_path / "neu_cls_dataset"), "--trainer.default_root_dir", str(tmp_path / "runs")]
    printed = said("fit", "--config", "neu_mobilenet.yaml", "--model.cache_features", "true", *words)
    assert "No test part." in printed
    (run,) = (tmp_path / "runs" / "neu_mobilenet").iterdir()
    assert read(run)["val"]["n"] == 300
    assert read(run)["val"]["accuracy"] > 0.9267


@pytest.mark.realdata
def test_real_digits_reach_the_course(real_data: Path, tmp_path: Path, said: Said) -> None:
    arrays: dict[str, object] = {}
    for part, name, count in (("train", "train", 1000), ("t10k", "test", 100)):
        images, labels = read_idx_pair(real_data / "mnist", part)  # type: ignore[arg-type]
        arrays |= {f"mnist_{name}_features": images[:count], f"mnist_{name}_targets": labels[:count]}
    root = save(tmp_path / "digits", **arrays)
    words = ["--data.root", str(root), "--trainer.default_root_dir", str(tmp_path / "runs")]
    said("fit", "--config", "mnist_lab.yaml", *words)
    (run,) = (tmp_path / "runs" / "mnist_lab").iterdir()
    assert [sum(counts.values()) for counts in read(run)["data"]["counts"].values()] == [900, 100, 100]
    assert read(run)["test"]["accuracy"] >= 0.94
