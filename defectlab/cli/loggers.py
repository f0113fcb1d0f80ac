"""What a run writes down as it goes: TensorBoard events, and metrics.csv with one row an epoch."""

import csv
import io
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from defectlab.runs import write_text

__all__ = ["EpochCSVLogger", "EventsLogger"]


class EventsLogger(TensorBoardLogger):
    """TensorBoard's events alone: config.yaml already has what Lightning would put into hparams.yaml."""

    @rank_zero_only
    def save(self) -> None:
        """Hand the events to the disk."""
        self.experiment.flush()


class EpochCSVLogger(Logger):
    """metrics.csv: what is logged at the end of an epoch; whole after every one, continued by a resumed run.

    Args:
        path: the file; rows of epochs that are trained again are replaced.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._rows: dict[int, dict[str, str]] = {}
        self._changed = False

    @property
    def name(self) -> str:
        """Of the file."""
        return self.path.name

    @property
    def version(self) -> str:
        """None is kept: the run folder is new each time."""
        return ""

    @property
    @rank_zero_experiment
    def experiment(self) -> dict[int, dict[str, str]]:
        """Rows by epoch; those of an earlier part of the run are read first."""
        if not self._rows and self.path.is_file():
            with self.path.open(newline="", encoding="utf-8") as file:
                self._rows = {int(row["epoch"]): row for row in csv.DictReader(file)}
        return self._rows

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml has them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Keep training and validation figures of a whole epoch."""
        if "epoch" not in metrics or not any(f"{part}/loss" in metrics for part in ("train", "val")):
            return
        epoch = int(metrics["epoch"])
        row = self.experiment.setdefault(epoch, {"epoch": str(epoch)})
        self._changed = True
        row["step"] = str(step)
        row.update({name: f"{value:.6g}" for name, value in metrics.items() if name != "epoch"})

    @rank_zero_only
    def save(self) -> None:
        """Write the file anew."""
        if not self._changed:
            return
        self._changed = False
        names = dict.fromkeys(name for row in self._rows.values() for name in row)
        text = io.StringIO()
        writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows[epoch] for epoch in sorted(self._rows))
        write_text(self.path, text.getvalue())

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is there, however the run ended."""
        self.save()
