"""Everything that follows a fit, on strips: the same pixels everywhere, and results in their shape."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers import read, write_config
from matplotlib.figure import Figure
from PIL import Image
from test_shape import HEIGHT, WIDTH, write_strips

import defectlab as dl
from defectlab.cli.main import main
from defectlab.data.sources.boxes import Box, box_mask, placed
from defectlab.data.sources.decode import decode
from defectlab.evaluate.corruptions import CORRUPTIONS
from defectlab.figures.tiles import image_sheet
from defectlab.runs import read_prediction_table
from defectlab.tasks.checkpoint import load_task
from defectlab.tasks.tta import tta_logits
from defectlab.utils.image_format import ImageFormat

FIT = ["--trainer.max_epochs=1", "--data.val_size=4", "--data.test_size=4"]
VOC = (
    "<annotation><size><width>64</width><height>24</height></size><object><name>{name}</name><bndbox><xmin>1</xmin>"
    "<ymin>1</ymin><xmax>16</xmax><ymax>12</ymax></bndbox></object></annotation>"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Strips, a run of them as they are, and one of squares that they are stretched to."""
    folder = tmp_path_factory.mktemp("strips")
    config = write_config(folder, write_strips(folder / "strips"))
    fit = ["fit", "--config", str(config), *FIT]
    assert main([*fit, "--data.image_size", "auto", "--output", str(folder / "whole")]) == 0
    assert main([*fit, "--data.fit", "stretch", "--output", str(folder / "squares")]) == 0
    return folder


def test_prediction_sees_what_the_test_saw(folder: Path, tmp_path: Path) -> None:
    for name in ("whole", "squares"):
        tested = read_prediction_table(folder / name / "predictions.csv")
        assert main(["predict", str(folder / name), str(folder / "strips"), "--output", str(tmp_path / "p.csv")]) == 0
        found = read_prediction_table(tmp_path / "p.csv")
        of = {"/".join(Path(file).parts[-2:]): row for file, row in zip(found.files, found.probabilities, strict=True)}
        for file, row in zip(tested.files, tested.probabilities, strict=True):
            assert of[file] == pytest.approx(row, abs=1e-5)


