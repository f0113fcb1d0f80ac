"""Latency of single images on the CPU."""

import time
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from defectlab.utils.turns import in_turns


def latencies(
    networks: Sequence[nn.Module],
    images: Sequence[tuple[int, int, int]],
    turns: int,
    progress: bool = False,
) -> list[list[float]]:
    """Measure the seconds of `turns` single-image forward passes on the CPU, a list for each network.

    The networks take turns. They are put into evaluation mode and channels_last, and see random pixels `(C, H, W)` of their
    entry in `images`, with torch's number of threads.
    """
    generator = torch.Generator().manual_seed(0)
    passes = []
    for network, shape in zip(networks, images, strict=True):
        network.eval().cpu().to(memory_format=torch.channels_last)
        batch = torch.randn(1, *shape, generator=generator).to(memory_format=torch.channels_last)
        passes.append(partial(_seconds, network, batch))
    with torch.inference_mode():
        return in_turns(passes, turns, progress)


def _seconds(network: nn.Module, batch: Tensor) -> float:
    began = time.perf_counter()
    network(batch)
    return time.perf_counter() - began
