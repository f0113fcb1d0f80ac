"""Refuse, before anything is written, what a resumed run could not do exactly or would pass over."""

import math
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from defectlab.callbacks import LastCheckpoint, RateFinder
from defectlab.callbacks.last import stays_stopped, trained_settings
from defectlab.engine.experiment import DefectCLI
from defectlab.engine.trainer import as_list
from defectlab.errors import InputError
from defectlab.runs import RunFolder
from defectlab.utils.yamls import parse_yaml, read_yaml

# Settings that take effect on a run that goes on; any other is part of what it is.
_FREE = (
    "model.optimizer.lr", "model.optimizer.weight_decay", "model.optimizer.l1", "model.scheduler.warmup",
    "model.scheduler.factor", "model.scheduler.patience", "model.compile", "model.channels_last",
    "data.root", "data.labels*", "data.batch_size", "data.eval_batch_size", "data.augmentation*", "data.transform*", "data.on_bad_image",
    "cpu*", "python_path*", "trainer.max_*", "trainer.min_*", "trainer.limit_train_batches", "trainer.limit_test_batches",
    "trainer.accumulate_grad_batches", "trainer.gradient_clip_*", "trainer.check_val_every_n_epoch",
    "trainer.val_check_interval", "trainer.accelerator", "trainer.strategy*", "trainer.devices*", "trainer.num_nodes",
    "trainer.precision", "trainer.logger*", "trainer.profiler*", "trainer.enable_progress_bar", "trainer.log_every_n_steps",
    "trainer.deterministic", "trainer.benchmark", "trainer.detect_anomaly", "trainer.callbacks*",
)  # fmt: skip
_ANEW = "begin a new run with fit"


def check_changes(checkpoint: Mapping[str, Any], cli: DefectCLI) -> None:
    """Raise InputError for a `--ckpt_path` that cannot be gone on from exactly, or settings that would not take effect."""
    path = Path(cli.config_init["fit"].ckpt_path)
    written = {"hyper_parameters": dict(cli.model.hparams)}
    cli.model.on_save_checkpoint(written)
    changed = dict(_changes(checkpoint["hyper_parameters"], written["hyper_parameters"], "model"))
    searched = any(isinstance(callback, RateFinder) for callback in cli.trainer.callbacks)  # type: ignore[attr-defined]
    if searched:  # the checkpoint has what was found
        changed.pop("model.optimizer.lr", None)
    run = RunFolder(path.parent.parent)
    if cli.run is not None and run.path.resolve() == cli.run and run.config.is_file():
        before, now = read_yaml(run.config), parse_yaml(cli.dump(), "the config")
        changed |= dict(_changes(before, now, ""))
        old, new = ((config.get("trainer") or {}).get("callbacks") for config in (before, now))
        _check_callbacks(old, new, changed)
    if changed.get("model.cache_features", ("",))[0] == "auto":
        del changed["model.cache_features"]  # of a run of before, which does not tell what that came to
    for name, (trained, given) in changed.items():
        if not any(fnmatchcase(name, free) for free in _FREE):
            raise InputError(
                f"{name} is {given}, but {path} was trained with {trained}: what goes on keeps it; leave it out, or {_ANEW}"
            )
    _check_place(checkpoint, cli, changed)


def _changes(before: Any, now: Any, place: str) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Yield name, old and new value of every setting that differs; what an older version did not know is passed over."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in before.keys() & now.keys():
            inner = place if key == "init_args" else f"{place}.{key}".lstrip(".")
            yield from _changes(before[key], now[key], inner)
    elif before != now:
        yield place, (before, now)


def _check_callbacks(before: Any, now: Any, changed: Mapping[str, Any]) -> None:
    """Raise InputError for callbacks whose change would be passed over, or would lose what they have come to."""
    old, new = _by_name(before), _by_name(now)
    for name in ("ModelCheckpoint", "RateFinder"):
        if (name in old and old[name] != new.get(name)) or (
            name == "ModelCheckpoint" and name in new and name not in old
        ):
            raise InputError(f"trainer.callbacks has another {name} than the run: keep it, or {_ANEW}")
    if {"EMA", "SWA"} & old.keys() and not {"EMA", "SWA"} & new.keys():
        raise InputError(f"trainer.callbacks has no EMA or SWA, of which the run's weights are an average: {_ANEW}")
    if "RateFinder" in new and "model.optimizer.lr" in changed:
        raise InputError("model.optimizer.lr was found by RateFinder, which resume goes on with: leave it out")


