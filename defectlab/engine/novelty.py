"""Fit the novelty scorer of a trained network, and keep it in the checkpoint."""

import logging
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from defectlab.data import ImageDataModule
from defectlab.engine.checkpoint_io import AtomicCheckpointIO
from defectlab.engine.host import evaluating
from defectlab.errors import InputError
from defectlab.networks.novelty import NoveltyScorer
from defectlab.tasks import ClassificationTask, PretrainedTask
from defectlab.tasks.checkpoint import read_checkpoint

_log = logging.getLogger(__name__)
_MOST = 2000  # training images that others are compared with


def keep_scorer(trainer: Trainer, task: ClassificationTask, data: ImageDataModule, checkpoint: str) -> None:
    """Fit the scorer of a checkpoint's network to training images as they are, and write it into the checkpoint.

    The task has the weights of the checkpoint afterwards. A network whose embeddings say nothing is left without.
    """
    if trainer.is_global_zero:
        path = Path(checkpoint)
        saved = read_checkpoint(path)
        task.load_state_dict(saved["state_dict"])
        task.to(trainer.strategy.root_device)
        if isinstance(task, PretrainedTask):
            task.reuse_features()
        try:
            saved["novelty"] = fit_scorer(task, data).state()
            AtomicCheckpointIO().save_checkpoint(saved, path)
        except InputError as error:
            _log.info("no novelty can be told by this run: %s", error)
        finally:
            data.clear_features()
    trainer.strategy.barrier()


@torch.no_grad()
def fit_scorer(task: ClassificationTask, data: ImageDataModule) -> NoveltyScorer:
    """Fit a scorer to at most 2,000 training images, without augmentation.

    Raises:
        InputError: a task whose own `forward` or `predict_logits` gives other logits than its network, or embeddings that
            are not finite.
    """
    embeddings: list[Tensor] = []
    labels: list[Tensor] = []
    with evaluating(task):
        for images, own in data.training_sample(_MOST):
            found, logits = task.predict_embeddings(images)
            if not embeddings and not torch.allclose(logits, task.predict_logits(images), rtol=1e-3, atol=1e-3):
                raise InputError(f"{type(task).__name__} computes its logits otherwise than its network does")
            embeddings.append(found.float().cpu())
            labels.append(own.cpu())
    return NoveltyScorer.fit(torch.cat(embeddings), torch.cat(labels))
