"""Run folders for ready objects: a task, a datamodule and a trainer that no config describes."""

import hashlib
import inspect
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from defectlab.callbacks.progress import EpochLines
from defectlab.data import ImageDataModule
from defectlab.engine.checkpoint_io import AtomicCheckpointIO
from defectlab.engine.experiment import LINKS, claim_run_folder, new_run_folder
from defectlab.engine.host import as_guest
from defectlab.engine.loggers import EpochCSVLogger, EventsLogger
from defectlab.engine.outcome import DescribedData, Evaluated, write_outcome
from defectlab.engine.processes import guarded
from defectlab.errors import InputError
from defectlab.metrics.classification import SplitMetrics, evaluate_predictions
from defectlab.runs import RunFolder, write_text
from defectlab.tasks import ClassificationTask
from defectlab.tasks.hparams import NOT_PLAIN, to_plain_values
from defectlab.utils.text import shown_path

__all__ = ["best_checkpoint", "fit_objects", "record_run"]


def best_checkpoint(trainer: pl.Trainer) -> str | None:
    """Return the best checkpoint by the monitored metric, else the last; None where there is none."""
    checkpoints = [one for one in trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint)]
    checkpoints.sort(key=lambda callback: callback.monitor is None)
    return next((callback.best_model_path for callback in checkpoints if callback.best_model_path), None)


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
    if seed is not None:
        pl.seed_everything(seed, workers=True, verbose=False)
    settings = {} if isinstance(trainer, pl.Trainer) else dict(trainer or {})
    root = trainer.default_root_dir if isinstance(trainer, pl.Trainer) else settings.pop("default_root_dir", "runs")
    folder, made = _make_folder(output, Path(root), task)
    try:
        if not isinstance(trainer, pl.Trainer):
            trainer = _make_trainer(folder, settings, progress, monitor="val/loss" if _is_ours(task) else None)
        began = time.perf_counter()
        with guarded(trainer, f"what is there is in {shown_path(folder)}"):
            trainer.fit(task, datamodule=data)
        seconds = round(time.perf_counter() - began, 1)
        return _record(trainer, task, data, RunFolder(folder), {"seed": seed, "train_seconds": seconds})
    except BaseException:
        if made and not (folder / "checkpoints").exists():
            shutil.rmtree(folder, ignore_errors=True)
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
    with as_guest():
        target = None if output is None else Path(output)
        folder, made = _make_folder(target, Path(trainer.default_root_dir), task)
        try:
            return _record(trainer, task, data, RunFolder(folder), {})
        except BaseException:
            if made:
                shutil.rmtree(folder, ignore_errors=True)
            raise


def _make_folder(output: Path | None, root: Path, task: pl.LightningModule) -> tuple[Path, list[Path]]:
    if output is not None:
        return claim_run_folder(output)
    root = root.expanduser().resolve()
    return new_run_folder(
        root / "runs" if root == Path.cwd() else root, type(task).__name__
    )  # cwd: Lightning's default


def _is_ours(task: pl.LightningModule) -> bool:
    return isinstance(task, ClassificationTask)


def _make_trainer(folder: Path, settings: dict[str, Any], progress: bool, monitor: str | None) -> pl.Trainer:
    """Build a trainer that writes into the run folder; what the settings name is added to ours."""
    callbacks, loggers, plugins = (_listed(settings.pop(name, None)) for name in ("callbacks", "logger", "plugins"))
    checkpoints = folder / "checkpoints"
    if monitor is not None and not any(isinstance(one, ModelCheckpoint) for one in callbacks):
        callbacks.append(
            ModelCheckpoint(checkpoints, filename="best", monitor=monitor, mode="min", enable_version_counter=False)
        )
    callbacks += [EpochLines()] if progress else []
    ours = [EventsLogger(folder.parent, "", folder.name), EpochCSVLogger(folder / "metrics.csv")]
    try:
        return pl.Trainer(
            **{"num_sanity_val_steps": 0, "enable_model_summary": False, "enable_progress_bar": progress, **settings},
            default_root_dir=folder,
            callbacks=[*callbacks, ModelCheckpoint(checkpoints, filename="last", enable_version_counter=False)],
            logger=[*ours, *loggers],
            plugins=[*plugins, AtomicCheckpointIO()],
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"trainer: {' '.join(str(error).split())[:250]}") from None


def _listed(value: Any) -> list[Any]:
    if value in (None, True, False):
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _record(
    trainer: pl.Trainer,
    task: pl.LightningModule,
    data: pl.LightningDataModule,
    run: RunFolder,
    facts: dict[str, Any],
) -> RunFolder:
    """Evaluate the best checkpoint, and write what a run folder holds."""
    best, epochs = best_checkpoint(trainer), trainer.current_epoch
    evaluated, described = _evaluate(trainer, task, data, best)
    if not trainer.is_global_zero:
        return run
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    if best is None:
        trainer.save_checkpoint(run.best)
    elif not run.best.is_file():
        shutil.copyfile(best, run.best)
    saved = torch.load(run.best, map_location="cpu", weights_only=True)
    facts = {
        "config": type(task).__name__,
        **facts,
        "epochs": epochs,
        "best_epoch": saved.get("epoch", epochs - 1) if best else epochs - 1,
        "parameters": sum(parameter.numel() for parameter in task.parameters()),
    }
    sections = _sections(trainer, task, data, facts.get("seed"))
    write_text(run.config, yaml.safe_dump(sections, sort_keys=False, allow_unicode=True))
    write_outcome(run, evaluated, described, trainer, facts, sections)
    return run


