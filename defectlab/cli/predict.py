"""`defectlab predict RUN|CKPT|imagenet/NETWORK IMAGES... [--output out.csv]`: label images that nobody has labelled."""

import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from defectlab.cli.arguments import CommandParser
from defectlab.cli.bars import answer_lines, bar_lines, percentage, printable
from defectlab.data.sources.files import SUFFIXES, expand_images
from defectlab.errors import InputError
from defectlab.inference.abstention import choose_threshold, images_for_bound
from defectlab.inference.decision import conformal_quantile, min_expected_cost, prediction_sets, read_costs
from defectlab.inference.predictor import Predictor, load_predictors, predict_files, read_images_for
from defectlab.runs import RunFolder, read_prediction_table, write_prediction_table
from defectlab.utils.cpu import CPUSettings

__all__ = ["run"]

_ON_A_SHEET = 12


def run(words: list[str]) -> int:
    """Print the class of each image, or write `file,predicted,confidence,p_<class>...`, a row an image, sorted by name."""
    parser = CommandParser("defectlab predict", "Label images with a trained network.")
    parser.add_argument(
        "run",
        help="run folder (its best checkpoint is used), .ckpt file, or ensemble; or imagenet/NETWORK, such as "
        "imagenet/mobilenet_v2: torchvision's, with its thousand classes, before any training",
    )  # fmt: skip
    parser.add_argument("images", nargs="+", help="image files, folders (with all below them) and globs")
    parser.add_argument(
        "--output", type=Path, metavar="CSV", help="file to write all probabilities to (default: print the classes)"
    )
    parser.add_argument(
        "--figure", type=Path, metavar="PNG", help=f"file to draw up to {_ON_A_SHEET} images to, beside their bars"
    )
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="of imagenet/NETWORK (default: torchvision's cache, or a download)"
    )
    parser.add_argument("--on_bad_image", choices=("error", "skip"), default="error")
    parser.add_argument(
        "--max-error", type=float, metavar="SHARE",
        help="of wrong ones among the images decided, such as 0.01: the others are left to a person. The threshold is "
        "chosen on the run's validation images and holds at 95 %%",
    )  # fmt: skip
    parser.add_argument(
        "--sets", type=float, metavar="COVERAGE",
        help="such as 0.95: a column `set` of classes, which holds the true one that often (conformal prediction)",
    )  # fmt: skip
    parser.add_argument(
        "--costs", type=Path, metavar="CSV",
        help="of each decision, a row a true class: `decision` is the one of the least expected cost",
    )  # fmt: skip
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda, cuda:1")
    arguments = parser.parse_args(words)
    _check_outputs(arguments.output, arguments.figure)
    if arguments.costs is not None and arguments.max_error is not None:
        raise InputError("--costs and --max-error both decide: give one of them")
    threshold = None if arguments.max_error is None else _threshold(arguments.run, arguments.max_error)
    limit = None if arguments.sets is None else _limit(arguments.run, arguments.sets)
    CPUSettings().apply()
    predictors = load_predictors(arguments.run, arguments.device, arguments.weights)
    card = predictors[0].card
    costs = None if arguments.costs is None else read_costs(arguments.costs, card.class_names)
    files = expand_images(arguments.images)
    if arguments.figure is not None:
        _check_figure(arguments.figure, files)
    names, probabilities, skipped = predict_files(predictors, files, arguments.on_bad_image)
    classes = card.class_names
    extra: dict[str, list[str]] = {}
    if threshold is not None:
        sure = probabilities.max(axis=1).round(6) >= threshold  # as the file with the validation images has it
        extra["decision"] = [
            classes[k] if s else "look" for k, s in zip(probabilities.argmax(axis=1), sure, strict=True)
        ]
    if costs is not None:
        extra["decision"] = [classes[k] for k in min_expected_cost(probabilities, costs)]
    if limit is not None:
        extra["set"] = prediction_sets(probabilities, limit, classes)
    if arguments.output is not None:
        write_prediction_table(arguments.output, names, None, probabilities, classes, extra)
        counts = Counter(classes[index] for index in probabilities.argmax(axis=1))
        print(
            f"{len(names)} images -> {arguments.output}: "
            + ", ".join(f"{n} {name}" for name, n in counts.most_common())
        )
    else:
        _print_answers(names, probabilities, classes, extra)
    if arguments.figure is not None:
        _draw(arguments.figure, names, probabilities, predictors[0])
        print(f"figure -> {arguments.figure}")
    if threshold is not None:
        left = extra["decision"].count("look")
        print(f"{len(names) - left} decided; {left} left to a person (look in the column decision)")
    if costs is not None:
        moved = int((min_expected_cost(probabilities, costs) != probabilities.argmax(axis=1)).sum())
        print(f"{moved} decided otherwise than by the likeliest class, for their cost")
    if limit is not None:
        sizes = Counter(text.count("|") + 1 if text else 0 for text in extra["set"])
        print("sets of " + ", ".join(f"{size}: {count}" for size, count in sorted(sizes.items())))
    for reason in skipped:
        print(f"left out {reason}")
    if any(predictor.card.source == "synthetic" for predictor in predictors):
        print("note: this network was trained on SYNTHETIC images alone")
    return 0


