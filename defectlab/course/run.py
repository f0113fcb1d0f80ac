"""Run programs of the course over several seeds, and write their table."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from defectlab.course.programs import PROGRAMS, Program, Set
from defectlab.course.table import Row, markdown, summarise
from defectlab.engine.configs import base_of, find_config, override_words
from defectlab.engine.jobs import Job, check_own_settings, run_jobs
from defectlab.errors import InputError, check_at_least
from defectlab.runs import RunFolder, csv_text, write_text

_MADE_WITH = "made_with.json"


@dataclass(frozen=True, kw_only=True)
class CourseRun:
    """One finished seed of a program, the `done`-th of `total`; `error` is why it failed, else None."""

    name: str
    run: RunFolder
    error: str | None
    done: int
    total: int


class CourseError(InputError):
    """Some runs failed: `rows` is the table of the others, `errors` the messages by name."""

    def __init__(self, rows: list[Row], errors: dict[str, str], tried: int) -> None:
        self.rows, self.errors = rows, errors
        first = next(iter(errors))
        super().__init__(f"{len(errors)} of {tried} runs could not be made, the first of them {first}: {errors[first]}")


def run_course(
    names: str | Sequence[str],
    seeds: int = 3,
    *,
    neu: str | Path | None = None,
    mnist: str | Path | None = None,
    fashion: str | Path | None = None,
    flowers: str | Path | None = None,
    output: str | Path = "runs/course",
    processes: int = 1,
    overrides: Sequence[str] | Mapping[str, object] = (),
    on_done: Callable[[CourseRun], None] | None = None,
    progress: bool = False,
) -> list[Row]:
    """Run programs of the course and write course.md and course.csv; seeds that are done are kept.

    Args:
        names: of programs, or "all"; the teachers of those that are distilled come with them.
        seeds: how many, from 0.
        neu: folder of NEU-CLS; None, here and in the next three, for the config's.
        mnist: folder of MNIST.
        fashion: folder of Fashion-MNIST.
        flowers: folder of Flowers-102.
        output: a folder, in which other programs may have runs already.
        processes: runs at a time, each with one thread if above 1.
        overrides: further arguments of every `fit`, as words or as values by dotted or nested name.
        on_done: called after each run.
        progress: whether to draw a bar on standard error.

    Returns:
        A row for each program that has finished runs in the folder.

    Raises:
        CourseError: some runs of several programs failed.
        InputError: an argument that cannot be used, or a run of the only program failed.
    """
    programs = _chosen([names] if isinstance(names, str) else names)
    check_at_least("seeds", seeds, 1)
    check_at_least("processes", processes, 1)
    more = override_words(overrides)
    own = ("config", "data.root", "data.seed", "seed_everything", "ckpt_path")
    check_own_settings("course", more, own, "neu, mnist, fashion and flowers say where data is")
    places: dict[Set, str | Path | None] = {"neu": neu, "mnist": mnist, "fashion": fashion, "flowers": flowers}
    for name, place in places.items():
        if place is not None and not Path(place).exists():
            raise InputError(f"{name} is {place}, which does not exist: give the folder of the data set")
    folder = Path(output)
    words = {program.name: _words(program, places[program.data], more) for program in programs}
    for program in programs:
        _check_made_with(folder / program.name, program, words[program.name])
    jobs: list[Job] = []
    for program in programs:
        write_text(folder / program.name / _MADE_WITH, _made_with(program, words[program.name]))
        for seed in range(seeds):
            run = RunFolder(folder / program.name / f"seed-{seed}")
            teacher = None if program.teacher is None else str((folder / program.teacher / run.path.name).absolute())
            if not run.finished:
                jobs.append(
                    Job(
                        name=f"{program.name}, seed {seed}", folder=run.path, config=program.config, seed=seed,
                        settings={} if teacher is None else {"trainer.callbacks.teacher": teacher},
                        overrides=words[program.name],
                    )
                )  # fmt: skip
    total = len(programs) * seeds
    done = total - len(jobs)

    def note(job: Job, error: str | None) -> None:
        nonlocal done
        done += 1
        if on_done is not None:
            on_done(CourseRun(name=job.name, run=RunFolder(job.folder), error=error, done=done, total=total))

    students = {program.name for program in programs if program.teacher is not None}
    errors: dict[str, str] = {}
    try:
        for second in (False, True):  # a teacher has to be there before its student
            stage = [job for job in jobs if (job.folder.parent.name in students) == second]
            if stage:
                errors |= run_jobs(
                    stage, done=done, processes=processes, continue_on_error=len(programs) > 1, on_done=note,
                    progress=progress,
                )  # fmt: skip
    finally:  # also of a stopped call
        for program in programs:
            if not any((folder / program.name).glob("seed-*")):  # nothing came of it
                shutil.rmtree(folder / program.name)
        rows = _write(folder)
    if errors:
        raise CourseError(rows, errors, len(jobs))
    return rows


def _chosen(names: Sequence[str]) -> list[Program]:
    """Return the programs of these names and their teachers, in the order of the list."""
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


def _words(program: Program, place: str | Path | None, more: Sequence[str]) -> tuple[str, ...]:
    """Return the arguments of fit, but for the config and the seed."""
    data: dict[str, object] = {} if place is None else {"data.root": str(Path(place).expanduser().absolute())}
    if place is not None and program.data == "neu":
        data["data.source"] = "real"
    return (*override_words({**program.settings, **data}), *more)


def _made_with(program: Program, words: Sequence[str]) -> str:
    config = find_config(program.config)
    base = base_of(config)
    digest = hashlib.sha256((base.read_bytes() if base else b"") + config.read_bytes()).hexdigest()
    return json.dumps({"config_sha256": digest, "words": ["--config", program.config, *words]}, indent=2) + "\n"


def _check_made_with(folder: Path, program: Program, words: Sequence[str]) -> None:
    """Raise InputError where seeds of one experiment would stand beside those of another."""
    earlier = folder / _MADE_WITH
    other = earlier.is_file() and earlier.read_text(encoding="utf-8") != _made_with(program, words)
    if other and any(RunFolder(path).finished for path in folder.glob("seed-*")):
        raise InputError(
            f"{folder} holds runs of another config or with other arguments: name another folder with --output, or remove it"
        )


def _write(folder: Path) -> list[Row]:
    """Write course.csv and course.md, a row for each program that has finished runs; without any leave no empty folder."""
    rows = []
    for program in PROGRAMS:
        place = folder / program.name
        runs = [run for run in map(RunFolder, sorted(place.glob("seed-*"))) if run.finished]
        if runs:
            rows.append(summarise(program, _shown(place), runs))
    if rows:
        write_text(folder / "course.csv", csv_text(Row, rows))
        write_text(folder / "course.md", markdown(rows))
    elif folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    return rows


def _shown(place: Path) -> str:
    """Return the arguments of the runs in a folder, with DIR for a folder of this machine."""
    words: list[str] = json.loads((place / _MADE_WITH).read_text(encoding="utf-8"))["words"][1:]
    return " ".join(
        "DIR" if before == "--data.root" else word for before, word in zip(["", *words], words, strict=False)
    )
