"""Fuse the many small operations of a function of tensors into few kernels on a GPU."""

import importlib.util
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor


def fused(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the function, compiled by `torch.compile` for tensors on CUDA where Triton is installed."""

    def call(*tensors: Tensor) -> Tensor:
        return (_compiled(function) if tensors[0].is_cuda and _has_triton() else function)(*tensors)

    return call


@lru_cache(maxsize=32)
def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    compiled: Callable[..., Tensor] = torch.compile(function)
    return compiled


@lru_cache(maxsize=1)
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
