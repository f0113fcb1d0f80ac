"""Compare pairs of runs that were tested on the same images, or of cross-validations on the same splits."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from defectlab.errors import InputError
from defectlab.evaluate.naming import config_differences, read_settings, short_names
from defectlab.evaluate.same_data import check_same_images
from defectlab.metrics.classification import accuracy_interval
from defectlab.metrics.statistics import corrected_t_test, holm, images_needed, mcnemar
from defectlab.runs import (
    CROSSVAL_FILE,
    RunFolder,
    aligned_tables,
    csv_text,
    lacks_test_part,
    read_crossval,
    read_own_table,
    write_text,
)
from defectlab.utils.text import html_table

_MOST = 3  # differences in a sentence


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two runs on `n` shared test images; `p` is exact McNemar's, `p_holm` adjusted for all pairs of the call."""

    first: str
    second: str
    n: int
    first_only: int
    second_only: int
    p: float
    p_holm: float

    @property
    def lead(self) -> float:
        """Accuracy of the first less that of the second."""
        return (self.first_only - self.second_only) / self.n

    def verdict(self, alpha: float, differs: str = "") -> str:
        """State the result in a sentence; `differs` is what differs in the configs, the better one's first."""
        if self.p_holm < alpha:
            return f"{_better(self)} ({differs}{_short(self.p_holm)})"
        needed = images_needed(self.first_only, self.second_only, self.n, alpha)
        words = f"{self.first} and {self.second} cannot be told apart with {self.n} images ({_short(self.p_holm)})"
        if needed is None:
            return f"{words}: both have the same number right"
        return f"{words}; if the difference is as large as it looks, you would need about {needed:,}"


@dataclass(frozen=True, kw_only=True)
class CrossvalPair:
    """Two cross-validations on the same `splits`; `difference` is the second's mean accuracy less the first's."""

    first: str
    second: str
    splits: int
    difference: float
    p: float
    p_holm: float

    @property
    def lead(self) -> float:
        """Accuracy of the first less that of the second."""
        return -self.difference

    def verdict(self, alpha: float, differs: str = "") -> str:
        """State the result in a sentence; `differs` is what differs in the configs, the better one's first."""
        if self.p_holm < alpha:
            gain = f"{abs(self.difference):.2%} more of the images on average over {self.splits} splits"
            return f"{_better(self)}: {gain} ({differs}{_short(self.p_holm)})"
        return (
            f"{self.first} and {self.second} cannot be told apart: {self.difference:+.2%} on average over {self.splits} "
            f"splits ({_short(self.p_holm)}); more images would tell, more repeats hardly"
        )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The result of `compare`.

    Args:
        scores: name, accuracy, low and high of its 95 % interval of each run, the best first; with sd for
            cross-validations, right and balanced_accuracy for runs.
        pairs: every pair.
        alpha: the probability of a false alarm over all pairs.
        differences: each run's values of what differs in their configs, in the order given; see `config_differences`.
    """

    scores: list[dict[str, Any]]
    pairs: list[Pair] | list[CrossvalPair]
    alpha: float
    differences: dict[str, dict[str, str]]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Return a dict a pair, for `pandas.DataFrame`."""
        return [asdict(pair) for pair in self.pairs]

    @property
    def verdicts(self) -> list[str]:
        """Return a sentence a pair."""
        return [pair.verdict(self.alpha, self._differs(pair)) for pair in self.pairs]

    @property
    def matrix(self) -> list[dict[str, str]]:
        """Return a row a run: its accuracy less each other's in points, with a star where the difference is significant."""
        cells = {}
        for pair in self.pairs:
            star = "*" if pair.p_holm < self.alpha else ""
            for row, column, lead in ((pair.first, pair.second, pair.lead), (pair.second, pair.first, -pair.lead)):
                cells[row, column] = f"{100 * lead + 0.0:+.2f}{star}"  # -0.0 + 0.0 is 0.0
        names = [score["name"] for score in self.scores]
        return [{"name": row, **{column: cells.get((row, column), "") for column in names}} for row in names]

    def _repr_html_(self) -> str:
        """Return a table for a notebook."""
        return html_table("; ".join(self.verdicts), self.scores)

    def __repr__(self) -> str:
        scores = (
            f"{row['name']}: {row['accuracy']:.2%} ({row['low']:.1%} to {row['high']:.1%})"
            + (f", balanced {row['balanced_accuracy']:.2%}" if "balanced_accuracy" in row else "")
            for row in self.scores
        )
        return "\n".join((f"Comparison of {len(self.scores)}", *scores, *self.verdicts))

    def _differs(self, pair: Pair | CrossvalPair) -> str:
        better, worse = (pair.first, pair.second) if pair.lead > 0 else (pair.second, pair.first)
        mine, theirs = (self.differences.get(name, {}) for name in (better, worse))
        shown = [f"{key}: {mine[key]} vs {theirs[key]}" for key in mine if mine[key] != theirs[key]]
        more = [f"{len(shown) - _MOST} more"] if len(shown) > _MOST else []
        return "".join(f"{text}; " for text in shown[:_MOST] + more)


