"""The runtime of an exported folder: without torch, the answers of `defectlab predict`."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from defectlab.deploy.bundle import write_bundle
from defectlab.deploy.exported import hash_model
from defectlab.deploy.program import main
from defectlab.deploy.runtime import Runtime
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
