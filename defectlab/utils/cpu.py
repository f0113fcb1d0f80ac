"""CPU settings that make small networks fast: threads and how they wait, allocator, denormal numbers."""

import ctypes
import logging
import os
import sys
import time
from dataclasses import dataclass

from defectlab.errors import InputError

_log = logging.getLogger(__name__)
# Of GNU's, LLVM's and Intel's OpenMP and of OpenBLAS, which read them once, when they are loaded.
_PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0", "OPENBLAS_THREAD_TIMEOUT": "4"}
# Of GNU's: tens of microseconds instead of milliseconds, after which a thread sleeps.
_BRIEF = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "0", "OPENBLAS_THREAD_TIMEOUT": "4"}
_CROWDED = 4.0  # times that several threads may take of what one takes

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
        """Apply the settings to this process, and tell of threads that other programs keep from working."""
        import torch

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
        elif not torch.cuda.is_available() and not _sleeps_soon():
            _tell_if_crowded()


def wait_passively() -> None:
    """Let the threads of this process sleep while they wait: spinning, they cost a busy machine five times the time.

    On a quiet machine they spin for a moment first, without which small networks take half as long again. For a program
    of its own, before torch is loaded; what the environment says already is kept.
    """
    for name, value in (_PASSIVE if _others_running() >= max(1, (os.cpu_count() or 1) // 2) else _BRIEF).items():
        os.environ.setdefault(name, value)


def _sleeps_soon() -> bool:
    """Return whether threads that wait are told to sleep, by `wait_passively` or by the user."""
    return os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE" or "GOMP_SPINCOUNT" in os.environ


def _others_running() -> int:
    """Return how many threads of other programs want a core, the least of a few looks; 0 where Linux is not there to ask."""
    counts = []
    for _ in range(4):
        try:
            with open("/proc/loadavg", encoding="ascii") as file:
                counts.append(int(file.read().split()[3].partition("/")[0]) - 1)
        except (OSError, ValueError, IndexError):
            return 0
        time.sleep(0.002)
    return max(0, min(counts))


def _tell_if_crowded() -> None:
    """Measure a few operations with all threads and with one, and warn where one is much faster.

    The number is left as it is: with another one sums round otherwise, and a resumed run would differ.
    """
    import torch

    values, threads = torch.zeros(1 << 18), torch.get_num_threads()

    def seconds() -> float:
        began = time.perf_counter()
        for _ in range(5):
            values.add_(1)
        return time.perf_counter() - began

    if threads == 1:
        return
    several = min(seconds() for _ in range(3))
    torch.set_num_threads(1)
    one = min(seconds() for _ in range(3))
    torch.set_num_threads(threads)
    if several > _CROWDED * max(one, 1e-3):
        _log.warning(
            "the cores are busy: %d threads take %.0f times as long as one, as they spin while they wait; set "
            "OMP_WAIT_POLICY=PASSIVE before torch is imported, or cpu.threads to 1", threads, several / one,
        )  # fmt: skip


def _keep_memory() -> None:
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):  # musl has mallopt, but no such parameters
        return
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    libc.mallopt(_M_TOP_PAD, 64 * 2**20)
