"""Train, then test the best checkpoint once: `fit` and `resume`."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, callbacks

from defectlab.callbacks import AveragedWeights
from defectlab.engine.configs import override_words, resolve_config_arguments
from defectlab.engine.continuation import check_continuation
from defectlab.engine.experiment import DefectCLI
from defectlab.engine.host import as_guest
from defectlab.engine.loggers import EpochCSVLogger
from defectlab.engine.outcome import earlier_metrics, outcome_of, write_outcome
from defectlab.engine.processes import guarded
from defectlab.engine.record import best_checkpoint, evaluate_checkpoint, fit_objects
from defectlab.engine.tensorboard import add_augmented
from defectlab.errors import InputError
from defectlab.runs import RunFolder, write_text
from defectlab.runs.locate import open_trained_run
from defectlab.tasks import PretrainedTask
from defectlab.tasks.checkpoint import read_checkpoint
from defectlab.utils.progress import is_first_process
from defectlab.utils.text import shown_path

_MOST_STEPS_BETWEEN_LOGS, _LOGS_AN_EPOCH, _ON_SHEET = 50, 4, 32


def fit(
    config: str | Path | Mapping[str, Any] | None = None,
    *,
    model: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | LightningDataModule | None = None,
    trainer: Mapping[str, Any] | Trainer | None = None,
    task: LightningModule | None = None,
    seed_everything: int | None = None,
    output: str | Path | None = None,
    progress: bool = False,
) -> RunFolder:
    """Train as a config says, or with ready objects, and test the best checkpoint once.

    `fit("neu_mobilenet.yaml", data={"root": "NEU"})` is `defectlab fit --config neu_mobilenet.yaml --data.root NEU`;
    `fit(task=task, data=data, trainer={"max_epochs": 3})` makes the same run folder for objects.

    Args:
        config: YAML file, name of a shipped one, or sections by name; None with ready objects.
        model: settings over the config's, such as `{"optimizer": {"lr": 0.01}}`.
        data: settings over the config's, or a ready datamodule.
        trainer: settings over the config's or over Lightning's, or a ready trainer.
        task: a ready task; needs a ready datamodule.
        seed_everything: a number from 0; None for the config's, or to leave random numbers alone with ready objects.
        output: path of the run folder; None for a new one under `trainer.default_root_dir`.
        progress: print a line an epoch, and draw bars.

    Raises:
        InputError: a setting that cannot be used, in the command's words; an output that is a run already.
    """
    target = None if output is None else Path(output)
    with as_guest(progress):
        if task is not None or isinstance(data, LightningDataModule) or isinstance(trainer, Trainer):
            if task is None or not isinstance(data, LightningDataModule):
                raise InputError("fit was given a part of a ready experiment: expected task and data, both as objects")
            if config is not None or model is not None:
                raise InputError(
                    "fit was given a config or model settings beside a ready task: expected one of the two"
                )
            return fit_objects(task, data, trainer, seed_everything, target, progress)
        if isinstance(config, str | Path):
            words, name = resolve_config_arguments(["--config", str(config)])
        elif config:
            words, name = ["--config", yaml.safe_dump(dict(config)) + "\n"], None
        else:
            raise InputError("fit needs a config, such as neu_mobilenet.yaml, or task=... and data=... as objects")
        words += override_words(
            {"model": model, "data": data, "trainer": _settings(trainer), "seed_everything": seed_everything}
        )
        cli = DefectCLI("fit", words, name=name, output=target, progress=progress)
        return _returned(cli)


def resume(
    run: str | Path | RunFolder,
    *,
    model: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    trainer: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> RunFolder:
    """Train on from last.ckpt with the saved config: after an interruption, or with more `max_epochs`.

    Args:
        run: its folder.
        model: settings over the saved ones.
        data: settings over the saved ones, such as `{"root": "NEU"}` where the images have moved.
        trainer: settings over the saved ones, such as `{"max_epochs": 30}`.
        progress: print a line an epoch, and draw bars.

    Raises:
        InputError: no run folder, or a setting that cannot be used.
    """
    with as_guest(progress):
        words = override_words({"model": model, "data": data, "trainer": _settings(trainer)})
        return _returned(resumed(open_trained_run(run), words, progress))


def _settings(trainer: Mapping[str, Any] | Trainer | None) -> Mapping[str, Any] | None:
    """Return settings of a trainer, but for those of a run that keeps nothing and so has no folder to return."""
    assert not isinstance(trainer, Trainer)
    if trainer is not None and trainer.get("fast_dev_run"):
        raise InputError("trainer.fast_dev_run keeps nothing, so there is no run to return: leave it out")
    return trainer


def _returned(cli: DefectCLI) -> RunFolder:
    """Train and test; the run folder in every process of the run."""
    run = train_and_discard(cli)
    if run is None and cli.trainer.is_global_zero:
        raise InputError("trainer.fast_dev_run keeps nothing, so there is no run to return: set it to false")
    assert cli.run is not None
    return run or RunFolder(cli.run)


def resumed(run: RunFolder, changes: Sequence[str], progress: bool = True) -> DefectCLI:
    """Build the experiment that goes on where a run was stopped, from its beginning if that was in its first epoch."""
    words, _ = resolve_config_arguments(["--config", str(run.config), *changes])
    if run.last.is_file():
        words += ["--ckpt_path", str(run.last)]
    return DefectCLI("fit", words, run=run.path, progress=progress)


def train_and_discard(cli: DefectCLI) -> RunFolder | None:
    """Train and test; remove a new run folder that nothing was written to."""
    try:
        return train_and_test(cli)
    except (InputError, OSError):
        if cli.trainer.global_step == 0:
            cli.discard()
        raise
    finally:
        if cli.run is not None and not RunFolder(cli.run).config.is_file():
            cli.discard()


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
    for name in ("limit_train_batches", "limit_val_batches", "limit_test_batches"):
        if given.trainer[name] == 0:
            raise InputError(f"trainer.{name} is 0: fit trains, chooses by validation and tests; expected at least 1")
    _check_monitors(cli)
    _check_callbacks(cli)
    if is_first_process():
        # Before anything is written: unusable data leaves nothing behind.
        data.prepare_data()
        data.setup("fit")
        if checkpoint is not None:
            check_continuation(checkpoint, cli)
        loader = data.train_dataloader()
        if given.trainer.log_every_n_steps is None:
            trainer.log_every_n_steps = min(_MOST_STEPS_BETWEEN_LOGS, max(1, len(loader) // _LOGS_AN_EPOCH))  # type: ignore[attr-defined]
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            write_text(run_folder.config, cli.dump())
        cached = isinstance(task, PretrainedTask) and task.cache_features  # which nothing augments
        if trainer.loggers and given.ckpt_path is None and not cached:
            images, _ = next(iter(loader))
            add_augmented(trainer.loggers, images[:_ON_SHEET], data.card)
    advice = f"go on with: defectlab resume {shown_path(run_folder.path)}"
    with guarded(trainer, advice):
        trainer.fit(task, datamodule=data, ckpt_path=given.ckpt_path, weights_only=True)
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return None
        epochs = trainer.current_epoch
        best = best_checkpoint(trainer)
        evaluate_checkpoint(trainer, task, data, best)
    if not trainer.is_global_zero:
        return None
    config = cli.resolved()
    earlier = earlier_metrics(run_folder).get("run", {}).get("config")
    facts = {
        "config": str(earlier or cli.name or run_folder.path.parent.name),
        "seed": config.seed_everything,
        "epochs": epochs,
        "best_epoch": read_checkpoint(Path(best))["epoch"] if best else epochs - 1,
        "parameters": sum(parameter.numel() for parameter in task.parameters()),
        "weights": (config.model.init_args or {}).get("weights") or "none",
        "lr": task.optimizer.lr,  # as given, or as found
        "train_seconds": round(sum(log.seconds for log in trainer.loggers if isinstance(log, EpochCSVLogger)), 1),
        "total_seconds": round(time.perf_counter() - began, 1),
    }
    shown = {"seed": config.seed_everything, "model": config.model.as_dict(), "data": config.data.as_dict()}
    write_outcome(run_folder, outcome_of(task, data), trainer, facts, shown)
    return run_folder


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
