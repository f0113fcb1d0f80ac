"""`defectlab predict RUN|CKPT IMAGES... --output out.csv`: label pictures that nobody has labelled."""

from collections import Counter
from pathlib import Path

import torch

from defectlab.cli.arguments import CommandParser
from defectlab.cli.files import checkpoint_of
from defectlab.data.files import expand_images
from defectlab.data.images import read_images
from defectlab.data.progress import progress_bar
from defectlab.errors import InputError
from defectlab.evaluate.abstention import choose_threshold, images_for_bound
from defectlab.runs import RunFolder, read_prediction_table, write_prediction_table
from defectlab.runtime import CPUSettings
from defectlab.tasks.checkpoint import load_task

__all__ = ["run"]

_BLOCK = 128  # pictures in memory at a time


def run(words: list[str]) -> int:
    """Write `file,predicted,confidence,p_<class>...`, a row a picture, sorted by name."""
    parser = CommandParser("defectlab predict", "Label pictures with a trained network.")
    parser.add_argument("run", help="run folder (its best checkpoint is used) or .ckpt file")
    parser.add_argument("images", nargs="+", help="picture files, folders (with all below them) and globs")
    parser.add_argument("--output", required=True, type=Path, help="CSV file to write")
    parser.add_argument("--on_bad_image", choices=("error", "skip"), default="error")
    parser.add_argument(
        "--max-error", type=float, help="share of wrong ones that is allowed among the pictures decided, such as 0.01; the "
        "others are left to a person. The threshold is chosen on the run's validation images and holds at 95 %%",
    )  # fmt: skip
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda, cuda:1")
    arguments = parser.parse_args(words)
    if arguments.output.is_dir():
        raise InputError(f"--output {arguments.output} is a folder: expected the name of a CSV file")
    threshold = None if arguments.max_error is None else _threshold(arguments.run, arguments.max_error)
    CPUSettings().apply()
    task, card = load_task(checkpoint_of(arguments.run))
    files = expand_images(arguments.images)
    try:
        task.to(arguments.device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {arguments.device}: {str(error).splitlines()[0]}; use cpu") from None
    mean, scale = (torch.tensor(card[key], device=task.device).view(1, -1, 1, 1) * 255 for key in ("mean", "std"))
    names: list[str] = []
    tables: list[torch.Tensor] = []
    skipped: list[str] = []
    with torch.inference_mode(), progress_bar("predicting", len(files)) as advance:
        for start in range(0, len(files), _BLOCK):
            block = files[start : start + _BLOCK]
            try:
                pixels, kept, bad = read_images(block, card["image_size"], card["channels"], arguments.on_bad_image)
            except InputError:
                if arguments.on_bad_image == "error":
                    raise
                pixels, kept, bad = torch.empty(0), [], [str(file) for file in block]
            if kept:
                images = (pixels.to(task.device).float() - mean) / scale
                tables.append(torch.softmax(task(images).double(), dim=1).cpu())
            names += [str(block[index]) for index in kept]
            skipped += bad
            advance(len(block))
    if not names:
        raise InputError(f"none of {len(files)} pictures can be read, the first is {files[0]}: nothing was written")
    probabilities = torch.cat(tables).numpy()
    write_prediction_table(arguments.output, names, None, probabilities, card["class_names"], threshold)
    counts = Counter(card["class_names"][index] for index in probabilities.argmax(axis=1))
    print(
        f"{len(names)} pictures -> {arguments.output}: " + ", ".join(f"{n} {name}" for name, n in counts.most_common())
    )
    if threshold is not None:
        left = int((probabilities.max(axis=1).round(6) < threshold).sum())
        print(f"{len(names) - left} decided; {left} left to a person (look in the column decision)")
    for reason in skipped:
        print(f"left out {reason}")
    if card["source"] == "synthetic":
        print("note: this network was trained on SYNTHETIC pictures alone")
    return 0


def _threshold(name: str, max_error: float) -> float:
    """The confidence from which a run may decide; says what share that will be.

    Raises:
        InputError: no run folder with validation predictions, or too few of them for the promise.
    """
    if not Path(name).is_dir():
        raise InputError(f"--max-error needs a run folder, whose validation images choose the threshold, not {name}")
    file = RunFolder.open(name).val_predictions_csv
    table = read_prediction_table(file)
    if table.labels is None:
        raise InputError(f"{file} has no labels: expected validation images as `fit` writes them")
    confidence, right = table.probabilities.max(axis=1), table.predicted == table.labels
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
