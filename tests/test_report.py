"""The report of run folders with 2, 6 and 200 classes, whole and in part."""

import base64
import csv
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch.nn import functional

from defectlab.cli.console import print_result
from defectlab.errors import InputError
from defectlab.figures import runs as figures
from defectlab.figures.style import save_png
from defectlab.figures.tiles import image_sheet
from defectlab.metrics.classification import evaluate_predictions
from defectlab.report import write_report
from defectlab.runs import RunFolder

NEU = ["crazing", "inclusion", "patches", "pitted_surface", "rolled-in_scale", "scratches"]


def make_run(folder: Path, names: list[str], n: int = 120, source: str = "real", margin: float = 3.0) -> RunFolder:
    """A finished run with random logits whose right class is raised by `margin`."""
    run = RunFolder(folder)
    folder.mkdir(parents=True)
    run.config.write_text("model:\n  dropout: 0.2  # <b>not bold</b>\n", encoding="utf-8")
    generator = torch.Generator().manual_seed(len(names))
    logits = torch.randn(n, len(names), generator=generator)
    labels = torch.arange(n) % len(names)
    logits[torch.arange(n), labels] += margin
    counts = {name: int((labels == index).sum()) for index, name in enumerate(names)}
    scored = evaluate_predictions(logits, labels, names)
    run.write_metrics(
        {
            "data": {
                "source": source,
                "root": "data/neu-cls",
                "class_names": names,
                "counts": {
                    "train": {name: 5 * k for name, k in counts.items()},
                    "val": counts,
                    "test": counts,
                },
                "split_hash": "9f2c51d07a3b",
                "mean": [0.5016],
                "std": [0.2211],
                "image_size": 128,
                "channels": 1,
                "skipped": ["notes.txt: not an image"],
            },
            "val": scored,
            "test": scored,
            "environment": {"python": "3.12.1", "torch": "2.6.0", "gpu": None, "cores": 2},
            "run": {
                "config": "neu_mobilenet",
                "seed": 0,
                "epochs": 15,
                "best_epoch": 12,
                "parameters": 1524006,
                "train_seconds": 61.2,
                "weights": "none",
            },
        }
    )
    files = [f"{names[label]}/{index}.png" for index, label in enumerate(labels.tolist())]
    run.write_predictions(files, labels.numpy(), logits.softmax(1).numpy(), names)
    write_curves(run, epochs=15)
    return run


def write_curves(run: RunFolder, epochs: int) -> None:
    """metrics.csv as Lightning writes it: one row for each moment of logging, other cells empty."""
    with run.metrics_csv.open("w", newline="") as file:
        columns = ["epoch", "step", "lr-AdamW", "train/loss", "train/accuracy", "val/loss", "val/accuracy"]
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for epoch in range(epochs):
            step, loss = 40 * (epoch + 1), 1.8 * 0.8**epoch
            writer.writerow({"step": step - 1, "lr-AdamW": 0.001})
            writer.writerow({"epoch": epoch, "step": step, "val/loss": loss + 0.1, "val/accuracy": 1 - loss / 2})
            writer.writerow({"epoch": epoch, "step": step, "train/loss": loss, "train/accuracy": 1 - loss / 3})


