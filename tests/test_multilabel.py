"""Images of several defects or none: labels, task, and every command that takes a run."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

import defectlab as dl
from defectlab.cli.main import main
from defectlab.data.sources.label_table import LabelColumns
from defectlab.errors import InputError
from defectlab.metrics import evaluate_predictions
from defectlab.metrics.decisions import confidence_of, join_names, split_names
from defectlab.metrics.multilabel import choose_f1_thresholds, mean_average_precision_interval
from defectlab.runs.predictions import read_prediction_table, write_prediction_table
from defectlab.tasks.loss import binary_loss
from defectlab.tasks.tta import tta_logits

CLASSES = ("hole", "scratch", "stain")
COUNT = 120


def draw_defects(folder: Path, count: int = COUNT, seed: int = 0) -> list[list[str]]:
    """Draw images of 32 px with a hole, a scratch and a stain each with probability 0.4; return their classes."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number in range(count):
        image = rng.normal(128, 6, (32, 32))
        has = rng.random(3) < 0.4
        y, x = rng.integers(4, 24, 2)
        if has[0]:
            image[y : y + 5, x : x + 5] = 10
        if has[1]:
            image[:, int(rng.integers(2, 30))] = 250
        if has[2]:
            image[:, :] = image - 40
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"image_{number}.png")
        found.append([name for name, one in zip(CLASSES, has, strict=True) if one])
    return found


def write_labels(path: Path, classes: Sequence[Sequence[str]]) -> None:
    rows = [f"image_{i}.png,{'|'.join(names)}" for i, names in enumerate(classes)]
    path.write_text("\n".join(["image,label", *rows]) + "\n")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    write_labels(folder / "labels.csv", draw_defects(folder))
    return folder


CONFIG = """
seed_everything: 0
trainer: {max_epochs: 8, accelerator: cpu, logger: true, enable_progress_bar: false}
model:
  class_path: defectlab.SmallCNNTask
  init_args:
    network: defectlab.networks.SmallResNet
    optimizer: {lr: 0.01}
data:
  class_path: defectlab.ImageFolderDataModule
  init_args: {root: ROOT, image_size: 32, channels: 1, val_size: 0.3, label_columns: {several: all}}
"""


