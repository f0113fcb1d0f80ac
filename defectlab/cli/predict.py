"""`defectlab predict RUN|CKPT IMAGES... --output out.csv`: label pictures that nobody has labelled."""

from collections import Counter
from pathlib import Path

import numpy as np
import torch

from defectlab.cli.arguments import CommandParser
from defectlab.data.sources.files import expand_images
from defectlab.errors import InputError
from defectlab.inference.abstention import choose_threshold, images_for_bound
from defectlab.inference.decision import conformal_limit, least_cost, prediction_sets, read_costs
from defectlab.inference.predictor import load_labellers, probabilities_of
from defectlab.runs import RunFolder, read_prediction_table, write_prediction_table
from defectlab.runs.locate import checkpoints_of
from defectlab.utils.cpu import CPUSettings

__all__ = ["run"]


def run(words: list[str]) -> int:
    """Write `file,predicted,confidence,p_<class>...`, a row a picture, sorted by name."""
    parser = CommandParser("defectlab predict", "Label pictures with a trained network.")
    parser.add_argument("run", help="run folder (its best checkpoint is used), .ckpt file, or ensemble")
    parser.add_argument("images", nargs="+", help="picture files, folders (with all below them) and globs")
    parser.add_argument("--output", required=True, type=Path, help="CSV file to write")
    parser.add_argument("--on_bad_image", choices=("error", "skip"), default="error")
    parser.add_argument(
        "--max-error", type=float, metavar="SHARE",
        help="of wrong ones among the pictures decided, such as 0.01: the others are left to a person. The threshold is "
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
    if arguments.output.is_dir():
        raise InputError(f"--output {arguments.output} is a folder: expected the name of a CSV file")
    if arguments.costs is not None and arguments.max_error is not None:
        raise InputError("--costs and --max-error both decide: give one of them")
    threshold = None if arguments.max_error is None else _threshold(arguments.run, arguments.max_error)
    limit = None if arguments.sets is None else _limit(arguments.run, arguments.sets)
    CPUSettings().apply()
    labellers = load_labellers(checkpoints_of(arguments.run), arguments.device)
    card = labellers[0].card
    costs = None if arguments.costs is None else read_costs(arguments.costs, card["class_names"])
    files = expand_images(arguments.images)
    names, probabilities, skipped = probabilities_of(labellers, files, arguments.on_bad_image)
    classes = card["class_names"]
    extra: dict[str, list[str]] = {}
    if threshold is not None:
        sure = probabilities.max(axis=1).round(6) >= threshold  # as the file with the validation images has it
        extra["decision"] = [
            classes[k] if s else "look" for k, s in zip(probabilities.argmax(axis=1), sure, strict=True)
        ]
    if costs is not None:
        extra["decision"] = [classes[k] for k in least_cost(probabilities, costs)]
    if limit is not None:
        extra["set"] = prediction_sets(probabilities, limit, classes)
    write_prediction_table(arguments.output, names, None, probabilities, classes, extra)
    counts = Counter(card["class_names"][index] for index in probabilities.argmax(axis=1))
    print(
        f"{len(names)} pictures -> {arguments.output}: " + ", ".join(f"{n} {name}" for name, n in counts.most_common())
    )
    if threshold is not None:
        left = extra["decision"].count("look")
        print(f"{len(names) - left} decided; {left} left to a person (look in the column decision)")
    if costs is not None:
        moved = int((least_cost(probabilities, costs) != probabilities.argmax(axis=1)).sum())
        print(f"{moved} decided otherwise than by the likeliest class, for their cost")
    if limit is not None:
        sizes = Counter(text.count("|") + 1 if text else 0 for text in extra["set"])
        print("sets of " + ", ".join(f"{size}: {count}" for size, count in sorted(sizes.items())))
    for reason in skipped:
        print(f"left out {reason}")
    if any(labeller.card["source"] == "synthetic" for labeller in labellers):
        print("note: this network was trained on SYNTHETIC pictures alone")
    return 0


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
    return conformal_limit(*_calibration(name, "--sets"), coverage)


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
