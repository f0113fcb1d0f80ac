"""Restore a run: its best network, and its data as in training."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from defectlab.data import ImageDataModule
from defectlab.data.pipeline.split_table import SplitTable
from defectlab.engine.experiment import DefectCLI
from defectlab.errors import InputError
from defectlab.runs import RunFolder
from defectlab.runs.locate import checkpoint_of
from defectlab.tasks import ClassificationTask
from defectlab.tasks.checkpoint import load_task
from defectlab.utils.card import DataCard
from defectlab.utils.yamls import read_yaml


@dataclass(frozen=True, kw_only=True)
class Restored:
    """The task in evaluation mode on `device`, its data card, and the data, read and split."""

    task: ClassificationTask
    card: DataCard
    data: ImageDataModule
    device: torch.device
    checkpoint: Path


class _DataCLI(DefectCLI):
    """All but the model, which the checkpoint knows how to build."""

    def before_instantiate_classes(self) -> None:
        """Put None in the model's place: the checkpoint knows how to build it."""
        super().before_instantiate_classes()
        self.parser.add_instantiator(lambda *_, **__: None, ClassificationTask, prepend=True)


def restore(run: RunFolder, changes: Sequence[str] = (), data: ImageDataModule | None = None) -> Restored:
    """Restore a run's best network and its data, with the checkpoint's normalisation.

    Args:
        run: its folder.
        changes: further arguments of `test`, such as another `--data.root`.
        data: the run's data, not read yet, where it was a ready object that no config can make again.

    Raises:
        InputError: a run without a checkpoint, or data that cannot be made again or read.
    """
    best = checkpoint_of(str(run.path))
    task, card = load_task(best)
    if data is None:
        section = (read_yaml(run.config) or {}).get("data") or {}
        if str(section.get("class_path")).endswith(".DatasetDataModule"):
            raise InputError(
                f"{run.path} was trained on data that was a ready object, which no config makes again: give it as data"
            )
        cli = _DataCLI("test", ["--config", str(run.config), "--ckpt_path", str(best), *changes], run.path)
        data, device = cli.datamodule, cli.trainer.strategy.root_device
    else:
        device = task.device
        if run.split_csv.is_file():
            data.keep_split(SplitTable.read(run.split_csv))
    task.to(device)
    data.load_state_dict(asdict(card))  # its levels are those to read by
    data.prepare_data()
    data.setup("test")
    data.load_state_dict(asdict(card))
    return Restored(task=task, card=card, data=data, device=device, checkpoint=best)
