"""Leave the program that calls a function of defectlab as it was."""

import logging
import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from defectlab.engine.warnings import LIGHTNING_LOGGERS, quieten
from defectlab.utils.progress import progress_bars

__all__ = ["as_guest"]


@contextmanager
def as_guest(progress: bool | None = None) -> Iterator[None]:
    """Restore log levels, warnings filters, environment, random numbers, thread count and denormals at the end.

    A command owns its process and sets all of these; a function called from Python is a guest in one. The
    allocator's settings stay: glibc does not tell what they were.

    Args:
        progress: whether bars may be drawn meanwhile; None leaves that to the caller.
    """
    environment = dict(os.environ)
    levels = {name: logging.getLogger(name).level for name in LIGHTNING_LOGGERS}
    threads = torch.get_num_threads()
    flushed = not bool(torch.tensor([1e-40]).mul(1).item())
    numbers = random.getstate(), np.random.get_state()  # noqa: NPY002 (seed_everything sets both)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), progress_bars(progress):
        quieten()
        try:
            yield
        finally:
            random.setstate(numbers[0])
            np.random.set_state(numbers[1])  # noqa: NPY002
            for name in set(os.environ) - set(environment):
                del os.environ[name]
            os.environ.update(environment)
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            torch.set_flush_denormal(flushed)
