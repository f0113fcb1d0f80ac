"""The benchmarks run and say what they should; nothing here asserts on time."""

import csv
import dataclasses
import functools
import gzip
import importlib
import json
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from conftest import write_class_folders
from PIL import Image

from defectlab.data.sources.layouts import NEU_CLASSES
from defectlab.errors import InputError
from defectlab.networks import BipyramidalCNN

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Import a module of the benchmarks by name; threads are put back afterwards."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    threads = torch.get_num_threads()
    yield importlib.import_module
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


@pytest.fixture
def neu(tmp_path: Path) -> Path:
    """Five images a class, each class of its own grey."""
    rng = np.random.default_rng(0)
    root = tmp_path / "images"
    root.mkdir()
    for label, name in enumerate(NEU_CLASSES):
        for number in range(5):
            pixels = rng.integers(0, 40, (32, 32)) + 35 * label
            Image.fromarray(pixels.astype(np.uint8)).save(root / f"{name}_{number}.png")
    return root


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """The four IDX files, 240 and 40 images."""
    rng = np.random.default_rng(0)
    root = tmp_path / "digits"
    root.mkdir()
    for part, count in (("train", 240), ("t10k", 40)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        with gzip.open(root / f"{part}-images-idx3-ubyte.gz", "wb") as file:
            file.write(struct.pack(">IIII", 0x803, count, 28, 28) + images.tobytes())
        with gzip.open(root / f"{part}-labels-idx1-ubyte.gz", "wb") as file:
            file.write(struct.pack(">II", 0x801, count) + labels.tobytes())
    return root


@pytest.fixture
def in_process(load: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Scripts run without a process of their own; the list fills with their names."""
    calls: list[str] = []

    def run_script(script: str, words: Sequence[str]) -> list[dict[str, float]]:
        calls.append(script)
        capsys.readouterr()
        load(Path(script).stem).main(words)
        printed = "".join(capsys.readouterr())  # speed.py sends the output of its measurements to stderr
        return [json.loads(line) for line in printed.splitlines() if line.startswith("{")]

    monkeypatch.setattr(load("time_to_accuracy"), "run_script", run_script)
    course = load("defectlab_course")
    for name in ("FEATURES", "NEU", "MNIST"):
        recipe = getattr(course, name)
        small = dataclasses.replace(recipe, epochs=2, image_size=32 if name != "MNIST" else 28)
        monkeypatch.setattr(course, name, small)
    return calls


def results(path: Path) -> list[dict[str, Any]]:
    written = json.loads(path.read_text(encoding="utf-8"))
    assert written["environment"]["torch"]
    measurements: list[dict[str, Any]] = written["measurements"]
    return measurements


def test_input_path_is_measured_on_both_sides(
    load: Any, neu: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "speed.json"
    monkeypatch.setattr(load("input_path"), "AT_LEAST", 0.02)
    words = ["input", "--neu", str(neu), "--image-sizes", "16", "--repeats", "2", "--threads", "1"]
    assert load("speed").main([*words, "--output", str(output)]) == 0
    measured, grey = results(output)
    assert "3 channels" in measured["title"]
    assert "1 channel," in grey["title"]
    assert [len(side["values"]) for side in (measured["ours"], *measured["others"])] == [2, 2, 2]
    assert measured["ratio_value"] > 0
    printed = capsys.readouterr().out
    assert ", torch " in printed.splitlines()[0]
    assert "24 training and 6 test images" in printed
    assert printed.count("| ImageFolder, ") == 4


def test_augmentation_is_measured_beside_torchvision(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load("augmentation")
    monkeypatch.setattr(module, "AT_LEAST", 0.01)
    output = tmp_path / "speed.json"
    words = ["augment", "--image-sizes", "16", "--repeats", "2", "--threads", "1", "--output", str(output)]
    assert load("speed").main(words) == 0
    common = results(output)[0]
    assert [side["name"][:11] for side in common["others"]][:2] == ["torchvision"] * 2
    assert [len(side["values"]) for side in (common["ours"], *common["others"])][:3] == [2, 2, 2]
    for operation in module._torchvision(module.COMMON):
        batch = torch.rand(2, 3, 16, 16)
        assert operation(batch.mul(255).byte() if "JPEG" in repr(operation) else batch).shape == batch.shape


def test_trainer_is_measured_on_both_sides(load: Any, mnist: Path, tmp_path: Path) -> None:
    output = tmp_path / "speed.csv"
    words = ["trainer", "--mnist", str(mnist), "--trainer-epochs", "2", "--repeats", "1", "--threads", "1"]
    assert load("speed").main([*words, "--output", str(output)]) == 0
    with output.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["program"] for row in rows] == ["defectlab", "plain loop"]
    assert all(float(row["value"]) > 0 and row["unit"] == "s/epoch" for row in rows)
    assert "220 MNIST images" in rows[0]["measurement"]


def test_neu_course_runs_three_programs_in_turns(load: Any, neu: Path, tmp_path: Path, in_process: list[str]) -> None:
    weights = tmp_path / "mobilenet_v2.pth"
    torch.save(torchvision.models.mobilenet_v2().state_dict(), weights)
    output = tmp_path / "speed.json"
    words = ["course-neu", "--neu", str(neu), "--weights", str(weights), "--repeats", "2", "--threads", "1"]
    words += ["--course-epochs", "1", "--neu-target", "0", "--precision", "32-true", "--output", str(output)]
    assert load("speed").main(words) == 0
    assert in_process == ["defectlab_course.py", "defectlab_course.py", "plain_course.py"] * 2
    head, same = results(output)
    assert (head["bar"], same["bar"]) == (20.0, 2.0)
    assert head["others"] == same["others"]
    assert not head["ours"]["lower_bound"]
    assert "after epoch 1 " in same["ours"]["remarks"][0]


def test_mnist_course_that_misses_its_target_gives_a_lower_bound(
    load: Any, mnist: Path, tmp_path: Path, in_process: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "speed.json"
    words = [
        "course-mnist",
        "--mnist",
        str(mnist),
        "--repeats",
        "1",
        "--threads",
        "1",
        "--course-epochs",
        "2",
    ]
    words += ["--mnist-target", "1.1", "--precision", "32-true", "--output", str(output)]
    assert load("speed").main(words) == 0
    (measured,) = results(output)
    assert measured["ours"]["lower_bound"]
    assert measured["others"][0]["lower_bound"]
    assert "after epoch 2 " in measured["ours"]["remarks"][0]
    assert measured["verdict"] == "not reached: defectlab missed the target"
    assert "| course, plain PyTorch | ≥ " in capsys.readouterr().out


def test_a_script_runs_in_a_process_of_its_own(load: Any, mnist: Path, tmp_path: Path) -> None:
    load("images").lay_out_mnist(str(mnist), tmp_path / "raw")
    words = ["mnist", str(tmp_path / "raw"), "--epochs", "2", "--batch-size", "120", "--threads", "1"]
    epochs = load("time_to_accuracy").run_script("plain_course.py", words)
    assert [epoch["epoch"] for epoch in epochs] == [1, 2]
    assert 0 < epochs[0]["seconds"] < epochs[1]["seconds"]


def test_both_sides_of_the_course_train_the_same_network(load: Any) -> None:
    plain = load("plain_course").CourseCNN((32, 64, 128), 200, 6)
    ours = BipyramidalCNN(num_classes=6, in_channels=1, image_size=200, depth=3)
    assert [p.shape for p in plain.parameters()] == [p.shape for p in ours.parameters()]
    assert sum(p.numel() for p in plain.parameters()) == 10_333_574


def test_pictures_are_divided_once_for_both_sides(load: Any, neu: Path, tmp_path: Path) -> None:
    load("images").lay_out_neu(str(neu), tmp_path / "tree")
    for name in NEU_CLASSES:
        train, test = (sorted((tmp_path / "tree" / part / name).iterdir()) for part in ("train", "test"))
        assert (len(train), len(test)) == (4, 1)
        given = {path.read_bytes() for path in neu.glob(f"{name}_*")}
        assert {path.read_bytes() for path in (*train, *test)} == given


def test_without_pictures_the_synthetic_stand_in_is_named(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = load("images")
    small = functools.partial(pictures.NEUDataModule, synthetic_per_class=5)
    monkeypatch.setattr(pictures, "NEUDataModule", small)
    assert "SYNTHETIC" in pictures.lay_out_neu(None, tmp_path / "tree")
    assert len(list((tmp_path / "tree" / "train").rglob("*.png"))) == 24


@pytest.mark.parametrize(
    ("ratio", "bound", "values", "expected"),
    [
        ("ours / theirs", "at least", (60.0, [10.0, 12.0]), (5.0, "reached")),
        ("theirs / ours", "at least", (3.0, [30.0, 12.0]), (4.0, "not reached")),
        ("ours / theirs", "at most", (6.0, [2.0, 1.0]), (6.0, "not reached")),
    ],
)
def test_ratio_is_taken_to_the_best_of_the_others(
    load: Any, ratio: str, bound: str, values: tuple[float, list[float]], expected: tuple[float, str]
) -> None:
    measure = load("measure")
    others = [measure.Side("other", "", [value]) for value in values[1]]
    result = measure.Measurement("t", "s", measure.Side("ours", "", [values[0]]), others, ratio, 5.0, bound)
    assert (result.value, result.verdict) == expected


def test_turns_alternate(load: Any) -> None:
    calls: list[str] = []

    def run(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    sides = {name: functools.partial(run, name) for name in "ab"}
    values = load("measure").take_turns(sides, 2)
    assert calls == ["a", "b", "a", "b"]
    assert values == {"a": [1.0, 3.0], "b": [2.0, 4.0]}


@pytest.mark.parametrize(
    "words",
    [["input", "--repeats", "0"], ["trainer", "--output", "speed.txt"], ["trainer", "--mnist", "nowhere"]],
)
def test_bad_arguments_end_in_one_line(
    load: Any,
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def refuse(*args: object, **words: object) -> None:
        raise OSError("no network")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torchvision.datasets.mnist.MNIST, "download", refuse)
    assert load("speed").main(words) == 1
    assert capsys.readouterr().err.startswith("speed.py: error: ")


def test_a_script_that_fails_is_told(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    timing = load("time_to_accuracy")
    monkeypatch.setattr(timing.sys, "executable", "false")
    with pytest.raises(InputError, match=r"plain_course\.py neu nowhere failed"):
        timing.run_script("plain_course.py", ["neu", "nowhere"])


def test_transfer_compares_weights_on_the_same_draws(
    load: Any, neu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    transfer, fit = load("transfer"), load("transfer_fit")
    monkeypatch.setattr(fit, "_LEAST_STEPS", 2)
    monkeypatch.setattr(fit, "_EPOCHS", 0)
    torch.save(torchvision.models.mobilenet_v2(width_mult=0.35).state_dict(), tmp_path / "v2.pth")
    words = ["--neu", str(neu), "--weights", "none", "--imagenet", f"mobilenet_v2:0.35:{tmp_path / 'v2.pth'}"]
    words += ["--per-class", "1", "3", "50", "--draws", "2", "--image-size", "32", "--fine-tune"]
    assert transfer.main([*words, "--output", str(tmp_path / "out")]) == 0
    with (tmp_path / "out" / "transfer.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    heads = [(row["weights"], row["stages"], row["method"], row["per_class"]) for row in rows]
    assert len(set(heads)) == len(heads) == 2 * 2 * 3, "fifty of five images a class are left out"
    assert {row["draws"] for row in rows} == {"2"}
    assert all(0 <= float(row["mean"]) <= 100 for row in rows)
    probes = [float(row["mean"]) for row in rows if row["method"] == "probe" and row["per_class"] == "3"]
    assert max(probes) > 80, "classes that differ in their grey alone"
    assert (tmp_path / "out" / "transfer_neu.png").read_bytes()[:4] == b"\x89PNG"
    assert "| none | middle | probe |" in capsys.readouterr().out


def test_transfer_reads_tiles_and_shipped_weights(
    load: Any, class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "--tiles",
        str(class_folders),
        "--sets",
        "tiles",
        "--weights",
        "surface-distilled",
        "surface-distilled:1.5",
    ]
    words += [
        "--per-class",
        "2",
        "--draws",
        "2",
        "--image-size",
        "32",
        "--output",
        str(tmp_path / "out"),
        "--symmetric",
    ]
    assert load("transfer").main(words) == 0
    with (tmp_path / "out" / "transfer.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["weights"], row["stages"]) for row in rows] == [
        ("surface-distilled", "middle"), ("surface-distilled", "middle, symmetric"),
        ("surface-distilled:1.5", "middle"), ("surface-distilled:1.5", "middle, symmetric"),
    ]  # fmt: skip
    assert len({(row["mean"], row["sd"]) for row in rows}) > 1
    tiles = load("transfer_sets").load_tiles(str(class_folders), 32)
    assert tiles.images.shape[2:] == (32, 32), "stretched, of whatever shape"


def test_unlabelled_sets_each_way_beside_the_weights_as_they_are(
    load: Any, neu: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiles = write_class_folders(tmp_path / "tiles", 8)
    torch.save(torchvision.models.mobilenet_v2().state_dict(), tmp_path / "v2.pth")
    words = ["--neu", str(neu), "--tiles", str(tiles), "--sets", "neu", "tiles", "--per-class", "2"]
    words += ["--draws", "2", "--image-size", "32", "--teacher", str(tmp_path / "v2.pth")]
    assert load("unlabelled").main(words) == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 19
    assert {len(row) for row in rows} == {3}
    for row in rows[2:]:
        assert all(0 <= float(cell.split(" ± ")[0]) <= 100 for cell in row[1:])
    assert load("unlabelled").main([*words, "--draws", "1"]) == 1


def test_a_draw_is_balanced_disjoint_and_repeatable(load: Any) -> None:
    fit = load("transfer_fit")
    labels = np.repeat([0, 1, 2], [10, 20, 30])
    train, test = fit.draw_labelled(labels, 4, 7)
    assert np.bincount(labels[train]).tolist() == [4, 4, 4]
    assert sorted([*train, *test]) == list(range(60))
    assert np.array_equal(train, fit.draw_labelled(labels, 4, 7)[0])
    assert not np.array_equal(train, fit.draw_labelled(labels, 4, 8)[0])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--draws", "1"], "--draws has to be at least 2"),
        (["--imagenet", "mobilenet_v2"], "expected BACKBONE:WIDTH:FILE"),
        (["--weights"], "no weights to compare"),
        (["--weights", "surfaces"], "--weights is surfaces: expected none or surface or surface-distilled"),
        (["--weights", "surface-distilled:0.5"], "at width 0.5"),
        (["--sets", "tiles"], "give their folder by --tiles"),
    ],
)
def test_transfer_refuses(load: Any, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert load("transfer").main(words) == 1
    assert message in capsys.readouterr().err
