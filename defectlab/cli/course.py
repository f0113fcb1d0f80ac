"""`defectlab course`: the programs of the course, and `course run`, which runs them and writes their table."""

import argparse
import hashlib
import json
import shutil
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from defectlab.cli.arguments import CommandParser
from defectlab.course.programs import PROGRAMS, Program, Set
from defectlab.course.table import RESULTS, Row, figure, markdown, read_rows, summarise
from defectlab.engine.configs import base_of, find_config
from defectlab.errors import InputError
from defectlab.runs import RunFolder, csv_text, write_text
from defectlab.utils.text import shown_path

__all__ = ["run"]

_MADE_WITH = "made_with.json"
_SETS: dict[Set, str] = {"neu": "NEU-CLS", "mnist": "MNIST", "fashion": "Fashion-MNIST", "flowers": "Flowers-102"}


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
    measured = {row.name: row for row in read_rows(RESULTS)}
    # No rich table: on a narrow terminal it would break the names that are for copying.
    print(f"{'name':<22}{'to reach, %':>13}{'ours, %':>16}  what, and its config")
    for program in PROGRAMS:
        published = "" if program.published is None else f"{program.published:g}"
        ours = figure(measured[program.name]) if program.name in measured else "not measured"
        print(f"{program.name:<22}{published:>13}{ours:>16}  {program.title}: {program.config}")
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
    programs = _chosen(words[:options])
    _check(given, more)
    folder: Path = given.output
    commands = {program.name: _words(program, given, more) for program in programs}
    for program in programs:
        _check_made_with(folder / program.name, program, commands[program.name])
    from defectlab.engine.jobs import Job, run_jobs
    from defectlab.engine.warnings import quieten

    quieten()
    jobs: list[Job] = []
    for program in programs:
        write_text(folder / program.name / _MADE_WITH, _made_with(program, commands[program.name]))
        for seed in range(given.seeds):
            run_folder = RunFolder(folder / program.name / f"seed-{seed}")
            own: tuple[str, ...] = ("--seed_everything", str(seed), "--data.seed", str(seed))
            if program.teacher is not None:
                own += ("--model.distillation.teacher", str((folder / program.teacher / f"seed-{seed}").absolute()))
            if not run_folder.finished:
                jobs.append(Job(f"{program.name}, seed {seed}", run_folder.path, (*commands[program.name], *own)))
    learners = {program.name for program in programs if program.teacher is not None}
    waves = [[job for job in jobs if (job.folder.parent.name in learners) == second] for second in (False, True)]
    wrong: dict[str, str] = {}
    total = len(programs) * given.seeds
    done = total - len(jobs)

    def tell(job: Job, reason: str | None) -> None:
        nonlocal done
        done += 1
        print(f"{done:>4} of {total}  {job.name}: {reason or _outcome(RunFolder(job.folder))}", flush=True)

    try:
        for wave in waves:  # a teacher has to be there before its pupil
            if wave:
                wrong |= run_jobs(wave, done, given.processes, continue_on_error=len(programs) > 1, tell=tell)
    finally:  # also of a stopped call
        for program in programs:
            if not any((folder / program.name).glob("seed-*")):  # nothing came of it
                shutil.rmtree(folder / program.name)
        rows = _write(folder)
    print(markdown(rows) if rows else "no program could be run")
    if rows:
        print(f"written to   {shown_path(folder / 'course.md')}")
    if wrong:
        first = next(iter(wrong))
        for job_name, why in wrong.items():
            print(f"not run      {job_name}: {why}")
        raise InputError(
            f"{len(wrong)} of {len(jobs)} runs could not be made, the first of them {first}: {wrong[first]}"
        )
    return 0


def _outcome(run: RunFolder) -> str:
    metrics = run.read_metrics()
    return f"{metrics['test']['accuracy']:.2%} in {metrics['run']['total_seconds']:.0f} s"


def _chosen(names: Sequence[str]) -> list[Program]:
    """The programs of these names and their teachers, in the order of the list.

    Raises:
        InputError: no name, or one that no program has.
    """
    known = {program.name: program for program in PROGRAMS}
    if not names:
        raise InputError(f"course run needs the name of a program, or all: expected {', '.join(known)}")
    for name in names:
        if name != "all" and name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected all, or {', '.join(known)}"
            raise InputError(f"there is no program {name!r}: {hint}")
    wanted = set(known) if "all" in names else set(names)
    wanted |= {known[name].teacher or name for name in wanted}
    return [program for program in PROGRAMS if program.name in wanted]


def _check(given: argparse.Namespace, more: Sequence[str]) -> None:
    for option, number in (("seeds", given.seeds), ("processes", given.processes)):
        if number < 1:
            raise InputError(f"--{option} is {number}: expected a whole number of at least 1")
    for option in ("--config", "--data.root", "--data.seed", "--seed_everything", "--ckpt_path"):
        if any(word.partition("=")[0] == option for word in more):
            raise InputError(
                f"{option} is course's own to set: leave it out; --neu, --mnist, --fashion and --flowers say where data is"
            )
    for name in _SETS:
        given_place: Path | None = getattr(given, name)
        if given_place is not None and not given_place.exists():
            raise InputError(f"--{name} is {given_place}, which does not exist: give the folder of the data set")


def _words(program: Program, given: argparse.Namespace, more: Sequence[str]) -> tuple[str, ...]:
    """The arguments of fit, but for the seed."""
    place: Path | None = getattr(given, program.data)
    root: tuple[str, ...] = () if place is None else ("--data.root", str(place.expanduser().absolute()))
    real = ("--data.source", "real") if place is not None and program.data == "neu" else ()
    return ("--config", program.config, *program.words, *root, *real, *more)


def _made_with(program: Program, words: Sequence[str]) -> str:
    config = find_config(program.config)
    base = base_of(config)
    digest = hashlib.sha256((base.read_bytes() if base else b"") + config.read_bytes()).hexdigest()
    return json.dumps({"config_sha256": digest, "words": list(words)}, indent=2) + "\n"


def _check_made_with(folder: Path, program: Program, words: Sequence[str]) -> None:
    """Refuse to put seeds of one experiment beside those of another."""
    earlier = folder / _MADE_WITH
    other = earlier.is_file() and earlier.read_text(encoding="utf-8") != _made_with(program, words)
    if other and any(RunFolder(path).finished for path in folder.glob("seed-*")):
        raise InputError(
            f"{folder} holds runs of another config or with other arguments: name another folder with --output, or remove it"
        )


def _write(folder: Path) -> list[Row]:
    """Write course.csv and course.md of what is done; without anything leave no empty folder."""
    rows = _rows(folder)
    if rows:
        write_text(folder / "course.csv", csv_text(Row, rows))
        write_text(folder / "course.md", markdown(rows))
    elif folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    return rows


def _rows(folder: Path) -> list[Row]:
    """A row for each program that has finished runs in the folder."""
    rows = []
    for program in PROGRAMS:
        place = folder / program.name
        runs = [run for run in map(RunFolder, sorted(place.glob("seed-*"))) if run.finished]
        if runs:
            rows.append(summarise(program, _shown(place), runs))
    return rows


def _shown(place: Path) -> str:
    """The arguments as a reader can give them, with DIR for a folder of this machine."""
    words: list[str] = json.loads((place / _MADE_WITH).read_text(encoding="utf-8"))["words"][1:]
    return " ".join(
        "DIR" if before == "--data.root" else word for before, word in zip(["", *words], words, strict=False)
    )
