"""Cross-validate repeatedly and stratified: many splits of one data set, a run folder each, and one table."""

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from defectlab.data.pipeline.groups import group_names
from defectlab.engine.configs import override_words, read_arguments
from defectlab.engine.experiment import without_run
from defectlab.engine.host import as_guest
from defectlab.engine.jobs import Job, check_own_settings, run_jobs
from defectlab.errors import InputError, check_at_least
from defectlab.evaluate.crossval_result import CrossValidation, CrossValidationSettings, Protocol, pool
from defectlab.evaluate.same_data import check_same_images
from defectlab.metrics.statistics import corrected_interval
from defectlab.runs import CROSSVAL_FILE, RunFolder, read_crossval, read_own_table, write_text
from defectlab.runs.ensembles import read_own_metrics
from defectlab.runs.metrics import balanced_of
from defectlab.utils.text import csv_rows
from defectlab.utils.typed import check_arguments

_MOST_RUNS = 100_000


@dataclass(frozen=True)
class Fold:
    """One run of a cross-validation: the name of its folder, `data.split`, the seed of both, `data.test_size`."""

    name: str
    split: str
    seed: int
    test_size: float | None = None


def cross_validate(
    config: str | Path | None = None,
    folds: int = 5,
    repeats: int | None = None,
    *,
    protocol: Protocol = "kfold",
    train_per_class: int | None = None,
    overrides: Sequence[str] | Mapping[str, object] = (),
    seed: int = 0,
    output: str | Path | None = None,
    processes: int = 1,
    resume: str | Path | None = None,
    progress: bool = False,
    compare_groups: bool = False,
) -> CrossValidation:
    """Train and test on every split of a plan.

    Args:
        config: a YAML file or the name of a shipped one.
        folds: of each repeat, for kfold.
        repeats: 2 by default, 20 for song-yan.
        protocol: see `plan`.
        train_per_class: images of each class that train in song-yan, validation included; by default half of them.
        overrides: further arguments of `fit`, as words or as values by dotted or nested name.
        seed: of the first repeat; the next take the next numbers.
        output: a new folder; by default runs/crossval-<config>/<time>.
        processes: runs at a time, each with one thread if above 1.
        resume: the folder of an earlier call, in place of a config: what that left undone is done.
        progress: whether to draw a bar on standard error.
        compare_groups: whether to do all of it again without the groups of the data (data.group_by), as most published
            figures do, for `CrossValidation.overstated`.

    Raises:
        InputError: an argument that cannot be used, or a run that failed. Without a finished run the folder is removed.
    """
    check_at_least("processes", processes, 1)
    words = override_words(overrides)
    if resume is not None:
        if words or config is not None:
            raise InputError(f"crossval {resume} goes on with what it was begun with: leave the other arguments out")
        folder, saved = Path(resume), read_crossval(resume)
        try:
            check_arguments(CrossValidationSettings, saved["arguments"])
            settings, words = CrossValidationSettings(**saved["arguments"]), tuple(saved["fit"])
            _check_plan(settings)
            fixed = _fixed_statistics(settings, words)
        except (InputError, TypeError) as error:
            raise InputError(
                f"{folder / CROSSVAL_FILE} is not as it was written ({error}): put it back, or begin anew"
            ) from None
    else:
        if config is None:
            raise InputError(
                "crossval needs a config: defectlab crossval --config neu_mobilenet.yaml [--data.root DIR]"
            )
        repeats = (20 if protocol == "song-yan" else 2) if repeats is None else repeats
        settings = CrossValidationSettings(
            config=str(config), protocol=protocol, folds=folds, repeats=repeats, seed=seed, compare_groups=compare_groups
        )  # fmt: skip
        _check_plan(settings)
        settings = replace(settings, test_size=_test_size(settings, train_per_class, words))
        fixed = _fixed_statistics(settings, words)
        folder = _new_folder(settings, output)
        _save(folder, settings, words, None)
    runs, jobs = [], []
    for fold in plan(settings.protocol, settings.folds, settings.repeats, settings.seed, settings.test_size):
        runs.append(run := RunFolder(folder / fold.name))
        own = (
            fixed | {"data.split": fold.split} | ({} if fold.test_size is None else {"data.test_size": fold.test_size})
        )
        if not run.finished:
            jobs.append(Job(
                name=fold.name, folder=run.path, seed=fold.seed, settings=own, config=settings.config, overrides=words,
            ))  # fmt: skip
    first: list[RunFolder] = []  # what each later one has to agree with

    def check(run: RunFolder) -> None:
        first.append(run) if not first else check_same_images([first[0], run])

    try:
        for run in runs:
            if run.finished:
                check(run)
        with as_guest(progress):
            run_jobs(
                jobs, done=len(runs) - len(jobs), processes=processes, progress=progress,
                on_done=lambda job, _: check(RunFolder(job.folder)),
            )  # fmt: skip
    except InputError:
        if not any(run.finished for run in runs):  # nothing that would be lost
            shutil.rmtree(folder, ignore_errors=True)
            for above in folder.parents[:2] if resume is None and output is None else ():
                with suppress(OSError):  # not empty
                    above.rmdir()
        raise
    ungrouped, apart = None, folder / "ungrouped"
    if settings.compare_groups and (apart / CROSSVAL_FILE).is_file():
        ungrouped = cross_validate(resume=apart, processes=processes, progress=progress)
    elif settings.compare_groups:
        ungrouped = cross_validate(
            settings.config, settings.folds, settings.repeats, protocol=settings.protocol, seed=settings.seed, output=apart,
            overrides=[*words, "--data.group_by", "null"], processes=processes, progress=progress,
        )  # fmt: skip
    summary = _summarise(runs)
    pooled = pool([read_own_table(run) for run in runs])
    _save(folder, settings, words, summary)
    RunFolder(folder).write_predictions(
        pooled.files, pooled.labels, pooled.probabilities, pooled.class_names, pooled.thresholds
    )
    columns = ("run", "accuracy", "balanced_accuracy", "macro_f1", "n", "split_hash")
    write_text(folder / "runs.csv", csv_rows([columns, *([row[name] for name in columns] for row in summary["runs"])]))
    return CrossValidation(
        folder=folder, settings=settings, rows=summary["runs"], mean=summary["accuracy"], sd=summary["sd"],
        interval=(summary["low"], summary["high"]), pooled=pooled, ungrouped=ungrouped,
    )  # fmt: skip