@pytest.fixture(scope="module")
def runs(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("runs")
    (place / "several.yaml").write_text(CONFIG.replace("ROOT", str(drawn)))
    for seed in (0, 1):
        words = ["fit", "--config", str(place / "several.yaml"), "--output", str(place / f"run{seed}")]
        assert main([*words, "--seed_everything", str(seed)]) == 0
    return [place / "run0", place / "run1"]


def test_labels_of_several_classes(drawn: Path) -> None:
    data = dl.ImageFolderDataModule(str(drawn), image_size=32, channels=1, label_columns=LabelColumns(several="all"))
    data.setup()
    rows = [line.split(",") for line in (drawn / "labels.csv").read_text().splitlines()[1:]]
    expected = {file: set(filter(None, text.split("|"))) for file, text in rows}
    assert data.multilabel
    assert data.card.multilabel
    assert list(data.class_names) == sorted(CLASSES)
    for file, row in zip(data.data.files, data.data.labels, strict=True):
        assert {name for name, one in zip(data.class_names, row, strict=True) if one} == expected[file]
    assert any(not names for names in expected.values()), "some have no defect"
    for k, name in enumerate(data.class_names):
        total = sum(name in names for names in expected.values())
        assert sum(data.class_counts(part)[k] for part in ("train", "val", "test")) == total
        assert abs(data.class_counts("test")[k] - 0.2 * total) < 0.12 * total, "parts keep the proportions of a class"
    images, labels = next(iter(data.train_dataloader()))
    assert labels.shape == (len(images), 3)
    assert labels.dtype == torch.float32


def test_a_column_a_class_and_coco_are_read_alike(drawn: Path, tmp_path: Path) -> None:
    truth = {line.split(",")[0]: line.split(",")[1] for line in (drawn / "labels.csv").read_text().splitlines()[1:]}
    first = tmp_path / "columns"
    shutil.copytree(drawn, first)
    rows = [[file, *(str(int(name in text)) for name in CLASSES)] for file, text in truth.items()]
    (first / "labels.csv").write_text("\n".join(map(",".join, [["image", *CLASSES], *rows])) + "\n")
    second = tmp_path / "coco"
    shutil.copytree(drawn, second)
    (second / "labels.csv").unlink()
    boxes = [
        {"image_id": i, "category_id": CLASSES.index(name), "bbox": [1, 1, 9, 9]}
        for i, text in enumerate(truth.values())
        for name in filter(None, text.split("|"))
    ]
    content = {
        "images": [{"id": i, "file_name": file} for i, file in enumerate(truth)], "annotations": boxes,
        "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES)],
    }  # fmt: skip
    (second / "instances.json").write_text(json.dumps(content))
    columns = LabelColumns(several="all", label=list(CLASSES))
    for root, own in ((first, columns), (second, LabelColumns(several="all"))):
        data = dl.ImageFolderDataModule(str(root), image_size=32, channels=1, label_columns=own)
        data.setup()
        for file, text in zip(data.data.files, data.data.label_texts, strict=True):
            assert set(text.split("|")) == set(truth[file].split("|"))


def test_boxes_of_neu(tmp_path: Path) -> None:
    names = ("crazing", "inclusion", "patches", "pitted_surface", "rolled-in_scale", "scratches")
    rng = np.random.default_rng(0)
    (tmp_path / "ANNOTATIONS").mkdir()
    for name in names:
        for number in range(8):
            Image.fromarray(rng.integers(0, 255, (16, 16), dtype=np.uint8)).save(tmp_path / f"{name}_{number}.png")
            also = ["scratches"] if name == "inclusion" and number < 3 else []
            things = "".join(
                f"<object><name>{one}</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
                for one in (name, *also)
            )
            size = "<size><width>16</width><height>16</height></size>"
            (tmp_path / "ANNOTATIONS" / f"{name}_{number}.xml").write_text(f"<annotation>{size}{things}</annotation>")
    data = dl.NEUDataModule(str(tmp_path), labels="boxes", image_size=16)
    data.setup()
    assert data.data.labels.sum(dim=0).tolist() == [8, 8, 8, 8, 8, 11]
    assert sorted(f for f, t in zip(data.data.files, data.data.label_texts, strict=True) if "|" in t) == [
        "inclusion_0.png", "inclusion_1.png", "inclusion_2.png"
    ]  # fmt: skip
    shutil.rmtree(tmp_path / "ANNOTATIONS")
    with pytest.raises(InputError, match=r"no \.xml files"):
        dl.NEUDataModule(str(tmp_path), labels="boxes", image_size=16).setup()


def random_scores(seed: int = 0) -> tuple[torch.Tensor, npt.NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    truth = (rng.random((300, 3)) < (0.5, 0.2, 0.05)).astype(np.int64)
    return torch.from_numpy(rng.normal(1.5 * truth - 1, 1)), truth


def test_metrics_are_those_of_scikit_learn() -> None:
    logits, truth = random_scores()
    probabilities = logits.sigmoid().numpy()
    thresholds = choose_f1_thresholds(probabilities, truth)
    found = evaluate_predictions(logits, torch.from_numpy(truth).float(), CLASSES, thresholds)
    predicted = probabilities >= np.array(thresholds, np.float32)
    assert found["average_precision"] == pytest.approx(average_precision_score(truth, probabilities))
    assert found["auroc"] == pytest.approx(roc_auc_score(truth, probabilities))
    assert found["macro_f1"] == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert found["micro_f1"] == pytest.approx(f1_score(truth, predicted, average="micro"))
    assert found["accuracy"] == pytest.approx((predicted == truth).all(axis=1).mean())
    assert [row["support"] for row in found["per_class"].values()] == truth.sum(axis=0).tolist()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(truth).double())
    assert found["loss"] == pytest.approx(float(loss))
    for k in range(3):  # no other threshold is better
        best = f1_score(truth[:, k], predicted[:, k])
        assert all(
            f1_score(truth[:, k], probabilities[:, k] >= t) <= best + 1e-12 for t in np.linspace(0.01, 0.99, 197)
        )


def test_thresholds_keep_to_the_middle_where_it_is_free() -> None:
    p = np.array([[0.1, 0.6, 0.2], [0.9, 0.7, 0.3], [0.2, 0.8, 0.1]])
    assert choose_f1_thresholds(p, np.array([[0, 0, 0], [1, 1, 0], [0, 1, 0]])) == pytest.approx([0.5, 0.625, 0.5])


def test_losses() -> None:
    logits, truth = random_scores()
    targets = torch.from_numpy(truth).double()
    plain = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
    assert float(binary_loss(logits, targets, None, 0.0)) == pytest.approx(float(plain))
    weights = torch.tensor([1.0, 2.0, 9.0], dtype=torch.float64)
    weighted = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights)
    assert float(binary_loss(logits, targets, weights, 0.0)) == pytest.approx(float(weighted))
    p = logits.sigmoid()
    shifted = (p - 0.05).clamp(min=0)
    asymmetric = -(targets * p.log() + (1 - targets) * shifted**4 * (1 - shifted).log()).mean()
    assert float(binary_loss(logits, targets, None, 0.0, "asymmetric")) == pytest.approx(float(asymmetric))


