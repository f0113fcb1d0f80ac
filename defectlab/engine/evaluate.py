"""Evaluate a trained checkpoint on the validation or the test images: `validate` and `test`."""

import html
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from defectlab.engine.configs import override_words, resolve_config_arguments
from defectlab.engine.experiment import DefectCLI
from defectlab.engine.host import as_guest
from defectlab.engine.outcome import outcome_of, write_outcome
from defectlab.engine.processes import guarded
from defectlab.errors import InputError
from defectlab.metrics.classification import SplitMetrics, accuracy_interval
from defectlab.runs import RunFolder, write_text
from defectlab.runs.locate import checkpoint_of, open_trained_run
from defectlab.runs.metrics import accuracy_text, count_correct
from defectlab.tasks.checkpoint import check_fit, read_checkpoint


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
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{row['support']}</td><td>{row['accuracy']:.2%}</td></tr>"
            for name, row in self.metrics["per_class"].items()
            if row["support"]
        )
        head = "<tr><th>class</th><th>images</th><th>accuracy</th></tr>"
        return f"<p>{html.escape(repr(self)[1:-1])}</p><table>{head}{rows}</table>"


def test(
    run: str | Path | RunFolder,
    *,
    model: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    trainer: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> Evaluation:
    """Evaluate a run's best checkpoint on the test images, and write metrics and report.

    Args:
        run: its folder.
        model: settings over the saved ones, such as `{"tta": "flip"}`.
        data: settings over the saved ones; with other images or another network the outcome is written to a folder
            inside the run's.
        trainer: settings over the saved ones.
        progress: draw bars.

    Raises:
        InputError: no run folder or checkpoint, or a setting that cannot be used.
    """
    return _evaluate_run("test", run, override_words({"model": model, "data": data, "trainer": trainer}), progress)


def validate(
    run: str | Path | RunFolder,
    *,
    model: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    trainer: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> Evaluation:
    """Evaluate a run's best checkpoint on the validation images; nothing is written. Arguments as `test`."""
    return _evaluate_run("validate", run, override_words({"model": model, "data": data, "trainer": trainer}), progress)


def _evaluate_run(
    command: Literal["validate", "test"], run: str | Path | RunFolder, changes: Sequence[str], progress: bool
) -> Evaluation:
    with as_guest(progress):
        folder = open_trained_run(run)
        found = evaluate(command, run_words(folder, changes), folder, target_of(command, folder, changes), progress)
    if found is None:
        raise InputError(f"{command} from Python returns in the first process alone: use one device")
    return found


def run_words(run: RunFolder, changes: Sequence[str]) -> list[str]:
    """Return arguments of `test`: config and best checkpoint of a run, then further words."""
    return ["--config", str(run.config), "--ckpt_path", str(checkpoint_of(str(run.path))), *changes]


def evaluate(
    command: Literal["validate", "test"],
    words: list[str],
    run: RunFolder | None = None,
    target: RunFolder | None = None,
    progress: bool = True,
) -> Evaluation | None:
    """Evaluate as the words of a command say, `--config` and `--ckpt_path` among them; None in a process that writes nothing.

    `run` is the folder that the words are of, `target` the one that a test's outcome is written to; None for none.
    """
    words, name = resolve_config_arguments(words)
    if name is None:
        raise InputError(f"{command} needs a run folder, or --config and --ckpt_path: defectlab {command} RUN")
    cli = DefectCLI(command, words, run=run.path if run else Path("runs"), progress=progress)
    trainer, task, data = cli.trainer, cli.model, cli.datamodule
    checkpoint = cli.config_init[command].ckpt_path
    if checkpoint is None:
        raise InputError(f"{command} needs trained weights: give a run folder, or --config and --ckpt_path")
    check_fit(task, read_checkpoint(Path(checkpoint)), Path(checkpoint))
    evaluator = trainer.validate if command == "validate" else trainer.test
    with guarded(trainer, "nothing was written"):
        evaluator(task, datamodule=data, ckpt_path=checkpoint, weights_only=True, verbose=False)
    if not trainer.is_global_zero:
        return None
    stage: Literal["val", "test"] = "val" if command == "validate" else "test"
    if stage == "val":
        target = None
    if target is not None:
        if target != run:
            write_text(target.config, cli.dump())
        write_outcome(target, outcome_of(task, data), trainer, {}, {})
    return Evaluation(stage=stage, metrics=task.results[stage], source=data.source, run=target)


def target_of(command: str, run: RunFolder, changes: Sequence[str]) -> RunFolder:
    """Return the run for a test as it was trained, else a new folder in it: a run keeps its own result."""
    changing = ("--data", "--model", "--ckpt_path", "--config", "-c", "--trainer.limit", "--trainer.precision")
    if not any(word.startswith(changing) for word in changes):
        return run
    return RunFolder(run.path / time.strftime(f"{command}-%Y%m%d-%H%M%S"))
