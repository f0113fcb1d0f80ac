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
from defectlab.runs import write_prediction_table
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
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda, cuda:1")
    arguments = parser.parse_args(words)
    if arguments.output.is_dir():
        raise InputError(f"--output {arguments.output} is a folder: expected the name of a CSV file")
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
    write_prediction_table(arguments.output, names, None, probabilities, card["class_names"])
    counts = Counter(card["class_names"][index] for index in probabilities.argmax(axis=1))
    print(
        f"{len(names)} pictures -> {arguments.output}: " + ", ".join(f"{n} {name}" for name, n in counts.most_common())
    )
    for reason in skipped:
        print(f"left out {reason}")
    if card["source"] == "synthetic":
        print("note: this network was trained on SYNTHETIC pictures alone")
    return 0
