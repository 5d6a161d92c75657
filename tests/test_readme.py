"""The README is what a newcomer reads in two minutes, and runs."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_opens_with_the_two_commands():
    """The first block is what a newcomer pastes."""
    first = README.split("```bash\n")[1].split("```")[0].splitlines()
    assert first == ["make demo", "make test"]


def test_readme_is_read_in_two_minutes():
    """At most 100 lines; what is longer is a page."""
    assert len(README.splitlines()) <= 100
    assert len(README) < 8_000


def test_readmes_picture_is_light():
    """Every clone and every visit carries it."""
    assert (ROOT / "docs" / "assets" / "report.webp").stat().st_size < 150_000
