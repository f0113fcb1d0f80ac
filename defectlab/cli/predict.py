"""`defectlab predict RUN|CKPT|imagenet/NETWORK IMAGES... [--output out.csv]`: label images that nobody has labelled."""

import shutil
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from defectlab.cli.arguments import CommandParser, output_file, png_file
from defectlab.cli.bars import answer_lines, bar_lines, printable
from defectlab.data.sources.files import SUFFIXES, expand_images
from defectlab.data.sources.reading import read_images
from defectlab.errors import InputError
from defectlab.inference.decision import REVIEW, Flagged
from defectlab.inference.flagging import Flagging
from defectlab.inference.predict import predict
from defectlab.inference.predictions import BadImages, Predictions
from defectlab.inference.predictor import load
from defectlab.utils.card import DataCard
from defectlab.utils.cpu import CPUSettings
from defectlab.utils.text import percent

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
        "--output", type=output_file, metavar="CSV",
        help="file to write all probabilities to (default: print the classes)",
    )  # fmt: skip
    parser.add_argument(
        "--figure", type=png_file, metavar="PNG", help=f"file to draw up to {_ON_A_SHEET} images to, beside their bars"
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
    parser.add_argument(
        "--novelty", type=float, metavar="SHARE",
        help="of false alarms, such as 0.01: a column `novel` says which images are like none that the run knows; of images "
        "like its validation images at most this share is called so",
    )  # fmt: skip
    group = parser.add_argument_group(
        "flag one class", "by a threshold that is chosen on validation and holds at 95 %%"
    )
    group.add_argument("--positive", metavar="CLASS", help="class to flag; or --good")
    group.add_argument("--good", metavar="CLASS", help="class that passes: all others are flagged")
    group.add_argument("--recall", type=float, metavar="SHARE", help="at least, such as 0.99; or --false-alarms")
    group.add_argument("--false-alarms", type=float, metavar="SHARE", help="at most, such as 0.01")
    group.add_argument("--defect-rate", type=float, metavar="SHARE", help="of the line: what follows per 1,000 images")
    parser.add_argument(
        "--allow", action="append", default=[], metavar="CLASS",
        help="import path of a class that a checkpoint may name, such as mine.networks.Net; may be given several times",
    )  # fmt: skip
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: cuda where there is any)")
    arguments = parser.parse_args(words)
    if arguments.output is not None and arguments.output.suffix.lower() in SUFFIXES:
        raise InputError(f"--output {arguments.output} is named as an image: expected a CSV file; --figure draws one")
    if arguments.figure is not None:
        _check_figure(arguments.figure, expand_images(arguments.images))
    CPUSettings().apply()
    given = vars(arguments)
    place = {key: given[key] for key in ("device", "weights", "allow")}
    asked = {key: given[key] for key in ("max_error", "sets", "costs", "novelty", "on_bad_image", "output")}
    flagging = {field.name: given[field.name] for field in fields(Flagging) if given[field.name] is not None}
    asked["flagging"] = Flagging(**flagging) if flagging else None
    model = arguments.run if arguments.figure is None else load(arguments.run, **place)
    card = None if arguments.figure is None else model.card
    try:
        _print(predict(model, arguments.images, **asked, **place, progress=True), arguments, card)
    except BadImages as error:  # what could be read is told first
        _print(error.predictions, arguments, card)
        raise
    return 0


