"""Read crossval.json, which makes a folder of runs a cross-validation."""

import json
import os
from pathlib import Path
from typing import Any

from defectlab.errors import InputError

CROSSVAL_FILE = "crossval.json"


def read_crossval(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read crossval.json: `arguments`, `fit`, and `summary` once all runs are done; InputError if it cannot be read."""
    try:
        saved = json.loads((Path(folder) / CROSSVAL_FILE).read_text(encoding="utf-8"))
        if isinstance(saved, dict) and {"arguments", "fit"} <= set(saved):
            return saved
    except (OSError, ValueError):
        pass
    raise InputError(f"{Path(folder)} is no folder of a cross-validation: it has no readable {CROSSVAL_FILE}")