def plan(protocol: Protocol, folds: int, repeats: int, seed: int, test_size: int | None = None) -> list[Fold]:
    """List every run, in order.

    `kfold` divides the images into folds, anew for each repeat, and tests each fold once. `song-yan` draws half of
    every class for training and tests the other half (Song & Yan, Applied Surface Science 285 (2013), section 4), or it
    tests `test_size` images in all.
    """
    if protocol == "song-yan":
        size = 0.5 if test_size is None else test_size
        return [Fold(f"repeat{repeat + 1:03}", "random", seed + repeat, size) for repeat in range(repeats)]
    return [
        Fold(f"repeat{repeat + 1}-fold{fold}", f"{fold}/{folds}", seed + repeat)
        for repeat in range(repeats)
        for fold in range(1, folds + 1)
    ]


def _check_plan(settings: CrossValidationSettings) -> None:
    """Raise InputError for numbers that make no plan."""
    if settings.protocol not in ("kfold", "song-yan"):
        raise InputError(f"protocol is {settings.protocol!r}: expected kfold or song-yan")
    least = 2 if settings.protocol == "song-yan" else 1
    for name, low in (("folds", 2), ("repeats", least), ("seed", 0)):
        check_at_least(name, getattr(settings, name), low)
    if settings.folds * settings.repeats > _MOST_RUNS:
        raise InputError(f"folds times repeats are more than {_MOST_RUNS:,} runs: give fewer")


