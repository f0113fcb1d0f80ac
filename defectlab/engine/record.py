"""Write run folders for ready objects: a task, a datamodule and a trainer that no config describes."""

import inspect
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import yaml

from defectlab.data import ImageDataModule
from defectlab.engine.experiment import LINKS
from defectlab.engine.foreign import evaluate_foreign
from defectlab.engine.host import as_guest
from defectlab.engine.novelty import keep_scorer
from defectlab.engine.outcome import Outcome, outcome_of, training_facts, write_outcome
from defectlab.engine.processes import guarded
from defectlab.engine.trainer import (
    TRAINER_ERRORS,
    check_length,
    check_modes,
    check_trainer,
    keep_best,
    marked,
    trainer_error,
    trainer_parts,
)
from defectlab.errors import InputError
from defectlab.runs import RunFolder, write_text
from defectlab.runs.create import claim_run_folder, new_run_folder, remove_made
from defectlab.runs.lock import locked
from defectlab.runs.state import write_state
from defectlab.tasks import ClassificationTask
from defectlab.tasks.hparams import NOT_PLAIN, to_plain_values
from defectlab.utils.text import shown_path


def evaluate_checkpoint(
    trainer: pl.Trainer, task: ClassificationTask, data: ImageDataModule, checkpoint: str | None
) -> None:
    """Evaluate a checkpoint (None: the weights as they are) on the validation and on the test images, if there are any."""
    trainer.validate(task, datamodule=data, ckpt_path=checkpoint, weights_only=True, verbose=False)
    if len(data.parts.test):
        trainer.test(task, datamodule=data, ckpt_path=checkpoint, weights_only=True, verbose=False)


def fit_objects(
    task: pl.LightningModule,
    data: pl.LightningDataModule,
    trainer: pl.Trainer | Mapping[str, Any] | None,
    seed: int | None,
    output: Path | None,
    progress: bool,
) -> RunFolder:
    """Train ready objects into a run folder; see `defectlab.engine.fit.fit`.

    A trainer that is given by its settings gets our loggers, checkpoints and progress beside the callbacks and loggers
    among them; a ready one is used as it is.
    """
    if not isinstance(task, pl.LightningModule):
        raise InputError(
            f"task is {type(task).__name__}: expected a LightningModule, such as ClassificationTask(network, num_classes=6)"
        )
    settings = {} if isinstance(trainer, pl.Trainer) else dict(trainer or {})
    if not isinstance(trainer, pl.Trainer):
        check_length(settings)
    if seed is not None:
        pl.seed_everything(seed, workers=True, verbose=False)
    root = trainer.default_root_dir if isinstance(trainer, pl.Trainer) else settings.pop("default_root_dir", "runs")
    run, made = _make_folder(output, Path(root), task)
    try:
        with locked(run.path):
            if not isinstance(trainer, pl.Trainer):
                monitor = "val/loss" if isinstance(task, ClassificationTask) else None
                trainer = _make_trainer(run.path, settings, progress, monitor)
            check_trainer(trainer)
            check_modes(trainer)
            began = time.perf_counter()
            with marked(run, trainer, None), guarded(trainer, f"what is there is in {shown_path(run.path)}"):
                trainer.fit(task, datamodule=data)
                seconds = round(time.perf_counter() - began, 1)
                return _record(trainer, task, data, run, {"seed": seed, "train_seconds": seconds})
    except BaseException:
        remove_made(made, keep=any(run.path.glob("checkpoints/*")))
        raise


def record_run(
    trainer: pl.Trainer, task: pl.LightningModule, data: pl.LightningDataModule, output: str | Path | None = None
) -> RunFolder:
    """Make the run folder of a training that is over: evaluate its best checkpoint, and report.

    After `trainer.fit(task, datamodule=data)` the folder holds config.yaml (the hyper-parameters), the best checkpoint,
    metrics.json, the prediction tables and report.html, so that `compare`, `report` and `ensemble` take it. A task that
    is none of defectlab's is evaluated by its `forward`, which has to give logits `(N, C)` of a batch's images.

    Args:
        trainer: what trained.
        task: what was trained.
        data: gives `(images, labels)` for validation, and for the test if it has one.
        output: path of the run folder; None for a new one under `trainer.default_root_dir`.

    Raises:
        InputError: an output that is a run already, or data that cannot be evaluated.
    """
    target = None if output is None else Path(output)
    with as_guest():
        run, made = _make_folder(target, Path(trainer.default_root_dir), task)
        try:
            with locked(run.path), marked(run, trainer, None):
                return _record(trainer, task, data, run, {})
        except BaseException:
            remove_made(made)
            raise


