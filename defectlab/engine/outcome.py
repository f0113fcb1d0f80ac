"""Write what a run folder holds after a test."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor

from defectlab.data import ImageDataModule
from defectlab.data.pipeline.split_table import SplitTable
from defectlab.engine.tensorboard import add_figures, add_hparams
from defectlab.errors import InputError
from defectlab.figures.ranking import marked_points, ranking_figure
from defectlab.figures.style import save_png
from defectlab.figures.tiles import image_sheet
from defectlab.metrics.classification import (
    SplitMetrics,
    confident_mistakes,
    evaluate_predictions,
    fit_temperature,
    probabilities_of,
)
from defectlab.metrics.decisions import confidence_of, decide, label_texts
from defectlab.metrics.line import promises, scores_of
from defectlab.metrics.ranking import Flags, Scores
from defectlab.report import write_report
from defectlab.runs import RunFolder, environment, log_test_evaluation, write_prediction_table
from defectlab.runs.folder import STAMP
from defectlab.runs.ledger import READS_FILE
from defectlab.runs.predictions import as_kept
from defectlab.tasks import ClassificationTask

_log = logging.getLogger(__name__)
_ON_SHEET = 40


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """An evaluated network.

    Args:
        results: metrics by part (`val`, `test`).
        predictions: logits (N, C) and labels by part.
        thresholds: of a multi-label task, see `ClassificationTask`; else None.
        class_names: in the order of the labels.
        data: section `data` of metrics.json, `source`, `split_hash` and `counts` among it.
        files: names of the images by part, in the order of the predictions.
        novelty: scores (N,) by part, None or absent where there is no scorer.
        pixels: returns images of a part by their indices; None where they are not at hand.
    """

    results: dict[str, SplitMetrics]
    predictions: dict[str, tuple[Tensor, Tensor]]
    class_names: Sequence[str]
    data: dict[str, Any]
    files: Mapping[str, Sequence[str]]
    pixels: Callable[[Any, Any], Tensor] | None = None
    thresholds: list[float] | None = None
    novelty: Mapping[str, Tensor | None] = field(default_factory=dict)

    def probabilities(self, part: str) -> Tensor:
        """Return the probabilities (N, C) of a part."""
        return probabilities_of(self.predictions[part][0], self.thresholds is not None)

    def scores(self, part: str) -> dict[str, tuple[Scores, Flags]]:
        """Return the scores of each class on a part, as tables keep them, see `scores_of`; none without that part."""
        if part not in self.predictions:
            return {}
        kept = as_kept(self.probabilities(part).numpy()).astype(np.float64)
        return scores_of(kept, self.predictions[part][1].numpy(), self.class_names)


def outcome_of(task: ClassificationTask, data: ImageDataModule) -> Outcome:
    """Return the outcome of a task of defectlab's that was validated or tested."""
    table = data.split_table()
    # Of the images, however divided.
    identity = SplitTable(tuple(replace(row, part="train") for row in table.rows)).hash
    return Outcome(
        results=task.results, predictions=task.predictions, class_names=data.class_names,
        data={**data.describe(), "images_hash": identity}, pixels=data.pixels,
        files={part: data.files(part) for part in ("val", "test") if part in task.predictions}, thresholds=task.thresholds,
        novelty=task.novelties,
    )  # fmt: skip


def training_facts(trainer: Trainer, task: LightningModule, best: str | None) -> dict[str, Any]:
    """Return what metrics.json says of a training, before anything else is evaluated; `best_epoch` counts from 0."""
    epochs = trainer.current_epoch
    saved = {} if best is None else torch.load(best, map_location="cpu", weights_only=True)
    return {
        "epochs": epochs,
        "best_epoch": saved.get("epoch", epochs - 1),
        "parameters": sum(parameter.numel() for parameter in task.parameters()),
    }


