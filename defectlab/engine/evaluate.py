"""Evaluate a trained checkpoint on the validation or the test images, or on a whole set: `validate` and `test`."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from defectlab.data.pipeline.split_table import SplitTable
from defectlab.data.pipeline.splits import WHOLE
from defectlab.engine.configs import override_words
from defectlab.engine.experiment import DefectCLI
from defectlab.engine.host import as_guest
from defectlab.engine.outcome import outcome_of, write_outcome
from defectlab.engine.processes import guarded
from defectlab.errors import InputError
from defectlab.metrics.classification import SplitMetrics, accuracy_interval
from defectlab.runs import RunFolder, write_text
from defectlab.runs.create import stamped_folder
from defectlab.runs.locate import checkpoint_of, open_trained_run
from defectlab.runs.lock import locked
from defectlab.runs.metrics import accuracy_text, count_correct
from defectlab.runs.state import write_state
from defectlab.tasks.checkpoint import check_fit, data_state, read_checkpoint
from defectlab.utils.text import html_table, listed
from defectlab.utils.yamls import read_yaml

_log = logging.getLogger(__name__)

Command = Literal["validate", "test"]
# Options by which a run's own result would be of other images or of another network.
_CHANGING = ("--data", "--model", "--ckpt_path", "--config", "-c", "--trainer.limit", "--trainer.precision")


@dataclass(frozen=True, kw_only=True, repr=False)
class Evaluation:
    """Metrics (see `SplitMetrics`) of one checkpoint on one part of a data set.

    Args:
        source: `real` or `synthetic` images.
        run: folder that the metrics were written to; None where nothing was.
    """

    stage: Literal["val", "test"]
    metrics: SplitMetrics
    source: str
    run: RunFolder | None

    @property
    def accuracy(self) -> float:
        """Accuracy in [0, 1]."""
        return self.metrics["accuracy"]

    @property
    def n(self) -> int:
        """Number of images."""
        return self.metrics["n"]

    @property
    def hits(self) -> int:
        """Number of correct images."""
        return count_correct(self.metrics)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson interval of the accuracy, 95 %."""
        return accuracy_interval(self.hits, self.n)

    def __repr__(self) -> str:
        return f"<{accuracy_text(self.stage, self.metrics, self.source)}>"

    def _repr_html_(self) -> str:
        """Return a table of the classes for a notebook."""
        rows = [
            {"class": name, "images": row["support"], "recall": row["recall"], "precision": row["precision"]}
            for name, row in self.metrics["per_class"].items()
        ]
        return html_table(repr(self)[1:-1], rows)


