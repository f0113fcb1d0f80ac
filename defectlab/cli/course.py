"""`defectlab course`: the programs of the course, and `course run`, which runs them and writes their table."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from defectlab.cli.arguments import CommandParser
from defectlab.course.table import Row, course_table, markdown
from defectlab.runs.metrics import balanced_of
from defectlab.utils.text import shown_path

if TYPE_CHECKING:
    from defectlab.course.run import CourseRun

_SETS = {"neu": "NEU-CLS", "mnist": "MNIST", "fashion": "Fashion-MNIST", "flowers": "Flowers-102"}


def run(words: list[str]) -> int:
    """List the programs, or run some."""
    if words[:1] == ["run"]:
        return _run(words[1:])
    parser = CommandParser(
        "defectlab course",
        "List every program of the course: its config, the published figure and ours. `defectlab course run NAME... | all` "
        "runs them; see `defectlab course run --help`.",
    )
    parser.parse_args(words)
    # No rich table: on a narrow terminal it would break the names that are for copying.
    print(f"{'name':<22}{'to reach, %':>13}{'ours, %':>16}  what, and its config")
    for entry in course_table():
        published = "" if entry.published is None else f"{entry.published:g}"
        measured = entry.measured or "not measured"
        print(f"{entry.name:<22}{published:>13}{measured:>16}  {entry.title}: {entry.config}")
    return 0


def _run(words: list[str]) -> int:
    parser = CommandParser(
        "defectlab course run",
        "Run programs of the course over several seeds and write course.md and course.csv. Seeds that are done are kept, "
        "so a stopped call is taken up by the same one. Further arguments go to every fit: "
        "`defectlab course run NAME... | all [options]`.",
    )
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 (default: %(default)s)")
    for name, what in _SETS.items():
        parser.add_argument(f"--{name}", type=Path, metavar="DIR", help=f"folder of {what}; by default the config's")
    parser.add_argument("--processes", type=int, default=1, help="runs at a time, each with one thread if above 1")
    parser.add_argument("--output", type=Path, default=Path("runs/course"), help="a folder (default: %(default)s)")
    # The names by hand: argparse would take the value of an option of fit's for one.
    options = next((place for place, word in enumerate(words) if word.startswith("-")), len(words))
    given, more = parser.parse_known_args(words[options:])
    from defectlab.course.run import CourseError, run_course  # here: the list needs no torch

    try:
        rows = run_course(words[:options], **vars(given), overrides=more, on_done=_print_run, progress=True)
    except CourseError as error:
        _print_rows(error.rows, given.output)
        for name, why in error.errors.items():
            print(f"not run      {name}: {why}")
        raise
    _print_rows(rows, given.output)
    return 0


def _print_run(ended: "CourseRun") -> None:
    outcome = ended.error
    if outcome is None:
        metrics = ended.run.read_metrics()
        test = metrics["test"]
        outcome = f"{test['accuracy']:.2%} in {metrics['run']['total_seconds']:.0f} s, balanced {balanced_of(test):.2%}"
    print(f"{ended.done:>4} of {ended.total}  {ended.name}: {outcome}", flush=True)


def _print_rows(rows: Sequence[Row], folder: Path) -> None:
    print(markdown(rows) if rows else "no program could be run")
    if rows:
        print(f"written to   {shown_path(folder / 'course.md')}")
