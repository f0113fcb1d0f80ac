"""Checkpoints that are whole or absent: a full disk costs the new one, never the last good one."""

import contextlib
import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH

from defectlab.errors import InputError

__all__ = ["AtomicCheckpointIO"]


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write beside the target, then rename."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        """Save to `path`.

        Raises:
            InputError: the disk is full or not writable; the file that was at `path` is still there.
        """
        target = Path(path)
        part = target.with_name(f".{target.name}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
        except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
            with contextlib.suppress(OSError):
                part.unlink()
            reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
            kept = "the last good one is still there" if target.exists() else "nothing was written"
            raise InputError(
                f"could not write the checkpoint {target} ({reason}); {kept}: free some space, then resume the run"
            ) from None
