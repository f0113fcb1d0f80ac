"""Is the starting point that `folder_auto.yaml` chooses as good as the best that one could have named?

    python benchmarks/starting_points.py --neu DIR --tiles DIR --elpv DIR --output starting_points

Each set, a folder a class, is cross-validated from every fixed starting point of the config's section `choose`, and from the
one that each fold chooses on its own training and validation images, on the same splits. Prints balanced accuracy, mean ± sd
of the folds, the difference to the best fixed one, paired by fold, and seconds; writes starting_points.csv. Folds that are
finished in the output folder are not computed again; features are computed by the first that asks for them, the choice.
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from measure import header

import defectlab as dl
from defectlab.engine.configs import find_config, override_words
from defectlab.engine.start_choice import Start
from defectlab.errors import InputError
from defectlab.runs import CROSSVAL_FILE, csv_text, write_text

__all__ = ["main"]


@dataclass(frozen=True)
class Row:
    """One line of the table; accuracies in per cent, seconds of a fold."""

    images: str
    start: str
    mean: float
    sd: float
    behind: float
    behind_sd: float
    seconds: float


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    p = argparse.ArgumentParser("starting_points.py", description="Chosen against fixed starting points.")
    for name in ("neu", "tiles", "elpv"):
        p.add_argument(f"--{name}", metavar="DIR", help="a folder a class")
    p.add_argument("--config", default="folder_auto.yaml", help="a YAML file with a section choose")
    p.add_argument("--folds", type=int, default=5)
    p.add_argument("--output", type=Path, metavar="DIR", default=Path("starting_points"))
    p.add_argument("more", nargs="*", help="further arguments of fit, after --")
    return p


def starting_points(config: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The choice first, then each fixed starting point, with its arguments of fit."""
    choose = yaml.safe_load(find_config(config).read_text(encoding="utf-8"))["choose"]
    yield "chosen", ()
    for candidate in choose["candidates"]:
        start = Start(**candidate)
        named = ("symmetric" if value is True else str(value) for value in candidate.values())
        yield " ".join(named), ("--choose", "null", *override_words(start.settings))


def measure(given: argparse.Namespace, name: str, root: str) -> list[Row]:
    """All rows of one set."""
    words = ["--data.root", root, *given.more]
    with contextlib.redirect_stdout(sys.stderr):
        data = dl.ImageFolderDataModule(root=root)
        data.setup("fit")
        mean, sd = data.data.statistics(np.arange(len(data.data.files)))  # the same for all rows, so that features are
    copies = 3 // len(mean)
    words += ["--data.mean", json.dumps(mean * copies), "--data.std", json.dumps(sd * copies)]
    scores: dict[str, np.ndarray] = {}
    seconds: dict[str, float] = {}
    for start, settings in starting_points(given.config):
        folder = given.output / name / start.replace("/", "_").replace(" ", "-")
        if (folder / CROSSVAL_FILE).is_file():
            found = dl.cross_validate(resume=folder, progress=True)
        else:
            found = dl.cross_validate(
                given.config, given.folds, 1, overrides=[*words, *settings], output=folder, progress=True
            )
        scores[start] = 100 * np.array([row["balanced_accuracy"] for row in found.rows])
        runs = [dl.open_run(folder / row["run"]).read_metrics()["run"] or {} for row in found.rows]
        choosing = [row["seconds"] or 0 for run in runs for row in run.get("start", {}).get("rows", ())]
        seconds[start] = (sum(run["total_seconds"] for run in runs) + sum(choosing)) / len(runs)
        print(
            f"{name}, {start}: {scores[start].mean():.2f}, {seconds[start]:.0f} s a fold", file=sys.stderr, flush=True
        )
    best = max((start for start in scores if start != "chosen"), key=lambda start: float(scores[start].mean()))
    rows = []
    for start, values in scores.items():
        behind = scores[best] - values
        figures = [round(float(v), 2) for v in (values.mean(), values.std(ddof=1), behind.mean(), behind.std(ddof=1))]
        rows.append(Row(name, start, figures[0], figures[1], figures[2], figures[3], round(seconds[start], 1)))
    return rows


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = [
        "| set | starting point | balanced, % | behind the best fixed one | seconds a fold |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.images} | {row.start} | {row.mean:.2f} ± {row.sd:.2f} | {row.behind:.2f} ± {row.behind_sd:.2f} | {row.seconds:.0f} |"
        for row in rows
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 for unusable input."""
    given = parser().parse_args(arguments)
    sets = {name: getattr(given, name) for name in ("neu", "tiles", "elpv") if getattr(given, name) is not None}
    try:
        if not sets:
            raise InputError("no set to measure: give --neu, --tiles or --elpv")
        rows = [row for name, root in sets.items() for row in measure(given, name, root)]
        write_text(given.output / "starting_points.csv", csv_text(Row, rows))
    except InputError as error:
        print(f"starting_points.py: error: {error}", file=sys.stderr)
        return 1
    print(header())
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
