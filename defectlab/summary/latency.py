"""How long one image takes, on the CPU, measured in turns."""

import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from defectlab.utils.progress import progress_bar

WARM_UP = 3  # first passes choose kernels and lay out weights


def latencies(
    networks: Sequence[nn.Module],
    images: Sequence[tuple[int, int, int]],
    turns: int,
    progress: bool = False,
) -> list[list[float]]:
    """Seconds of single-image forward passes on the CPU, a list of `turns` for each network.

    The networks take turns, so that a slow second of the machine hits all of them. They run in evaluation mode, in
    the channels_last memory format, on random pixels, with as many threads as torch is set to.

    Args:
        networks: put into evaluation mode and channels_last.
        images: (C, H, W) for each network.
        turns: measured passes of each network.
        progress: draw a bar for work of more than a second.
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
                took = _one_pass(network, batch)
                if turn >= WARM_UP:
                    values.append(took)
                advance(1)
    return seconds


def _one_pass(network: nn.Module, batch: Tensor) -> float:
    began = time.perf_counter()
    network(batch)
    return time.perf_counter() - began
