"""Build the trainer of a run: its loggers, its checkpoints, and the state that it keeps."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, ModelCheckpoint

from defectlab.callbacks import LastCheckpoint
from defectlab.callbacks.progress import EpochLines
from defectlab.engine.checkpoint_io import AtomicCheckpointIO
from defectlab.engine.loggers import EpochCSVLogger, EventsLogger
from defectlab.errors import InputError
from defectlab.runs import RunFolder, write_text
from defectlab.runs.state import read_state, write_state
from defectlab.utils._compat import starts_by_copying
from defectlab.utils.progress import later_rank

_log = logging.getLogger(__name__)
_RISING = ("accuracy", "recall", "precision", "f1", "auroc")  # in the names of metrics that are better the higher


class StateKeeper(Checkpoint):
    """Keep state.json and metrics.csv as far as the checkpoints, once the monitored ones are written.

    Args:
        run: folder of the run.
    """

    def __init__(self, run: Path) -> None:
        super().__init__()
        self._run = run
        self._written: str | None = ""

    @property
    def started(self) -> bool:
        """Return whether training has begun."""
        return self._written != ""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Mark the run as in training."""
        self._keep(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Name the best checkpoint."""
        if not trainer.sanity_checking:
            self._keep(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Name the best checkpoint, and log the epoch before last.ckpt says that it is done."""
        self._keep(trainer)
        # Those of a validation are logged at its end, and may be of an earlier epoch by now.
        row = {
            name: float(value)
            for name, value in trainer.logged_metrics.items()
            if not name.startswith("val/") and not name.endswith("_step")
        }
        row["epoch"] = trainer.current_epoch
        for logger in trainer.loggers:
            if isinstance(logger, EpochCSVLogger):
                logger.log_metrics(row, trainer.global_step - 1)
                logger.save()

    def _keep(self, trainer: Trainer) -> None:
        best = best_checkpoint(trainer)
        if trainer.is_global_zero and best != self._written:
            self._written = best
            write_state(self._run, "training", None if best is None else Path(best))


def best_checkpoint(trainer: Trainer) -> str | None:
    """Return the best checkpoint by the monitored metric, else the last; None where there is none."""
    checkpoints = [one for one in trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint)]
    checkpoints.sort(key=lambda callback: callback.monitor is None)
    return next((callback.best_model_path for callback in checkpoints if callback.best_model_path), None)


def keep_best(trainer: Trainer, run: RunFolder) -> str:
    """Return the best checkpoint of a training that is over; where none was written, the weights are saved as the last.

    Raises:
        InputError: it is not there any more.
    """
    best = best_checkpoint(trainer)
    if best is None:
        best = str(run.last)
        trainer.save_checkpoint(best)
    if not Path(best).is_file():
        raise InputError(
            f"{best} is not there any more: the run folder was moved or removed while it trained; nothing else was removed"
        )
    if trainer.is_global_zero:
        write_state(run.path, "training", Path(best))
    return best


@contextmanager
def marked(run: RunFolder, trainer: Trainer, config: str | None) -> Iterator[None]:
    """Mark a run as finished at the end; as stopped, if it was trained, where an error ends it.

    Args:
        run: its folder.
        trainer: trains it inside.
        config: text of its config.yaml that is put back if training does not begin.
    """
    try:
        yield
    except BaseException:
        started = any(callback.started for callback in trainer.callbacks if isinstance(callback, StateKeeper))  # type: ignore[attr-defined]
        if trainer.is_global_zero and run.path.is_dir():
            with suppress(InputError):  # a full disk has been told already
                if started:
                    state = read_state(run.path)
                    write_state(run.path, "stopped", None if state is None else state.best)
                elif config is not None:
                    write_text(run.config, config)
        raise
    if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        write_state(run.path, "finished", run.best)


def check_length(settings: Mapping[str, Any]) -> None:
    """Raise InputError for a training without an end: Lightning would take 1,000 epochs."""
    ends = ("max_epochs", "max_time", "fast_dev_run")
    if (
        not any(settings.get(name) for name in ends)
        and settings.get("max_epochs") != 0
        and settings.get("max_steps", -1) == -1
    ):
        raise InputError("trainer.max_epochs is missing: expected the number of epochs, such as 30")


