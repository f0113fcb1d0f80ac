"""How far do weights carry with few labels? Linear probe and fine-tuning by labelled images a class.

    python benchmarks/transfer.py --neu DIR --output transfer
    python benchmarks/transfer.py --neu DIR --tiles DIR --sets neu elpv tiles --imagenet mobilenet_v2:1.0:FILE --image-size 160

Every row sees the same labelled images and is judged on all others; mean ± sd over the draws, in per cent, of the mean
over the classes of the share that is recognised. Each weight file is read at the last layer and at its middle ones
(those of surfaces have the middle ones alone); the better head, by the probe over all budgets, is fine-tuned and plotted.
Writes transfer.csv and a PNG a set.
"""

import argparse
import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from measure import header
from transfer_fit import Source, draw_labelled, fine_tune, probe
from transfer_sets import LabelledSet, load_elpv, load_neu, load_tiles

from defectlab.errors import InputError
from defectlab.networks.backbones import BACKBONES, Stages
from defectlab.networks.weights import SHIPPED_WEIGHTS
from defectlab.runs import csv_text, write_text
from defectlab.utils.progress import progress_bar

__all__ = ["main"]


@dataclass(frozen=True)
class Row:
    """One line of the table; accuracies in per cent."""

    images: str
    weights: str
    stages: str
    method: str
    per_class: int
    draws: int
    mean: float
    sd: float


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    p = argparse.ArgumentParser("transfer.py", description="Linear probe and fine-tuning by labelled images a class.")
    p.add_argument("--neu", metavar="DIR", help="NEU-CLS in any layout; without it the synthetic stand-in")
    p.add_argument("--tiles", metavar="DIR", help="magnetic tiles: a folder a class")
    p.add_argument("--sets", nargs="+", choices=("neu", "elpv", "tiles"), default=["neu"])
    p.add_argument("--backbone", choices=BACKBONES, default="mobilenet_v3_small", help="of --weights")
    p.add_argument(
        "--weights", nargs="*", default=["none", *SHIPPED_WEIGHTS], metavar="NAME[:WIDTH]",
        help=f"none, {', '.join(SHIPPED_WEIGHTS)}, at a width such as 1.5 where there are such weights",
    )  # fmt: skip
    p.add_argument("--imagenet", nargs="*", default=[], metavar="BACKBONE:WIDTH:FILE", help="weights to set beside")
    p.add_argument("--per-class", type=int, nargs="+", default=[1, 3, 5, 10, 50, 150], help="labelled images")
    p.add_argument("--draws", type=int, default=10, help="of the labelled images, at least 2")
    p.add_argument("--image-size", type=int, default=200)
    p.add_argument("--symmetric", action="store_true", help="read the middle layers of mirrored images, too")
    p.add_argument("--fine-tune", action="store_true", help="train all layers, too: hours on two cores")
    p.add_argument("--output", type=Path, metavar="DIR", default=Path("transfer"), help="folder of the CSV and PNGs")
    return p


def sources(given: argparse.Namespace) -> list[Source]:
    """The rows of the table."""
    found = []
    for text in given.weights:
        name, _, width = text.partition(":")
        if name not in ("none", *SHIPPED_WEIGHTS) or not (width or "1.0").replace(".", "", 1).isdigit():
            raise InputError(f"--weights is {text}: expected none or {' or '.join(SHIPPED_WEIGHTS)}, and perhaps :1.5")
        found.append(Source(text, None if name == "none" else name, given.backbone, float(width or 1)))
    for text in given.imagenet:
        backbone, _, rest = text.partition(":")
        width, _, file = rest.partition(":")
        if backbone not in BACKBONES or not width.replace(".", "", 1).isdigit() or not Path(file).is_file():
            raise InputError(f"--imagenet is {text}: expected BACKBONE:WIDTH:FILE, such as mobilenet_v2:1.0:w.pth")
        found.append(Source(f"imagenet {backbone} {width}", file, backbone, float(width)))
    if not found:
        raise InputError("no weights to compare: give --weights or --imagenet")
    return found


