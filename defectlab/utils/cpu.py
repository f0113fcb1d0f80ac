"""CPU settings that make small networks fast: threads, allocator, denormal numbers."""

import ctypes
import os
import sys
from dataclasses import dataclass

import torch

from defectlab.errors import InputError

# Numbers of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


@dataclass(frozen=True)
class CPUSettings:
    """Process-wide settings, made before the first tensor.

    Args:
        keep_memory: let glibc keep freed memory. Else it returns every large tensor to the kernel, and page faults take
            up to half of the training time. No effect elsewhere.
        flush_denormals: numbers below 1e-38 become 0; some processors are a hundred times slower with them.
        threads: of one operation; null leaves torch's choice, the number of physical cores.
    """

    keep_memory: bool = True
    flush_denormals: bool = True
    threads: int | None = None

    def apply(self) -> None:
        """Apply the settings to this process."""
        if not torch.cuda.is_available():
            # Lightning's check through NVML costs half a millisecond per optimiser step where there is no driver.
            os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
        if self.keep_memory and sys.platform == "linux":
            _keep_memory()
        if self.flush_denormals:
            torch.set_flush_denormal(True)
        if self.threads is not None:
            if self.threads < 1:
                raise InputError(f"cpu.threads is {self.threads}: expected a whole number of at least 1")
            torch.set_num_threads(self.threads)


def _keep_memory() -> None:
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):  # musl has mallopt, but no such parameters
        return
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    libc.mallopt(_M_TOP_PAD, 64 * 2**20)
