"""Log what a run comes to: TensorBoard events, and metrics.csv with one row an epoch."""

import csv
import io
import logging
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from defectlab.errors import InputError
from defectlab.runs import write_text
from defectlab.utils.text import first_line

_log = logging.getLogger(__name__)
_FLUSH_SECONDS = 2.0  # how far TensorBoard may be behind


def attempt(logger: Any, write: Callable[..., object], *arguments: Any, **more: Any) -> None:
    """Call what writes a log; where it cannot, warn once and leave that logger alone: training is worth more than its log."""
    if getattr(logger, "failed", False):
        return
    try:
        write(*arguments, **more)
    except Exception as error:  # of a file, or of whatever a logger of somebody's speaks to
        logger.failed = True
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        _log.warning("%s cannot log any more (%s): the run goes on without", type(logger).__name__, first_line(cause))


class EventsLogger(TensorBoardLogger):
    """TensorBoard's events alone, in one file: config.yaml already has what Lightning would put into hparams.yaml."""

    failed = False
    _arranged = False
    _flushed = 0.0

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log all but the epoch, whose card would be the first; losses of both parts share one under Custom Scalars."""
        if not self._arranged:
            self._arranged = True
            pairs = {name: ["Multiline", [f"train/{name}", f"val/{name}"]] for name in ("loss", "accuracy")}
            attempt(self, lambda: self.experiment.add_custom_scalars({"training and validation": pairs}))
        values = {name: value for name, value in metrics.items() if name != "epoch"}
        attempt(self, super().log_metrics, values, step)

    @rank_zero_only
    def save(self) -> None:
        """Flush the events to the disk, now and then."""
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._flushed = time.monotonic()
            self.finalize("")

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Flush the events to the disk; closed, the writer would begin a new file for the test's."""
        attempt(self, lambda: self.experiment.flush())


class EpochCSVLogger(Logger):
    """Write metrics.csv: what is logged at the end of an epoch; whole after every one, continued by a resumed run.

    Its column `seconds` is the time since the row before, or since the start. Rows of epochs that are trained again are
    replaced.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._rows: dict[int, dict[str, str]] | None = None
        self._marked = 0.0
        self._timed: int | None = None  # the epoch whose seconds are taken
        self._changed = False
        self._ended = False
        self._told = False

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.path.name

    @property
    def version(self) -> str:
        """Empty: the run folder is new each time."""
        return ""

    @property
    @rank_zero_experiment
    def experiment(self) -> dict[int, dict[str, str]]:
        """Rows by epoch; those of an earlier part of the run are read first."""
        if self._rows is None:
            self._rows = {}
            self._marked = time.monotonic()
            if self.path.is_file():
                try:
                    with self.path.open(newline="", encoding="utf-8") as file:
                        table = csv.DictReader(file, restval="")
                        self._rows = {int(row["epoch"]): row for row in table}
                    odd = any(None in row or float(row.get("seconds") or 0) < 0 for row in self._rows.values())
                    if odd or "epoch" not in (table.fieldnames or ["epoch"]):
                        raise ValueError
                except (OSError, ValueError, KeyError, csv.Error):
                    raise InputError(
                        f"{self.path} is no table of epochs any more: remove it, or put the right one in its place"
                    ) from None
        return self._rows

    @property
    def seconds(self) -> float:
        """Total time of all epochs."""
        return sum(float(row.get("seconds") or 0) for row in self.experiment.values())

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: config.yaml has them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Keep training and validation figures of a whole epoch, until training has ended."""
        if self._ended or "epoch" not in metrics or not {"train/loss", "val/loss"} & set(metrics):
            return
        epoch = int(metrics["epoch"])
        row = self.experiment.setdefault(epoch, {})
        row |= {"epoch": str(epoch), "step": str(step)}
        row |= {name: f"{value:.6g}" for name, value in metrics.items() if name != "epoch"}
        if "train/loss" in metrics and epoch != self._timed:
            self._timed = epoch
            now = time.monotonic()
            row["seconds"] = f"{now - self._marked:.3f}"
            self._marked = now
        self._changed = True

    @rank_zero_only
    def save(self) -> None:
        """Write the file anew; what cannot be written now is tried again with the next epoch."""
        if not self._changed:
            return
        rows = [self.experiment[epoch] for epoch in sorted(self.experiment)]
        text = io.StringIO()
        writer = csv.DictWriter(
            text, dict.fromkeys(name for row in rows for name in row), restval="", lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(rows)
        try:
            write_text(self.path, text.getvalue())
        except InputError as error:
            if not self._told:
                _log.warning("%s; training goes on without", error)
            self._told = True
        else:
            self._changed = False

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is there, however training ended; what is evaluated afterwards is no epoch."""
        self._ended = True
        self.save()
