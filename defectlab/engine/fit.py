"""Train, then test the best checkpoint once: `fit` and `resume`."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from defectlab.data.pipeline.split_table import SplitTable
from defectlab.engine.checks import check_continuation, check_settings
from defectlab.engine.configs import override_words
from defectlab.engine.experiment import DefectCLI
from defectlab.engine.host import as_guest
from defectlab.engine.loggers import EpochCSVLogger
from defectlab.engine.novelty import keep_scorer
from defectlab.engine.outcome import earlier_metrics, outcome_of, training_facts, write_outcome
from defectlab.engine.processes import forget_run, guarded, remember_run, remembered_run
from defectlab.engine.record import evaluate_checkpoint, fit_objects
from defectlab.engine.start import settle_start
from defectlab.engine.start_choice import StartRow
from defectlab.engine.tensorboard import add_augmented
from defectlab.engine.trainer import keep_best, marked
from defectlab.errors import InputError
from defectlab.runs import RunFolder, csv_text, write_text
from defectlab.runs.locate import open_trained_run
from defectlab.runs.lock import locked
from defectlab.runs.state import read_state, write_state
from defectlab.tasks import PretrainedTask
from defectlab.tasks.checkpoint import read_checkpoint
from defectlab.utils.progress import is_first_process
from defectlab.utils.text import shown_path

_log = logging.getLogger(__name__)
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
            words = ["--config", str(config)]
        elif isinstance(config, Mapping) and config:
            words = ["--config", _as_yaml(config)]
        else:
            raise InputError("fit needs a config, such as neu_mobilenet.yaml, or task=... and data=... as objects")
        settings = {"model": model, "data": data, "trainer": _settings(trainer), "seed_everything": seed_everything}
        return returned(*run_fit([*words, *override_words(settings)], target, progress))


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
        return returned(*run_resume(open_trained_run(run), words, progress))


def _as_yaml(config: Mapping[str, Any]) -> str:
    try:
        return yaml.safe_dump(json.loads(json.dumps(config, default=str))) + "\n"
    except (TypeError, ValueError) as error:
        raise InputError(f"config cannot be written as YAML ({error}): expected sections of plain values") from None


def _settings(trainer: Mapping[str, Any] | Trainer | None) -> Mapping[str, Any] | None:
    """Return settings of a trainer, but for those of a run that keeps nothing and so has no folder to return."""
    assert not isinstance(trainer, Trainer)
    if trainer is not None and trainer.get("fast_dev_run"):
        raise InputError("trainer.fast_dev_run keeps nothing, so there is no run to return: leave it out")
    return trainer


def returned(cli: DefectCLI, run: RunFolder | None) -> RunFolder:
    """Return the run folder, in every process of the run."""
    if run is None and cli.trainer.is_global_zero:
        raise InputError("trainer.fast_dev_run keeps nothing, so there is no run to return: set it to false")
    assert cli.run is not None
    return run or RunFolder(cli.run)


def run_fit(
    words: Sequence[str], output: Path | None = None, progress: bool = True, split: SplitTable | None = None
) -> tuple[DefectCLI, RunFolder | None]:
    """Train and test as the words of `fit` say; a new run folder that nothing was trained into is removed.

    The images are divided as in `split`, if one is given.

    What torchrun starts again goes on in the run folder of its first start.

    Returns:
        The experiment, and as `train_and_test`.
    """
    begun = remembered_run()
    if begun is not None:
        _log.warning("torchrun has started this again: going on in %s", shown_path(begun.path))
        ended = run_resume(begun, (), progress)
        forget_run()
        return ended
    words, split, choice = settle_start(words, split)
    if choice is not None and progress:
        print(choice)
    cli = DefectCLI("fit", words, output=output, progress=progress)
    cli.choice = choice
    assert cli.run is not None
    remember_run(cli.run)
    if split is not None:
        cli.datamodule.keep_split(split)
    try:
        with locked(cli.run):
            if is_first_process() and RunFolder(cli.run).config.exists():
                raise InputError(f"output {cli.run} has become a run folder meanwhile: give another one")
            ended = cli, train_and_test(cli)
        forget_run()
        return ended
    except BaseException:
        if cli.trainer.global_step == 0:
            cli.discard()
        raise
    finally:
        if cli.trainer.fast_dev_run:  # type: ignore[attr-defined]
            cli.discard()


def run_resume(run: RunFolder, changes: Sequence[str], progress: bool = True) -> tuple[DefectCLI, RunFolder | None]:
    """Train on where a run was stopped, from its beginning if that was in its first epoch, and test.

    Returns:
        The experiment, and as `train_and_test`.

    Raises:
        InputError: the run is finished and the changes do not lengthen it; its last checkpoint is gone.
    """
    words = ["--config", str(run.config), *changes]
    with locked(run.path):
        if run.last.is_file():
            words += ["--ckpt_path", str(run.last)]
        elif not _in_first_epoch(run):
            raise InputError(f"{run.last} is not there, and the run was trained: put it back, or begin anew with fit")
        else:
            _log.info("%s is not there: the run was stopped in its first epoch and begins anew", run.last)
        cli = DefectCLI("fit", words, run=run.path, progress=progress)
        return cli, train_and_test(cli)


def _in_first_epoch(run: RunFolder) -> bool:
    """Return whether a run without last.ckpt was stopped in its first epoch, after a validation at most."""
    if run.metrics_json.is_file() or len(run.read_curves()) > 1:
        return False
    return all(read_checkpoint(path).get("epoch") == 0 for path in run.path.glob("checkpoints/*.ckpt"))


def train_and_test(cli: DefectCLI) -> RunFolder | None:
    """Train, then evaluate the best checkpoint once on the validation and once on the test images, if there are any.

    Returns:
        The run folder; None from a process that writes nothing, and with `trainer.fast_dev_run`.
    """
    began = time.perf_counter()
    trainer, task, data = cli.trainer, cli.model, cli.datamodule
    given = cli.config_init["fit"]
    assert cli.run is not None
    run = RunFolder(cli.run)
    # A checkpoint that is damaged, foreign or of other data is told before anything is written.
    checkpoint = read_checkpoint(Path(given.ckpt_path)) if given.ckpt_path is not None else None
    check_settings(cli)
    before = run.config.read_text(encoding="utf-8") if run.config.is_file() else None
    if is_first_process():
        # Before anything is written: unusable data leaves nothing behind.
        data.prepare_data()
        data.setup("fit")
        if checkpoint is not None:
            check_continuation(checkpoint, cli)
        for logger in trainer.loggers:
            if isinstance(logger, EpochCSVLogger):
                logger.experiment  # noqa: B018 (reads the rows of before, or refuses them)
        loader = data.train_dataloader()
        if given.trainer.log_every_n_steps is None:
            trainer.log_every_n_steps = min(_MOST_STEPS_BETWEEN_LOGS, max(1, len(loader) // _LOGS_AN_EPOCH))  # type: ignore[attr-defined]
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            write_text(run.config, cli.dump())
            data.split_table().write(run.split_csv)
            if cli.choice is not None:
                write_text(run.path / "starting_points.csv", csv_text(StartRow, cli.choice.rows))
            if before is None:
                write_state(run.path, "training", None, cli.name or run.path.parent.name)
        cached = isinstance(task, PretrainedTask) and task.cache_features  # which nothing augments
        if trainer.loggers and given.ckpt_path is None and not cached:
            images, _ = next(iter(loader))
            add_augmented(trainer.loggers, images[:_ON_SHEET], data.card)
    with marked(run, trainer, before), guarded(trainer, f"go on with: defectlab resume {shown_path(run.path)}"):
        trainer.fit(task, datamodule=data, ckpt_path=given.ckpt_path, weights_only=True)
        seconds = time.perf_counter() - began
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return None
        best = keep_best(trainer, run)
        facts = training_facts(trainer, task, best)
        keep_scorer(trainer, task, data, best)
        evaluate_checkpoint(trainer, task, data, best)
        if not trainer.is_global_zero:
            return None
        config = cli.resolved()
        state, earlier = read_state(run.path), (earlier_metrics(run).get("run") or {}).get("config")
        logged = sum(log.seconds for log in trainer.loggers if isinstance(log, EpochCSVLogger))
        facts |= {
            "config": str((state.config if state else None) or earlier or cli.name or run.path.parent.name),
            "seed": config.seed_everything,
            "weights": (config.model.init_args or {}).get("weights") or "none",
            "lr": task.optimizer.lr,  # as given, or as found
            "train_seconds": round(logged or seconds, 1),
            "total_seconds": round(time.perf_counter() - began, 1),
        }
        if cli.choice is not None:
            facts["start"] = asdict(cli.choice)
        if not run.config.is_file():  # removed while it trained
            write_text(run.config, cli.dump())
        shown = {"seed": config.seed_everything, "model": config.model.as_dict(), "data": config.data.as_dict()}
        write_outcome(run, outcome_of(task, data), trainer, facts, shown)
    return run
