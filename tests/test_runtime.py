"""The runtime of an exported folder: without torch, the answers of `defectlab predict`."""

import csv
import json
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import striped, write_class_folders
from helpers import write_config
from PIL import Image
from torch import Tensor, nn

from defectlab.cli.main import main as cli
from defectlab.deploy.bundle import write_bundle
from defectlab.deploy.exported import hash_model
from defectlab.deploy.program import main
from defectlab.deploy.runtime import Runtime
from defectlab.deploy.watch import append_rows
from defectlab.errors import InputError
from defectlab.inference.predict import predict
from defectlab.inference.predictions import BadImages
from defectlab.inference.predictor import Predictor
from defectlab.utils.card import DataCard

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

NAMES = ("crack", "dent|big", "=fine")
WEIGHTS = np.random.default_rng(0).normal(0, 0.02, (3, 3)).astype(np.float32)
CARD = DataCard(image_size=(16, 24), channels=3, class_names=NAMES, mean=(0.5,) * 3, std=(0.25,) * 3)
HEAVY = ("torch", "lightning", "scipy", "matplotlib", "rich", "defectlab", "yaml")


class MeanColour(nn.Module):
    """The network of the exported folder, as `Predictor` has it: logits are the mean colour by WEIGHTS."""

    device = torch.device("cpu")

    def __init__(self, thresholds: list[float] | None) -> None:
        super().__init__()
        self.thresholds = thresholds

    def predict_logits(self, images: Tensor) -> Tensor:
        """Compute logits of normalised images."""
        return (images * 0.25 + 0.5).mean(dim=(2, 3)) * 255 @ torch.from_numpy(WEIGHTS)


