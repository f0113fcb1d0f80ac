"""Are attributions true? Boxes, the pointing game beside chance, shuffled weights, and `explain RUN --boxes DIR`."""

import csv
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import write_config
from PIL import Image
from scipy.stats import binomtest
from torch import Tensor, nn

from defectlab.cli.main import main
from defectlab.data.sources.boxes import Box, box_mask, find_boxes, read_boxes
from defectlab.errors import InputError
from defectlab.explain.attribution import CAMS, METHODS, attribute
from defectlab.explain.pointing import ALL, pointing_game
from defectlab.explain.sanity import FLAG, cascade, sanity_check, shuffled_weights
from defectlab.tasks.checkpoint import load_task

SIDE, SPOT, PER_CLASS = 32, 6, 60
NAMES = ("bright-spot", "dark_spot")


def box(label: str, left: float, top: float, right: float, bottom: float) -> Box:
    return Box(label=label, left=left, top=top, right=right, bottom=bottom, height=20, width=20)


def voc(*things: tuple[str, int, int, int, int], width: int = SIDE, height: int = SIDE) -> str:
    """Pascal VOC: name, xmin, ymin, xmax, ymax of each thing, counted from 1, both ends inside."""
    boxes = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for name, a, b, c, d in things
    )
    return f"<annotation><size><width>{width}</width><height>{height}</height></size>{boxes}</annotation>"


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`images` of noise with a bright or a dark spot anywhere, `boxes` around the spots, and a finished `run`."""
    root = tmp_path_factory.mktemp("planted")
    rng = np.random.default_rng(0)
    (root / "boxes").mkdir()
    for label, name in enumerate(NAMES):
        (root / "images" / name).mkdir(parents=True)
        for index in range(PER_CLASS):
            pixels = rng.normal(128, 8, (SIDE, SIDE))
            y, x = rng.integers(0, SIDE - SPOT, 2)
            pixels[y : y + SPOT, x : x + SPOT] += 90 if label == 0 else -90
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(root / "images" / name / f"{name}_{index}.png")
            # The class spelled otherwise, made at ten times the size, with a box of the other class beside it.
            box = (name.replace("_", " ").title(), 10 * x + 1, 10 * y + 1, 10 * (x + SPOT), 10 * (y + SPOT))
            other = (NAMES[1 - label], 1, 1, 10 * SIDE, 10 * SIDE)
            text = voc(*((box, other) if index % 3 == 0 else (box,)), width=10 * SIDE, height=10 * SIDE)
            (root / "boxes" / f"{name}_{index}.xml").write_text(text, encoding="utf-8")
    config = write_config(root, root / "images")
    words = ["--data.image_size", str(SIDE), "--data.test_size", "20", "--trainer.max_epochs", "8"]
    assert main(["fit", "--config", str(config), *words]) == 0
    (root / "runs" / "tiny").rename(root / "all")
    next((root / "all").iterdir()).rename(root / "run")
    return root


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def edges(task: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """The planted fraud: Sobel edges of the image, whatever the network has learned."""
    sobel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])
    kernels = torch.stack([sobel, sobel.T])[:, None]
    return nn.functional.conv2d(images.mean(dim=1, keepdim=True), kernels, padding=1).square().sum(dim=1).sqrt()


def test_boxes_of_a_run(planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boxes = tmp_path / "boxes"
    shutil.copytree(planted / "boxes", boxes)
    run = planted / "run"
    tested = [row["file"] for row in read_rows(run / "predictions.csv")]
    (boxes / f"{Path(tested[0]).stem}.xml").unlink()
    own = "bright-spot" if "bright" in tested[1] else "dark_spot"
    other = NAMES[1 - NAMES.index(own)]
    (boxes / f"{Path(tested[1]).stem}.xml").write_text(voc((other, 1, 1, 9, 9)), encoding="utf-8")

    assert main(["explain", str(run), "--boxes", str(boxes), "--output", str(tmp_path / "out")]) == 0

    said = capsys.readouterr().out
    assert "18 of 20 test images" in said
    assert "1 have no box file. 1 have no box of their own class." in said
    assert (tmp_path / "out" / "boxes.png").stat().st_size > 10_000
    assert "boxes.png" in "".join(path.name for path in (tmp_path / "out").iterdir())
    assert "Is that true" in (tmp_path / "out" / "explain.html").read_text(encoding="utf-8")
    rows = read_rows(tmp_path / "out" / "boxes.csv")
    assert [(row["method"], row["label"]) for row in rows] == [
        (method, label) for method in METHODS for label in (*NAMES, ALL)
    ]
    total = {row["method"]: row for row in rows if row["label"] == ALL}
    assert {int(row["n"]) for row in total.values()} == {18}
    for method in ("integrated_gradients", *CAMS):  # a flattening head makes plain gradients noisy
        found = total[method]
        assert float(found["chance"]) == pytest.approx((SPOT / SIDE) ** 2, abs=1e-6)
        assert int(found["hits"]) >= 16
        assert float(found["p_holm"]) < 0.001
        assert float(found["p_swapped"]) < 0.001
        assert f"{found['hits']}/18" in said
    checks = read_rows(tmp_path / "out" / "sanity.csv")
    assert [row["method"] for row in checks] == list(METHODS)
    assert {row["flagged"] for row in checks} == {"False"}
    assert {row["images"] for row in checks} == {"18"}


def test_the_planted_edge_detector_is_caught(planted: Path) -> None:
    task, _ = load_task(planted / "run" / "checkpoints" / "best.ckpt")
    before = {name: tensor.clone() for name, tensor in task.state_dict().items()}
    images, targets = torch.randn(8, 1, SIDE, SIDE), torch.arange(8) % 2
    fraud = sanity_check("edges", edges, task, images, targets)
    assert fraud.flagged
    assert fraud.similarity == pytest.approx(1)
    for method in METHODS:
        found = sanity_check(method, partial(attribute, method=method), task, images, targets)
        assert not found.flagged, found
        assert found.similarity is not None
        assert found.similarity < FLAG - 0.1
    for name, tensor in task.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_an_attribution_that_says_nothing_is_caught_too() -> None:
    found = sanity_check("blank", lambda _, images, __: torch.zeros(len(images), 4, 4), nn.Linear(2, 2),
                         torch.zeros(3, 1, 4, 4), torch.zeros(3, dtype=torch.int64))  # fmt: skip
    assert found.flagged
    with pytest.raises(InputError, match="0 images"):
        sanity_check("blank", edges, nn.Linear(2, 2), torch.zeros(0, 1, 4, 4), torch.zeros(0, dtype=torch.int64))


def test_shuffled_weights_are_put_back() -> None:
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Linear(5, 7))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    inside: dict[str, Tensor] = {}

    def stopped() -> None:
        with shuffled_weights(network, 0):
            inside.update({name: tensor.clone() for name, tensor in network.state_dict().items()})
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        stopped()
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert torch.equal(inside[name].flatten().sort().values, before[name].flatten().sort().values)
    assert not torch.equal(inside["0.weight"], before["0.weight"])
    assert not torch.equal(inside["2.weight"], before["2.weight"])


def points(places: list[tuple[int, int]], side: int = 10) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    maps = np.zeros((len(places), side, side))
    for found, (row, column) in zip(maps, places, strict=True):
        found[row, column] = 3
        found[0, 0] += 1
    return maps


def test_pointing_game_by_hand() -> None:
    masks = np.zeros((4, 10, 10), dtype=bool)
    masks[0, 2:4, 2:7] = masks[1, 2:4, 2:7] = True  # a tenth of the image
    masks[2, 8:, :] = True  # a fifth
    masks[3, :, :] = True
    rows = pointing_game("m", points([(2, 2), (9, 9), (9, 0), (5, 5)]), masks, np.array([0, 0, 0, 2]), ["a", "b", "c"])
    first, third, whole = rows
    assert [row.label for row in rows] == ["a", "c", ALL]
    assert (first.n, first.hits, first.centre) == (3, 2, 0)
    assert first.chance == pytest.approx(0.4 / 3)
    assert first.margin == pytest.approx(2 / 3 - 0.4 / 3)
    # Two or three of three hit: one place of 0.1 and 0.1, 0.2.
    assert first.p == pytest.approx(0.1 * 0.1 * 0.8 + 2 * 0.1 * 0.9 * 0.2 + 0.1 * 0.1 * 0.2)
    # Image 0 is hit by neither other point, image 1 by point 0, image 2 by point 1.
    assert first.swapped == pytest.approx((0 + 0.5 + 0.5) / 3)
    assert first.energy == pytest.approx((0.75 + 0 + 0.75) / 3)
    assert (third.n, third.hits, third.swapped, third.p_swapped, third.p) == (1, 1, None, None, 1.0)
    assert (whole.n, whole.hits, whole.centre) == (4, 3, 0.25)
    assert whole.swapped == pytest.approx(first.swapped)


def test_equal_chances_are_the_binomial_test() -> None:
    masks = np.zeros((20, 10, 10), dtype=bool)
    masks[:, :3] = True
    maps = points([(1, 1)] * 11 + [(5, 5)] * 9)
    found = pointing_game("m", maps, masks, np.zeros(20, dtype=np.int64), ["a"])[0]
    assert found.p == pytest.approx(binomtest(11, 20, 0.3, alternative="greater").pvalue)


def test_knowing_the_usual_place_is_not_knowing_the_image() -> None:
    masks = np.zeros((40, 10, 10), dtype=bool)
    masks[:, 3:8, 3:8] = True
    rng = np.random.default_rng(0)
    centred = pointing_game("m", points([(5, 5)] * 40), masks, np.zeros(40, dtype=np.int64), ["a"])[0]
    assert centred.p < 1e-6  # far above chance
    assert centred.swapped == 1
    assert centred.p_swapped == 1  # and yet it knows nothing of the image
    corners = [tuple(map(int, place)) for place in rng.integers(0, 7, (40, 2))]
    masks[:] = False
    for mask, (row, column) in zip(masks, corners, strict=True):
        mask[row : row + 3, column : column + 3] = True
    knowing = points([(row + 1, column + 1) for row, column in corners])
    found = pointing_game("m", knowing, masks, np.zeros(40, dtype=np.int64), ["a"])[0]
    assert found.hits == 40
    assert found.swapped is not None
    assert found.swapped < 0.4
    assert found.p_swapped == pytest.approx(1e-4)


def test_points_at_random_are_seldom_significant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("defectlab.explain.pointing._PERMUTATIONS", 9)  # for time: they are not looked at here
    rng = np.random.default_rng(0)
    masks = np.zeros((30, 10, 10), dtype=bool)
    for mask, share in zip(masks, rng.integers(5, 60, 30), strict=True):
        mask.flat[:share] = True
    values = [
        pointing_game("m", rng.random((30, 10, 10)), masks, np.zeros(30, dtype=np.int64), ["a"])[0].p
        for _ in range(200)
    ]
    assert np.mean(np.array(values) <= 0.05) <= 0.08  # 0.05 of 200, with three standard errors


def test_an_empty_map_and_a_plateau() -> None:
    masks = np.zeros((2, 8, 8), dtype=bool)
    masks[:, 0, 0] = True
    maps = np.zeros((2, 8, 8))
    maps[1, :5, :5] = 1  # a coarse map's corner: it means the cell, not the corner of the image
    found = pointing_game("m", maps, masks, np.zeros(2, dtype=np.int64), ["a"])[0]
    assert found.hits == 0
    assert found.energy == pytest.approx(0.5 / 25)
    with pytest.raises(InputError, match="N of 1 or more"):
        pointing_game("m", maps[:0], masks[:0], np.zeros(0, dtype=np.int64), ["a"])


def test_boxes_are_read_and_scaled(tmp_path: Path) -> None:
    file = tmp_path / "a.xml"
    file.write_text(voc(("in", 1, 11, 20, 20), ("out", 15, -3, 99, 5), width=20, height=20), encoding="utf-8")
    boxes = read_boxes(file)
    assert boxes == [box("in", 0, 0.5, 1, 1), box("out", 0.7, 0, 1, 0.25)]
    mask = box_mask(boxes[:1], 4, 10)
    assert mask.tolist() == [[False] * 10] * 2 + [[True] * 10] * 2
    tiny = box_mask([box("dot", 0.51, 0.51, 0.52, 0.52)], 4, 4)
    assert np.argwhere(tiny).tolist() == [[2, 2]]
    assert box_mask([box("edge", 0.999, 0.999, 1, 1)], 4, 4)[3, 3]


SIZE = "<size><width>9</width><height>9</height></size>"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is no XML"),
        (b"\x00\xff\xfe", "is no XML"),
        (b"<?xml version='1.0' encoding='no-such'?><a/>", "is no XML"),
        (b"<annotation>", "is no XML"),
        (b"<!DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>", "DOCTYPE"),
        ("<?xml version='1.0' encoding='utf-16'?><!DOCTYPE a SYSTEM 'file:///etc/passwd'><a/>".encode("utf-16"), "DOCTYPE"),
        (b"<annotation/>", "size"),
        (b"<a><size><width>many</width><height>9</height></size></a>", "size/width is 'many'"),
        (b"<a><size><width>0</width><height>9</height></size></a>", "0 × 9 pixels"),
        (f"<a>{SIZE}<object><bndbox/></object></a>".encode(), "no name"),
        (f"<a>{SIZE}<object><name>x</name></object></a>".encode(), "bndbox/xmin is ''"),
        (voc(("x", 8, 1, 2, 2)).encode(), "holds no pixel"),
        (voc(("x", 90, 90, 95, 95)).encode(), "holds no pixel"),
        (b"<a>" + b" " * 2**20 + b"</a>", "more than"),
    ],
)  # fmt: skip
def test_a_garbled_file_is_one_line(tmp_path: Path, content: bytes, complaint: str) -> None:
    file = tmp_path / "a.xml"
    file.write_bytes(content)
    with pytest.raises(InputError, match=complaint) as caught:
        read_boxes(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_boxes_find_their_pictures(tmp_path: Path) -> None:
    for name in ("a/0.xml", "b/0.xml", "flat_1.XML"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("<a/>", encoding="utf-8")
    found = find_boxes(tmp_path, ["a/0.png", "b/0.png", "elsewhere/flat_1.jpg", "none.png"])
    assert {file: path.relative_to(tmp_path).as_posix() for file, path in found.items()} == {
        "a/0.png": "a/0.xml", "b/0.png": "b/0.xml", "elsewhere/flat_1.jpg": "flat_1.XML",
    }  # fmt: skip
    with pytest.raises(InputError, match="cannot be told"):
        find_boxes(tmp_path, ["c/0.png"])
    with pytest.raises(InputError, match="cannot be told"):
        find_boxes(tmp_path, ["c/flat_1.png", "d/flat_1.png"])


@pytest.mark.parametrize("what", ["absent", "empty", "foreign", "garbled"])
def test_boxes_that_cannot_be_used_end_in_one_line(
    planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    boxes = tmp_path / "boxes"
    if what != "absent":
        boxes.mkdir()
    if what == "foreign":
        (boxes / "other.xml").write_text(voc(("x", 1, 1, 2, 2)), encoding="utf-8")
    if what == "garbled":
        for file in (planted / "boxes").iterdir():
            (boxes / file.name).write_bytes(file.read_bytes()[:50])
    assert main(["explain", str(planted / "run"), "--boxes", str(boxes), "--output", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith("defectlab: error: ")
    assert str(boxes) in said[-1]
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_has_no_test_images(planted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(planted / "run" / "checkpoints" / "best.ckpt"), "x.png", "--boxes", str(planted / "boxes")]
    assert main(["explain", *words]) == 1
    assert "give the run folder" in capsys.readouterr().err


def test_a_network_that_shuffling_silences_is_not_measured() -> None:
    task = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1))
    before = [p.detach().clone() for p in task.parameters()]
    images, targets = torch.rand(4, 1, 6, 6), torch.zeros(4, dtype=torch.int64)

    def silent(network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The image's own map, but nothing as soon as a weight has another place: of half of the images, or of all."""
        shuffled = any(not torch.equal(p, q) for p, q in zip(network.parameters(), before, strict=True))
        return images[:, 0] * (targets == 0).view(-1, 1, 1) if shuffled else images[:, 0]

    dead = sanity_check("dead", silent, task, images, torch.ones_like(targets), seeds=[1])
    assert (dead.similarity, dead.low, dead.empty, dead.flagged) == (None, None, 1.0, False)
    assert "not measurable: 100%" in dead.verdict
    half = sanity_check("half", silent, task, images, torch.tensor([0, 0, 1, 1]), seeds=[1])
    assert half.similarity == pytest.approx(1)
    assert (half.empty, half.flagged) == (0.5, True)
    assert "50%" in half.verdict
    steps = cascade("dead", silent, task, images, torch.ones_like(targets), seed=1)
    assert [(step.layers, step.layer, step.similarity, step.empty) for step in steps] == [
        (1, "1", None, 1.0), (2, "0", None, 1.0),
    ]  # fmt: skip


def test_the_cascade_goes_from_the_logits_down() -> None:
    task = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 2))
    changed: list[list[str]] = []
    before = {name: p.detach().clone() for name, p in task.named_parameters()}

    def note(network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        changed.append([name for name, p in network.named_parameters() if not torch.equal(p, before[name])])
        return images[:, 0]

    steps = cascade("edges", note, task, torch.rand(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64))
    assert [step.layer for step in steps] == ["4", "2", "0"]
    assert [{name.partition(".")[0] for name in names} for names in changed] == [
        set(),
        {"4"},
        {"4", "2"},
        {"4", "2", "0"},
    ]
    assert [step.similarity for step in steps] == [pytest.approx(1)] * 3
