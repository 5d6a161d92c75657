"""What commands print of a feeder of 163 pairs: the summary first, bounded, every pair in reach."""

from __future__ import annotations

import io
import json
import time
from dataclasses import replace

import pytest
from rich.console import Console

from feeder_mixin.cli import bot_commands, diff, show
from feeder_mixin.live.state.status import write_status
from feeder_mixin.schema import NANOSECONDS
from feeder_mixin.settings import load_settings
from tests.builders import make_record
from tests.live.fake_bot import make_pair, make_status
from tests.many_pairs import MANY_PAIRS

BIG = ("--feeder", "big")
ODD = MANY_PAIRS[100]
NOW_NS = (time.time_ns() // NANOSECONDS - 3600) * NANOSECONDS


@pytest.fixture
def big(write_config, store):
    """Give a feeder of 163 pairs, its records but one, and what its last bot had loaded."""
    write_config("big", exchange={"pair_whitelist": list(MANY_PAIRS)})
    settings = load_settings("big")
    store.write(
        [
            make_record(pair, NOW_NS + number, feeder_id="big")
            for number, pair in enumerate(MANY_PAIRS[1:])
        ]
    )
    status = make_status("big")
    status["pairs"] = {pair: make_pair(NOW_NS + n - 1) for n, pair in enumerate(MANY_PAIRS)}
    status["pairs"][ODD]["parameters"]["num_leaves"] = 20
    for pair in MANY_PAIRS[50:150]:
        status["pairs"][pair]["model"]["error"] = "too few rows"
    write_status(settings.status_path, status)


@pytest.fixture
def screen(monkeypatch):
    """Make stdout of the commands a terminal of 80 columns, and give its lines."""
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True, color_system=None)

    def make(*, stderr: bool = False) -> Console:
        return Console(file=io.StringIO()) if stderr else console

    for module in (show, diff, bot_commands):
        monkeypatch.setattr(module, "make_console", make)
    return lambda: out.getvalue().splitlines()


def test_history_of_many_pairs_is_the_newest_record_of_each(big, feeder, screen):
    """A line a pair, and the command for all of one; JSON has as many as ever."""
    assert feeder("history", *BIG)[0] == 0
    lines = screen()
    assert sum(line.startswith("big ") for line in lines) == len(MANY_PAIRS) - 1
    assert "The newest of each of 163 pairs; all of one: " in " ".join(lines)


def test_show_of_many_pairs_is_a_line_each_behind_the_summary(big, feeder, screen):
    """A column for each of 163 pairs showed nothing at all."""
    assert feeder("show", *BIG)[0] == 0
    lines = screen()
    assert "162 of 163 pairs have a record" in " ".join(lines[:4])
    rows = [line.split() for line in lines if line.strip().startswith(MANY_PAIRS)]
    assert [row[0] for row in rows] == list(MANY_PAIRS[1:])
    assert "--pairs" in " ".join(lines[-2:])


def test_show_of_many_reasons_says_the_most_common_and_counts_the_rest(big, feeder, store):
    """A hundred pairs judged each by itself do not push the table off the screen."""
    reasons = ["won over 62 pairs together"] * 62 + [f"own reason {n}" for n in range(100)]
    store.write(
        [
            replace(
                make_record(pair, NOW_NS + 1000 + number, feeder_id="big"),
                provenance={"promotion": {"outcome": "kept", "reason": reason}},
            )
            for number, (pair, reason) in enumerate(zip(MANY_PAIRS[1:], reasons, strict=True))
        ]
    )
    _, out, _ = feeder("show", *BIG)
    said = [line for line in out.splitlines() if ": kept: " in line or "for other" in line]
    assert said[0].endswith("and 58 more: kept: won over 62 pairs together")
    assert len(said) == 7
    assert said[-1].endswith("and 91 more: for other reasons each; --pairs P has one")


def test_status_of_many_pairs_counts_them_and_shows_what_is_notable_first(big, feeder, screen):
    """A hundred failed trainings are one line, and twenty rows are enough for a look."""
    feeder("status", *BIG)
    lines = screen()
    assert any("163 pairs; source: 163 store; model: 163 ready" in line for line in lines)
    rows = [line.split() for line in lines if line.strip().startswith(MANY_PAIRS)]
    assert [row[0] for row in rows[:20]] == list(MANY_PAIRS[50:70])
    assert "and 143 more" in " ".join(lines)
    assert "and 96 more: too few rows" in " ".join(line.strip() for line in lines)
    assert len(lines) < 45


def test_status_pairs_chooses_and_refuses_a_foreign_pair(big, feeder):
    """`--pairs` shows all columns of one; a typing error gets the nearest names."""
    _, out, _ = feeder("status", *BIG, "--pairs", ODD, "--json")
    assert list(json.loads(out)[0]["status"]["pairs"]) == [ODD]
    code, _, err = feeder("status", *BIG, "--pairs", "1000000PEP/USDT:USDT")
    assert code == 2
    assert "the nearest of its 163 pairs are 1000000PEPE/USDT:USDT" in err
    assert len(err) < 400


def test_diff_of_many_pairs_counts_them_and_names_what_differs(big, feeder, screen):
    """The one pair that differs is not to be looked for among 163."""
    assert feeder("diff", *BIG)[0] == 0
    lines = screen()
    assert lines[0] == "big: 163 pairs: 1 differ, 161 do not, 1 can't be compared"
    assert f"  {MANY_PAIRS[0]}: no record in the store" in lines
    assert f"  {ODD}: num_leaves" in lines
    assert len(lines) == 4


def test_doctor_of_many_pairs_has_one_line_a_finding(big, feeder):
    """163 times the same finding is one, with a count."""
    _, out, _ = feeder("doctor", *BIG)
    assert f"no record for {MANY_PAIRS[0]}" in out
    assert "and 159 more" in out
    assert len(out.splitlines()) < 50
