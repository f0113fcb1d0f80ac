"""What the README and the pages of configs show has to be there."""

import re
from pathlib import Path

from defectlab.utils.resources import shipped_configs

README = Path(__file__).parents[1] / "README.md"
PAGES = [README, *(README.parent / "docs" / name for name in ("configs.md", "course.md"))]


def test_it_is_short_and_its_links_lead_somewhere() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert len(links) > 10
    for link in links:
        assert (README.parent / link).is_file(), link


def test_every_config_that_is_named_is_shipped_and_every_shipped_one_is_named() -> None:
    named = {name for page in PAGES for name in re.findall(r"\b([a-z0-9_]+\.yaml)\b", page.read_text(encoding="utf-8"))}
    assert named - {"config.yaml"} == set(shipped_configs())
