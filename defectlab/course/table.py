"""Tabulate the course: mean and spread of the seeds of each program."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, get_type_hints

from defectlab.course.programs import PROGRAMS, Program
from defectlab.errors import InputError
from defectlab.evaluate.same_data import check_same_images
from defectlab.runs import RunFolder
from defectlab.runs.ensembles import read_own_metrics
from defectlab.utils.text import read_csv

_NUMBERS: dict[Any, Callable[[str], Any]] = {
    int: int, float: float, float | None: lambda text: float(text) if text else None,
}  # fmt: skip
RESULTS = Path(__file__).with_name("results.csv")


@dataclass(frozen=True, kw_only=True)
class CourseEntry:
    """A program of the course: accuracies in per cent, None where nothing was published or measured (mean ± sd)."""

    name: str
    title: str
    config: str
    published: float | None
    measured: str | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """Results of one program's seeds; accuracies in per cent, of the test images; `seconds` is the mean of a run."""

    name: str
    title: str
    command: str
    source: str
    seeds: int
    test_images: int
    accuracy: float
    sd: float | None
    published: float | None
    worst_class: str
    worst_accuracy: float
    parameters: int
    seconds: float
    threads: int
    hardware: str
    commit: str


def course_table() -> list[CourseEntry]:
    """List the programs of the course, with the published figures and this project's."""
    measured = {row.name: figure(row) for row in read_rows(RESULTS)}
    return [
        CourseEntry(
            name=program.name, title=program.title, config=program.config, published=program.published,
            measured=measured.get(program.name),
        )
        for program in PROGRAMS
    ]  # fmt: skip


def summarise(program: Program, command: str, runs: Sequence[RunFolder]) -> Row:
    """Summarise one program from its finished runs, one a seed."""
    check_same_images(runs)
    metrics = [read_own_metrics(run) for run in runs]
    scores = [100 * float(run["test"]["accuracy"]) for run in metrics]
    per_class: list[dict[str, Any]] = [run["test"]["per_class"] for run in metrics]
    # A class that a small test set lacks has no accuracy.
    by_class = {
        name: [c[name]["accuracy"] for c in per_class if c[name]["accuracy"] is not None] for name in per_class[0]
    }
    means = {name: 100 * fmean(values) for name, values in by_class.items() if values}
    worst = min(means, key=means.__getitem__)
    environments = [run["environment"] for run in metrics]
    return Row(
        name=program.name, title=program.title, command=command,
        source="/".join(sorted({run["data"]["source"] for run in metrics})), seeds=len(runs),
        test_images=metrics[0]["test"]["n"], accuracy=round(fmean(scores), 3),
        sd=round(stdev(scores), 3) if len(scores) > 1 else None, published=program.published, worst_class=worst,
        worst_accuracy=round(means[worst], 2), parameters=metrics[0]["run"]["parameters"],
        seconds=round(fmean(run["run"]["total_seconds"] for run in metrics), 1),
        threads=max(found["threads"] for found in environments),
        hardware="; ".join(
            sorted({f"{e['gpu'] or e['cpu'] or 'unknown processor'}, {e['cores']} cores" for e in environments})
        ),
        commit=" ".join(sorted({found["commit"] or "unknown" for found in environments})),
    )  # fmt: skip


def read_rows(path: str | Path) -> list[Row]:
    """Read the rows of a course.csv."""
    advice = "expected a table of `defectlab course run`: run it again"
    header, *rows = read_csv(Path(path), advice) or [[]]
    try:
        return [_row(dict(zip(header, cells, strict=True))) for cells in rows]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} has other columns or values; {advice}") from None


def _row(cells: dict[str, str]) -> Row:
    kinds = get_type_hints(Row)
    values: dict[str, Any] = {name: _NUMBERS.get(kinds[name], str)(text) for name, text in cells.items()}
    return Row(**values)


def figure(row: Row) -> str:
    """Write mean ± sd in per cent."""
    spread = f" ± {row.sd:.2f}" if row.sd is not None else " (n = 1)"
    return f"{row.accuracy:.2f}{spread}{' SYNTHETIC' if row.source != 'real' else ''}"


def markdown(rows: Sequence[Row]) -> str:
    """Write a table, and beneath it where the figures were measured."""
    head = (
        "program | `defectlab fit --config …` | test images | accuracy, % | to reach | worst class | weights | seconds"
    )
    lines = [f"| {head} |", "|---" * 8 + "|"]
    for row in rows:
        published = "" if row.published is None else f"{row.published:g}"
        cells = (
            f"{row.name}: {row.title}", f"`{row.command}`", f"{row.test_images:,}", figure(row), published,
            f"{row.worst_class} {row.worst_accuracy:.1f}" if row.worst_accuracy < 100 else "none", f"{row.parameters:,}", f"{row.seconds:.0f}",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    seeds, threads = ({getattr(row, name) for row in rows} for name in ("seeds", "threads"))
    lines += [
        "",
        f"Test accuracy, mean ± sd of {_span(seeds)} seeds; seconds a run, from start to report, with {_span(threads)} "
        f"thread{'' if threads == {1} else 's'} on {'; '.join(sorted({row.hardware for row in rows}))}; commit "
        f"{', '.join(sorted({commit for row in rows for commit in row.commit.split()}))}. To reach: what the course published "
        "or, beyond the course, what this project set itself.",
        "",
    ]
    return "\n".join(lines)


def _span(numbers: set[int]) -> str:
    return str(min(numbers)) if len(numbers) == 1 else f"{min(numbers)} to {max(numbers)}"