def as_list(value: Any) -> list[Any]:
    """Return a setting that may be one object, several or a switch as a list of objects."""
    if value in (None, True, False):
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def trainer_parts(
    run: Path, settings: Mapping[str, Any], *, progress: bool, monitor: str | None, trains: bool
) -> dict[str, Any]:
    """Return a trainer's folder, loggers, callbacks and plugins: what `settings` name, and ours beside.

    Args:
        run: folder that it writes to.
        settings: of the trainer.
        progress: whether to print a line an epoch.
        monitor: metric that chooses best.ckpt where no checkpoint of the settings chooses one; None for none.
        trains: whether it fits: it then has our loggers and checkpoints.

    Raises:
        InputError: two checkpoints with the name of one file.
    """
    callbacks, loggers, plugins = (as_list(settings.get(name)) for name in ("callbacks", "logger", "plugins"))
    bare, bars = bool(settings.get("barebones")), settings.get("enable_progress_bar")
    if progress and bars is not False and not bare:
        callbacks.append(EpochLines())
    if trains and not bare:
        if settings.get("logger") is not False and not settings.get("fast_dev_run"):
            loggers = [EventsLogger(run.parent, "", run.name), EpochCSVLogger(run / "metrics.csv"), *loggers]
        if settings.get("enable_checkpointing") is not False:
            callbacks = _with_checkpoints(callbacks, run, monitor)
    return {
        "default_root_dir": str(run),
        "logger": loggers or False,
        "callbacks": callbacks,
        "plugins": [*plugins, AtomicCheckpointIO()],
        "enable_model_summary": False,
        **({} if progress else {"enable_progress_bar": False}),
    }


def _with_checkpoints(callbacks: list[Any], run: Path, monitor: str | None) -> list[Any]:
    """Add what writes best.ckpt, unless one is chosen, and last.ckpt; `save_last` would leave that as old as the best."""
    folder = run / "checkpoints"
    checkpoints = [one for one in callbacks if isinstance(one, ModelCheckpoint) and not isinstance(one, LastCheckpoint)]
    if monitor is not None and not any(callback.monitor for callback in checkpoints):
        checkpoints.append(ModelCheckpoint(folder, filename="best", monitor=monitor, enable_version_counter=False))
        callbacks = [*callbacks, checkpoints[-1]]
    for callback in checkpoints:
        callback.dirpath = os.path.abspath(callback.dirpath or folder)
        callback.save_last = None
    # The last to be called, so that it holds what the others have come to.
    last = next((one for one in callbacks if isinstance(one, LastCheckpoint)), None) or LastCheckpoint()
    last.dirpath = os.path.realpath(folder)
    callbacks = [one for one in callbacks if one is not last]
    places = [(one.dirpath, one.filename) for one in (*checkpoints, last) if one.filename is not None]
    twice = next((name for folder, name in places if places.count((folder, name)) > 1), None)
    if twice is not None:
        raise InputError(
            f"trainer.callbacks: two ModelCheckpoints write {twice}.ckpt: give one of them another filename"
        )
    return [*callbacks, StateKeeper(run), last]


def check_trainer(trainer: Trainer) -> None:
    """Refuse a trainer whose results would be lost, and name what is left over from another run.

    Raises:
        InputError: a strategy that trains a copy of the objects, or a rank where there is one process.
    """
    if starts_by_copying(trainer):
        raise InputError(
            "trainer.strategy trains a copy of the network in another process, whose results are lost: expected ddp, or one "
            "device"
        )
    variable = later_rank()
    if variable is not None and trainer.world_size == 1:
        raise InputError(
            f"{variable}={os.environ[variable]} says that this is not the first of several processes, but it is the only "
            f"one: `unset {variable}`, which another run may have left, or start all by torchrun"
        )


def check_modes(trainer: Trainer) -> None:
    """Warn of a callback that takes the lowest accuracy for the best: Lightning's default is the minimum."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, ModelCheckpoint | EarlyStopping) and callback.monitor is not None:
            rises = any(word in callback.monitor for word in _RISING)
            if "loss" not in callback.monitor and rises and callback.mode == "min":
                _log.warning(
                    "trainer.callbacks.%s.mode is min, so the lowest %s counts as the best: give mode: max",
                    type(callback).__name__, callback.monitor,
                )  # fmt: skip


def trainer_error(error: Exception) -> InputError:
    """Turn what the constructor of the trainer raised into one line."""
    return InputError(f"trainer: {' '.join(str(error).split())[:250]}")


TRAINER_ERRORS = (ValueError, TypeError, MisconfigurationException, ModuleNotFoundError, RuntimeError)
