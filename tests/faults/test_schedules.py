"""Faults at random moments: every result is delivered once, readers see whole records only."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.schedules import make_header, make_row, run_schedules
from tests.faults.site import FAULTS

SEED = 20_261_124
PAGE = (Path(__file__).parents[2] / "docs" / "operate" / "faults.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Give a folder in memory where there is one: SQLite's flushes would be most of the time."""
    memory = Path("/dev/shm")  # noqa: S108  (a folder of its own in there)
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as name:
        yield Path(name)


@pytest.mark.parametrize("part", range(3))
def test_random_faults_lose_and_double_nothing(folder, part):
    """90 schedules in three parts; the seed in a failure's note makes its site again."""
    assert run_schedules(folder, SEED + 1_000 * part, 30, 2) > 30


@pytest.mark.parametrize("fault", FAULTS)
def test_page_says_of_each_fault_what_a_user_sees(folder, fault):
    """The table's row is what one run of each moment showed, and nothing was lost in it."""
    assert "\n".join(make_header()) in PAGE
    assert make_row(folder / "site", fault) in PAGE


@pytest.mark.slow
def test_many_random_schedules_lose_and_double_nothing(folder):
    """The same with other seeds, about ten minutes."""
    assert run_schedules(folder, SEED + 1_000_000, 6_000, 4) > 6_000