def compare(
    runs: Sequence[str | os.PathLike[str]], level: float = 0.95, output: str | Path | None = None
) -> Comparison:
    """Compare runs by exact McNemar tests on shared test images, or cross-validations by corrected t-tests.

    p-values are adjusted for all pairs by Holm's method.

    Args:
        runs: run folders, or folders of `cross_validate`; two or more.
        level: of confidence, in (0.5, 1): 1 less the probability of a false alarm over all pairs.
        output: a CSV file of all pairs.

    Raises:
        InputError: runs that were not tested on the same images or splits, or an argument that cannot be used.
    """
    paths = [Path(runs)] if isinstance(runs, str | os.PathLike) else [Path(run) for run in runs]
    if len(paths) < 2:
        raise InputError(f"one run is named, {paths[0]}: expected at least two" if paths else "no run is named")
    if not 0.5 < level < 1:
        raise InputError(f"level is {level}: expected a confidence between 0.5 and 1, such as 0.95")
    if output is not None and Path(output).is_dir():
        raise InputError(f"output {output} is a folder: expected the name of a CSV file")
    compared = _crossvals if any((path / CROSSVAL_FILE).is_file() for path in paths) else _runs
    scores, pairs, folders = compared(paths)
    names = [score["name"] for score in scores]
    differing = config_differences([read_settings(run) for run in folders])
    differences = {name: {key: values[i] for key, values in differing.items()} for i, name in enumerate(names)}
    if output is not None:
        write_text(Path(output), csv_text(type(pairs[0]), pairs))
    return Comparison(
        scores=sorted(scores, key=lambda score: -float(score["accuracy"])), pairs=pairs, alpha=1 - level,
        differences=differences if differing else {},
    )  # fmt: skip


def _runs(paths: Sequence[Path]) -> tuple[list[dict[str, Any]], list[Pair], list[RunFolder]]:
    runs = [RunFolder.open(path, newest=False) for path in paths]
    names = short_names([run.path.resolve() for run in runs])
    right = correct_matrix(runs)
    scores = []
    for name, run, row in zip(names, runs, right, strict=True):
        low, high = accuracy_interval(int(row.sum()), len(row))
        score = {"name": name, "right": int(row.sum()), "accuracy": float(row.mean()), "low": low, "high": high}
        scores.append({**score, "balanced_accuracy": read_own_table(run).balanced_accuracy})
    return scores, compare_runs(names, right), runs


def _crossvals(paths: Sequence[Path]) -> tuple[list[dict[str, Any]], list[CrossvalPair], list[RunFolder]]:
    names = short_names([path.expanduser().resolve() for path in paths])
    summaries = []
    for path in paths:
        saved = read_crossval(path)
        if "summary" not in saved:
            raise InputError(f"{path} is not finished: defectlab crossval {path}")
        summaries.append(saved["summary"])
    pairs = compare_crossvals(names, summaries)
    kept = ("accuracy", "sd", "low", "high")
    scores = [{"name": n, **{key: s[key] for key in kept}} for n, s in zip(names, summaries, strict=True)]
    return scores, pairs, [RunFolder(path / s["runs"][0]["run"]) for path, s in zip(paths, summaries, strict=True)]


def correct_matrix(runs: Sequence[RunFolder]) -> npt.NDArray[np.bool_]:
    """Compute which run had which test image right, (runs, images), images in the first run's order.

    InputError for a run without a test part, or test images or labels that differ between runs.
    """
    for run in runs:
        if run.metrics_json.is_file() and lacks_test_part(run.read_metrics()):
            raise InputError(
                f"{run.path} had no test images, by which runs are compared: fit it again with data.test_size above 0"
            )
    tables = aligned_tables({run.predictions_csv: read_own_table(run) for run in runs})
    check_same_images(runs, tables[0].files)
    return np.array([table.right for table in tables])


def compare_runs(names: Sequence[str], right: npt.NDArray[np.bool_]) -> list[Pair]:
    """Compare every pair of runs, from `correct_matrix` (runs, images)."""
    found: list[dict[str, Any]] = []
    for i, j in combinations(range(len(names)), 2):
        only = int((right[i] & ~right[j]).sum()), int((~right[i] & right[j]).sum())
        pair = {"first": names[i], "second": names[j], "n": right.shape[1], "p": mcnemar(*only)}
        found.append({**pair, "first_only": only[0], "second_only": only[1]})
    return [Pair(**pair, p_holm=p) for pair, p in zip(found, holm([pair["p"] for pair in found]), strict=True)]


def compare_crossvals(names: Sequence[str], summaries: Sequence[Mapping[str, Any]]) -> list[CrossvalPair]:
    """Compare every pair by the corrected resampled t-test; `summaries` are those of each one's crossval.json.

    InputError where the splits differ.
    """
    hashes = [[run["split_hash"] for run in summary["runs"]] for summary in summaries]
    for name, theirs in zip(names, hashes, strict=True):
        if theirs != hashes[0]:
            raise InputError(
                f"{names[0]} and {name} were made on different splits ({len(hashes[0])} and {len(theirs)}): give "
                "cross-validations with the same data, --protocol, --folds, --repeats, --seed and data.val_size"
            )
    found: list[dict[str, Any]] = []
    for i, j in combinations(range(len(names)), 2):
        pairs = zip(summaries[i]["runs"], summaries[j]["runs"], strict=True)
        differences = [second["accuracy"] - first["accuracy"] for first, second in pairs]
        p = corrected_t_test(differences, summaries[i]["test_to_train"])
        found.append({"first": names[i], "second": names[j], "difference": float(np.mean(differences)), "p": p})
    adjusted = holm([pair["p"] for pair in found])
    return [CrossvalPair(**pair, splits=len(hashes[0]), p_holm=p) for pair, p in zip(found, adjusted, strict=True)]


def _short(p: float) -> str:
    return "p < .001" if p < 0.001 else "p = " + f"{p:.3f}".removeprefix("0")


def _better(pair: Pair | CrossvalPair) -> str:
    better, worse = (pair.first, pair.second) if pair.lead > 0 else (pair.second, pair.first)
    return f"{better} is better than {worse}"
