"""`defectlab summary compare`: networks by parameters, multiply-adds, accuracy and latency."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import torch
from rich.markup import escape
from rich.table import Table
from torch import nn

from defectlab.cli.arguments import CommandParser
from defectlab.cli.console import print_wide
from defectlab.errors import InputError
from defectlab.networks import BipyramidalCNN, LeNet5, MobileNetV1, PretrainedNetwork, SimpleDefectCNN
from defectlab.runs import RunFolder, csv_text, environment, write_text
from defectlab.summary.latency import WARM_UP, latencies
from defectlab.summary.layers import shape_text
from defectlab.summary.subject import NetworkRef, is_config, resolve_network
from defectlab.summary.trace import summarize
from defectlab.utils.cpu import CPUSettings
from defectlab.utils.progress import progress_bar
from defectlab.utils.text import shown_path

__all__ = ["compare"]

_STANDARD: dict[str, Callable[[int, int, int], nn.Module]] = {
    "SimpleDefectCNN": SimpleDefectCNN,
    "LeNet-5": LeNet5,
    "bipyramidal, 32-64-128": BipyramidalCNN,
    "MobileNetV1": partial(MobileNetV1, width=1.0),
    "MobileNetV2": partial(PretrainedNetwork, backbone="mobilenet_v2"),
    "MobileNetV3-small": partial(PretrainedNetwork, backbone="mobilenet_v3_small"),
    "MobileNetV3-large": partial(PretrainedNetwork, backbone="mobilenet_v3_large"),
    "ResNet-18": partial(PretrainedNetwork, backbone="resnet18"),
    "VGG-16": partial(PretrainedNetwork, backbone="vgg16"),
}


@dataclass(frozen=True)
class Compared:
    """One network; latency in milliseconds.

    `accuracy` is the mean of the tests of `runs` runs, `sd` their standard deviation, `n` the images of one test; empty
    without a run, `sd` also of a single one.
    """

    network: str
    image: str
    classes: int
    parameters: int
    multiply_adds: int
    accuracy: float | None
    sd: float | None
    runs: int
    n: int | None
    data: str
    latency_median_ms: float
    latency_p10_ms: float
    latency_p90_ms: float
    passes: int
    threads: int


def compare(words: list[str]) -> int:
    """Print one table of the networks that are named and of the well-known ones."""
    parser = CommandParser(
        "defectlab summary compare",
        "Networks side by side: `summary compare [RUN|CKPT|CONFIG ...]` has those that are named, then the well-known ones "
        "for the image and the classes of the first that is named. Accuracy stands where a run was tested, and nowhere "
        "else; a folder of `course run`, such as runs/course/neu-simple, has the mean of its seeds. Arguments of fit, such "
        "as --data.image_size 64, go to the configs.",
    )
    parser.add_argument("--image-size", type=int, help="of the well-known ones; 200 if nothing is named")
    parser.add_argument("--channels", type=int, help="likewise; 1 if nothing is named")
    parser.add_argument("--classes", type=int, help="likewise; 6 if nothing is named")
    parser.add_argument("--turns", type=int, default=30, help="timed passes of each network (default: %(default)s)")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="to write the table to")
    names = list(takewhile(lambda word: not word.startswith("-"), words))
    given, more = parser.parse_known_args(words[len(names) :])
    if more and not names:
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    if given.turns < 1:
        raise InputError(f"--turns is {given.turns}: expected a whole number of at least 1")
    if given.csv is not None and given.csv.is_dir():
        raise InputError(f"--csv {given.csv} is a folder: expected the name of a CSV file")
    CPUSettings().apply()
    named = [_named(name, more) for name in names]
    first = named[0] if named else NetworkRef("", nn.Identity(), (1, 200, 200), 6)
    side = given.image_size if given.image_size is not None else first.image[1]
    image = (given.channels if given.channels is not None else first.image[0], side, side)
    classes = given.classes if given.classes is not None else first.classes
    rows = _measure([*named, *_well_known(image, classes)], len(named), given.turns)
    _print(rows)
    if given.csv is not None:
        write_text(given.csv, csv_text(Compared, rows))
        print(f"written to   {shown_path(given.csv)}")
    return 0


def _named(name: str, more: Sequence[str]) -> NetworkRef:
    """The network of a name; of a program of `course run`, that of its first finished run, standing for all."""
    seeds = tuple(run for run in map(RunFolder, sorted(Path(name).glob("seed-*"))) if run.finished)
    if seeds:  # of one config: the networks differ in their numbers alone
        shown = f"{Path(name).resolve().name}, {len(seeds)} seeds"
        return replace(resolve_network(str(seeds[0].path), []), name=shown, runs=seeds)
    return resolve_network(name, more if is_config(name) else [])


def _well_known(image: tuple[int, int, int], classes: int) -> list[NetworkRef]:
    return [NetworkRef(name, build(classes, image[0], image[1]), image, classes) for name, build in _STANDARD.items()]


def _measure(subjects: Sequence[NetworkRef], named: int, turns: int) -> list[Compared]:
    """The rows, without the well-known networks that are among the first `named`."""
    wholes = [summarize(subject.network, subject.image) for subject in subjects]
    costs = [
        (type(s.network), s.classes, whole.image, whole.parameters, whole.multiply_adds)
        for s, whole in zip(subjects, wholes, strict=True)
    ]
    chosen = [index for index, cost in enumerate(costs) if index < named or cost not in costs[:named]]
    with progress_bar("timing", (turns + WARM_UP) * len(chosen)) as advance:
        seconds = latencies([subjects[i].network for i in chosen], [subjects[i].image for i in chosen], turns, advance)
    rows = []
    for index, times in zip(chosen, seconds, strict=True):
        low, median, high = (round(1000 * float(value), 4) for value in np.quantile(times, (0.1, 0.5, 0.9)))
        rows.append(
            Compared(
                subjects[index].name, shape_text(subjects[index].image), subjects[index].classes, wholes[index].parameters,
                wholes[index].multiply_adds, *_tested(subjects[index].runs), median, low, high, turns, torch.get_num_threads(),
            )
        )  # fmt: skip
    return rows


def _tested(runs: Sequence[RunFolder]) -> tuple[float | None, float | None, int, int | None, str]:
    """Mean and sd of test accuracy, number of runs, images of a test and kind of data, of the runs that were tested."""
    metrics = [run.read_metrics() for run in runs if run.metrics_json.is_file()]
    tested = [sections for sections in metrics if "test" in sections]
    if not tested:
        return None, None, 0, None, ""
    scores = [float(sections["test"]["accuracy"]) for sections in tested]
    sd = stdev(scores) if len(scores) > 1 else None
    return fmean(scores), sd, len(scores), tested[0]["test"]["n"], str(tested[0].get("data", {}).get("source", ""))


def _spread(accuracy: float, sd: float | None) -> str:
    return f"{accuracy:.2%}" if sd is None else f"{100 * accuracy:.2f} ± {100 * sd:.2f}%"


def _print(rows: Sequence[Compared]) -> None:
    table = Table(title="networks", title_justify="left")
    for name in (
        "network",
        "image",
        "classes",
        "parameters",
        "multiply-adds",
        "test accuracy",
        "latency, ms",
        "10 to 90 %",
    ):
        table.add_column(name, justify="left" if name == "network" else "right", no_wrap=True)
    for row in rows:
        synthetic = " SYNTHETIC" if row.data == "synthetic" else ""
        accuracy = "" if row.accuracy is None else f"{_spread(row.accuracy, row.sd)} of {row.n}{synthetic}"
        table.add_row(
            escape(row.network), row.image, str(row.classes), f"{row.parameters:,}", f"{row.multiply_adds:,}", accuracy,
            f"{row.latency_median_ms:.2f}", f"{row.latency_p10_ms:.2f} to {row.latency_p90_ms:.2f}",
        )  # fmt: skip
    print_wide(table)
    machine = environment()
    load = "" if sys.platform == "win32" else f", load average {os.getloadavg()[0]:.1f}"
    print(
        f"latency      of one image, median of {rows[0].passes} passes, the networks in turns; threads: {rows[0].threads}; "
        f"{machine['cpu']}, {machine['cores']} cores{load}, torch {machine['torch']}, float32 on the CPU\n"
        "multiply-adds  of convolutions and linear layers, without biases\n"
        "MobileNetV2 and V3, ResNet-18 and VGG-16 have a linear head on their pooled last map, as PretrainedTask trains them"
    )
