"""Turns, medians, ratios, tables: what every measurement shares."""

import csv
import json
import os
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from defectlab.errors import InputError
from defectlab.runs import environment

__all__ = ["Measurement", "Side", "header", "load", "take_turns", "write_output"]


@dataclass
class Side:
    """One of the programs that are compared.

    Args:
        name: short, for the table.
        settings: what it was run with, in words.
        values: a figure a turn.
        lower_bound: at least one value is a time after which the target had still not been reached.
        remarks: a short text a turn, such as the epoch and the accuracy; may be empty.
    """

    name: str
    settings: str
    values: list[float]
    lower_bound: bool = False
    remarks: list[str] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Of all turns."""
        return statistics.median(self.values)


@dataclass
class Measurement:
    """Ours beside others, measured in turns.

    Args:
        title: what was measured.
        unit: of the values.
        ours: defectlab's side.
        others: at least one; ours is held against the best of them.
        ratio: of the medians. `theirs / ours` makes a speed-up of two times.
        bar: what the ratio has to be.
        bound: on which side of the bar.
        load: the machine's one-minute load average before and after; None where it is not known.
    """

    title: str
    unit: str
    ours: Side
    others: list[Side]
    ratio: Literal["ours / theirs", "theirs / ours"]
    bar: float
    bound: Literal["at least", "at most"]
    load: list[float | None] = field(default_factory=list)

    @property
    def best_other(self) -> Side:
        """The strongest opponent: the highest rate, or the shortest time."""
        higher_is_better = self.ratio == "ours / theirs" and self.bound == "at least"
        return (max if higher_is_better else min)(self.others, key=lambda side: side.median)

    @property
    def value(self) -> float:
        """The ratio of the medians."""
        ours, theirs = self.ours.median, self.best_other.median
        return ours / theirs if self.ratio == "ours / theirs" else theirs / ours

    @property
    def verdict(self) -> str:
        """One word or a few."""
        if self.ours.lower_bound:
            return "not reached: defectlab missed the target"
        fits = self.value >= self.bar if self.bound == "at least" else self.value <= self.bar
        return "reached" if fits else "not reached"

    def markdown(self) -> str:
        """A heading, a table with a row a side, and the ratio."""
        lines = [f"### {self.title}", "", f"| program | {self.unit} | lowest to highest | turns | settings |"]
        lines.append("|---|---:|---:|---:|---|")
        for side in (self.ours, *self.others):
            sign = "≥ " if side.lower_bound else ""
            low, high = min(side.values), max(side.values)
            lines.append(
                f"| {side.name} | {sign}{_number(side.median)} | {_number(low)} to {_number(high)} "
                f"| {len(side.values)} | {side.settings} |"
            )
        sign = "≥ " if self.best_other.lower_bound and self.ratio == "theirs / ours" else ""
        lines += [
            "",
            f"Ratio of the medians, {self.ratio} ({self.best_other.name}): **{sign}{self.value:.2f}**; "
            f"the bar is {self.bound} {self.bar:g}: {self.verdict}.",
        ]
        if any(value is not None for value in self.load):
            lines.append(f"Load average before and after: {', '.join(_number(v) for v in self.load if v is not None)}.")
        for side in (self.ours, *self.others):
            if side.remarks:
                lines.append(f"{side.name}, turn by turn: {'; '.join(side.remarks)}.")
        return "\n".join(lines) + "\n"


def take_turns(runs: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Call A, B, …, A, B, … and keep what they return: a slow minute of the machine hits all of them."""
    values: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats):
        for name, run in runs.items():
            values[name].append(run())
            print(
                f"turn {turn + 1} of {repeats}, {name}: {_number(values[name][-1])}",
                file=sys.stderr,
                flush=True,
            )
    return values


def load() -> float | None:
    """The one-minute load average, where the system keeps one."""
    return None if sys.platform == "win32" else round(os.getloadavg()[0], 2)


def header() -> str:
    """Hardware, versions and commit as one Markdown paragraph."""
    facts = {key: value for key, value in environment().items() if value is not None}
    return ", ".join(f"{key} {value}" for key, value in facts.items()) + "\n"


def write_output(path: Path, measurements: list[Measurement]) -> None:
    """Write everything to a .json file, or a row a value to a .csv file."""
    if path.suffix == ".json":
        results = [
            {**asdict(m), "ours_median": m.ours.median, "ratio_value": m.value, "verdict": m.verdict}
            for m in measurements
        ]
        text = json.dumps({"environment": environment(), "measurements": results}, indent=2, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["measurement", "program", "turn", "value", "unit", "lower_bound"])
            for m in measurements:
                for side in (m.ours, *m.others):
                    for turn, value in enumerate(side.values):
                        writer.writerow([m.title, side.name, turn, f"{value:.6g}", m.unit, side.lower_bound])
    else:
        raise InputError(f"--output is {path}: expected a name that ends in .json or .csv")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
