"""What the README and the course's page show has to work."""

import re
from pathlib import Path

import pytest

from defectlab.utils.resources import shipped_configs

README = Path(__file__).parents[1] / "README.md"
COURSE = README.parent / "docs" / "course.md"


def test_the_snippet_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    exec(compile(snippet, str(README), "exec"), {"__name__": "readme"})
    accuracy, f1 = capsys.readouterr().out.splitlines()[-1].split()
    assert 0 <= float(accuracy) <= 1
    assert f1 == "nan" or 0 <= float(f1) <= 1


def test_every_config_it_names_is_shipped_and_every_shipped_one_is_named() -> None:
    text = README.read_text(encoding="utf-8") + COURSE.read_text(encoding="utf-8")
    named = set(re.findall(r"\b([a-z0-9_]+\.yaml)\b", text))
    assert named - {"config.yaml"} == set(shipped_configs())
