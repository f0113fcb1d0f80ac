"""Predict images with a bound on the error, sets with a coverage, or decisions by their cost."""

from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from defectlab.errors import InputError
from defectlab.inference.decision import (
    Threshold,
    choose_threshold,
    conformal_quantile,
    images_for_bound,
    min_expected_cost,
    prediction_sets,
    read_costs,
)
from defectlab.inference.predictor import REVIEW, Images, Predictions, Predictor, load
from defectlab.runs import RunFolder, read_prediction_table


def predict(
    model: Predictor | str | PathLike[str],
    images: Images,
    *,
    max_error: float | None = None,
    sets: float | None = None,
    costs: str | PathLike[str] | None = None,
    on_bad_image: Literal["error", "skip"] = "error",
    device: str | None = None,
    weights: str | PathLike[str] | None = None,
    progress: bool = False,
) -> Predictions:
    """Predict the class of unlabelled images.

    Args:
        model: what `load` takes, or what it gives.
        images: files, folders and globs, one or many, or uint8 arrays; see `Predictor`.
        max_error: share of wrong ones among the images decided, such as 0.01; the others get the decision `review`. The
            threshold is chosen on the run's validation images and holds at 95 %.
        sets: coverage such as 0.95: for each image a set of classes, which holds the true one that often (conformal
            prediction on the run's validation images).
        costs: CSV file with a row a true class and a column a decision: the decision is the one of least expected cost.
        on_bad_image: `skip` leaves out what cannot be read.
        device: see `load`, like `weights`; a Predictor stays where it is.
        progress: draw a bar for work of more than a second.

    Raises:
        InputError: what cannot be used, or too few validation images for a promise.
    """
    if costs is not None and max_error is not None:
        raise InputError("costs and max_error both decide: give one of them")
    run = model.name if isinstance(model, Predictor) else model
    threshold = None if max_error is None else _threshold(Path(run), max_error)
    limit = None if sets is None else conformal_quantile(*_calibration(Path(run), "sets"), sets)
    predictor = model if isinstance(model, Predictor) else load(model, device, weights)
    names = predictor.card.class_names
    matrix = None if costs is None else read_costs(costs, names)
    found = predictor(images, on_bad_image, progress)
    decision = None
    if threshold is not None:
        sure = found.confidence.round(6) >= threshold.confidence  # as the file with the validation images has it
        decision = tuple(name if s else REVIEW for name, s in zip(found.predicted, sure, strict=True))
    if matrix is not None:
        decision = tuple(names[k] for k in min_expected_cost(found.probabilities, matrix))
    chosen = None if limit is None else prediction_sets(found.probabilities, limit, names)
    return replace(found, threshold=threshold, decision=decision, sets=chosen)


def _calibration(run: Path, option: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Read probabilities (N, C) and labels (N,) of a run's validation images."""
    if not run.is_dir():
        raise InputError(f"{option} needs a run folder, whose validation images it stands on, not {run}")
    file = RunFolder.open(run).val_predictions_csv
    table = read_prediction_table(file)
    if table.labels is None:
        raise InputError(f"{file} has no labels: expected validation images as `fit` writes them")
    return table.probabilities, table.labels


def _threshold(run: Path, max_error: float) -> Threshold:
    """Choose the confidence from which a run may decide."""
    probabilities, labels = _calibration(run, "max_error")
    right = probabilities.argmax(axis=1) == labels
    found = choose_threshold(probabilities.max(axis=1), right, max_error)
    if found is None:
        needed = images_for_bound(max_error)
        raise InputError(
            f"cannot guarantee an error of at most {max_error:g}: {len(right)} validation images, {int((~right).sum())} of "
            f"them wrong, do not show it at 95 %; it takes at least {needed} confident ones without an error: hold out "
            "more by data.val_size, or allow more by max_error"
        )
    return found
