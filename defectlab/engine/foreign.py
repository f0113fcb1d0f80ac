"""Evaluate a task and data that are not defectlab's, by the task's `forward`."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor

from defectlab.engine.host import evaluating
from defectlab.engine.outcome import Outcome
from defectlab.errors import InputError
from defectlab.metrics.classification import evaluate_predictions


def evaluate_foreign(task: pl.LightningModule, data: pl.LightningDataModule, checkpoint: str) -> Outcome:
    """Evaluate the weights of a checkpoint on the validation and the test batches `(images, labels)` of a datamodule.

    Raises:
        InputError: it has neither, or batches of another form, or `class_names` that do not fit the logits.
    """
    data.setup("validate")
    data.setup("test")
    predictions: dict[str, tuple[Tensor, Tensor]] = {}
    with _weights_of(task, checkpoint):
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
    return Outcome(
        results=results, predictions=predictions, class_names=names, data=_describe(type(data).__name__, names, predictions),
        files={part: [f"{part}/{i:06d}" for i in range(len(found[1]))] for part, found in predictions.items()},
    )  # fmt: skip


def _describe(name: str, class_names: list[str], predictions: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """Return the section `data` of metrics.json, with a hash of the labels, which tells two test sets apart."""
    counts = {
        part: np.bincount(labels.numpy(), minlength=len(class_names)).tolist()
        for part, (_, labels) in predictions.items()
    }
    digest = hashlib.sha256(b"".join(predictions[part][1].numpy().tobytes() for part in sorted(predictions)))
    return {
        "source": "real",
        "root": name,
        "class_names": class_names,
        "counts": {part: dict(zip(class_names, numbers, strict=True)) for part, numbers in counts.items()},
        "split_hash": digest.hexdigest()[:16],
    }


@contextmanager
def _weights_of(task: pl.LightningModule, checkpoint: str) -> Iterator[None]:
    """Give the task, inside, the weights of a checkpoint, in evaluation mode."""
    kept = {name: tensor.clone() for name, tensor in task.state_dict().items()}
    task.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"])
    try:
        with evaluating(task):
            yield
    finally:
        task.load_state_dict(kept)


@torch.no_grad()
def _logits(task: pl.LightningModule, make_loader: Callable[[], Any]) -> tuple[Tensor, Tensor] | None:
    """Compute logits `(N, C)` and labels `(N,)` of all batches; None where there is no such loader."""
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
