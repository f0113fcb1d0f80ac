"""Broken inputs are refused in one line with nothing written, or give what the sound part gives."""

import os
import sys
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("each case runs in a fork", allow_module_level=True)

from broken import GOOD, KINDS, Sound, outcomes

COUNT = int(os.environ.get("DEFECTLAB_FAULTS", "45"))  # 3,000 for the table of docs/reliability.md


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    made = Sound(tmp_path_factory.mktemp("sound"))
    made.make()
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_broken_inputs(kind: str, sound: Sound, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    count = -(-COUNT * KINDS[kind][1] // sum(weight for _, weight in KINDS.values()))
    found = list(outcomes(count, 0, sound, tmp_path / "cases", [kind]))
    assert len(found) == count
    faults = [case for case in found if case.outcome not in GOOD]
    assert not faults, "\n".join(f"{case.number} {case.what}: {case.outcome} {case.detail}" for case in faults)