def test_views_average_probabilities() -> None:
    logits = torch.randn(2, 5, 3, dtype=torch.float64).float()
    views = iter(logits)
    found = tta_logits(lambda _: next(views), torch.zeros(5, 1, 4, 4), "flip", multilabel=True)
    torch.testing.assert_close(found.sigmoid(), logits.sigmoid().mean(dim=0))


def test_tables_come_back(tmp_path: Path) -> None:
    names = ["a|b", "c\\d", "e"]
    assert [split_names(join_names(one)) for one in (names, [], ["e"])] == [names, [], ["e"]]
    rng = np.random.default_rng(0)
    p, labels = rng.random((20, 3)), rng.random((20, 3)) < 0.5
    write_prediction_table(
        tmp_path / "t.csv", [f"{i}.png" for i in range(20)], labels, p, names, thresholds=[0.3, 0.5, 0.7]
    )
    table = read_prediction_table(tmp_path / "t.csv")
    assert table.class_names == names
    assert table.labels is not None
    assert table.thresholds == pytest.approx((0.3, 0.5, 0.7))
    np.testing.assert_array_equal(table.labels, labels)
    np.testing.assert_array_equal(table.predicted, p >= np.array([0.3, 0.5, 0.7]))
    expected = np.where(table.predicted, p, 1 - p).prod(axis=1)
    np.testing.assert_allclose(confidence_of(table.probabilities, table.thresholds), expected, rtol=1e-5)


def test_fit_writes_a_run(runs: list[Path]) -> None:
    metrics = json.loads((runs[0] / "metrics.json").read_text())
    assert metrics["data"]["multilabel"]
    assert metrics["test"]["average_precision"] > 0.8
    table = read_prediction_table(runs[0] / "predictions.csv")
    assert table.thresholds == pytest.approx([row["threshold"] for row in metrics["test"]["per_class"].values()])
    assert metrics["test"]["accuracy"] == pytest.approx(table.right.mean())
    page = (runs[0] / "report.html").read_text()
    assert "micro F1" in page
    assert "true classes" in page


def test_python_predicts_as_the_run_did(runs: list[Path], drawn: Path) -> None:
    table = read_prediction_table(runs[0] / "predictions.csv")
    found = dl.predict(runs[0], [drawn / name for name in table.files], sets=0.8)
    order = [Path(name).name for name in found.files]
    rows = [table.files.index(name) for name in order]
    np.testing.assert_allclose(found.probabilities, table.probabilities[rows], atol=1e-5)
    assert found.sets is not None
    flagged = dl.predict(runs[0], [drawn], flagging=dl.Flagging(positive="hole", false_alarms=0.3)).flagged
    assert flagged is not None
    assert flagged.flags.any()