def measure(given: argparse.Namespace, data: LabelledSet) -> list[Row]:
    """All rows of one set."""
    rows = []
    budgets = [count for count in given.per_class if count < np.bincount(data.labels).min()]
    classes = len(np.unique(data.labels))
    for source in sources(given):
        best: tuple[float, Stages] = (0.0, "last")
        heads = [(stages, False) for stages in source.heads] + [("middle", True)] * given.symmetric
        for stages, symmetric in heads:
            torch.manual_seed(0)  # of the random weights of `none`
            features = source.embed(source.network(classes, given.image_size, stages, symmetric), data.images)
            head = f"{stages}, symmetric" if symmetric else str(stages)
            found = _over_draws(data, (source.name, head, "probe"), budgets, given.draws, partial(_probe, features))
            rows += found
            if not symmetric:
                best = max(best, (float(np.mean([row.mean for row in found])), stages), key=lambda pair: pair[0])
        if given.fine_tune:
            torch.manual_seed(0)
            network = source.network(classes, given.image_size, best[1])
            judge = partial(fine_tune, source, network, data.images)
            rows += _over_draws(data, (source.name, str(best[1]), "fine-tune"), budgets, given.draws, judge)
    return rows


def _over_draws(
    data: LabelledSet, kind: tuple[str, str, str], budgets: list[int], draws: int, judge: Callable[..., float]
) -> list[Row]:
    """A row a budget; `judge` gives an accuracy for labels, training and test indices, and a seed."""
    rows = []
    with progress_bar(", ".join((data.name, *kind)), len(budgets) * draws) as advance:
        for count in budgets:
            accuracies = []
            for seed in range(draws):
                accuracies.append(judge(data.labels, *draw_labelled(data.labels, count, seed), seed))
                advance(1)
            mean, sd = float(np.mean(accuracies)), float(np.std(accuracies, ddof=1))
            rows.append(Row(data.name, *kind, count, draws, round(mean, 2), round(sd, 2)))
    return rows


def _probe(features: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int) -> float:
    return probe(features, labels, train, test)  # nothing in it is random


def table(rows: Sequence[Row]) -> str:
    """Markdown: a line for each weights, head and method, a column a budget."""
    lines = []
    for name in dict.fromkeys(row.images for row in rows):
        budgets = sorted({row.per_class for row in rows if row.images == name})
        lines += [f"\n{name}: accuracy in per cent by labelled images a class, mean ± sd of {rows[0].draws} draws\n"]
        lines += [
            "| weights | head | method | " + " | ".join(map(str, budgets)) + " |",
            "|---" * (3 + len(budgets)) + "|",
        ]
        for weights, stages, method in dict.fromkeys((r.weights, r.stages, r.method) for r in rows if r.images == name):
            cells = {
                r.per_class: f"{r.mean:.1f} ± {r.sd:.1f}"
                for r in rows
                if (r.images, r.weights, r.stages, r.method) == (name, weights, stages, method)
            }
            lines.append(f"| {weights} | {stages} | {method} | " + " | ".join(cells[b] for b in budgets) + " |")
    return "\n".join(lines)


def plot(rows: Sequence[Row], path: Path) -> None:
    """Curves with bands of one sd: the better head of each weights by the probe, and what was fine-tuned."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    groups: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for row in rows:
        groups.setdefault((row.weights, row.method), {}).setdefault(row.stages, []).append(row)
    colours = {name: f"C{index}" for index, name in enumerate(dict.fromkeys(row.weights for row in rows))}
    for (weights, method), heads in groups.items():
        shown = max(heads.values(), key=lambda head: sum(row.mean for row in head))
        x, mean, sd = (np.array([getattr(row, name) for row in shown]) for name in ("per_class", "mean", "sd"))
        style = "-" if method == "probe" else "--"
        axes.plot(x, mean, style, marker="o", markersize=3, color=colours[weights], label=f"{weights}, {method}")
        axes.fill_between(x, mean - sd, np.minimum(mean + sd, 100), color=colours[weights], alpha=0.12, linewidth=0)
    axes.set(xscale="log", xlabel="labelled images a class", ylabel="accuracy, %", title=rows[0].images)
    axes.set_xticks([row.per_class for row in shown], [str(row.per_class) for row in shown])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 for unusable input."""
    given = parser().parse_args(arguments)
    try:
        if given.draws < 2 or min(given.per_class) < 1 or given.image_size < 32:
            raise InputError("--draws has to be at least 2, --per-class at least 1, --image-size at least 32")
        sources(given)
        load = {
            "neu": lambda: load_neu(given.neu, given.image_size),
            "elpv": lambda: load_elpv(given.image_size),
            "tiles": lambda: load_tiles(given.tiles, given.image_size),
        }
        rows: list[Row] = []
        given.output.mkdir(parents=True, exist_ok=True)
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for the table
            for name in given.sets:
                found = measure(given, load[name]())
                rows += found
                plot(found, given.output / f"transfer_{name}.png")
        write_text(given.output / "transfer.csv", csv_text(Row, rows))
    except InputError as error:
        print(f"transfer.py: error: {error}", file=sys.stderr)
        return 1
    print(header())
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
