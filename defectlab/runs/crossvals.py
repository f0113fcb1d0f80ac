"""Read crossval.json, which makes a folder of runs a cross-validation."""

import json
import math
import os
from pathlib import Path
from typing import Any

from defectlab.errors import InputError

CROSSVAL_FILE = "crossval.json"


def read_crossval(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read crossval.json: `arguments`, `fit`, and `summary` once all runs are done; InputError if it cannot be read."""
    path = Path(folder) / CROSSVAL_FILE
    try:
        saved = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        saved = None
    if not isinstance(saved, dict) or not {"arguments", "fit"} <= set(saved):
        raise InputError(f"{Path(folder)} is no folder of a cross-validation: it has no readable {CROSSVAL_FILE}")
    words, summary = saved["fit"], saved.get("summary")
    sound = isinstance(saved["arguments"], dict) and isinstance(words, list) and all(isinstance(w, str) for w in words)
    if not sound or (summary is not None and not _is_summary(summary)):
        raise InputError(f"{path} is not as it was written: put it back, or make the cross-validation anew")
    return saved


def _is_summary(value: Any) -> bool:
    """Return whether a value is what `cross_validate` keeps of its runs."""
    if not isinstance(value, dict) or not isinstance(value.get("runs"), list) or len(value["runs"]) < 2:
        return False
    rows = all(
        isinstance(row, dict) and _are_numbers(row, ("accuracy",))
        and isinstance(row.get("run"), str) and isinstance(row.get("split_hash"), str)
        for row in value["runs"]
    )  # fmt: skip
    return rows and _are_numbers(value, ("accuracy", "sd", "low", "high", "test_to_train"))


def _are_numbers(values: dict[str, Any], names: tuple[str, ...]) -> bool:
    found = [values.get(name) for name in names]
    return all(isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in found)
