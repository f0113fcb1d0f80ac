"""What stands in a run folder after a test, and on the screen."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from lightning.pytorch import Trainer
from matplotlib.figure import Figure
from torch import Tensor

from defectlab.data import ImageDataModule
from defectlab.engine.tensorboard import add_figures, add_hparams, events_logger
from defectlab.errors import InputError
from defectlab.figures.style import save_png
from defectlab.figures.tiles import image_sheet
from defectlab.metrics.classification import SplitMetrics, confident_mistakes, evaluate_predictions, fit_temperature
from defectlab.report import write_report
from defectlab.runs import RunFolder, environment, log_test_evaluation, write_prediction_table

__all__ = ["DescribedData", "Evaluated", "calibration", "earlier_metrics", "runs_root", "write_outcome"]

_ON_SHEET = 40


class Evaluated(Protocol):
    """Metrics by stage (`val`, `test`), and the logits `(N, C)` and labels `(N,)` that they are of."""

    results: dict[str, SplitMetrics]
    predictions: dict[str, tuple[Tensor, Tensor]]


class DescribedData(Protocol):
    """What metrics.json and predictions.csv tell of a data set."""

    @property
    def class_names(self) -> Sequence[str]:
        """In the order of the labels."""

    @property
    def source(self) -> str:
        """`real` or `synthetic`."""

    def describe(self) -> dict[str, Any]:
        """Plain values, `split_hash` and `counts` among them."""

    def files(self, part: Literal["train", "val", "test"]) -> list[str]:
        """Names of a part's images, in the order of their evaluation."""


def write_outcome(
    run: RunFolder,
    task: Evaluated,
    data: DescribedData,
    trainer: Trainer,
    facts: dict[str, Any],
    config: dict[str, Any],
) -> None:
    """Write metrics.json, predictions.csv, the misclassified sheet, TensorBoard's figures and the report.

    Without a test part all of them are of the validation images, and no test is counted.
    """
    earlier, described = earlier_metrics(run), data.describe()
    judged: Literal["val", "test"] = "test" if "test" in task.results else "val"
    if judged == "test":
        accuracy = task.results["test"]["accuracy"]
        facts = {
            **facts,
            "test_split_read": log_test_evaluation(runs_root(run), described["split_hash"], run.path.name, accuracy),
        }
    else:  # what an earlier test of the run has left is of another split
        earlier = {section: value for section, value in earlier.items() if section not in ("test", "calibration")}
        run.predictions_csv.unlink(missing_ok=True)
    run.write_metrics(
        {
            **earlier,
            "data": described,
            **task.results,
            **calibration(task.results, task.predictions, data.class_names),
            "environment": environment(),
            "run": {**earlier.get("run", {}), **facts},
        }
    )
    parts: tuple[tuple[Literal["val", "test"], Path], ...]
    parts = (("val", run.val_predictions_csv), ("test", run.predictions_csv))
    for part, path in parts:
        if part in task.predictions:
            logits, labels = task.predictions[part]
            files = data.files(part)[: len(labels)]  # fewer with trainer.limit_test_batches
            shares = logits.double().softmax(dim=1).numpy()
            write_prediction_table(path, files, labels.numpy(), shares, data.class_names)
    sheet = misclassified_sheet(task, data, judged) if isinstance(data, ImageDataModule) else None
    if sheet is not None:
        save_png(sheet, run.misclassified_png, data.source == "synthetic")
    else:
        run.misclassified_png.unlink(missing_ok=True)
    if trainer.is_global_zero:
        add_figures(trainer.loggers, task.results, sheet, trainer.global_step)
        add_hparams(trainer.loggers, config, judged, task.results[judged])
    logger = events_logger(trainer)
    if logger is not None:
        logger.experiment.close()
    write_report(run)


def runs_root(run: RunFolder) -> Path:
    """The folder of all runs, two above a run; the run's own if that cannot be written to."""
    path = run.path.resolve()
    if (path.parent / "config.yaml").is_file():  # another test's folder in that of its run
        path = path.parent
    root = path.parent.parent
    return root if os.access(root, os.W_OK) else run.path


def calibration(
    results: Mapping[str, SplitMetrics], predictions: Mapping[str, tuple[Tensor, Tensor]], class_names: Sequence[str]
) -> dict[str, Any]:
    """The temperature that suits the validation images, and what it makes of the test's calibration error.

    `predictions` are logits `(N, C)` and labels `(N,)` of `val` and `test`; without either there is no such section.
    """
    if not {"val", "test"} <= predictions.keys() or results["val"]["accuracy"] == 1:
        return {}  # without a mistake the likelihood grows with the confidence, to no end
    temperature = fit_temperature(*predictions["val"])
    logits, labels = predictions["test"]
    scaled = evaluate_predictions(logits / temperature, labels, class_names)
    return {"calibration": {"temperature": temperature, "ece": scaled["ece"], "loss": scaled["loss"]}}


def earlier_metrics(run: RunFolder) -> dict[str, Any]:
    """The sections of metrics.json; none if there is no file yet, or one that cannot be read and is to be replaced."""
    try:
        return run.read_metrics()
    except InputError:
        return {}


def misclassified_sheet(task: Evaluated, data: ImageDataModule, part: Literal["val", "test"]) -> Figure | None:
    """The images of a part that were taken for something else, the most confident mistakes first."""
    logits, labels = task.predictions[part]
    confidence, predicted = (values.numpy() for values in logits.double().softmax(dim=1).max(dim=1))
    wrong = confident_mistakes(confidence, predicted, labels.numpy())[:_ON_SHEET]
    if not len(wrong):
        return None
    names, files = data.class_names, data.files(part)
    titles = [
        f"{Path(files[i]).name}\nis {names[int(labels[i])]}\ntaken for {names[int(predicted[i])]} {confidence[i]:.0%}"
        for i in wrong
    ]
    return image_sheet(data.data.images[getattr(data.parts, part)[wrong]], titles)