def _test_size(settings: CrossValidationSettings, train_per_class: int | None, words: Sequence[str]) -> int | None:
    """Check the arguments of fit; return how many images are left for the test when so many of each class train."""
    own = ("data.split", "data.seed", "seed_everything", "data.test_size", "ckpt_path")
    check_own_settings("crossval", words, own, "seed moves all of them")
    if train_per_class is None and not settings.compare_groups:
        return None
    if train_per_class is not None and settings.protocol != "song-yan":
        raise InputError("train_per_class is for the protocol song-yan: leave it out, or take that protocol")
    with without_run(settings.config, words) as cli:
        cli.datamodule.prepare_data()
        data = cli.datamodule.load()
        grouped = group_names(cli.datamodule.group_by, data.files, data.records) is not None
        counts = np.bincount(data.labels.numpy())
    if settings.compare_groups and not grouped:
        raise InputError("compare_groups is for data with groups: give data.group_by, a column or a pattern")
    if train_per_class is None:
        return None
    if grouped or len(set(counts.tolist())) > 1 or not 2 <= train_per_class < counts[0]:
        raise InputError(
            f"train_per_class is {train_per_class}, the classes have {counts.min()} to {counts.max()} images: expected "
            "classes of the same size, no groups, and at least 2 and fewer than that; leave it out to take half of each"
        )
    return int(counts.sum() - train_per_class * len(counts))


def _fixed_statistics(settings: CrossValidationSettings, words: Sequence[str]) -> dict[str, object]:
    """Measure mean and sd over all images, without their labels, where features are cached: they are then of all runs.

    Otherwise each run measures its own training images.
    """
    with without_run(settings.config, words) as cli:
        data = cli.datamodule
        if not getattr(cli.model, "cache_features", False) or not data.measures:
            return {}
        data.prepare_data()
        images = data.load()
        mean, sd = images.statistics(np.arange(len(images.labels)))
    copies = data.channels // len(mean)
    return {"data.mean": mean * copies, "data.std": sd * copies}


def _new_folder(settings: CrossValidationSettings, output: str | Path | None) -> Path:
    config_name = read_arguments(["--config", settings.config]).name
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder = Path("runs") / f"crossval-{config_name}" / stamp if output is None else Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            f"{folder} is there already: go on with it by `defectlab crossval FOLDER`, or name a new folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _save(
    folder: Path, settings: CrossValidationSettings, words: Sequence[str], summary: dict[str, Any] | None
) -> None:
    """Write crossval.json."""
    saved = {"arguments": asdict(settings), "fit": list(words), **({"summary": summary} if summary else {})}
    write_text(folder / CROSSVAL_FILE, json.dumps(saved, indent=2, ensure_ascii=False) + "\n")


def _summarise(runs: Sequence[RunFolder]) -> dict[str, Any]:
    """Compute the mean accuracy, its sd and the corrected 95 % interval over runs; in [0, 1]."""
    rows, ratios = [], []
    for run in runs:
        metrics = read_own_metrics(run)
        test, data = metrics["test"], metrics["data"]
        counts = {part: sum(data["counts"][part].values()) for part in ("train", "test")}
        ratios.append(counts["test"] / counts["train"])
        row = {"accuracy": test["accuracy"], "balanced_accuracy": balanced_of(test), "macro_f1": test["macro_f1"]}
        rows.append({"run": run.path.name, **row, "n": test["n"], "split_hash": data["split_hash"]})
    scores = [float(row["accuracy"]) for row in rows]
    low, high = corrected_interval(scores, fmean(ratios))
    low, high = max(low, 0.0), min(high, 1.0)  # the t interval knows nothing of bounds
    return {
        "accuracy": fmean(scores), "sd": stdev(scores), "low": low, "high": high,
        "test_to_train": fmean(ratios), "runs": rows,
    }  # fmt: skip
