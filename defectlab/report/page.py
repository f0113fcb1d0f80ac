"""report.html: one self-contained page that says how good a run is, and where it fails."""

from __future__ import annotations

import csv
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import Any

from defectlab.errors import InputError
from defectlab.figures import runs as figures
from defectlab.figures.style import DPI, SYNTHETIC_NOTE, save_png
from defectlab.report import sections
from defectlab.report.markup import document, facts, picture, section, text
from defectlab.runs import PredictionTable, RunFolder, lacks_test_part, read_scalars, write_text

NO_TEST_PART = (
    "These are the figures of validation, which also chose the checkpoint, so they flatter it: expect less on new images. "
    "For a test, give test images or set data.test_size above 0, and train anew."
)


def write_report(run: str | Path | RunFolder) -> Path:
    """Write report.html, its PNGs and confusion_matrix.csv into the run folder; return the page's path.

    The page judges the test split, or validation where there is no test section yet.

    Raises:
        InputError: metrics.json is absent or holds neither split, or predictions.csv is of another test.
    """
    run = run if isinstance(run, RunFolder) else RunFolder.open(run)
    metrics = run.read_metrics()
    split = next((name for name in sections.SPLITS if metrics.get(name)), None)
    if split is None:
        raise InputError(f"{run.metrics_json} has no test or val section; use `defectlab test {run.path}`")
    judged, data, about = metrics[split], metrics.get("data") or {}, metrics.get("run") or {}
    synthetic = data.get("source") == "synthetic"
    predictions = _test_predictions(run, judged["n"]) if split == "test" else None
    pictures = _draw(run, judged, about.get("best_epoch"), predictions, synthetic)
    config_name = str(about.get("config") or run.path.absolute().parent.name)

    parts = [
        f"<header><p class=eyebrow>defectlab report</p><h1>{text(config_name)}</h1>"
        f"<p class=quiet>{text(run.path.absolute().name)}</p></header>",
        *_banners(split, metrics, synthetic),
        sections.headline(judged, sections.SPLITS[split], about.get("seed")),
        section("Results", sections.splits(metrics)),
        section("Confusion matrix", pictures["confusion_matrix"] + sections.confusions(judged)),
        section("Classes", pictures["per_class"] + sections.classes(judged)),
    ]
    if predictions is not None and predictions.labels is not None:
        wrong, unsure = sections.misclassified(predictions, predictions.labels, pictures.get("misclassified", ""))
        parts.append(section("Misclassified images", wrong))
        parts.append(section("Least certain images", unsure))
        parts.append(
            section("Calibration", sections.calibration(judged, metrics.get("calibration")) + pictures["reliability"])
        )
    elif lacks_test_part(metrics) and "misclassified" in pictures:
        what = "<p>Validation images, the surest first; val_predictions.csv has them all.</p>"
        parts.append(section("Misclassified images", what + pictures["misclassified"]))
    if "curves" in pictures:
        parts.append(section("Training", pictures["curves"] + pictures.get("steps", "")))
    parts.append(section("Data", sections.data(data)))
    names = {"best_epoch": "best epoch, from 0", "test_split_read": "times this test split was read"}
    made = section("Run", facts((names.get(key, key.replace("_", " ")), v) for key, v in about.items()))
    made += section("Environment", facts((metrics.get("environment") or {}).items()))
    parts.append(f"<div class=pair>{made}</div>")
    if run.config.is_file():
        config = run.config.read_text(encoding="utf-8", errors="replace")
        parts.append(section("Configuration", f"<pre class=scroll>{text(config)}</pre>"))

    title = f"{'[synthetic] ' if synthetic else ''}{config_name}: defectlab report"
    page = run.path / "report.html"
    write_text(page, document(title, "\n".join(parts)))
    return page


def _banners(split: str, metrics: dict[str, Any], synthetic: bool) -> list[str]:
    if split == "test" or not lacks_test_part(metrics):
        return [sections.banners(split, synthetic)]
    return [
        sections.banners("test", synthetic),
        f"<div class=banner><b>No test part.</b> {NO_TEST_PART}</div>",
    ]


def _test_predictions(run: RunFolder, n: int) -> PredictionTable | None:
    if not run.predictions_csv.is_file():
        return None
    predictions = run.read_predictions()
    if len(predictions.files) != n:
        raise InputError(
            f"{run.predictions_csv} has {len(predictions.files)} rows, but the test in metrics.json had "
            f"{n} images; use `defectlab test {run.path}` to write both anew"
        )
    return predictions


def _draw(
    run: RunFolder,
    judged: dict[str, Any],
    best_epoch: int | None,
    predictions: PredictionTable | None,
    synthetic: bool,
) -> dict[str, str]:
    """Write confusion_matrix.csv and the PNGs that the run has data for; each PNG as HTML, by name."""
    names, matrix = list(judged["per_class"]), judged["confusion_matrix"]
    cells = StringIO()
    writer = csv.writer(cells, lineterminator="\n")
    writer.writerow(["true \\ predicted", *names])
    writer.writerows([name, *row] for name, row in zip(names, matrix, strict=True))
    write_text(run.path / "confusion_matrix.csv", cells.getvalue())

    drawn = {
        "confusion_matrix": figures.confusion_matrix_figure(matrix, names),
        "per_class": figures.per_class_figure(judged["per_class"]),
    }
    with suppress(InputError):  # no metrics.csv, or not one epoch in it: a run that was only tested
        drawn["curves"] = figures.curves_figure(run.read_curves(), best_epoch)
    losses = read_scalars(run.path, "train/loss_step")
    if len(losses) > 1:
        drawn["steps"] = figures.steps_figure(losses)
    if predictions is not None and predictions.labels is not None:
        drawn["reliability"] = figures.reliability_figure(predictions.probabilities, predictions.labels)
    # On the image too, as images leave the page.
    note = SYNTHETIC_NOTE if synthetic else None
    for name, figure in drawn.items():
        save_png(figure, run.path / f"{name}.png", note)
    # misclassified.png needs the images themselves, so `fit` draws it.
    paths = [run.path / f"{name}.png" for name in (*drawn, "misclassified")]
    return {path.stem: picture(path, DPI) for path in paths if path.is_file()}
