"""What docs/ says of files and links is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "CONTRIBUTING.md"])
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_docs_name_only_files_that_exist(page):
    """A reader who follows a path or a link arrives."""
    text = page.read_text(encoding="utf-8")
    for name in set(re.findall(r"`((?:[\w.-]+/)+[\w.-]*)`", text)):
        assert any((base / name).exists() for base in (ROOT, ROOT / "feeder_mixin")), name
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", DECISIONS, ids=lambda p: p.stem)
def test_decision_has_its_four_headings_and_a_row_in_the_index(page):
    """What was chosen, why, at what cost, and what would change it."""
    text = page.read_text(encoding="utf-8")
    assert re.findall(r"^\*\*(.+?)\.\*\*", text, re.MULTILINE) == [
        "Chosen",
        "Why",
        "Cost",
        "What would change it",
    ]
    title = text.splitlines()[0].removeprefix("# ").split(". ", 1)[1]
    index = (page.parent / "README.md").read_text(encoding="utf-8")
    assert f"[{title}]({page.name})" in index