def test(
    run: str | Path | RunFolder,
    *,
    on: str | Path | None = None,
    model: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    trainer: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> Evaluation:
    """Evaluate a run's best checkpoint on the test images, and write metrics and report.

    Args:
        run: its folder.
        on: folder or .zip of other labelled images, all of which are evaluated by the run's class names, also where a
            class is absent; `data={"root": ...}` means the same.
        model: settings over the saved ones, such as `{"tta": "flip"}`.
        data: settings over the saved ones; with other images or another network the outcome is written to a folder
            inside the run's.
        trainer: settings over the saved ones.
        progress: draw bars.

    Raises:
        InputError: no run folder or checkpoint, images of the run that are missing or changed, or a setting that cannot
            be used.
    """
    return _evaluate_as_guest("test", run, on, {"model": model, "data": data, "trainer": trainer}, progress)


def validate(
    run: str | Path | RunFolder,
    *,
    on: str | Path | None = None,
    model: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    trainer: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> Evaluation:
    """Evaluate a run's best checkpoint on the validation images; nothing is written. Arguments as `test`."""
    return _evaluate_as_guest("validate", run, on, {"model": model, "data": data, "trainer": trainer}, progress)


def _evaluate_as_guest(
    command: Command, run: str | Path | RunFolder, on: str | Path | None, settings: Mapping[str, Any], progress: bool
) -> Evaluation:
    with as_guest(progress):
        found = evaluate_run(command, open_trained_run(run), override_words(settings), on, progress)
    if found is None:
        raise InputError(f"{command} from Python returns in the first process alone: use one device")
    return found


def evaluate_run(
    command: Command, run: RunFolder, changes: Sequence[str], on: str | Path | None = None, progress: bool = True
) -> Evaluation | None:
    """Evaluate a run's best checkpoint, with `changes` as further words of the command; see `test`.

    Returns:
        The evaluation; None in a process that writes nothing.
    """
    best = checkpoint_of(run)
    words = ["--config", str(run.config), "--ckpt_path", str(best), *changes]
    words += [] if on is None else ["--data.root", str(on)]
    if on is not None and ((read_yaml(run.config) or {}).get("data") or {}).get("init_args", {}).get("labels"):
        words += ["--data.labels", "null"]  # those of the run's own images
    other = any(word.partition("=")[0] == "--data.root" for word in words)
    own = not other and not any(word.startswith(_CHANGING) for word in changes)
    with locked(run.path) if own and command == "test" else nullcontext():
        cli = _other_set(command, words, run, best, progress) if other else None
        cli = cli or DefectCLI(command, words, run=run.path, progress=progress)
        found = _evaluate(cli, validates=own and command == "test" and not _has_validation(run))
        if found is None or command == "validate":
            return found
        target = run
        if not own:
            target = RunFolder(stamped_folder(run.path, "test-", "evaluate a run")[0])
            write_text(target.config, cli.dump())
            cli.datamodule.split_table().write(target.split_csv)
            write_state(target.path, "finished", best)
        write_outcome(target, outcome_of(cli.model, cli.datamodule), cli.trainer, {}, {})
    return replace(found, run=target)


def _other_set(command: Command, words: Sequence[str], run: RunFolder, best: Path, progress: bool) -> DefectCLI | None:
    """Build the evaluation of all images of another set; None if they are the run's own, which have moved."""
    state = data_state(read_checkpoint(best), best)
    more = ["--data.split", "test", *override_words({"data.class_names": list(state["class_names"])})]
    cli = DefectCLI(command, [*words, *more], run=run.path, progress=progress, keep_split=False)
    data = cli.datamodule
    data.load_state_dict(state)
    data.prepare_data()
    data.setup("test")
    if not run.split_csv.is_file():
        return cli
    known, here = SplitTable.read(run.split_csv).rows, data.split_table().rows
    if {(row.file, row.hash) for row in known} <= {(row.file, row.hash) for row in here}:
        _log.warning("%s holds the run's own images: its test part is evaluated", data.location)
        return None
    used = {row.hash for row in known if row.part != "test"}
    seen = [row.file for row in here if row.hash in used]
    if seen:
        _log.warning(
            "%d of the %d images of %s were in the run's training or validation part (%s): what the network has learned by "
            "heart makes the result look better than it is", len(seen), len(here), data.location, listed(seen),
        )  # fmt: skip
    return cli


def evaluate_words(command: Command, words: Sequence[str]) -> Evaluation | None:
    """Evaluate as the words of a command say, `--config` and `--ckpt_path` among them, and write nothing."""
    return _evaluate(DefectCLI(command, words, run=Path("runs"), keep_split=False))


def _evaluate(cli: DefectCLI, validates: bool = False) -> Evaluation | None:
    """Evaluate the checkpoint of a command, on the validation images too if asked; None in a later process."""
    trainer, task, data = cli.trainer, cli.model, cli.datamodule
    checkpoint = cli.config_init[cli.command].ckpt_path
    if checkpoint is None:
        raise InputError(f"{cli.command} needs trained weights: give a run folder, or --config and --ckpt_path")
    saved = read_checkpoint(Path(checkpoint))
    check_fit(task, saved, Path(checkpoint))
    data.load_state_dict(data_state(saved, Path(checkpoint)))  # what it brings is not measured
    tests = cli.command == "test" or data.split == WHOLE
    evaluators = [
        *([trainer.validate] if (validates and data.split != WHOLE) or not tests else []),
        *([trainer.test] if tests else []),
    ]
    with guarded(trainer, "nothing was written"):
        for evaluator in evaluators:
            evaluator(task, datamodule=data, ckpt_path=checkpoint, weights_only=True, verbose=False)
    if not trainer.is_global_zero:
        return None
    stage: Literal["val", "test"] = "test" if tests else "val"
    return Evaluation(stage=stage, metrics=task.results[stage], source=data.source, run=None)


def _has_validation(run: RunFolder) -> bool:
    """Return whether the validation figures of a run are those of its best checkpoint."""
    try:
        return "val" in (metrics := run.read_metrics()) and metrics["run"].get("checkpoint") == run.fingerprint
    except (InputError, KeyError):
        return False