def make_model(path: Path, card: dict[str, Any], multilabel: bool, external: str | None = None) -> None:
    """Write mean over pixels, a linear layer, and softmax or sigmoid; after it the number of a tile."""
    helper, kinds = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=kinds.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["embedding"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["embedding", "weights"], ["logits"]),
        helper.make_node("Sigmoid" if multilabel else "Softmax", ["logits"], ["probabilities"]),
        helper.make_node("ArgMax", ["embedding"], ["tile"], axis=1, keepdims=0),
    ]
    weights = helper.make_tensor("weights", kinds.FLOAT, (3, 3), WEIGHTS.tobytes(), raw=True)
    if external is not None:
        weights.ClearField("raw_data")
        weights.data_location = kinds.EXTERNAL
        weights.external_data.add(key="location", value=external)
    channels, height, width = CARD.shape
    outputs = [helper.make_tensor_value_info(name, kinds.FLOAT, ["N", 3]) for name in ("probabilities", "embedding")]
    outputs.append(helper.make_tensor_value_info("tile", kinds.INT64, ["N"]))
    images = helper.make_tensor_value_info("images", kinds.UINT8, ["N", channels, height, width])
    graph = helper.make_graph(nodes, "mean", [images], outputs, [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {"defectlab": json.dumps(card)})
    path.write_bytes(model.SerializeToString())


def export(folder: Path, multilabel: bool = False, tiles: bool = False, external: str | None = None) -> Path:
    """Make an exported folder."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(3)
    confidence = np.sort(rng.random(400).astype(np.float32))
    own = {"image_size": [16, 24], "channels": 3, "mean": [0.5] * 3, "std": [0.25] * 3, "class_names": NAMES}
    card: dict[str, Any] = {
        "format": 1, "cards": [own | {"source": "real", "split_hash": None, "multilabel": multilabel}],
        "class_names": list(NAMES), "multilabel": multilabel, "thresholds": [0.4, 0.5, 0.6] if multilabel else None,
        "tiles": {"boxes": [[0, 0, 12, 16], [6, 0, 12, 16], [12, 0, 12, 16]]} if tiles else None,
        "fingerprint": "0" * 16, "source": "real", "temperature": None,
        "calibration": {
            "confidence": confidence.tolist(), "right": [int(p > 0.2) for p in confidence],
            "set_score": rng.random(400).astype(np.float32).tolist(), "novelty": None,
        },
    }  # fmt: skip
    model = folder / "model.onnx"
    make_model(model, json.loads(json.dumps(card)), multilabel, external)
    about = {"file": "model.onnx", "format": "onnx", "sha256": hash_model(model), "bytes": model.stat().st_size}
    write_bundle(folder, card | {"certificate": {}, "model": about})
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Return a folder with images of all kinds, one of which is none."""
    folder, rng = tmp_path / "images", np.random.default_rng(1)
    (folder / "more").mkdir(parents=True)
    for number, shape in enumerate([(40, 50, 3), (16, 24, 3), (200, 20, 3), (9, 9)]):
        pixels = (rng.random(shape) * rng.integers(80, 256)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"img_{number * 4}.png")
        Image.fromarray(pixels).save(folder / "more" / f"=x{number}.jpg", quality=90)
    (folder / "broken.png").write_bytes(b"none")
    return folder


def same_csv(one: Path, other: Path) -> None:
    """Byte for byte, but for the sixth decimal of a number."""
    rows, others = (list(csv.reader(file.open(encoding="utf-8", newline=""))) for file in (one, other))
    assert rows[0] == others[0]
    assert len(rows) == len(others) > 1
    for row, its in zip(rows, others, strict=True):
        for cell, own in zip(row, its, strict=True):
            if cell != own:
                assert float(cell) == pytest.approx(float(own), abs=1e-6)


@pytest.mark.parametrize("multilabel", [False, True])
def test_csv_is_that_of_predict(multilabel: bool, images: Path, tmp_path: Path) -> None:
    folder = export(tmp_path / "export", multilabel)
    card = DataCard.from_dict({**vars(CARD), "multilabel": multilabel})
    task = MeanColour([0.4, 0.5, 0.6] if multilabel else None)
    ours, theirs = tmp_path / "ours.csv", tmp_path / "theirs.csv"
    predict(Predictor("mean", (task,), (card,)), [images], on_bad_image="skip", output=theirs)  # type: ignore[arg-type]
    assert main([str(images), "--output", str(ours), "--on-bad-image", "skip", "--model", str(folder)]) == 0
    same_csv(ours, theirs)


def test_one_file_without_torch_gives_the_same(images: Path, tmp_path: Path) -> None:
    folder = export(tmp_path / "export", tiles=True)
    found = Runtime(folder)(images, max_error=0.05, sets=0.9, on_bad_image="skip")
    found.write_csv(tmp_path / "ours.csv")
    code = (
        "import sys\nclass Refuse:\n def find_spec(self, name, *rest):\n"
        f"  if name.split('.')[0] in {HEAVY}: raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\nimport runtime\nsys.exit(runtime.main(sys.argv[1:]))"
    )
    words = [str(images), "--output", str(tmp_path / "theirs.csv"), "--max-error", "0.05", "--sets", "0.9"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "--on-bad-image", "skip"], cwd=folder, capture_output=True, text=True, check=False,
        env={"PATH": "", "PYTHONPATH": str(folder)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ours.csv").read_bytes() == (tmp_path / "theirs.csv").read_bytes()
    assert set(found.decision or ()) <= {*NAMES, "review"}
    assert found.tiles is not None


def test_arrays_and_batches(tmp_path: Path) -> None:
    runtime, rng = Runtime(export(tmp_path / "export"), threads=2), np.random.default_rng(0)
    arrays = rng.integers(0, 256, (300, 16, 24, 3), dtype=np.uint8)
    found = runtime(arrays)
    logits = arrays.mean(axis=(1, 2)) @ WEIGHTS
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)
    assert found.files[299] == "image 299"
    np.testing.assert_allclose(runtime(arrays[7]).probabilities[0], expected[7], atol=1e-5)


def test_a_bad_image_is_told_after_the_others(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, output = export(tmp_path / "export"), tmp_path / "out.csv"
    with pytest.raises(BadImages) as caught:
        Runtime(folder)(images)
    assert len(caught.value.predictions) == 8
    assert main([str(images), "--output", str(output), "--model", str(folder)]) == 1
    assert len(output.read_text().splitlines()) == 9
    assert "broken.png" in capsys.readouterr().err


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    card = json.loads((folder / "card.json").read_text())
    change(card)
    (folder / "card.json").write_text(json.dumps(card))


BROKEN: dict[str, Callable[[Path], object]] = {
    "no card": lambda folder: (folder / "card.json").unlink(),
    "card of another version": lambda folder: edit(folder, lambda card: card.update(format=2)),
    "card cut off": lambda folder: (folder / "card.json").write_text('{"format": 1, "cards": ['),
    "card a list": lambda folder: (folder / "card.json").write_text("[]"),
    "card without cards": lambda folder: edit(folder, lambda card: card.update(cards=[])),
    "card changed": lambda folder: edit(folder, lambda card: card.update(thresholds=[0.1, 0.1, 0.1])),
    "a model elsewhere": lambda folder: edit(folder, lambda card: card["model"].update(file="../model.onnx")),
    "model damaged": lambda folder: (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:-9]),
    "no model": lambda folder: (folder / "model.onnx").unlink(),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_folder_is_one_line(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = export(tmp_path / "export")
    BROKEN[what](folder)
    assert main([str(tmp_path), "--model", str(folder)]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 1


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x09"])
def test_a_foreign_model_is_refused(content: bytes, tmp_path: Path) -> None:
    folder = export(tmp_path / "export")
    (folder / "model.onnx").write_bytes(content)
    edit(folder, lambda card: card["model"].update(sha256=hash_model(folder / "model.onnx")))
    with pytest.raises(InputError, match="export"):
        Runtime(folder)


def test_weights_in_another_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.\./secret\.bin"):
        Runtime(export(tmp_path / "export", external="../secret.bin"))


def test_what_cannot_be_asked(images: Path, tmp_path: Path) -> None:
    folder = export(tmp_path / "export")
    with pytest.raises(InputError, match="cpu"):
        Runtime(folder, provider="quantum")
    with pytest.raises(InputError, match="threads"):
        Runtime(folder, threads=0)
    runtime = Runtime(folder)
    for asked in ({"max_error": 0.0001}, {"max_error": 2}, {"sets": 0.9999}, {"sets": 0}, {"on_bad_image": "ignore"}):
        with pytest.raises(InputError):
            runtime(images, **asked)
    edit(folder, lambda card: card.update(calibration=None))
    for words in (
        ["--output", str(tmp_path), str(images)], ["--output", "x.png", str(images)], [], ["nowhere"],
        ["--threads", "0", str(images)], ["--threads", "many", str(images)], ["--max-error", "0.01", str(images)],
    ):  # fmt: skip
        assert main([*words, "--model", str(folder)]) == 1


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a run with 60 validation images, and its export."""
    folder = tmp_path_factory.mktemp("exported")
    config = write_config(folder, write_class_folders(folder / "images", 40))
    assert cli(["fit", "--config", str(config), "--trainer.max_epochs=6", "--data.val_size=0.5"]) == 0
    (run,) = (folder / "runs" / "tiny").iterdir()
    assert cli(["export", str(run), "--output", str(folder / "export")]) == 0
    return run, folder / "export"


def test_an_export_gives_the_csv_of_predict(exported: tuple[Path, Path], images: Path, tmp_path: Path) -> None:
    run, folder = exported
    rng = np.random.default_rng(5)
    for label in range(3):
        Image.fromarray(striped(label, 99)).save(images / f"striped_{label}.tif")
    Image.fromarray(rng.integers(0, 256, (90, 70, 3), dtype=np.uint8)).save(images / "noise.bmp")
    (images / "broken.png").unlink()
    asked = ["--max-error", "0.2", "--sets", "0.9", "--novelty", "0.05"]
    ours, theirs = tmp_path / "ours.csv", tmp_path / "theirs.csv"
    assert cli(["predict", str(run), str(images), "--output", str(theirs), *asked]) == 0
    done = program(folder, str(images), "--output", str(ours), *asked)
    assert done.returncode == 0, done.stderr
    same_csv(ours, theirs)
    header = ours.read_text().partition("\n")[0].split(",")
    assert {"decision", "set", "novelty_p", "novel"} <= set(header)


def program(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run runtime.py of an exported folder."""
    command = [sys.executable, "-I", str(folder / "runtime.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_self_test_of_an_export(exported: tuple[Path, Path], tmp_path: Path) -> None:
    done = program(exported[1], "--self-test")
    assert done.returncode == 0, done.stderr
    assert "20 images" in done.stdout


def change_vectors(folder: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    with np.load(folder / "vectors.npz") as stored:
        vectors = dict(stored)
    np.savez(folder / "vectors.npz", **vectors | {name: change(vectors[name])})


def replace_cell(folder: Path, row: int, column: int, cell: str) -> None:
    path = folder / "vectors" / "expected.csv"
    rows = list(csv.reader(path.open(newline="")))
    rows[row][column] = cell
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


SPOILT: dict[str, Callable[[Path], object]] = {
    "a probability": lambda folder: change_vectors(folder, "probabilities", lambda p: p + np.float32(2e-4)),
    "not a number": lambda folder: change_vectors(folder, "probabilities", lambda p: p * np.float32(np.nan)),
    "an input": lambda folder: change_vectors(folder, "images", lambda pixels: 255 - pixels),
    "no vectors": lambda folder: (folder / "vectors.npz").unlink(),
    "damaged vectors": lambda folder: (folder / "vectors.npz").write_bytes(b"PK\x03\x04nothing"),
    "an image": lambda folder: next((folder / "vectors").glob("00_*")).write_bytes(b"none"),
    "no table": lambda folder: (folder / "vectors" / "expected.csv").unlink(),
    "another class": lambda folder: replace_cell(folder, 2, 1, "another"),
    "another number": lambda folder: replace_cell(folder, 3, 3, "0.12345"),
    "a novelty": lambda folder: change_vectors(folder, "novelty", lambda scores: scores * np.float32(1.01)),
}


@pytest.mark.parametrize("what", SPOILT)
def test_self_test_finds(
    what: str, exported: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "export"
    shutil.copytree(exported[1], folder)
    SPOILT[what](folder)
    assert main(["--self-test", "--model", str(folder)]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 1


class Watcher:
    """runtime.py --watch in a process of its own."""

    def __init__(self, folder: Path, arriving: Path, output: Path, *words: str) -> None:
        command = [
            sys.executable,
            str(folder / "runtime.py"),
            "--watch",
            str(arriving),
            "--output",
            str(output),
            *words,
        ]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.output = output

    def wait_for(self, *names: str) -> None:
        """Wait until the output has a row for each of these and no other."""
        found: list[str] = []
        for _ in range(400):
            if self.output.exists():
                found = [Path(row[0]).name for row in list(csv.reader(self.output.open(newline="")))[1:]]
            if sorted(found) == sorted(names):
                return
            assert self.process.poll() is None
            time.sleep(0.05)
        pytest.fail(f"rows of {found}")

    def stop(self, number: int = signal.SIGINT) -> str:
        """End it as Ctrl-C does."""
        self.process.send_signal(number)
        _, told = self.process.communicate(timeout=20)
        assert self.process.returncode == 0, told
        return told


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_watch(tmp_path: Path) -> None:
    folder, arriving, output = export(tmp_path / "export"), tmp_path / "in", tmp_path / "out.csv"
    (arriving / "deep").mkdir(parents=True)
    picture = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)).save(picture)
    whole = picture.read_bytes()
    (arriving / "old.png").write_bytes(whole)
    watcher = Watcher(folder, arriving, output, "--max-error", "0.05")
    watcher.wait_for("old.png")
    (arriving / "broken.png").write_bytes(b"none")
    (arriving / "notes.txt").write_text("none")
    with (arriving / "slow.png").open("wb") as file:  # written in pieces, with longer breaks than between two looks
        for start in range(0, len(whole), len(whole) // 3):
            file.write(whole[start : start + len(whole) // 3])
            file.flush()
            time.sleep(0.6)
    shutil.copy(picture, arriving / "half")
    (arriving / "half").rename(arriving / "deep" / "renamed.png")
    watcher.wait_for("old.png", "slow.png", "renamed.png")
    assert "broken.png" in watcher.stop()
    (arriving / "meanwhile.png").write_bytes(whole)
    (arriving / "broken.png").write_bytes(whole)
    with output.open("a") as file:
        file.write(f"{arriving / 'torn.png'},crack,0.")  # as a power cut leaves it
    again = Watcher(folder, arriving, output, "--max-error", "0.05")
    again.wait_for("old.png", "slow.png", "renamed.png", "meanwhile.png", "broken.png")
    again.stop(signal.SIGTERM)
    found = Runtime(folder)([arriving], max_error=0.05)
    found.write_csv(tmp_path / "all.csv")
    assert sorted(output.read_text().splitlines()) == sorted((tmp_path / "all.csv").read_text().splitlines())
    for other in ("another table, cut off", output.read_text()[:-3]):  # that of this call has other columns
        (tmp_path / "other.csv").write_text(other)
        words = ["--watch", str(arriving), "--output", str(tmp_path / "other.csv"), "--model", str(folder)]
        assert main(words) == 1
        assert (tmp_path / "other.csv").read_text() == other
    assert main(["--watch", str(tmp_path / "nowhere"), "--model", str(folder)]) == 1


def test_rows_are_appended_whole_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime, output = Runtime(export(tmp_path / "export")), tmp_path / "out.csv"
    found = runtime(np.zeros((2, 16, 24, 3), np.uint8))
    append_rows(found, output)
    append_rows(found, output)
    before = output.read_bytes()
    assert before.count(b"\n") == 5

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="No space"):
        append_rows(found, output)
    assert output.read_bytes() == before


def test_a_gigapixel_is_a_bad_image(tmp_path: Path) -> None:
    head = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">IIBBBBB", 40_000, 40_000, 8, 0, 0, 0, 0)
    (tmp_path / "huge.png").write_bytes(head + struct.pack(">I", zlib.crc32(head[12:])))
    with pytest.raises(InputError, match=r"huge\.png"):
        Runtime(export(tmp_path / "export"))(tmp_path / "huge.png")


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = export(tmp_path / "export")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match="pip install onnxruntime"):
        Runtime(folder)
    edit(folder, lambda card: card["model"].update(format="openvino"))
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(InputError, match="pip install openvino"):
        Runtime(folder)


def test_openvino_gives_the_same(images: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    folder = export(tmp_path / "export", tiles=True)
    ours, theirs = tmp_path / "ours.csv", tmp_path / "theirs.csv"
    asked = [str(images), "--on-bad-image", "skip", "--threads", "2"]
    assert program(folder, *asked, "--output", str(ours)).returncode == 0
    code = "import openvino, sys; openvino.save_model(openvino.convert_model(sys.argv[1]), sys.argv[2], compress_to_fp16=False)"
    model = folder / "model.xml"
    subprocess.run([sys.executable, "-c", code, str(folder / "model.onnx"), str(model)], check=True)
    edit(folder, lambda card: card["model"].update(file="model.xml", format="openvino", sha256=hash_model(model)))
    done = program(folder, *asked, "--output", str(theirs))
    assert done.returncode == 0, done.stderr
    same_csv(ours, theirs)
    assert program(folder, str(images / "img_4.png")).stdout.count("\n") == 1
    model.with_suffix(".bin").write_bytes(b"none")
    assert program(folder, *asked).returncode == 1
