"""Latency of single images on the CPU."""

import time
from collections.abc import Sequence

import torch
from torch import nn

from defectlab.utils.progress import progress_bar

WARM_UP = 3  # first passes choose kernels and lay out weights


def latencies(
    networks: Sequence[nn.Module],
    images: Sequence[tuple[int, int, int]],
    turns: int,
    progress: bool = False,
) -> list[list[float]]:
    """Measure the seconds of `turns` single-image forward passes on the CPU, a list for each network.

    The networks take turns, so that a slow moment of the machine affects all. They are put into evaluation mode and
    channels_last, and see random pixels `(C, H, W)` of their entry in `images`, with torch's number of threads.
    """
    for network in networks:
        network.eval().cpu().to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(1, *shape, generator=generator).to(memory_format=torch.channels_last) for shape in images]
    seconds: list[list[float]] = [[] for _ in networks]
    passes = (WARM_UP + turns) * len(networks)
    with torch.inference_mode(), progress_bar("timing", passes, shown=progress) as advance:
        for turn in range(WARM_UP + turns):
            for network, batch, values in zip(networks, batches, seconds, strict=True):
                began = time.perf_counter()
                network(batch)
                if turn >= WARM_UP:
                    values.append(time.perf_counter() - began)
                advance(1)
    return seconds