def write_outcome(
    run: RunFolder, found: Outcome, trainer: Trainer, facts: dict[str, Any], config: dict[str, Any]
) -> None:
    """Write metrics.json, the prediction tables, the misclassified images, TensorBoard's figures and the report.

    Without a test part all of them are of the validation images, and no test is counted. What another checkpoint has left
    in the folder is removed.
    """
    checkpoint = run.fingerprint
    earlier, part = earlier_metrics(run), "test" if "test" in found.results else "val"
    tables = {"val": run.val_predictions_csv, "test": run.predictions_csv}
    stale = (
        {"test", "calibration", "operating"} if part == "val" else set()
    )  # an earlier test of the run is of another split
    about_run = earlier.get("run") or {}
    if about_run.get("checkpoint", checkpoint) != checkpoint:
        stale |= {"val", "test", "calibration", "operating"}
    for name in stale:
        earlier.pop(name, None)
        if name in tables:
            tables[name].unlink(missing_ok=True)
    facts = {**facts, "checkpoint": checkpoint}
    if part == "test":
        accuracy = found.results["test"]["accuracy"]
        try:
            reads = log_test_evaluation(_reads_folder(run), found.data["split_hash"], run.path.name, accuracy)
            facts["test_split_read"] = reads
        except OSError as error:
            _log.warning("this reading of the test part is not counted: %s", error)
    calibrated = calibration(found.results, found.predictions, found.class_names, found.thresholds)
    operating = (
        {"operating": promises(found.scores("val"), found.scores("test") or None)} if "val" in found.predictions else {}
    )
    about = {"environment": environment(), "run": {**about_run, **facts}}
    run.write_metrics({**earlier, "data": found.data, **found.results, **calibrated, **operating, **about})
    for name, (_, labels) in found.predictions.items():
        novelty = found.novelty.get(name)
        files = found.files[name][: len(labels)]  # fewer with trainer.limit_test_batches
        write_prediction_table(
            tables[name], files, labels.numpy(), found.probabilities(name).numpy(), found.class_names, checkpoint=checkpoint,
            thresholds=found.thresholds, novelty=None if novelty is None else novelty.numpy(),
        )  # fmt: skip
    sheet = misclassified_sheet(found, part)
    if sheet is not None:
        save_png(sheet, run.misclassified_png, found.data["source"] == "synthetic")
    else:
        run.misclassified_png.unlink(missing_ok=True)
    if trainer.is_global_zero and trainer.loggers:  # the report draws its own
        points = marked_points(operating.get("operating", {}))
        rankings = {
            name: ranking_figure(
                found.probabilities(name).numpy(), found.predictions[name][1].numpy(), found.class_names,
                points if name == "test" else None,
            )
            for name in found.predictions
        }  # fmt: skip
        add_figures(trainer.loggers, found.results, rankings, sheet, trainer.global_step)
        add_hparams(trainer.loggers, config, part, found.results[part])
    write_report(run)


def runs_root(run: RunFolder) -> Path:
    """Return the folder of all runs, two above a run; the run's own if that cannot be written to."""
    root = run.path.resolve().parent.parent
    return root if os.access(root, os.W_OK) else run.path


def _reads_folder(run: RunFolder) -> Path:
    """Return the folder whose test_reads.csv counts a run: where there is one, else of all runs if it is named by its time.

    A folder that was named for one run counts for itself: nothing is written beside it.
    """
    path = run.path.resolve()
    if (path.parent / "config.yaml").is_file():  # an evaluation's folder in that of its run
        path = path.parent
    found = next((folder for folder in (path, path.parent) if (folder / READS_FILE).is_file()), None)
    return found or (runs_root(RunFolder(path)) if STAMP.fullmatch(path.name) else path)


def calibration(
    results: Mapping[str, SplitMetrics],
    predictions: Mapping[str, tuple[Tensor, Tensor]],
    class_names: Sequence[str],
    thresholds: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Fit the temperature on the validation images, and compute the test's calibration error with it.

    `predictions` are logits `(N, C)` and labels `(N,)` of `val` and `test`; without either there is no such section.
    """
    if not {"val", "test"} <= predictions.keys() or results["val"]["accuracy"] == 1:
        return {}  # without a mistake the likelihood grows with the confidence, to no end
    temperature = fit_temperature(*predictions["val"])
    logits, labels = predictions["test"]
    if thresholds is not None:  # which move with the logits
        limits = torch.tensor(thresholds, dtype=torch.float64).logit(eps=1e-9) / temperature
        thresholds = limits.sigmoid().tolist()
    scaled = evaluate_predictions(logits / temperature, labels, class_names, thresholds)
    return {"calibration": {"temperature": temperature, "ece": scaled["ece"], "loss": scaled["loss"]}}


def earlier_metrics(run: RunFolder) -> dict[str, Any]:
    """Read the sections of metrics.json; none if there is no file yet, or one that cannot be read and is replaced."""
    try:
        return run.read_metrics()
    except InputError:
        return {}


def misclassified_sheet(found: Outcome, part: str) -> Figure | None:
    """Draw the misclassified images of a part, the most confident first; None where there are none."""
    if found.pixels is None:
        return None
    probabilities, labels = found.probabilities(part).numpy(), found.predictions[part][1].numpy()
    confidence, predicted = confidence_of(probabilities, found.thresholds), decide(probabilities, found.thresholds)
    wrong = confident_mistakes(confidence, predicted, labels)[:_ON_SHEET]
    if not len(wrong):
        return None
    files, truth, taken = (
        found.files[part],
        *(label_texts(one[wrong], found.class_names, "none") for one in (labels, predicted)),
    )
    titles = [
        f"{Path(files[i]).name}\nis {own}\ntaken for {other} {confidence[i]:.0%}"
        for i, own, other in zip(wrong, truth, taken, strict=True)
    ]
    return image_sheet(found.pixels(part, wrong), titles)
