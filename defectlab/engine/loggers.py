"""Log what a run comes to: TensorBoard events, and metrics.csv with one row an epoch."""

import csv
import io
import time
from argparse import Namespace
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from defectlab.errors import InputError
from defectlab.runs import write_text

_FLUSH_SECONDS = 2.0  # how far TensorBoard may be behind


class EventsLogger(TensorBoardLogger):
    """TensorBoard's events alone, in one file: config.yaml already has what Lightning would put into hparams.yaml."""

    _flushed = 0.0

    @rank_zero_only
    def save(self) -> None:
        """Flush the events to the disk, now and then."""
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._flushed = time.monotonic()
            self.experiment.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Flush the events to the disk; closed, the writer would begin a new file for the test's."""
        self.experiment.flush()


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
        self._timed: int | None = None
        self._changed = False
        self._ended = False

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
                        self._rows = {int(row["epoch"]): row for row in csv.DictReader(file)}
                except (ValueError, KeyError):
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
        if "val/loss" in metrics:  # the first to come
            row.clear()
        row |= {"epoch": str(epoch), "step": str(step)}
        row |= {name: f"{value:.6g}" for name, value in metrics.items() if name != "epoch"}
        if "train/loss" in metrics and epoch != self._timed:
            now = time.monotonic()
            row["seconds"] = f"{now - self._marked:.3f}"
            self._marked, self._timed = now, epoch
        self._changed = True

    def log_epoch(self, epoch: int, step: int, metrics: Mapping[str, Any]) -> None:
        """Write the training figures of an epoch before its checkpoint; Lightning logs them again afterwards."""
        own = {name: float(value) for name, value in metrics.items() if not name.startswith("val/")}
        self.log_metrics({**own, "epoch": epoch}, step)
        self.save()

    @rank_zero_only
    def save(self) -> None:
        """Write the file anew."""
        if not self._changed:
            return
        self._changed = False
        rows = [self.experiment[epoch] for epoch in sorted(self.experiment)]
        text = io.StringIO()
        writer = csv.DictWriter(
            text, dict.fromkeys(name for row in rows for name in row), restval="", lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.path, text.getvalue())

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is there, however training ended; what is evaluated afterwards is no epoch."""
        self._ended = True
        with suppress(InputError):  # a full disk has been told already
            self.save()