def test_another_size_at_prediction_is_placed_as_in_training(folder: Path, tmp_path: Path) -> None:
    Image.new("L", (WIDTH // 2, HEIGHT * 3), 80).save(tmp_path / "tall.png")
    _, card = load_task(folder / "whole" / "checkpoints" / "best.ckpt")
    assert card.placement(HEIGHT * 3, WIDTH // 2) == (24, 11, 0, 26)
    assert (
        main(["predict", str(folder / "whole"), str(tmp_path / "tall.png"), "--output", str(tmp_path / "p.csv")]) == 0
    )
    strip = dl.load(folder / "whole")
    one = strip(np.full((HEIGHT * 3, WIDTH // 2), 80, np.uint8))
    assert read_prediction_table(tmp_path / "p.csv").probabilities[0] == pytest.approx(one.probabilities[0], abs=1e-5)


@pytest.mark.parametrize(("kind", "views"), [("flip", 2), ("dihedral", 4), ("shift", 5)])
def test_views_of_a_rectangle(kind: str, views: int, folder: Path) -> None:
    seen: list[torch.Tensor] = []

    def network(images: torch.Tensor) -> torch.Tensor:
        seen.append(images)
        return torch.zeros(len(images), 2)

    tta_logits(network, torch.rand(3, 1, HEIGHT, WIDTH), kind)  # type: ignore[arg-type]
    assert [view.shape[2:] for view in seen] == [(HEIGHT, WIDTH)] * views
    assert len({view.numpy().tobytes() for view in seen}) == views
    assert main(["validate", str(folder / "whole"), "--model.tta", kind]) == 0


def test_explain_with_boxes(folder: Path, tmp_path: Path) -> None:
    for name in ("good", "hole"):
        (tmp_path / "boxes" / name).mkdir(parents=True)
        for index in range(8):
            (tmp_path / "boxes" / name / f"{index}.xml").write_text(VOC.format(name=name))
    words = ["explain", str(folder / "whole"), "--boxes", str(tmp_path / "boxes"), "--output", str(tmp_path / "out")]
    assert main(words) == 0
    rows = list(csv.DictReader((tmp_path / "out" / "boxes.csv").open()))
    assert {float(row["chance"]) for row in rows} == {12 * 16 / (HEIGHT * WIDTH)}


@pytest.mark.parametrize(
    "wanted",
    [
        ImageFormat(image_size=(40, 50), channels=1),
        ImageFormat(image_size=(40, 50), channels=1, fit="pad", scale=0.5, pad_value=0),
        ImageFormat(image_size=(90, 64), channels=1, fit="pad", pad_value=0),
        ImageFormat(image_size=(40, 40), channels=1, fit="crop"),
    ],
)
def test_boxes_lie_where_their_defects_come_to_lie(wanted: ImageFormat, tmp_path: Path) -> None:
    pixels = np.zeros((60, 100), np.uint8)
    pixels[20:50, 10:40] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    box = Box(label="a", left=0.1, top=20 / 60, right=0.4, bottom=50 / 60, height=60, width=100)
    mask = box_mask(placed([box], wanted), *wanted.shape[1:])
    white = decode(tmp_path / "a.png", wanted)[0] > 127
    assert (mask & white).sum() / (mask | white).sum() > 0.93


def test_a_box_that_a_crop_cuts_off() -> None:
    box = Box(label="a", left=0, top=0, right=0.1, bottom=1, height=10, width=100)
    assert placed([box], ImageFormat(image_size=10, channels=1, fit="crop")) == []


def test_summary_and_comparison(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", str(folder / "whole")]) == 0
    assert "1×24×64" in capsys.readouterr().out.replace(" ", "").replace("\n", "")
    rows = dl.compare_networks([str(folder / "whole"), str(folder / "squares")], standard=False, turns=1)
    assert [row.image for row in rows] == ["1×24×64", "1×16×16"]


def test_preview_and_augmented_folder(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--config", str(folder / "tiny.yaml"), "--data.augmentation.rotation=20", "--data.image_size=auto"]
    assert main(["data", "preview", *words, "--all", "--output", str(tmp_path / "a.png")]) == 0
    assert main(["data", "augment", *words, "--copies=1", "--output", str(tmp_path / "out")]) == 0
    assert "--data.image_size [24,64] " in capsys.readouterr().out
    sizes = {Image.open(path).size for path in (tmp_path / "out" / "train").rglob("*.png")}
    assert sizes == {(WIDTH, HEIGHT)}


def test_inspection_of_a_config(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "inspect", str(folder / "strips"), "--output", str(tmp_path / "out")]) == 0
    assert "64 × 24" in capsys.readouterr().out


def test_robustness_and_ensemble(folder: Path, tmp_path: Path) -> None:
    """Members may see an image in different formats."""
    runs = [str(folder / name) for name in ("whole", "squares")]
    assert main(["robustness", runs[0]]) == 0
    assert main(["ensemble", *runs, "--output", str(tmp_path / "both")]) == 0
    assert main(["predict", str(tmp_path / "both"), str(folder / "strips"), "--output", str(tmp_path / "p.csv")]) == 0
    together = read_prediction_table(tmp_path / "both" / "predictions.csv")
    found = read_prediction_table(tmp_path / "p.csv")
    of = {"/".join(Path(file).parts[-2:]): row for file, row in zip(found.files, found.probabilities, strict=True)}
    for file, row in zip(together.files, together.probabilities, strict=True):
        assert of[file] == pytest.approx(row, abs=1e-5)


def test_corruptions_of_rectangles() -> None:
    images = torch.rand(2, 1, 12, 40)
    for corruption in CORRUPTIONS:
        for level in corruption.levels:
            assert corruption.apply(images, level).shape == images.shape
    (rotation,) = (corruption for corruption in CORRUPTIONS if corruption.name == "rotation")
    ramp = torch.linspace(0, 1, 40).expand(1, 1, 13, 40)
    turned = rotation.apply(ramp, 90)[0, 0]
    assert turned[:, 20] == pytest.approx(torch.linspace(float(turned[0, 20]), float(turned[-1, 20]), 13), abs=1e-3)
    assert float(turned[0, 20] - turned[-1, 20]) == pytest.approx(12 / 39, abs=1e-3)  # as steep as it was


def test_a_teacher_of_another_canvas(folder: Path, tmp_path: Path) -> None:
    base = ["fit", "--config", str(folder / "tiny.yaml"), *FIT, "--trainer.default_root_dir", str(tmp_path)]
    taught = [
        "--trainer.callbacks+=defectlab.callbacks.Distillation",
        f"--trainer.callbacks.teacher={folder / 'whole'}",
    ]
    assert main([*base, *taught, "--data.image_size=[12,32]", "--data.fit=pad"]) == 0
    assert main([*base, *taught, "--data.image_size=24", "--data.fit=stretch"]) == 1
    assert main([*base, *taught, "--data.image_size=24", "--data.fit=pad"]) == 1


def test_cross_validation(folder: Path, tmp_path: Path) -> None:
    words = ["--config", str(folder / "tiny.yaml"), "--folds", "2", "--trainer.max_epochs=1", "--data.image_size=auto"]
    assert main(["crossval", *words, "--data.val_size=2", "--output", str(tmp_path / "cv")]) == 0
    sizes = [json.loads(path.read_text())["data"]["image_size"] for path in (tmp_path / "cv").rglob("metrics.json")]
    assert [size for size in sizes if size != [HEIGHT, WIDTH]] == []
    assert sizes


def test_a_test_on_other_images_keeps_the_fit(folder: Path, tmp_path: Path) -> None:
    other = write_strips(tmp_path / "other", (48, 40))
    assert main(["test", str(folder / "whole"), "--data.root", str(other)]) == 0
    (result,) = (folder / "whole").glob("test-*")
    assert read(result)["data"]["image_size"] == [HEIGHT, WIDTH]
    assert (read(result)["data"]["fit"], read(result)["data"]["scale"]) == ("pad", 1.0)


def test_sheets_of_strips_are_legible() -> None:
    def inches(shape: tuple[int, int], count: int) -> tuple[float, float]:
        figure: Figure = image_sheet(np.zeros((count, 1, *shape), np.uint8))
        (axes,) = figure.axes
        left, right, bottom, top = axes.images[0].get_extent()
        assert (right - left) / (bottom - top) == pytest.approx(shape[1] / shape[0])
        assert len(axes.images) == count
        return right - left, bottom - top

    assert inches((32, 32), 9) == pytest.approx((1.5, 1.5))
    assert min(inches((256, 1600), 9)) > 0.5
    assert inches((256, 1600), 1)[0] > 4
    assert max(inches((1600, 256), 9)) < 5


@pytest.mark.parametrize("settings", [[], ["--model.symmetric", "false"]], ids=["auto", "of a run of before"])
def test_a_run_of_tiles_goes_on_with_its_head_alone(settings: list[str], folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["--config", "folder_mobilenet.yaml", "--data.root", str(folder / "strips"), "--model.scheduler", "null"]
    assert main(["fit", *words, *FIT, *settings, "--data.tiles", "{size: 16, overlap: 8}", "--output", str(run)]) == 0
    config = yaml.safe_load((run / "config.yaml").read_text())
    arguments = config["model"]["init_args"]
    assert (arguments["cache_features"], arguments["symmetric"], arguments["width"]) == (True, not settings, 1.5)
    first = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    if settings:  # these did not record what `auto` came to
        first["hyper_parameters"]["cache_features"] = arguments["cache_features"] = "auto"
        torch.save(first, run / "checkpoints" / "last.ckpt")
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        (run / "state.json").unlink()
    assert main(["resume", str(run), "--trainer.max_epochs", "2"]) == 0
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["epoch"] == 1
    assert last["hyper_parameters"]["symmetric"] == (not settings)
    same = {name: torch.equal(value, first["state_dict"][name]) for name, value in last["state_dict"].items()}
    assert all(alike for name, alike in same.items() if ".features." in name)
    assert not same["network.head.2.weight"]
    network: Any = load_task(run / "checkpoints" / "last.ckpt")[0].network
    assert (network.symmetric, network.width) == (not settings, 1.5), "not as `auto` would be without weights"
