"""Ensembles: run folders without a network of their own, whose config.yaml names the runs that are averaged."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from defectlab.errors import InputError
from defectlab.runs.folder import RunFolder
from defectlab.utils.text import write_text

_KEY = "ensemble"
_HEAD = "# The mean of these runs' probabilities; `defectlab ensemble` with them writes it anew.\n"


def write_members(run: RunFolder, members: Sequence[RunFolder]) -> None:
    """Make `run` an ensemble of `members`."""
    paths = [str(member.path.resolve()) for member in members]
    write_text(run.config, _HEAD + yaml.safe_dump({_KEY: paths}, allow_unicode=True))


def members_of(run: RunFolder) -> list[RunFolder]:
    """Return the runs that an ensemble averages; none for a run of one network; InputError for a member that is gone."""
    try:
        config = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return []  # whoever needs the config itself says what is wrong with it
    paths = config.get(_KEY) if isinstance(config, dict) else None
    if not isinstance(paths, list):
        return []
    gone = next((path for path in paths if not (Path(str(path)) / "config.yaml").is_file()), None)
    if gone is not None:
        raise InputError(f"{run.path} is an ensemble, and its member {gone} is not there: make it anew without")
    return [RunFolder(Path(str(path))) for path in paths]
