"""Measure in turns: a slow moment of the machine affects all that are compared."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from defectlab.utils.progress import progress_bar

WARM_UP = 3  # first calls choose kernels and lay out weights
_Measured = TypeVar("_Measured")


def in_turns(measures: Sequence[Callable[[], _Measured]], turns: int, progress: bool = False) -> list[list[_Measured]]:
    """Return what each of `measures` gives in `turns` rounds A B A B, after three that do not count."""
    found: list[list[_Measured]] = [[] for _ in measures]
    with progress_bar("timing", (WARM_UP + turns) * len(measures), shown=progress) as advance:
        for turn in range(WARM_UP + turns):
            for measure, values in zip(measures, found, strict=True):
                value = measure()
                if turn >= WARM_UP:
                    values.append(value)
                advance(1)
    return found
