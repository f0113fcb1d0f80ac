"""Checkpoints that are whole or absent, and that find each other again in a run folder that was moved."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from defectlab.tasks.checkpoint import read_checkpoint
from defectlab.utils._compat import relocate_checkpoints
from defectlab.utils.files import atomic

__all__ = ["AtomicCheckpointIO"]


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write beside the target, then rename: a full disk costs the new checkpoint, never the last good one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Save to `path`.

        Raises:
            InputError: the disk is full or not writable; the file that was at `path` is still there.
        """
        target = Path(path)
        kept = "the last good one is still there" if target.exists() else "nothing was written"
        with atomic(target, f"{kept}: free some space, then resume the run", sync=True) as part:
            try:
                with part.open("wb") as file:
                    torch.save(checkpoint, file)
            except RuntimeError as error:  # torch reports a failed write as one, and an interrupted one likewise
                if isinstance(error.__context__, KeyboardInterrupt):
                    raise error.__context__ from None
                raise OSError("the disk is full, or fails") from None

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load without running code; ModelCheckpoint's paths become those of the folder that `path` lies in.

        Raises:
            InputError: as `read_checkpoint`.
        """
        checkpoint = read_checkpoint(Path(path))
        folder = Path(path).resolve().parent
        for state in checkpoint.get("callbacks", {}).values():
            if isinstance(state, dict) and "best_model_path" in state:
                relocate_checkpoints(state, folder)
        return checkpoint
