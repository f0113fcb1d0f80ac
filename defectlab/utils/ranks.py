"""Whether this is the process that speaks and writes; light, as `defectlab --help` asks too."""

import os

__all__ = ["is_first_process"]

# Set by torchrun, by Lightning's launcher and by SLURM; absent or 0 in the first process.
_VARIABLES = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")


def is_first_process() -> bool:
    """Whether this is the first process of its run, or the only one."""
    return all(os.environ.get(name, "0") in ("0", "") for name in _VARIABLES)
