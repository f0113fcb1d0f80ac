"""Export: the folder answers as the run does, or there is none."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import refusal
from torch import Tensor, nn

import defectlab as dl
from defectlab.cli.main import main
from defectlab.deploy import export as exporting
from defectlab.deploy.certificate import Answers, Asked, Certificate, certify
from defectlab.deploy.convert import answer_in_process
from defectlab.deploy.graph import DeployedGraph, to_onnx
from defectlab.deploy.runtime import Runtime
from defectlab.errors import InputError
from defectlab.inference.network import InferenceNetwork
from defectlab.inference.predictor import Predictor
from defectlab.inference.tiles import tiles_seen
from defectlab.networks import CompactCNN, PretrainedNetwork
from defectlab.networks.tiling import tiled_network
from defectlab.tasks.tta import Views
from defectlab.utils.card import DataCard
from defectlab.utils.image_format import Tiles

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

NAMES = ("good", "hole", "scratch")


@pytest.fixture(scope="module")
def folder(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of a finished run."""
    target = tmp_path_factory.mktemp("exported") / "model"
    assert main(["export", str(finished), "--output", str(target)]) == 0
    return target


def test_an_export_is_whole_and_answers_as_the_run(folder: Path, finished: Path, tmp_path: Path) -> None:
    assert {"model.onnx", "card.json", "certificate.json", "runtime.py", "vectors.npz", "requirements.txt"} <= {
        file.name for file in folder.iterdir()
    }
    certificate = json.loads((folder / "certificate.json").read_text(encoding="utf-8"))
    assert certificate["passed"]
    assert certificate["images"] == {"val": 6, "test": 7}
    assert set(certificate["decisions"].values()) == {0}
    images = finished.parents[2] / "images"
    expected, found = dl.predict(finished, images), Runtime(folder)(images)
    assert found.predicted == expected.predicted
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-6)
    with np.load(folder / "vectors.npz") as vectors:
        assert vectors["images"].shape == (13, 1, 16, 16)


def test_the_calibration_is_of_the_validation_images(folder: Path, finished: Path) -> None:
    own = json.loads((folder / "card.json").read_text(encoding="utf-8"))["calibration"]
    metrics = dl.RunFolder(finished).read_metrics()["val"]
    assert sum(own["right"]) == round(metrics["accuracy"] * metrics["n"])
    assert len(own["confidence"]) == len(own["set_score"]) == metrics["n"]


