"""Write report.html: one self-contained page of a run's results and mistakes."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from defectlab.errors import InputError
from defectlab.figures import runs as figures
from defectlab.figures.novelty import novelty_figure
from defectlab.figures.ranking import marked_points, ranking_figure
from defectlab.figures.style import save_png
from defectlab.report import sections
from defectlab.report.render import Picture, write_page
from defectlab.runs import PredictionTable, RunFolder, lacks_test_part, read_prediction_table, read_scalars, write_text
from defectlab.utils.text import csv_rows

NO_TEST_PART = (
    "These are the figures of validation, which also chose the checkpoint, so they flatter it: expect less on new images. "
    "For a test, give test images or set data.test_size above 0, and train anew."
)


def write_report(run: str | Path | RunFolder) -> Path:
    """Write report.html, its PNGs and confusion_matrix.csv into the run folder; return the page's path.

    The page is of the test split, or of validation where there is no test section.
    """
    run = run if isinstance(run, RunFolder) else RunFolder.open(run)
    metrics = run.read_metrics()
    split = next((name for name in sections.SPLITS if metrics.get(name)), None)
    if split is None:
        raise InputError(f"{run.metrics_json} has no test or val section; use `defectlab test {run.path}`")
    result, data, about = metrics[split], metrics.get("data") or {}, metrics.get("run") or {}
    synthetic = data.get("source") == "synthetic"
    file = run.predictions_csv if split == "test" else run.val_predictions_csv
    predictions = _predictions(run, file, result["n"], sections.SPLITS[split])
    labels = None if predictions is None else predictions.labels
    known = None if predictions is None or split == "val" else _known_novelty(run, predictions)
    values = {
        "name": str(about.get("config") or run.path.absolute().parent.name),
        "run": run.path.absolute().name,
        "synthetic": synthetic,
        "split": sections.SPLITS[split],
        "no_test_part": NO_TEST_PART if split == "val" and lacks_test_part(metrics) else None,
        "seed": about.get("seed"),
        "headline": sections.headline(result, predictions),
        "results": sections.results(metrics),
        "confusions": sections.confusions(result),
        "classes": sections.classes(result),
        "ranking": sections.ranking(result),
        "operating": sections.operating(metrics),
        "images": None if predictions is None or labels is None else sections.images(predictions, labels, file.name),
        "ece": result["ece"],
        "calibration": metrics.get("calibration"),
        "data": sections.data_facts(data),
        "counts": sections.class_counts(data),
        "about": sections.run_facts(about),
        "environment": list((metrics.get("environment") or {}).items()),
        "config": run.config.read_text(encoding="utf-8", errors="replace") if run.config.is_file() else None,
        "novelty": None if predictions is None else sections.novelty(predictions, known),
        "pictures": _draw(
            run, metrics, result, about.get("best_epoch"), predictions, synthetic, known, sections.SPLITS[split]
        ),
    }
    page = run.path / "report.html"
    write_page(page, "report.html", values)
    return page


def _predictions(run: RunFolder, file: Path, n: int, split: str) -> PredictionTable | None:
    """Read the predictions of a split, if they were kept."""
    if not file.is_file():
        return None
    predictions = read_prediction_table(file)
    if len(predictions.files) != n:
        raise InputError(
            f"{file} has {len(predictions.files)} rows, but the {split} in metrics.json had "
            f"{n} images; use `defectlab test {run.path}` to write both anew"
        )
    return predictions


def _known_novelty(run: RunFolder, predictions: PredictionTable) -> npt.NDArray[np.float32] | None:
    """Return the novelty of the validation images, if it is of the same network as the predictions."""
    if not run.val_predictions_csv.is_file():
        return None
    table = read_prediction_table(run.val_predictions_csv)
    return table.novelty if table.checkpoint == predictions.checkpoint else None


def _draw(
    run: RunFolder,
    metrics: dict[str, Any],
    result: dict[str, Any],
    best_epoch: int | None,
    predictions: PredictionTable | None,
    synthetic: bool,
    known: npt.NDArray[np.float32] | None,
    split: str,
) -> dict[str, Picture]:
    """Write confusion_matrix.csv and the PNGs that the run has data for; return each PNG by name."""
    names, matrix = list(result["per_class"]), result["confusion_matrix"]
    rows = [["true \\ predicted", *names], *([name, *row] for name, row in zip(names, matrix, strict=True))]
    write_text(run.path / "confusion_matrix.csv", csv_rows(rows))

    drawn = {
        "confusion_matrix": figures.confusion_matrix_figure(
            matrix, names, [row["support"] for row in result["per_class"].values()]
        ),
        "per_class": figures.per_class_figure(result["per_class"]),
    }
    with suppress(InputError):  # no metrics.csv, or not one epoch in it: a run that was only tested
        drawn["curves"] = figures.curves_figure(run.read_curves(), best_epoch)
    losses = read_scalars(run.path, "train/loss_step")
    if len(losses) > 1:
        drawn["steps"] = figures.steps_figure(losses)
    if predictions is not None and predictions.labels is not None:
        drawn["reliability"] = figures.reliability_figure(predictions.confidence, predictions.right)
        points = marked_points(metrics.get("operating") or {})
        ranked = ranking_figure(predictions.probabilities, predictions.labels, predictions.class_names, points)
        drawn |= {} if ranked is None else {"ranking": ranked}
    if predictions is not None and predictions.novelty is not None:
        drawn["novelty"] = novelty_figure(predictions.novelty, known, split)
    for name, figure in drawn.items():
        save_png(figure, run.path / f"{name}.png", synthetic)  # said on the image too, as images leave the page
    paths = [*(run.path / f"{name}.png" for name in drawn), run.misclassified_png, run.lr_finder_png]
    return {path.stem: Picture(path) for path in paths if path.is_file()}