def _check_outputs(output: Path | None, figure: Path | None) -> None:
    """Refuse before anything is loaded what cannot be written in the end."""
    if output is not None and output.is_dir():
        raise InputError(f"--output {output} is a folder: expected the name of a CSV file")
    if output is not None and output.suffix.lower() in SUFFIXES:
        raise InputError(f"--output {output} is named as an image: expected a CSV file; --figure draws one")
    if figure is not None and (figure.is_dir() or figure.suffix.lower() != ".png"):
        raise InputError(f"--figure is {figure}: expected the name of a PNG file, such as answer.png")


def _check_figure(figure: Path, files: Sequence[Path]) -> None:
    if len(files) > _ON_A_SHEET:
        raise InputError(
            f"--figure draws at most {_ON_A_SHEET} images, and {len(files)} are named: name fewer, or leave it out"
        )
    if figure.exists() and any(file.exists() and figure.samefile(file) for file in files):
        raise InputError(f"--figure {figure} is one of the images to label: give another name")


def _print_answers(
    files: Sequence[str],
    probabilities: np.ndarray,
    class_names: Sequence[str],
    extra: Mapping[str, Sequence[str]],
) -> None:
    """The bars of one image, or a line for each of several."""
    encoding = sys.stdout.encoding or "utf-8"
    predicted = [class_names[index] for index in probabilities.argmax(axis=1)]
    if len(files) == 1:
        lines = [printable(f"{files[0]}: {predicted[0]}", encoding)]
        lines += bar_lines(probabilities[0], class_names, shutil.get_terminal_size().columns, encoding)
        lines += [printable(f"{name}: {texts[0]}", encoding) for name, texts in extra.items()]
    else:
        shares = [percentage(float(share)) for share in probabilities.max(axis=1)]
        lines = answer_lines({"file": files, "class": predicted, "probability": shares, **extra}, encoding)
    print("\n".join(lines))


def _draw(path: Path, files: Sequence[str], probabilities: np.ndarray, predictor: Predictor) -> None:
    """Each image, as the network sees it, beside its bars; the file is written whole or not at all."""
    # Imported here: labelling alone needs no matplotlib.
    from defectlab.explain.answers import Answer, probabilities_figure
    from defectlab.figures.style import save_png

    pixels, _, _ = read_images_for(predictor.card, [Path(file) for file in files])
    answers = [
        Answer(image.numpy(), Path(file).name, row, None)
        for image, file, row in zip(pixels, files, probabilities, strict=True)
    ]
    figure = probabilities_figure(answers, predictor.card.class_names)
    save_png(figure, path, predictor.card.source == "synthetic")


def _calibration(name: str, option: str) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, C) and labels (N,) of a run's validation images.

    Raises:
        InputError: no run folder, or one without them.
    """
    if not Path(name).is_dir():
        raise InputError(f"{option} needs a run folder, whose validation images it stands on, not {name}")
    file = RunFolder.open(name).val_predictions_csv
    table = read_prediction_table(file)
    if table.labels is None:
        raise InputError(f"{file} has no labels: expected validation images as `fit` writes them")
    return table.probabilities, table.labels


def _limit(name: str, coverage: float) -> float:
    """The probability from which a class belongs to a set."""
    return conformal_quantile(*_calibration(name, "--sets"), coverage)


def _threshold(name: str, max_error: float) -> float:
    """The confidence from which a run may decide; says what share that will be.

    Raises:
        InputError: no run folder with validation predictions, or too few of them for the promise.
    """
    shares, labels = _calibration(name, "--max-error")
    confidence, right = shares.max(axis=1), shares.argmax(axis=1) == labels
    found = choose_threshold(confidence, right, max_error)
    if found is None:
        needed = images_for_bound(max_error)
        raise InputError(
            f"cannot guarantee an error of at most {max_error:g}: {len(right)} validation images, {int((~right).sum())} of "
            f"them wrong, do not show it at 95 %; it takes at least {needed} confident ones without an error: hold out "
            "more by data.val_size, or allow more by --max-error"
        )
    print(
        f"decides from a confidence of {found.confidence:.4f}: {found.share:.1%} of the {len(right)} validation images, "
        f"{found.errors} of {found.n} wrong, at most {max_error:g} at 95 %"
    )
    return found.confidence
