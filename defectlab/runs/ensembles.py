"""Ensembles, run folders without a network of their own, whose config.yaml names the runs that are averaged; and whether
a table of predictions is still of the network, or networks, of its run."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from defectlab.errors import InputError
from defectlab.runs.folder import RunFolder
from defectlab.runs.predictions import PredictionTable, read_prediction_table
from defectlab.utils.text import write_text
from defectlab.utils.yamls import read_yaml

_KEY = "ensemble"
_HEAD = "# The mean of these runs' probabilities; `defectlab ensemble` with them writes it anew.\n"


def write_members(run: RunFolder, members: Sequence[RunFolder]) -> None:
    """Make `run` an ensemble of `members`."""
    paths = [str(member.path.resolve()) for member in members]
    write_text(run.config, _HEAD + yaml.safe_dump({_KEY: paths}, allow_unicode=True))


def members_of(run: RunFolder) -> list[RunFolder]:
    """Return the runs that an ensemble averages; none for a run of one network; InputError for a member that is gone."""
    try:
        config = read_yaml(run.config)
    except InputError:
        return []  # whoever needs the config itself says what is wrong with it
    paths = config.get(_KEY) if isinstance(config, dict) else None
    if not isinstance(paths, list):
        return []
    gone = next((path for path in paths if not (Path(str(path)) / "config.yaml").is_file()), None)
    if gone is not None:
        raise InputError(f"{run.path} is an ensemble, and its member {gone} is not there: make it anew without")
    return [RunFolder(Path(str(path))) for path in paths]


def fingerprint_of(run: RunFolder) -> str | None:
    """Return the fingerprint of a run's best checkpoint, or one of those of an ensemble's members; None if one is gone."""
    members = members_of(run)
    if not members:
        return run.fingerprint
    return joined_fingerprint([member.fingerprint for member in members])


def joined_fingerprint(fingerprints: Sequence[str | None]) -> str | None:
    """Return the fingerprint of several networks; None if one of theirs is not known."""
    if None in fingerprints:
        return None
    if len(fingerprints) == 1:
        return fingerprints[0]
    return hashlib.sha256(" ".join(map(str, fingerprints)).encode()).hexdigest()[:16]


def read_own_table(
    run: RunFolder, part: Literal["val", "test"] = "test", network: str | None = None
) -> PredictionTable:
    """Read the predictions of a run's validation or test images.

    Args:
        run: its folder.
        part: of its data.
        network: fingerprint of the network that they have to be of; None for that of the run as it is now.

    Raises:
        InputError: there are none, or they are of another network.
    """
    file = run.predictions_csv if part == "test" else run.val_predictions_csv
    if part == "val" and not file.exists():
        raise InputError(f"{file} is gone, and only `fit` writes it: put it back, or fit anew")
    table = read_prediction_table(file)
    own = network if network is not None else fingerprint_of(run)
    if table.checkpoint is not None and own is not None and table.checkpoint != own:
        advice = "make the ensemble anew" if members_of(run) else f"defectlab resume {run.path}, which evaluates it"
        raise InputError(
            f"{file} is of another network than the run's is now (checkpoint {table.checkpoint}, not {own}): {advice}"
        )
    return table


def read_own_metrics(run: RunFolder) -> dict[str, Any]:
    """Read a run's metrics.json; InputError where it is of another network than the run's is now."""
    metrics = run.read_metrics()
    found, own = (metrics.get("run") or {}).get("checkpoint"), fingerprint_of(run)
    if found is not None and own is not None and found != own:
        raise InputError(
            f"{run.metrics_json} is of another network than the run's is now (checkpoint {found}, not {own}): "
            f"defectlab test {run.path}"
        )
    return metrics