def _make_folder(output: Path | None, root: Path, task: pl.LightningModule) -> tuple[RunFolder, list[Path]]:
    if output is None:
        root = root.expanduser().resolve()
        root = root / "runs" if root == Path.cwd() else root  # cwd: Lightning's default
    folder, made = claim_run_folder(output) if output is not None else new_run_folder(root, type(task).__name__)
    return RunFolder(folder), made


def _make_trainer(folder: Path, settings: dict[str, Any], progress: bool, monitor: str | None) -> pl.Trainer:
    """Build a trainer that writes into the run folder; what the settings name is added to ours."""
    ours = trainer_parts(folder, settings, progress=progress, monitor=monitor, trains=True)
    try:
        return pl.Trainer(**{"num_sanity_val_steps": 0, "enable_progress_bar": progress, **settings, **ours})
    except TRAINER_ERRORS as error:
        raise trainer_error(error) from None


def _record(
    trainer: pl.Trainer, task: pl.LightningModule, data: pl.LightningDataModule, run: RunFolder, facts: dict[str, Any]
) -> RunFolder:
    """Evaluate the best checkpoint, and write what a run folder holds."""
    best = keep_best(trainer, run)
    facts = {"config": type(task).__name__, **facts, **training_facts(trainer, task, best)}
    if not Path(best).resolve().is_relative_to(run.path.resolve()):
        outside, best = best, str(run.checkpoints / "best.ckpt")
        if trainer.is_global_zero:
            run.checkpoints.mkdir(parents=True, exist_ok=True)
            write_state(run.path, "training", Path(shutil.copyfile(outside, best)))
        trainer.strategy.barrier()
    found = _evaluate(trainer, task, data, best)
    if not trainer.is_global_zero:
        return run
    sections = _sections(trainer, task, data, facts.get("seed"))
    write_text(run.config, yaml.safe_dump(sections, sort_keys=False, allow_unicode=True))
    if isinstance(data, ImageDataModule):
        data.split_table().write(run.split_csv)
    write_outcome(run, found, trainer, facts, sections)
    return run


def _evaluate(trainer: pl.Trainer, task: pl.LightningModule, data: pl.LightningDataModule, best: str) -> Outcome:
    """Evaluate a checkpoint, also of a task and data that are not defectlab's."""
    if isinstance(task, ClassificationTask) and isinstance(data, ImageDataModule):
        keep_scorer(trainer, task, data, best)
        evaluate_checkpoint(trainer, task, data, best)
        return outcome_of(task, data)
    return evaluate_foreign(task, data, best)


def _sections(
    trainer: pl.Trainer, task: pl.LightningModule, data: pl.LightningDataModule, seed: int | None
) -> dict[str, Any]:
    """Describe the objects as a config does, as far as their arguments are plain values."""
    given = {name: value for name, value in _arguments(task).items() if name not in LINKS.values()}
    return {
        "seed_everything": 0 if seed is None else seed,
        "model": {"class_path": _path(task), "init_args": given},
        "data": {"class_path": _path(data), "init_args": _arguments(data)},
        "trainer": {"max_epochs": trainer.max_epochs, "precision": trainer.precision},
    }


def _path(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _arguments(value: Any) -> dict[str, Any]:
    """Return the arguments of a constructor: its saved hyper-parameters, else what is kept under their names."""
    names = list(inspect.signature(type(value).__init__).parameters)[1:]
    saved = dict(getattr(value, "hparams", {})) or {
        name: getattr(value, name) for name in names if hasattr(value, name)
    }
    found = {str(name): to_plain_values(item) for name, item in saved.items()}
    return {name: item for name, item in found.items() if item is not NOT_PLAIN}
