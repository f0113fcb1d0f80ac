"""One experiment: train, then test the best checkpoint once."""

import time
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.callbacks import (
    EarlyStopping,
    LearningRateFinder,
    ModelCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)

from defectlab.callbacks import AveragedWeights
from defectlab.engine.experiment import DefectCLI
from defectlab.engine.loggers import EpochCSVLogger
from defectlab.engine.outcome import earlier_metrics, write_outcome
from defectlab.engine.processes import guarded
from defectlab.engine.tensorboard import add_augmented
from defectlab.errors import InputError
from defectlab.runs import RunFolder, write_text
from defectlab.tasks import ClassificationTask, OptimizerSettings, PretrainedTask
from defectlab.tasks.checkpoint import check_fit, data_state, read_checkpoint
from defectlab.utils.progress import is_first_process
from defectlab.utils.text import shown_path

__all__ = ["train_and_test"]


_MOST_STEPS_BETWEEN_LOGS, _LOGS_AN_EPOCH = 50, 4


_ON_SHEET = 32


def train_and_test(cli: DefectCLI) -> RunFolder | None:
    """Train, then evaluate the best checkpoint once on the validation and once on the test images, if there are any.

    Returns:
        The run folder; None from a process that writes nothing, and with `trainer.fast_dev_run`.
    """
    began = time.perf_counter()
    trainer, task, data = cli.trainer, cli.model, cli.datamodule
    given = cli.config_init["fit"]
    assert cli.run is not None
    run_folder = RunFolder(cli.run)
    # A checkpoint that is damaged, foreign or of other data is told before anything is written.
    checkpoint = read_checkpoint(Path(given.ckpt_path)) if given.ckpt_path is not None else None
    _check_limits(cli)
    _check_monitors(cli)
    _check_callbacks(cli)
    if is_first_process():
        # Before anything is written: unusable data leaves nothing behind.
        data.prepare_data()
        data.setup("fit")
        if checkpoint is not None:
            _check_continuation(checkpoint, cli)
        loader = data.train_dataloader()
        if given.trainer.log_every_n_steps is None:
            steps = len(loader)
            trainer.log_every_n_steps = min(_MOST_STEPS_BETWEEN_LOGS, max(1, steps // _LOGS_AN_EPOCH))  # type: ignore[attr-defined]
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            write_text(run_folder.config, cli.dump())
        if trainer.loggers and given.ckpt_path is None and not _uses_features(task):
            images, _ = next(iter(loader))
            add_augmented(trainer.loggers, images[:_ON_SHEET], data.card)
    advice = f"go on with: defectlab resume {shown_path(run_folder.path)}"
    with guarded(trainer, advice):
        trainer.fit(task, datamodule=data, ckpt_path=given.ckpt_path, weights_only=True)
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return None
        epochs = trainer.current_epoch
        best = _best_checkpoint(cli)
        trainer.validate(task, datamodule=data, ckpt_path=best, weights_only=True, verbose=False)
        if len(data.parts.test):
            trainer.test(task, datamodule=data, verbose=False)
    if not trainer.is_global_zero:
        return None
    config = yaml.safe_load(cli.dump())
    facts = {
        "config": _config_name(run_folder),
        "seed": config["seed_everything"],
        "epochs": epochs,
        "best_epoch": read_checkpoint(Path(best))["epoch"] if best else epochs - 1,
        "parameters": sum(parameter.numel() for parameter in task.parameters()),
        "weights": config["model"]["init_args"].get("weights") or "none",
        "lr": task.optimizer.lr,  # as given, or as found
        "train_seconds": round(sum(log.seconds for log in trainer.loggers if isinstance(log, EpochCSVLogger)), 1),
        "total_seconds": round(time.perf_counter() - began, 1),
    }
    shown = {"seed": config["seed_everything"], "model": config["model"], "data": config["data"]}
    write_outcome(run_folder, task, data, trainer, facts, shown)
    return run_folder


def _uses_features(task: ClassificationTask) -> bool:
    """Whether training sees cached features, which nothing augments."""
    return isinstance(task, PretrainedTask) and task.cache_features


def _best_checkpoint(cli: DefectCLI) -> str | None:
    """The best by the monitored metric, else the last; None tests the weights in memory."""
    callbacks: list[Any] = cli.trainer.callbacks  # type: ignore[attr-defined]
    checkpoints = [callback for callback in callbacks if isinstance(callback, ModelCheckpoint)]
    checkpoints.sort(key=lambda callback: callback.monitor is None)
    return next((callback.best_model_path for callback in checkpoints if callback.best_model_path), None)


def _config_name(run_folder: RunFolder) -> str:
    return str(earlier_metrics(run_folder).get("run", {}).get("config") or run_folder.path.parent.name)


def _check_continuation(checkpoint: dict[str, Any], cli: DefectCLI) -> None:
    path = Path(cli.config_init["fit"].ckpt_path)
    check_fit(cli.model, checkpoint, path)
    cli.datamodule.load_state_dict(data_state(checkpoint, path))
    before = OptimizerSettings(**checkpoint["hyper_parameters"].get("optimizer") or {}).name
    if cli.model.optimizer.name != before:
        raise InputError(
            f"model.optimizer.name is {cli.model.optimizer.name}, but {path} was trained with {before}: what an "
            "optimiser has gathered is of no use to another; keep it, or begin with fit and model.weights"
        )
    done, wanted = checkpoint["epoch"] + 1, cli.trainer.max_epochs
    if wanted is not None and 0 <= wanted < done:
        raise InputError(f"trainer.max_epochs is {wanted}, but {done} epochs are done: give at least as many")


def _check_limits(cli: DefectCLI) -> None:
    for name in ("limit_train_batches", "limit_val_batches", "limit_test_batches"):
        if cli.config_init["fit"].trainer[name] == 0:
            raise InputError(f"trainer.{name} is 0: fit trains, chooses by validation and tests; expected at least 1")


def _check_monitors(cli: DefectCLI) -> None:
    """A name that is never logged would end training after its first epoch."""
    names = cli.model.metric_names(cli.datamodule.class_names)
    watched = {"model.scheduler.monitor": cli.model.scheduler.monitor}
    for callback in cli.trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, ModelCheckpoint | EarlyStopping) and callback.monitor is not None:
            watched[f"trainer.callbacks.{type(callback).__name__}.monitor"] = callback.monitor
    for argument, name in watched.items():
        if name not in names:
            raise InputError(f"{argument} is {name}: expected one of {', '.join(names[:7])}, val/accuracy/<class>")


def _check_callbacks(cli: DefectCLI) -> None:
    """Those of Lightning's that would leave nothing in best.ckpt, or in a one-cycle schedule."""
    ours = {LearningRateFinder: "RateFinder", StochasticWeightAveraging: "SWA", WeightAveraging: "EMA or SWA"}
    for callback in cli.trainer.callbacks:  # type: ignore[attr-defined]
        for kind, name in ours.items():
            if isinstance(callback, kind) and not isinstance(callback, AveragedWeights):
                raise InputError(
                    f"trainer.callbacks has Lightning's {type(callback).__name__}, which does not go with a run that tests "
                    f"its best checkpoint: take defectlab.callbacks.{name}, whose text says why"
                )