COMMANDS = {
    "test": ["test", "RUN"],
    "validate": ["validate", "RUN"],
    "resume": ["resume", "COPY", "--trainer.max_epochs", "9"],
    "report": ["report", "RUN"],
    "predict": ["predict", "RUN", "IMAGES", "--output", "OUT/p.csv", "--sets", "0.8"],
    "abstain": ["predict", "RUN", "IMAGES", "--output", "OUT/a.csv", "--max-error", "0.4"],
    "flag": [
        "predict",
        "RUN",
        "IMAGES",
        "--output",
        "OUT/f.csv",
        "--good",
        "good",
        "--recall",
        "0.7",
        "--defect-rate",
        "0.1",
    ],
    "figure": ["predict", "RUN", "IMAGES/image_0.png", "--figure", "OUT/p.png"],
    "compare": ["compare", "RUN", "OTHER"],
    "ensemble": ["ensemble", "RUN", "OTHER", "--output", "OUT/ensemble"],
    "robustness": ["robustness", "COPY"],
    "harden": ["robustness", "COPY", "--harden", "--trainer.max_epochs", "1", "--trainer.default_root_dir", "OUT/runs"],
    "explain": ["explain", "RUN", "--output", "OUT/explained"],
    "explain a file": ["explain", "RUN", "IMAGES/image_0.png", "--output", "OUT/file"],
    "summary": ["summary", "RUN"],
    "export": ["export", "RUN", "--output", "OUT/best.ckpt"],
    "export a folder": ["export", "RUN", "--output", "OUT/model"],
    "novelty": ["predict", "RUN", "IMAGES", "--output", "OUT/n.csv", "--novelty", "0.2"],
    "benchmark": ["benchmark", "RUN", "--turns", "1"],
    "crossval": ["crossval", "--config", "CONFIG", "--folds", "2", "--output", "OUT/cv", "--trainer.max_epochs", "2"],
    "inspect": ["data", "inspect", "--config", "CONFIG", "--output", "OUT/inspect"],
    "preview": ["data", "preview", "--config", "CONFIG", "--output", "OUT/preview.png", "--all"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_it(name: str, runs: list[Path], drawn: Path, tmp_path: Path) -> None:
    shutil.copytree(runs[0], tmp_path / "copy")
    places = {
        "RUN": runs[0], "OTHER": runs[1], "COPY": tmp_path / "copy", "IMAGES": drawn, "OUT": tmp_path,
        "CONFIG": runs[0].parent / "several.yaml",
    }  # fmt: skip
    words = []
    for word in COMMANDS[name]:
        head, slash, rest = word.partition("/")
        words.append(f"{places[head]}{slash}{rest}" if head in places else word)
    assert main(words) == 0


def test_robustness_judges_all_classes_of_an_image(runs: list[Path]) -> None:
    assert dl.robustness(runs[0]).rows[0].accuracy == pytest.approx(dl.open_run(runs[0]).metrics["test"]["accuracy"])


def test_the_wrong_kind_of_task_or_data_is_refused(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(CONFIG.replace("ROOT", str(drawn)))
    fit = ["fit", "--config", str(config), "--trainer.max_epochs", "1", "--output", str(tmp_path / "run")]
    for words in (
        ["--model.loss", "cross_entropy"],
        ["--data.label_columns.several", "error"],
        ["--data.label_columns.several", "first", "--model.loss", "asymmetric"],
        ["--model.multilabel", "true"],
    ):
        capsys.readouterr()
        assert main([*fit, *words]) == 1
        assert sum("error: " in line for line in capsys.readouterr().err.splitlines()) == 1
        assert not (tmp_path / "run").exists()
    data = dl.ImageFolderDataModule(str(drawn), image_size=32, channels=1, label_columns=LabelColumns(several="all"))
    task = dl.SmallCNNTask(dl.networks.SmallResNet, num_classes=3, in_channels=1, image_size=32)
    with pytest.raises(InputError, match="multilabel"):
        Trainer(max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False).fit(task, data)


def test_the_interval_of_the_mean_average_precision_holds_it() -> None:
    logits, truth = random_scores(0)
    probabilities = logits.sigmoid().numpy()
    low, high = mean_average_precision_interval(probabilities, truth)
    assert low < average_precision_score(truth, probabilities) < high
    assert (low, high) == mean_average_precision_interval(probabilities, truth)
    few = mean_average_precision_interval(probabilities[:60], truth[:60])
    assert few[1] - few[0] > high - low


def test_rows_of_boxes_are_joined(drawn: Path, tmp_path: Path) -> None:
    shutil.copytree(drawn, tmp_path / "set")
    lines = (drawn / "labels.csv").read_text().splitlines()[1:]
    rows = ["image,label,bbox,group"]
    for number, line in enumerate(lines):
        file, text = line.split(",")
        rows += [f'{file},{name},"1, 2, {3 + k}, 4",g{number // 4}' for k, name in enumerate(text.split("|"))]
        rows[-1] = rows[-1] if text else f"{file},,,g{number // 4}"

    def data(several: str) -> dl.ImageFolderDataModule:
        (tmp_path / "set" / "labels.csv").write_text("\n".join(rows) + "\n")
        columns = LabelColumns(several=several)  # type: ignore[arg-type]
        found = dl.ImageFolderDataModule(str(tmp_path / "set"), image_size=32, channels=1, label_columns=columns)
        found.setup()
        return found

    joined = data("all")
    truth = dict(line.split(",") for line in lines)
    assert {f: set(t.split("|")) for f, t in zip(joined.data.files, joined.data.label_texts, strict=True)} == {
        file: set(text.split("|")) for file, text in truth.items()
    }
    assert joined.groups("train") is not None
    largest = data("largest")
    for file, text in zip(largest.data.files, largest.data.label_texts, strict=True):
        assert text == (truth[file].split("|")[-1] or "good"), "the last box is the widest"
    whole = rows.copy()
    for bad, words in (("1, 2, 0, 4", "no pixel"), ("1, 2", "no pixel"), ("40, 2, 3, 4", "no pixel of them")):
        rows[:] = whole
        at = next(i for i, row in enumerate(rows) if (row.startswith("image_3.png") and '"' in row) or '"' in row)
        rows[at] = rows[at].split('"')[0] + f'"{bad}"' + rows[at].split('"')[2]
        with pytest.raises(InputError, match=words):
            data("all")


def test_an_ensemble_is_calibrated_by_its_own_thresholds(runs: list[Path], tmp_path: Path) -> None:
    early = [str(tmp_path / "a"), str(tmp_path / "b")]  # networks that err, without which nothing is calibrated
    for seed, run in enumerate(early):
        words = ["fit", "--config", str(runs[0].parent / "several.yaml"), "--trainer.max_epochs", "4"]
        assert main([*words, "--seed_everything", str(seed), "--output", run]) == 0
    assert main(["ensemble", *early, "--output", str(tmp_path / "both")]) == 0
    metrics = json.loads((tmp_path / "both" / "metrics.json").read_text())
    table = read_prediction_table(tmp_path / "both" / "predictions.csv")
    temperature = metrics["calibration"]["temperature"]
    logits = torch.from_numpy(table.probabilities).logit(eps=1e-12) / temperature
    limits = (torch.tensor(table.thresholds, dtype=torch.float64).logit() / temperature).sigmoid().tolist()
    found = [
        evaluate_predictions(logits, torch.from_numpy(table.truth).float(), table.class_names, own)["ece"]
        for own in (limits, None)
    ]
    assert metrics["calibration"]["ece"] == pytest.approx(found[0], abs=1e-4)
    assert abs(found[0] - found[1]) > 1e-3, "or the test tells nothing"
