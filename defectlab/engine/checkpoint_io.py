"""Write checkpoints whole or not at all, and read them from a run folder that was moved."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from defectlab.tasks.checkpoint import read_checkpoint
from defectlab.utils._compat import relocate_checkpoints
from defectlab.utils.files import atomic


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write beside the target, then rename: a full disk costs the new checkpoint, never the last good one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Save to `path`; InputError where the disk is full, and the file that was there is kept."""
        target = Path(path)
        kept = "the last good one is still there" if target.exists() else "nothing was written"
        with atomic(target, f"{kept}: free some space, then resume the run", sync=True) as part:
            try:
                with part.open("wb") as file:
                    torch.save(checkpoint, file)
            except RuntimeError as error:  # torch's for a failed write, and for an interrupted one
                if isinstance(error.__context__, KeyboardInterrupt):
                    raise error.__context__ from None
                raise OSError("the disk is full, or fails") from None

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load without running code; ModelCheckpoint's paths become those of the folder that `path` lies in."""
        checkpoint = read_checkpoint(Path(path))
        folder = Path(path).resolve().parent
        for state in checkpoint.get("callbacks", {}).values():
            if isinstance(state, dict) and "best_model_path" in state:
                relocate_checkpoints(state, folder)
        return checkpoint
