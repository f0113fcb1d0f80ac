"""state.json: how far a run has come, and which checkpoint is its best."""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from defectlab.errors import InputError
from defectlab.utils.files import hash_file
from defectlab.utils.text import write_text

_FILE = "state.json"
Phase = Literal["training", "stopped", "finished"]


@dataclass(frozen=True)
class RunState:
    """How far a run has come.

    Args:
        phase: a stopped run goes on with resume; a finished one was evaluated.
        best: checkpoint with the best monitored value so far; None where none was written.
        sha256: of a finished run's best checkpoint, in hex; None while it may still change.
        config: name of the config that it was begun with; None where it is not known.
    """

    phase: Phase
    best: Path | None = None
    sha256: str | None = None
    config: str | None = None


def read_state(run: Path) -> RunState | None:
    """Read state.json of a run folder; None where there is none, as in runs of earlier versions.

    Raises:
        InputError: it is not as `write_state` writes it.
    """
    path = run / _FILE
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        phase, best = saved["state"], saved["best"]
        if phase not in ("training", "stopped", "finished"):
            raise ValueError
        config = saved.get("config")
        if not isinstance(config, str | None):
            raise ValueError
        if best is None:
            return RunState(phase, config=config)
        file, sha256 = best["file"], best["sha256"]
        if not isinstance(file, str) or not isinstance(sha256, str | None):
            raise ValueError
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{path} is no state of a run any more: put the right one in its place; without it checkpoints/best.ckpt is "
            "taken for the best"
        ) from None
    return RunState(phase, Path(os.path.normpath(run / file)), sha256, config)


def write_state(run: Path, phase: Phase, best: Path | None, config: str | None = None) -> None:
    """Write state.json; a finished run's with the SHA-256 of its best checkpoint, which is named relative to it if inside.

    Without `config` the name that is there already is kept.
    """
    saved = None
    if config is None:
        with suppress(InputError):
            state = read_state(run)
            config = None if state is None else state.config
    if best is not None:
        # An evaluation's folder lies in that of its run.
        near = best.resolve().is_relative_to(
            run.resolve().parent if (run.parent / "config.yaml").is_file() else run.resolve()
        )
        file = Path(os.path.relpath(best.resolve(), run.resolve())) if near else best.resolve()
        saved = {"file": file.as_posix(), "sha256": hash_file(best) if phase == "finished" else None}
    write_text(run / _FILE, json.dumps({"state": phase, "best": saved, "config": config}, indent=2) + "\n")