def _by_name(callbacks: Any) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for callback in as_list(callbacks):
        spec = callback if isinstance(callback, Mapping) else {"class_path": str(callback)}
        found.setdefault(str(spec["class_path"]).rpartition(".")[2], []).append(spec.get("init_args"))
    return found


def _check_place(checkpoint: Mapping[str, Any], cli: DefectCLI, changed: Mapping[str, Any]) -> None:
    """Raise InputError for less than is done, and for a place that the loops or the schedule cannot be taken up at."""
    path, trainer = Path(cli.config_init["fit"].ckpt_path), cli.trainer
    try:
        loops = checkpoint["loops"]["fit_loop"]
        progress, cut = loops["epoch_progress"]["current"], not loops["epoch_loop.batch_progress"]["is_last_batch"]
        within = progress["processed"] != progress["ready"]
        done, steps = checkpoint["epoch"] + (not within), int(checkpoint["global_step"])
        _ = checkpoint["optimizer_states"], checkpoint["lr_schedulers"]
        kept = checkpoint["callbacks"].get(LastCheckpoint.__name__, {}).get("within") or []
    except (KeyError, TypeError):
        raise InputError(
            f"{path} holds no state of a training: expected last.ckpt of a run, as fit writes it"
        ) from None
    epochs, most = trainer.max_epochs, trainer.max_steps
    if epochs is not None and 0 <= epochs < done:
        raise InputError(f"trainer.max_epochs is {epochs}, but {done} epochs are done: give at least as many")
    if 0 <= most < steps:
        raise InputError(f"trainer.max_steps is {most}, but {steps} steps are done: give at least as many")
    if within and not kept:
        raise InputError(f"{path} was written within an epoch, where none goes on exactly: give the run's last.ckpt")
    if not trained_settings(checkpoint).lr and "model.optimizer.lr" in changed:
        raise InputError(f"model.optimizer.lr was 0 in {path}, of which no schedule is a multiple: {_ANEW}")
    if most == steps or epochs == done or stays_stopped(trainer.callbacks, checkpoint):  # type: ignore[attr-defined]
        return
    if cut and not within:
        raise InputError(f"{path} is of a run that ended within an epoch, which none goes on from exactly: {_ANEW}")
    batches = _batches(cli.datamodule.train_dataloader(), trainer, getattr(cli.model, "passes", 1))
    begun, of = kept[0]["batches"] if within else (0, batches)
    accumulated = "trainer.accumulate_grad_batches" in changed
    if (of, len(kept) or trainer.world_size) != (batches, trainer.world_size) or (within and accumulated):
        raise InputError(
            f"{path} was written within an epoch of {of} batches: keep data.batch_size, limits and devices until it is over, "
            f"or {_ANEW}"
        )
    each = math.ceil(batches / trainer.accumulate_grad_batches)
    if cli.model.scheduler.needs_end and steps != done * each + begun // trainer.accumulate_grad_batches:
        raise InputError(
            f"{steps} steps are done, which are not {done} epochs of {each}: model.scheduler {cli.model.scheduler.name} counts "
            f"steps, so keep data.batch_size, limits and devices, or {_ANEW}"
        )


def _batches(loader: Any, trainer: Trainer, passes: int) -> int:
    """Return the number of batches of an epoch, which is so many passes over the images, and process."""
    if hasattr(loader, "world_size"):
        loader.world_size = trainer.world_size
        if passes > 1:
            loader.indices = loader.indices.repeat(passes)
        count = len(loader)
    else:
        count = math.ceil(len(loader) / trainer.world_size)
    limit = trainer.limit_train_batches
    return min(count, limit) if isinstance(limit, int) else int(count * limit)
