"""Leave the program that calls a function of defectlab as it was."""

import logging
import os
import random
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from defectlab.utils.progress import progress_bars

if TYPE_CHECKING:
    from torch import nn

_LOGGERS = ("lightning.pytorch", "lightning.fabric")
_KNOWN_WARNINGS = (
    r".*isinstance\(treespec, LeafSpec\).*",  # Lightning's own affair with torch
    r".*smaller than the logging interval.*",  # curves have a point an epoch in any case
    r".*module\(s\) in eval mode at the start.*",  # a frozen backbone
    r".*does not have many workers.*",  # the loader has none and needs none
    r".*Checkpoint directory .* exists and is not empty.*",  # resume goes on in its run folder
    r".*lr_scheduler\.step\(\).*before.*optimizer\.step\(\).*",  # a step that the gradient scaler left out
    r".*recommended to use `self\.log\(.*sync_dist=True.*",  # every process computes the same from all images
    r".*GPU available but not used.*",  # asked for
    r".*The dirpath has changed from.*",  # fit --ckpt_path goes on in a folder of its own
    r".*callbacks used to create the checkpoint need to be provided.*",  # test needs none of fit's
)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence, inside, Lightning's notes on devices and tips, and warnings that call for no action."""
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    hook = threading.excepthook

    def end_quietly(ended: threading.ExceptHookArgs) -> None:
        if type(ended.thread).__name__ != "_AsyncWriterThread":  # TensorBoard's: its logger says what is wrong
            hook(ended)

    with warnings.catch_warnings():
        threading.excepthook = end_quietly
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        for text in _KNOWN_WARNINGS:
            warnings.filterwarnings("ignore", message=text)
        try:
            yield
        finally:
            threading.excepthook = hook
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


@contextmanager
def as_guest(progress: bool | None = None) -> Iterator[None]:
    """Restore log levels, warnings filters, environment, random numbers, thread count and denormals at the end.

    The allocator's settings stay: glibc does not tell what they were.

    Args:
        progress: whether bars may be drawn meanwhile; None leaves that to the caller.
    """
    import numpy as np
    import torch

    environment = dict(os.environ)
    threads = torch.get_num_threads()
    flushed = not bool(torch.tensor([1e-40]).mul(1).item())
    numbers = random.getstate(), np.random.get_state()  # noqa: NPY002 (seed_everything sets both)
    with quiet(), torch.random.fork_rng(devices=[]), progress_bars(progress):
        try:
            yield
        finally:
            random.setstate(numbers[0])
            np.random.set_state(numbers[1])  # noqa: NPY002
            for name in set(os.environ) - set(environment):
                del os.environ[name]
            os.environ.update(environment)
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            torch.set_flush_denormal(flushed)


@contextmanager
def evaluating(module: "nn.Module") -> Iterator[None]:
    """Set evaluation mode, and restore each module's own: a frozen backbone's is not its parent's."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