def _print(found: Predictions, arguments: Namespace, card: DataCard | None) -> None:
    if found.threshold is not None:
        t = found.threshold
        print(
            f"decides from a confidence of {t.confidence:.4f}: {t.share:.1%} of the {t.total} validation images, "
            f"{t.errors} of {t.n} wrong, at most {arguments.max_error:g} at 95 %"
        )
    if arguments.output is not None:
        counts = Counter(found.predicted)
        print(f"{len(found)} images -> {arguments.output}: " + ", ".join(f"{n} {c}" for c, n in counts.most_common()))
    else:
        _print_answers(found)
    if card is not None:
        _draw(arguments.figure, found, card)
        print(f"figure -> {arguments.figure}")
    if found.flagged is not None:
        print("\n".join(_flagged_lines(found.flagged, arguments)))
    elif found.threshold is not None and found.decision is not None:
        left = found.decision.count(REVIEW)
        print(f"{len(found) - left} decided; {left} images need review (decision = {REVIEW})")
    elif found.decision is not None:
        moved = sum(one != other for one, other in zip(found.decision, found.predicted, strict=True))
        print(f"{moved} decided otherwise than by the likeliest class, for their cost")
    if found.sets is not None:
        sizes = Counter(map(len, found.sets))
        print("sets of " + ", ".join(f"{size}: {count}" for size, count in sorted(sizes.items())))
    if found.novel is not None:
        print(f"{int(found.novel.sum())} of {len(found)} images are novel, at {arguments.novelty:g} false alarms")
    for skipped in found.skipped:
        print(f"left out {skipped}")
    if found.synthetic:
        print("note: this network was trained on SYNTHETIC images alone")


def _flagged_lines(flagged: Flagged, arguments: Namespace) -> list[str]:
    point = flagged.point
    promise = "a recall of at least" if point.promise == "recall" else "false alarms of at most"
    what = arguments.positive if arguments.good is None else f"all but {arguments.good}"
    lines = [
        f"{int(flagged.flags.sum())} of {len(flagged.flags)} images are flagged: {what}, from a probability of "
        f"{point.threshold:.4g}; {promise} {point.bound:g} at {point.level:.0%} ({point.n} validation images)"
    ]
    if flagged.rates is not None:
        r, part = flagged.rates, "test" if flagged.part == "test" else "validation"
        lines += [
            f"on the {part} images: recall {_span(r.recall, r.recall_interval, 100)} %, false alarms "
            f"{_span(r.false_alarm_rate, r.false_alarm_interval, 100)} %",
            f"per 1,000 images at a defect rate of {arguments.defect_rate:g}: {_span(r.escapes, r.escapes_interval)} escapes, "
            f"{_span(r.false_rejects, r.false_rejects_interval)} false rejects",
        ]
    return lines


def _span(value: float, interval: tuple[float, float], times: float = 1) -> str:
    return f"{times * value:.2f} ({times * interval[0]:.2f} to {times * interval[1]:.2f})"


def _check_figure(figure: Path, files: Sequence[Path]) -> None:
    if len(files) > _ON_A_SHEET:
        raise InputError(
            f"--figure draws at most {_ON_A_SHEET} images, and {len(files)} are named: name fewer, or leave it out"
        )
    if figure.exists() and any(file.exists() and figure.samefile(file) for file in files):
        raise InputError(f"--figure {figure} is one of the images to label: give another name")


def _print_answers(found: Predictions) -> None:
    """The bars of one image, or a line for each of several."""
    encoding = sys.stdout.encoding or "utf-8"
    if len(found) == 1:
        lines = [printable(f"{found.files[0]}: {found.predicted[0]}", encoding)]
        lines += bar_lines(found.probabilities[0], found.class_names, shutil.get_terminal_size().columns, encoding)
        lines += [printable(f"{name}: {texts[0]}", encoding) for name, texts in found.extra.items()]
    else:
        shown = [percent(float(p)) for p in found.confidence]
        columns = {"file": found.files, "class": found.predicted, "probability": shown, **found.extra}
        lines = answer_lines(columns, encoding)
    print("\n".join(lines))


def _draw(path: Path, found: Predictions, card: DataCard) -> None:
    """Each image, as the network sees it, beside its bars; the file is written whole or not at all."""
    # Imported here: labelling alone needs no matplotlib.
    from defectlab.explain.answers import Answer, probabilities_figure
    from defectlab.figures.style import save_png

    pixels, _, _ = read_images([Path(file) for file in found.files], card)
    answers = [
        Answer(image.numpy(), Path(file).name, row, None, found.thresholds)
        for image, file, row in zip(pixels, found.files, found.probabilities, strict=True)
    ]
    save_png(probabilities_figure(answers, card.class_names), path, card.source == "synthetic")
