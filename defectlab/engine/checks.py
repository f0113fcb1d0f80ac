"""Refuse, before anything is written, settings that would train for nothing."""

from pathlib import Path
from typing import Any

from lightning.pytorch import callbacks

from defectlab.callbacks import AveragedWeights
from defectlab.callbacks.last import stays_stopped
from defectlab.engine.continuation import check_changes
from defectlab.engine.experiment import DefectCLI
from defectlab.engine.trainer import check_length, check_modes
from defectlab.errors import InputError
from defectlab.runs import RunFolder
from defectlab.runs.state import read_state
from defectlab.tasks.checkpoint import check_fit, data_state


def check_settings(cli: DefectCLI) -> None:
    """Raise InputError for parts without a batch, no length, a monitor that is never logged, or a callback that misleads."""
    given = cli.config_init["fit"].trainer
    for name in ("limit_train_batches", "limit_val_batches", "limit_test_batches"):
        if given[name] == 0:
            raise InputError(f"trainer.{name} is 0: fit trains, chooses by validation and tests; expected at least 1")
    if (
        given.val_check_interval is not None
        and not isinstance(given.val_check_interval, str)
        and not given.val_check_interval
    ):
        raise InputError(
            "trainer.val_check_interval is 0: expected a share of an epoch such as 0.5, or a number of steps"
        )
    check_length(given)
    trainer, scheduler = cli.trainer, cli.model.scheduler
    if scheduler.needs_end and trainer.max_epochs == -1 and trainer.max_steps == -1:
        raise InputError(
            f"model.scheduler is {scheduler.name}, which needs to know the end: give trainer.max_epochs, or take plateau or "
            "constant"
        )
    _check_monitors(cli)
    _check_callbacks(cli)
    check_modes(cli.trainer)


def check_continuation(checkpoint: dict[str, Any], cli: DefectCLI) -> None:
    """Raise InputError for a checkpoint of another network or other data, or that training cannot go on from as asked."""
    path = Path(cli.config_init["fit"].ckpt_path)
    if cli.run is not None and path.resolve() == RunFolder(cli.run).last.resolve():
        _check_unfinished(checkpoint, cli, RunFolder(cli.run))
    check_fit(cli.model, checkpoint, path)
    cli.datamodule.load_state_dict(data_state(checkpoint, path))
    check_changes(checkpoint, cli)


def _check_unfinished(checkpoint: dict[str, Any], cli: DefectCLI, run: RunFolder) -> None:
    """Raise InputError for a finished run that the settings do not lengthen."""
    state, trainer = read_state(run.path), cli.trainer
    finished = run.metrics_json.is_file() if state is None else state.phase == "finished"
    done = checkpoint["epoch"] + 1
    at_end = (trainer.max_epochs is not None and trainer.max_epochs == done) or (
        0 <= trainer.max_steps <= checkpoint["global_step"]
    )
    stopped = stays_stopped(trainer.callbacks, checkpoint)  # type: ignore[attr-defined]
    if finished and (at_end or stopped or (state is not None and not cli.changed)):
        more = "a higher patience of EarlyStopping" if stopped else f"trainer.max_epochs above {done}"
        raise InputError(
            f"{run.path} is finished after {done} epochs: give {more} to train on, or take test, validate or report"
        )


def _check_monitors(cli: DefectCLI) -> None:
    """Raise InputError for a monitor that is never logged, which would end training after its first epoch."""
    names = cli.model.metric_names(cli.datamodule.class_names)
    watched = {"model.scheduler.monitor": cli.model.scheduler.monitor}
    for callback in cli.trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, callbacks.ModelCheckpoint | callbacks.EarlyStopping) and callback.monitor is not None:
            watched[f"trainer.callbacks.{type(callback).__name__}.monitor"] = callback.monitor
    for argument, name in watched.items():
        if name not in names:
            raise InputError(f"{argument} is {name}: expected one of {', '.join(names[:7])}, val/accuracy/<class>")
    for callback in cli.trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, callbacks.EarlyStopping):
            callback.strict = False  # its name is right; an epoch that is not validated has no figure of it


def _check_callbacks(cli: DefectCLI) -> None:
    """Raise InputError for callbacks of Lightning's that leave nothing in best.ckpt, or in a one-cycle schedule."""
    ours = {
        callbacks.LearningRateFinder: "RateFinder",
        callbacks.StochasticWeightAveraging: "SWA",
        callbacks.WeightAveraging: "EMA or SWA",
    }
    for callback in cli.trainer.callbacks:  # type: ignore[attr-defined]
        for kind, name in ours.items():
            if isinstance(callback, kind) and not isinstance(callback, AveragedWeights):
                raise InputError(
                    f"trainer.callbacks has Lightning's {type(callback).__name__}, which does not go with a run that tests "
                    f"its best checkpoint: take defectlab.callbacks.{name}, whose text says why"
                )
