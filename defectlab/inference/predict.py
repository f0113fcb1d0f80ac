"""Predict images with a bound on the error, sets with a coverage, or decisions by their cost."""

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Literal

from defectlab.data.sources.skipped import check_on_bad_image
from defectlab.errors import InputError
from defectlab.inference.decision import min_expected_cost, read_costs
from defectlab.inference.flagging import Flagging, decide_flagged, flag
from defectlab.inference.images import ImageInput, Images, list_images
from defectlab.inference.predictions import BadImages, Predictions
from defectlab.inference.predictor import Predictor, load
from defectlab.inference.promises import Promises, calibration_of, choose_promises
from defectlab.runs import PredictionTable, RunFolder, read_own_table, read_prediction_table, write_prediction_table
from defectlab.runs.locate import names_run


def predict(
    model: Predictor | str | PathLike[str],
    images: Images,
    *,
    max_error: float | None = None,
    sets: float | None = None,
    costs: str | PathLike[str] | None = None,
    flagging: Flagging | None = None,
    novelty: float | None = None,
    on_bad_image: Literal["error", "skip"] = "error",
    device: str | None = None,
    weights: str | PathLike[str] | None = None,
    allow: Sequence[str] = (),
    output: str | PathLike[str] | None = None,
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
        flagging: which class to flag, and with what promise; the decision is then a class on either side of the threshold.
        novelty: share of false alarms such as 0.01: images that are like none of the run's are `novel`, and of images like
            its validation images at most this share is called so (a conformal p-value on them).
        on_bad_image: `skip` leaves out what cannot be read; else that is an error after the last image.
        device: see `load`, like `weights` and `allow`; a Predictor stays where it is.
        output: CSV file to write the predictions to. Of a call that is stopped, what is done stays in OUTPUT.part, and the
            next call with the same network goes on with it, if the image files are as they were.
        progress: draw a bar for work of more than a second.

    Raises:
        BadImages: an InputError whose `predictions`, written to `output`, are those of the images that could be read.
        InputError: what cannot be used, validation images of another network, or too few validation images for a promise.
    """
    deciding = {"costs": costs, "max_error": max_error, "flagging": flagging}
    several = [option for option, value in deciding.items() if value is not None]
    if len(several) > 1:
        raise InputError(f"{' and '.join(several)} both decide: give one of them")
    check_on_bad_image(on_bad_image)
    promises = {"max_error": max_error, "sets": sets, "flagging": flagging, "novelty": novelty}
    asked = [option for option, value in promises.items() if value is not None]
    name = Path(model.name if isinstance(model, Predictor) else model)
    if asked and not names_run(name):
        raise InputError(f"{asked[0]} needs a run folder, whose validation images it stands on, not {name}")
    predictor = model if isinstance(model, Predictor) else load(model, device, weights, allow)
    if costs is not None and predictor.card.multilabel:
        raise InputError(
            "costs are of one class an image, and the network decides for several: give recall or false_alarms of a class"
        )
    names, promised = predictor.card.class_names, Promises()
    if set(asked) - {"flagging"}:
        table = _calibration(predictor)
        if any(task.novelty is None for task in predictor.tasks):
            table = replace(table, novelty=None)
        promised = choose_promises(calibration_of(table), names, max_error, sets, novelty)
    matrix = None if costs is None else read_costs(costs, names)
    found = _predicted(
        predictor, list_images(images, predictor.card), None if output is None else Path(output), progress, novelty is not None,
    )  # fmt: skip
    decision = None
    if matrix is not None:
        decision = tuple(names[k] for k in min_expected_cost(found.probabilities, matrix))
    flagged = None
    if flagging is not None:
        flagged = flag(predictor, found.probabilities, flagging)
        decision = decide_flagged(found.probabilities, flagged.flags, predictor.card, flagging)
    found = promised.apply(replace(found, flagged=flagged, decision=decision))
    if output is not None:
        found.write_csv(output)
        _part_of(Path(output)).unlink(missing_ok=True)
    if found.skipped and on_bad_image == "error":
        raise BadImages(found)
    return found


def _predicted(
    predictor: Predictor, images: Sequence[ImageInput], output: Path | None, progress: bool, novelty: bool
) -> Predictions:
    """Predict images; what is done when it is interrupted is kept beside `output`, and gone on with by the next call."""
    if output is None or not isinstance(images[0], Path):
        return predictor.joined(list(predictor.blocks(images, progress, novelty)))
    files = [str(file) for file in images]
    earlier = _earlier(predictor, _part_of(output), files, novelty)
    parts: list[Predictions] = [] if earlier is None else [earlier]
    known = set() if earlier is None else set(earlier.files)
    rest = [file for file in images if str(file) not in known]
    try:
        parts.extend(predictor.blocks(rest, progress, novelty))  # what it gave before an error stays
    except BaseException as error:
        done = sum(map(len, parts))
        if done and predictor.fingerprint is not None:
            made = predictor.joined(parts)
            write_prediction_table(
                _part_of(output), made.files, None, made.probabilities, made.class_names, checkpoint=made.checkpoint,
                thresholds=made.thresholds, novelty=made.novelty,
            )  # fmt: skip
            if isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt(f"{done} of {len(files)} images are done: the same command goes on") from None
        raise
    found = predictor.joined(parts)
    place = {file: index for index, file in enumerate(found.files)}
    order = [place[file] for file in files if file in place]
    return replace(
        found, files=tuple(found.files[i] for i in order), probabilities=found.probabilities[order],
        novelty=None if found.novelty is None else found.novelty[order],
    )  # fmt: skip


def _earlier(predictor: Predictor, path: Path, files: Sequence[str], novelty: bool) -> Predictions | None:
    """Return what an interrupted call has left, of files that were not written to since."""
    if not path.is_file() or predictor.fingerprint is None:
        return None
    try:
        table, written = read_prediction_table(path), path.stat().st_mtime_ns
        if table.checkpoint != predictor.fingerprint or tuple(table.class_names) != predictor.card.class_names:
            return None
        if novelty != (table.novelty is not None):
            return None
        wanted = set(files)
        kept = [i for i, f in enumerate(table.files) if f in wanted and Path(f).stat().st_mtime_ns < written]
    except (InputError, OSError):
        return None
    return Predictions(
        files=tuple(table.files[i] for i in kept), class_names=predictor.card.class_names,
        probabilities=table.probabilities[kept], thresholds=predictor.thresholds,
        novelty=None if table.novelty is None else table.novelty[kept],
    )  # fmt: skip


def _part_of(output: Path) -> Path:
    return output.with_name(f"{output.name}.part")


def _calibration(predictor: Predictor) -> PredictionTable:
    """Return the predictions of a run's validation images, if they are of this network."""
    folder = RunFolder.open(predictor.name)
    table = read_own_table(folder, "val", predictor.fingerprint)
    if table.labels is None or tuple(table.class_names) != predictor.card.class_names:
        raise InputError(
            f"{folder.val_predictions_csv} is not of the network's classes: expected it as `fit` writes it"
        )
    return table