def _evaluate(
    trainer: pl.Trainer, task: pl.LightningModule, data: pl.LightningDataModule, best: str | None
) -> tuple[Evaluated, DescribedData]:
    if isinstance(task, ClassificationTask) and isinstance(data, ImageDataModule):
        trainer.validate(task, datamodule=data, ckpt_path=best, weights_only=True, verbose=False)
        if len(data.parts.test):
            trainer.test(task, datamodule=data, ckpt_path=best, weights_only=True, verbose=False)
        return task, data
    data.setup("validate")
    data.setup("test")
    predictions: dict[str, tuple[Tensor, Tensor]] = {}
    with _weights_of(task, best):
        for part, loader in (("val", data.val_dataloader), ("test", data.test_dataloader)):
            found = _logits(task, loader)
            if found is not None:
                predictions[part] = found
    if not predictions:
        raise InputError(f"{type(data).__name__} has neither validation nor test images: expected a val_dataloader")
    width = next(iter(predictions.values()))[0].shape[1]
    given = getattr(data, "class_names", None)
    names = [str(name) for name in given] if given is not None else [str(index) for index in range(width)]
    if len(names) != width:
        raise InputError(f"data.class_names has {len(names)} names, the task gives {width} logits: expected as many")
    results = {part: evaluate_predictions(*found, names) for part, found in predictions.items()}
    return _Evaluated(results, predictions), _Described(names, type(data).__name__, predictions)


@contextmanager
def _weights_of(task: pl.LightningModule, checkpoint: str | None) -> Iterator[None]:
    """Lend the task the weights of a checkpoint."""
    kept = {name: tensor.clone() for name, tensor in task.state_dict().items()}
    if checkpoint is not None:
        task.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"])
    training = {module: module.training for module in task.modules()}
    task.eval()
    try:
        yield
    finally:
        task.load_state_dict(kept)
        for module, mode in training.items():
            module.training = mode


@torch.no_grad()
def _logits(task: pl.LightningModule, make_loader: Callable[[], Any]) -> tuple[Tensor, Tensor] | None:
    """Logits `(N, C)` and labels `(N,)` of all batches; None where there is no such loader."""
    try:
        loader = make_loader()
    except (AttributeError, NotImplementedError, MisconfigurationException, InputError):
        return None  # Lightning's default refuses, and so does a set without a test part
    batches = []
    for batch in loader:
        if not (isinstance(batch, list | tuple) and len(batch) == 2):
            raise InputError(f"a batch is {type(batch).__name__}: expected (images, labels)")
        images, labels = batch
        batches.append((task(images.to(task.device)).float().cpu(), labels.cpu()))
    if not batches:
        return None
    logits, labels = (torch.cat(tensors) for tensors in zip(*batches, strict=True))
    return logits, labels


@dataclass
class _Evaluated:
    """Results of a task of anybody's."""

    results: dict[str, SplitMetrics]
    predictions: dict[str, tuple[Tensor, Tensor]]


@dataclass
class _Described:
    """What is known of a datamodule of anybody's."""

    class_names: Sequence[str]
    name: str
    predictions: dict[str, tuple[Tensor, Tensor]]
    source: str = field(default="real", init=False)

    def files(self, part: Literal["train", "val", "test"]) -> list[str]:
        """Return numbers for names."""
        return [f"{part}/{index:06d}" for index in range(len(self.predictions[part][1]))]

    def describe(self) -> dict[str, Any]:
        """Return counts, and a hash of the labels, which tells two test sets apart."""
        counts = {
            part: np.bincount(labels.numpy(), minlength=len(self.class_names)).tolist()
            for part, (_, labels) in self.predictions.items()
        }
        digest = hashlib.sha256()
        for part in sorted(self.predictions):
            digest.update(self.predictions[part][1].numpy().tobytes())
        return {
            "source": self.source,
            "root": self.name,
            "class_names": list(self.class_names),
            "counts": {part: dict(zip(self.class_names, numbers, strict=True)) for part, numbers in counts.items()},
            "split_hash": digest.hexdigest()[:16],
        }


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
    """Arguments of a constructor: its saved hyper-parameters, else what is kept under their names."""
    names = list(inspect.signature(type(value).__init__).parameters)[1:]
    saved = dict(getattr(value, "hparams", {})) or {
        name: getattr(value, name) for name in names if hasattr(value, name)
    }
    found = {str(name): to_plain_values(item) for name, item in saved.items()}
    return {name: item for name, item in found.items() if item is not NOT_PLAIN}