class Page(HTMLParser):
    """The tags and the visible text of a page; checks that tags are closed in order."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[dict[str, str | None]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))
        self.text = " ".join(self.text.split())
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append({"tag": tag, **dict(attrs)})
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += f" {data}"


@pytest.mark.parametrize("classes", [2, 6, 200])
def test_report_of_any_number_of_classes(tmp_path: Path, classes: int) -> None:
    names = NEU if classes == 6 else [f"kind {index}" for index in range(classes)]
    run = make_run(tmp_path / "neu_mobilenet/20260101-120000", names, n=max(120, 3 * classes))
    page = Page(write_report(run))
    test = run.read_metrics()["test"]
    right = sum(row[index] for index, row in enumerate(test["confusion_matrix"]))
    assert f"{100 * test['accuracy']:.1f} %" in page.text
    assert f"{right} of n = {test['n']} test images" in page.text
    worst = min(test["per_class"], key=lambda name: float(test["per_class"][name]["accuracy"]))
    assert f"worst class {worst}" in page.text
    assert all(name in page.text for name in names)
    assert "9f2c51d07a3b" in page.text
    assert "notes.txt: not an image" in page.text
    assert "best epoch 13" in page.text  # 12 in metrics.json, which counts from 0
    assert "made by the generator" not in page.text

    images = [tag for tag in page.tags if tag["tag"] == "img"]
    shown = [base64.b64decode((tag["src"] or "").removeprefix("data:image/png;base64,")) for tag in images]
    ranked = ["ranking"] if (run.path / "ranking.png").is_file() else []  # of few classes
    pictures = ["confusion_matrix", "per_class", *ranked, "reliability", "curves"]
    assert shown == [(run.path / f"{name}.png").read_bytes() for name in pictures]
    assert not [tag for tag in page.tags if tag["tag"] in ("script", "link") or "href" in tag]
    with (run.path / "confusion_matrix.csv").open(newline="") as file:
        header, *rows = list(csv.reader(file))
    assert header[1:] == names
    assert [[int(cell) for cell in row[1:]] for row in rows] == test["confusion_matrix"]


def test_misclassified_and_least_certain_images_are_listed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", NEU)
    Image.new("L", (8, 8)).save(run.path / "misclassified.png")
    table = run.read_predictions()
    assert table.labels is not None
    wrong = np.flatnonzero(table.predicted != table.labels)
    assert len(wrong) > 1
    page = Page(write_report(run))
    listed = page.text[page.text.index("Misclassified images") : page.text.index("Least certain images")]
    positions = [listed.index(table.files[index]) for index in wrong]
    surest_first = np.argsort(-table.probabilities.max(axis=1)[wrong], kind="stable")
    assert np.argsort(positions).tolist() == surest_first.tolist()
    unsure = page.text[page.text.index("Least certain images") : page.text.index("Calibration ")]
    least = np.argsort(table.probabilities.max(axis=1), kind="stable")
    assert all(table.files[index] in unsure for index in least[:12])
    assert unsure.count(".png") == 12
    alternatives = [tag["alt"] for tag in page.tags if tag["tag"] == "img"]
    assert "misclassified" in alternatives


def test_synthetic_data_is_said_on_page_and_pictures(tmp_path: Path) -> None:
    real = make_run(tmp_path / "real", NEU)
    synthetic = make_run(tmp_path / "synthetic", NEU, source="synthetic")
    write_report(real)
    page = Page(write_report(synthetic))
    assert "made by the generator, not real steel" in page.text
    assert "[synthetic]" in page.text
    assert {"tag": "div", "class": "banner"} in page.tags
    for name in ("confusion_matrix.png", "per_class.png", "reliability.png", "curves.png"):
        assert (real.path / name).read_bytes() != (synthetic.path / name).read_bytes()


def test_same_run_same_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", NEU)
    assert write_report(run).read_bytes() == write_report(run).read_bytes()


def test_a_perfect_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = Page(write_report(make_run(tmp_path / "run", NEU, margin=30)))
    assert "100.0 %" in page.text
    assert "96.9 to 100.0 %" in page.text  # n = 120
    assert "worst class none" in page.text
    assert "No image is misclassified." in page.text
    result: Any = RunFolder(tmp_path / "run").read_metrics()["test"]
    print_result(result, "test", "real")
    assert "worst class  none" in capsys.readouterr().out


def test_parts_that_a_run_lacks_are_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", NEU)
    run.metrics_csv.unlink()
    run.predictions_csv.unlink()
    run.write_metrics({"test": run.read_metrics()["test"]})
    page = Page(write_report(run))
    assert "test accuracy" in page.text
    for absent in ("validation images", "Training", "Misclassified", "Calibration "):
        assert absent not in page.text


def test_a_metrics_csv_without_an_epoch(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", NEU)
    run.metrics_csv.write_text("epoch,step,test/accuracy\n0,0,0.9\n")
    assert "Training" not in Page(write_report(run)).text


def test_a_run_without_test_shows_validation_and_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", NEU)
    run.write_metrics({"val": run.read_metrics()["val"]})
    page = Page(write_report(run))
    assert "Not tested yet." in page.text
    assert "validation accuracy" in page.text
    assert "Misclassified" not in page.text  # predictions.csv is of the test split


def test_without_a_test_part_images_and_calibration_are_those_of_validation(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", NEU)
    metrics = run.read_metrics()
    metrics["data"]["counts"]["test"] = dict.fromkeys(NEU, 0)
    run.write_metrics({key: value for key, value in metrics.items() if key != "test"})
    table = run.read_predictions()
    run.predictions_csv.rename(run.val_predictions_csv)
    assert table.labels is not None
    wrong = np.flatnonzero(table.predicted != table.labels)
    page = Page(write_report(run))
    assert "No test part." in page.text
    assert f"{len(wrong)} of 120 validation images" in page.text
    assert all(table.files[index] in page.text for index in wrong)
    assert "Of the validation images that get 90 %" in page.text
    assert "reliability" in [tag["alt"] for tag in page.tags if tag["tag"] == "img"]


def test_classes_without_images_or_predictions(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", NEU)
    logits = torch.tensor([[3.0, 0, 0, 0, 0, 0], [0, 3, 0, 0, 0, 0]])
    run.write_metrics({**run.read_metrics(), "test": evaluate_predictions(logits, torch.tensor([0, 0]), NEU)})
    run.write_predictions(["1.png", "2.png"], [0, 0], logits.softmax(1).numpy(), NEU)
    page = Page(write_report(run))
    assert "patches 0 – – –" in page.text


def test_text_is_escaped(tmp_path: Path) -> None:
    names = ["<script>alert(1)</script>", "a & b", "$x$ \\frac", "ok"]
    run = make_run(tmp_path / "run", names)
    table = run.read_predictions()
    files = [f'<img src=x onerror="{index}">\udcff.png' for index in range(len(table.files))]
    run.write_predictions(files, table.labels, table.probabilities, names)
    page = Page(write_report(run))
    assert not [tag for tag in page.tags if tag["tag"] == "script" or "onerror" in tag]
    assert names[0] in page.text
    assert "# <b>not bold</b>" in page.text


def test_a_share_just_below_one_is_not_shown_as_100_percent(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ["a", "b"])
    logits = torch.zeros(20_000, 2)
    logits[:, 0] = 5.0
    labels = torch.zeros(20_000, dtype=torch.int64)
    labels[0] = 1
    run.predictions_csv.unlink()
    run.write_metrics({**run.read_metrics(), "test": evaluate_predictions(logits, labels, ["a", "b"])})
    assert "test accuracy 99.995 %" in Page(write_report(run)).text


def test_reports_that_cannot_be_written(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", NEU)
    metrics = run.read_metrics()
    run.write_metrics({"data": metrics["data"]})
    with pytest.raises(InputError, match="no test or val section"):
        write_report(run)
    run.write_metrics(metrics)
    run.write_predictions(["1.png"], [0], [[1.0, 0, 0, 0, 0, 0]], NEU)
    with pytest.raises(InputError, match="has 1 rows, but the test"):
        write_report(run)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("channels", [1, 3])
def test_image_sheet_shows_each_image_as_it_is(tmp_path: Path, dtype: npt.DTypeLike, channels: int) -> None:
    levels = [0, 64, 255]
    images = np.stack([np.full((channels, 8, 16), level) for level in levels])
    images = images.astype(np.uint8) if dtype == np.uint8 else (images / 255).astype(np.float32)
    figure = image_sheet(images, titles=["a", "b\n0.9", "c"], columns=2)
    save_png(figure, tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("L")).astype(int)
    wide, high = figure.get_size_inches()
    for image, level in zip(figure.axes[0].images, levels, strict=True):
        left, right, bottom, top = image.get_extent()  # inches from the upper left
        x = round(sheet.shape[1] * (left + right) / 2 / wide)
        y = round(sheet.shape[0] * (bottom + top) / 2 / high)
        assert abs(sheet[y, x] - level) <= 1
    assert len(image_sheet(torch.from_numpy(images)).axes[0].images) == 3


@pytest.mark.parametrize(
    ("shape", "titles", "said"),
    [
        ((0, 1, 8, 8), None, "N of 1 or more"),
        ((2, 1, 8, 8), ["a"], "titles: 1"),
    ],
)
def test_image_sheet_refuses(shape: tuple[int, ...], titles: list[str] | None, said: str) -> None:
    with pytest.raises(InputError, match=said):
        image_sheet(np.zeros(shape, dtype=np.uint8), titles)


def test_curves_take_the_values_by_epoch(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write_curves(run, epochs=3)
    loss, accuracy = figures.curves_figure(run.read_curves(), best_epoch=1).axes
    drawn: dict[str, Any] = {str(line.get_label()): line for line in loss.lines}
    assert drawn["training"].get_xdata() == pytest.approx([1, 2, 3])
    assert drawn["validation"].get_ydata() == pytest.approx([1.9, 1.54, 1.252])
    assert len(accuracy.lines) == 3
    assert drawn["best epoch"].get_xdata() == [2, 2]
    with pytest.raises(InputError, match="val/loss"):
        figures.curves_figure([{"epoch": "0", "val/loss": ""}])


def test_confusion_matrix_names_and_numbers(tmp_path: Path) -> None:
    axes = figures.confusion_matrix_figure([[8, 2], [0, 10]], ["a", "b"]).axes[0]
    assert [text.get_text() for text in axes.texts] == ["8\n80%", "2\n20%", "10\n100%"]
    few = figures.confusion_matrix_figure([[992, 5, 4], [0, 1, 0], [1, 0, 0]], ["a", "b", "c"]).axes[0]
    assert [text.get_text() for text in few.texts] == ["992\n99%", "5\n<1%", "4\n<1%", "1\n100%", "1\n100%"]
    assert [axes.get_xlabel(), axes.get_ylabel()] == ["predicted class", "true class"]
    large = figures.confusion_matrix_figure(np.eye(200), [str(index) for index in range(200)]).axes[0]
    assert not large.texts
    assert 10 <= len(large.get_xticklabels()) <= 25
    assert re.search("every 8th", large.get_xlabel())
    with pytest.raises(InputError, match=r"expected \(3, 3\)"):
        figures.confusion_matrix_figure([[1]], ["a", "b", "c"])


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium")
def test_a_browser_shows_the_page(tmp_path: Path) -> None:
    """The page is laid out from top to bottom without help from outside, and no image of it is broken."""
    page = write_report(make_run(tmp_path / "run", NEU))
    screenshot = tmp_path / "page.png"
    words = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1000,3000"]
    words += ["--host-resolver-rules=MAP * 127.0.0.1:9", f"--screenshot={screenshot}", page.as_uri()]
    subprocess.run(words, check=True, capture_output=True, timeout=120)
    with Image.open(screenshot) as picture:
        pixels = np.asarray(picture.convert("L")).astype(float)
    assert pixels.shape == (3000, 1000)
    blocks = pixels.reshape(10, 300, 1000).std(axis=(1, 2))
    assert (blocks[:8] > 3).all(), "no part of the page is blank"
    dumped = subprocess.run(
        [*words[:4], "--dump-dom", page.as_uri()], check=True, capture_output=True, text=True, timeout=120
    )
    assert dumped.stdout.count("<img") == page.read_text(encoding="utf-8").count("<img") > 2


def test_accuracy_below_that_of_the_commonest_class_is_told(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "a" / "b")
    run.path.mkdir(parents=True)
    labels = torch.tensor([0] * 70 + [1] * 30)
    for right in (30, 70):  # of the seventy; none and all of the thirty
        predicted = torch.tensor([0] * right + [1] * (70 - right) + [int(right == 70)] * 30)
        run.write_metrics(
            {"test": evaluate_predictions(functional.one_hot(predicted, 2) * 9.0, labels, ["good", "bad"])}
        )
        page = Page(write_report(run)).text
        assert ("Below the 70.0 % of always predicting the most frequent class" in page) == (right == 30)
    assert "balanced accuracy 100" in page