def test_verify_repeats_the_certificate(
    folder: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = finished.parents[2] / "images"
    assert main(["verify", str(folder), "--data.root", str(images)]) == 0
    assert "13 images" in capsys.readouterr().out
    assert main(["verify", str(folder)]) == 0
    other = tmp_path / "images"
    shutil.copytree(images, other)
    for name in NAMES[:2]:  # the same names with other pixels
        shutil.copytree(images / "scratch", other / name, dirs_exist_ok=True)
    with pytest.raises(InputError, match="does not answer here"):
        dl.verify(folder, other)
    shutil.rmtree(other / "hole")
    with pytest.raises(InputError, match=r"of 13 images of the certificate are not in"):
        dl.verify(folder, other)
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    table = broken / "certificate.csv"
    header, first, *rows = csv.reader(table.read_text(encoding="utf-8").splitlines())
    first[header.index("p_good")] = "0.123"
    table.write_text("".join(",".join(row) + "\n" for row in (header, first, *rows)), encoding="utf-8")
    with pytest.raises(InputError, match="does not answer here"):
        dl.verify(broken, images)


def test_an_export_that_answers_otherwise_is_not_kept(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = answer_in_process

    def other(*places: Path) -> dict[str, Any]:
        found = honest(*places)
        return {**found, "probabilities": np.roll(found["probabilities"], 1, axis=1)}

    monkeypatch.setattr(exporting, "answer_in_process", other)
    with pytest.raises(InputError, match="was not kept"):
        dl.export(finished, tmp_path / "new" / "model")
    assert not list(tmp_path.iterdir())


def ensemble() -> Predictor:
    """Two networks of other image formats and views, of several classes an image."""
    cards = tuple(
        DataCard(image_size=size, channels=channels, class_names=NAMES, mean=(0.4,) * channels, std=(0.2,) * channels,
                 multilabel=True)
        for size, channels in ((16, 1), (20, 3))
    )  # fmt: skip
    networks = [CompactCNN(3, card.channels, card.image_size) for card in cards]
    kinds: tuple[Views, Views] = ("dihedral", "shift")
    views = [InferenceNetwork(network, view, True, [0.4] * 3).eval()
             for network, view in zip(networks, kinds, strict=True)]  # fmt: skip
    return Predictor("two", tuple(views), cards)


def tiled() -> Predictor:
    """A network with tiles, a hidden layer and two views."""
    card = DataCard(image_size=(48, 96), channels=1, class_names=NAMES, mean=(0.4,), std=(0.2,))
    network = PretrainedNetwork(3, 1, (48, 96), tiles=Tiles(32, 16), pooling="attention", hidden=8)
    for _ in range(2):
        network(torch.randn(4, 1, 48, 96))
    return Predictor("tiled", (InferenceNetwork(network, "flip", True).eval(),), (card,))


@pytest.mark.parametrize("make", [ensemble, tiled])
def test_the_graph_has_everything_inside(make: Callable[[], Predictor]) -> None:
    predictor = make()
    graph = DeployedGraph(predictor).eval()
    session = onnxruntime.InferenceSession(to_onnx(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    for n in (1, 5):
        images = [torch.randint(0, 256, (n, *wanted.shape), dtype=torch.uint8) for wanted in graph.formats]
        given = [images[graph.place_of(card)] for card in predictor.cards]
        network = tiled_network(predictor.tasks[0])
        with torch.no_grad(), tiles_seen(network) as tiles:
            expected, _ = predictor.mean_probabilities(given)
        found = session.run(None, dict(zip(graph.input_names, (each.numpy() for each in images), strict=True)))
        np.testing.assert_allclose(found[0], expected.numpy(), atol=1e-5)
        assert len(found[1]) == n
        if network is not None:
            added = network.tile_contributions(tiles[0], expected.argmax(dim=1))
            assert found[graph.output_names.index("tile")].tolist() == added.abs().flatten(1).argmax(dim=1).tolist()
            assert graph.tile_boxes is not None
            assert len(graph.tile_boxes) == added[0].numel()


def answers(rows: list[list[float]]) -> Answers:
    """Answers without other outputs."""
    return Answers(probabilities=np.array(rows, np.float32), outputs={})


def compare(before: list[list[float]], after: list[list[float]], labels: list[int], **settings: Any) -> Certificate:
    """The certificate of images that are all of the test part."""
    asked = Asked(names=[str(i) for i in range(len(labels))], parts=["test"] * len(labels), labels=np.array(labels))
    return certify(asked, answers(before), answers(after), ["a", "b"], **settings)


def test_one_changed_decision_is_too_many() -> None:
    close = compare([[0.50001, 0.49999]], [[0.49999, 0.50001]], [0])
    assert close.decisions["class"] == 1
    assert not close.passed
    assert compare([[0.6, 0.4]], [[0.60009, 0.39991]], [0]).passed
    far = compare([[0.6, 0.4]], [[0.6002, 0.3998]], [0])
    assert not any(far.decisions.values())
    assert not far.passed


@pytest.mark.parametrize(("lost", "n", "passes"), [(0, 1000, True), (0, 100, False), (2, 1000, True), (9, 1000, False)])
def test_less_precision_passes_where_a_loss_is_rejected(lost: int, n: int, passes: bool) -> None:
    before = [[0.9, 0.1]] * n
    after = [[0.1, 0.9]] * lost + [[0.8, 0.2]] * (n - lost)
    found = compare(before, after, [0] * n, precision="int8", margin=0.008)
    assert found.passed is passes
    assert found.loss_bound is not None
    assert found.loss_bound > lost / n


def test_int8_keeps_the_first_and_the_depthwise_convolutions(class_folders: Path, tmp_path: Path) -> None:
    words = ["--config", "folder_mobilenet.yaml", "--data.root", str(class_folders), "--trainer.max_epochs=1"]
    shape = ["--data.image_size=32", "--data.fit=stretch", "--data.channels=1"]
    assert main(["fit", *words, *shape, "--output", str(tmp_path / "run")]) == 0
    found = dl.export(tmp_path / "run", tmp_path / "model", int8=True, margin=0.9)
    assert isinstance(found, exporting.Export)
    assert found.certificate.precision == "int8"
    model = onnx.load(tmp_path / "model" / "model.onnx")
    made = {output: node for node in model.graph.node for output in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    exact = [node for node in convolutions if made.get(node.input[1]) is None]
    assert convolutions[0] in exact
    depthwise = [node for node in convolutions if any(one.name == "group" and one.i > 1 for one in node.attribute)]
    assert exact == [node for node in convolutions if node in depthwise or node is convolutions[0]]
    assert main(["verify", str(tmp_path / "model")]) == 0


class Unexportable(nn.Module):
    """A network whose shape depends on its numbers in a way that no graph has."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layer = nn.LazyLinear(num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits."""
        logits: Tensor = self.layer(images.flatten(1))
        return logits * 2 if float(images.mean()) > 1e9 else logits


def test_what_cannot_be_exported_is_said(tmp_path: Path) -> None:
    network = Unexportable(3)
    network(torch.zeros(1, 1, 8, 8))
    card = DataCard(image_size=8, channels=1, class_names=NAMES, mean=(0.4,), std=(0.2,))
    predictor = Predictor("odd", (InferenceNetwork(network, "none", False).eval(),), (card,))
    refusal(lambda: to_onnx(DeployedGraph(predictor).eval()), "cannot be exported", "--output FILE.ckpt")


def test_bad_input(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "plain").touch()
    checkpoint = finished / "checkpoints" / "best.ckpt"
    new = tmp_path / "new"
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: dl.export(finished, new, format="tflite"), "format"),  # type: ignore[arg-type]
        (lambda: dl.export(finished, new, format="torch", int8=True), "int8"),
        (lambda: dl.export(finished, new, int8=True, margin=1.5), "margin"),
        (lambda: dl.export(finished, new, half=True), "half"),
        (lambda: dl.export(finished, tmp_path / "full"), "there already"),
        (lambda: dl.export(finished, tmp_path / "plain"), "file"),
        (lambda: dl.export(finished, tmp_path / "model.onnx"), "folder"),
        (lambda: dl.export(checkpoint, new), "images"),
        (lambda: dl.export(checkpoint, new, images=tmp_path / "nowhere"), "nowhere"),
        (lambda: dl.export(finished, tmp_path / "x.ckpt", int8=True), "leave them out"),
        (lambda: dl.export(finished, new, overrides=["--data.root", str(tmp_path / "nowhere")]), "nowhere"),
        (lambda: dl.verify(tmp_path / "full"), "card.json"),
        (lambda: dl.verify(tmp_path / "nowhere"), "no folder"),
    ]
    for call, word in cases:
        refusal(call, word)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["full", "plain"]


def test_a_checkpoint_is_compared_on_images_given(finished: Path, tmp_path: Path) -> None:
    images = finished.parents[2] / "images" / "hole"
    found = dl.export(finished / "checkpoints" / "best.ckpt", tmp_path / "model", images=images)
    assert isinstance(found, exporting.Export)
    assert found.certificate.images == {"given": 12}
    with pytest.raises(InputError, match="validation images"):
        Runtime(tmp_path / "model")(images, max_error=0.5)
