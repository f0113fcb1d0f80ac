"""A run brought back: its best network, and its data as in training."""

from dataclasses import dataclass
from pathlib import Path

import torch

from defectlab.data import ImageDataModule
from defectlab.engine.experiment import DefectCLI
from defectlab.runs import RunFolder
from defectlab.runs.locate import checkpoint_of
from defectlab.tasks import ClassificationTask
from defectlab.tasks.checkpoint import data_state, load_task, read_checkpoint
from defectlab.utils.card import DataCard

__all__ = ["Restored", "restore"]


@dataclass(frozen=True)
class Restored:
    """The task in evaluation mode on `device`, its data card, and the data, read and split."""

    task: ClassificationTask
    card: DataCard
    data: ImageDataModule
    device: torch.device
    checkpoint: Path


def restore(run: RunFolder, changes: list[str]) -> Restored:
    """What a run has trained and on what, the data with the checkpoint's normalisation.

    Args:
        run: its folder.
        changes: further arguments of `test`, such as another `--data.root`.

    Raises:
        InputError: no checkpoint, an argument that cannot be used, or data that cannot be read.
    """
    best = checkpoint_of(str(run.path))
    cli = DefectCLI("test", ["--config", str(run.config), "--ckpt_path", str(best), *changes], run.path)
    data, device = cli.datamodule, cli.trainer.strategy.root_device
    task, card = load_task(best)
    task.to(device)
    data.prepare_data()
    data.setup("test")
    data.load_state_dict(data_state(read_checkpoint(best), best))
    return Restored(task, card, data, device, best)
