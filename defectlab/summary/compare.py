"""Networks side by side: parameters, multiply-adds, accuracy and latency."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import torch
from torch import nn

from defectlab.engine.host import as_guest
from defectlab.errors import InputError, check_at_least
from defectlab.networks import BipyramidalCNN, LeNet5, MobileNetV1, PretrainedNetwork, SimpleDefectCNN
from defectlab.runs import RunFolder
from defectlab.runs.ensembles import read_own_metrics
from defectlab.runs.metrics import balanced_of
from defectlab.summary.latency import latencies
from defectlab.summary.layers import shape_text
from defectlab.summary.subject import NetworkRef, is_config, resolve_network
from defectlab.summary.trace import summarize
from defectlab.utils.image_format import Size, checked_size

_STANDARD: dict[str, Callable[[int, int, Size], nn.Module]] = {
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


@dataclass(frozen=True, kw_only=True)
class NetworkRow:
    """One network; latency in milliseconds.

    `accuracy` and `balanced_accuracy` are means of the tests of `runs` runs, `sd` the standard deviation of the first, `n`
    the images of one test; empty without a run, `sd` also of a single one.
    """

    network: str
    image: str
    classes: int
    parameters: int
    multiply_adds: int
    accuracy: float | None
    sd: float | None
    balanced_accuracy: float | None
    runs: int
    n: int | None
    data: str
    latency_median_ms: float
    latency_p10_ms: float
    latency_p90_ms: float
    passes: int
    threads: int


def compare_networks(
    names: Sequence[str | PathLike[str]] = (),
    *,
    standard: bool = True,
    image_size: int | None = None,
    channels: int | None = None,
    classes: int | None = None,
    turns: int = 30,
    overrides: Sequence[str] = (),
    progress: bool = False,
) -> list[NetworkRow]:
    """Compare the named networks, then nine well-known ones.

    Accuracy is that of tested runs, the mean over seeds for a folder of `course run`.

    Args:
        names: run folders, .ckpt files and configs.
        standard: whether the well-known ones are there, too.
        image_size: of the well-known networks; None for that of the first named, else 200.
        channels: of the well-known networks; None for those of the first named, else 1.
        classes: of the well-known networks; None for those of the first named, else 6.
        turns: timed passes of each network, at least 1.
        overrides: arguments of `fit` for the configs, such as `("--data.image_size", "64")`.
        progress: draw a bar for work of more than a second.

    Raises:
        InputError: nothing of that name, or numbers out of range.
    """
    check_at_least("turns", turns, 1)
    with as_guest(progress):
        named = [_named(fspath(name), overrides) for name in names]
        if not named and not standard:
            raise InputError("no network is named: name one, or set standard to true")
        (channel, *size), count = (named[0].image, named[0].classes) if named else ((1, 200, 200), 6)
        height, width = size if image_size is None else (image_size, image_size)
        image = (channel if channels is None else channels, height, width)
        count = count if classes is None else classes
        known = [
            NetworkRef(
                name=name, network=build(count, image[0], checked_size((height, width))), image=image, classes=count
            )
            for name, build in (_STANDARD.items() if standard else ())
        ]
        return _measure([*named, *known], len(named), turns, progress)


def _named(name: str, more: Sequence[str]) -> NetworkRef:
    """Return the network of a name; of a program of `course run`, that of its first finished run."""
    seeds = tuple(run for run in map(RunFolder, sorted(Path(name).glob("seed-*"))) if run.finished)
    if seeds:  # of one config: the networks differ in their numbers alone
        shown = f"{Path(name).resolve().name}, {len(seeds)} seeds"
        return replace(resolve_network(str(seeds[0].path), []), name=shown, runs=seeds)
    return resolve_network(name, more if is_config(name) else [])


def _measure(networks: Sequence[NetworkRef], named: int, turns: int, progress: bool) -> list[NetworkRow]:
    """Return the rows, without well-known networks that are among the first `named`."""
    wholes = [summarize(one.network, one.image) for one in networks]
    costs = [
        (type(one.network), one.classes, whole.image, whole.parameters, whole.multiply_adds)
        for one, whole in zip(networks, wholes, strict=True)
    ]
    chosen = [index for index, cost in enumerate(costs) if index < named or cost not in costs[:named]]
    seconds = latencies([networks[i].network for i in chosen], [networks[i].image for i in chosen], turns, progress)
    rows = []
    for index, times in zip(chosen, seconds, strict=True):
        low, median, high = (round(1000 * float(value), 4) for value in np.quantile(times, (0.1, 0.5, 0.9)))
        one, whole = networks[index], wholes[index]
        accuracy, sd, balanced, runs, n, data = _tested(one.runs)
        rows.append(
            NetworkRow(
                network=one.name, image=shape_text(one.image), classes=one.classes, parameters=whole.parameters,
                multiply_adds=whole.multiply_adds, accuracy=accuracy, sd=sd, balanced_accuracy=balanced,
                runs=runs, n=n, data=data, latency_median_ms=median, latency_p10_ms=low, latency_p90_ms=high, passes=turns,
                threads=torch.get_num_threads(),
            )
        )  # fmt: skip
    return rows


def _tested(runs: Sequence[RunFolder]) -> tuple[float | None, float | None, float | None, int, int | None, str]:
    """Return mean and sd of test accuracy, mean of the balanced one, number of runs, images per test and data source of the tested runs."""
    metrics = [read_own_metrics(run) for run in runs if run.metrics_json.is_file()]
    tested = [sections for sections in metrics if "test" in sections]
    if not tested:
        return None, None, None, 0, None, ""
    scores = [float(sections["test"]["accuracy"]) for sections in tested]
    balanced = [balanced_of(sections["test"]) for sections in tested]
    sd = stdev(scores) if len(scores) > 1 else None
    return (
        fmean(scores),
        sd,
        fmean(balanced),
        len(scores),
        tested[0]["test"]["n"],
        str(tested[0].get("data", {}).get("source", "")),
    )
