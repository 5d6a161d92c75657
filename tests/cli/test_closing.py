"""What `feeder optimize` says at its end: summary first, what matters next, never more than a screen."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from feeder_mixin.cli.optimize import _print_summary
from feeder_mixin.errors import CandleError
from feeder_mixin.reports.closing import summary_document
from feeder_mixin.tune.run.options import RunSummary
from tests.builders import make_settings
from tests.many_pairs import MANY_PAIRS, make_many_results

FAILED = MANY_PAIRS[40:43]
RESULTS = {p: r for p, r in make_many_results().items() if p not in FAILED}


class Chosen:
    """A store that commands need not name."""

    def command(self, _settings, *words):
        """Return a command line."""
        return " ".join(("feeder", *words))

    def __str__(self) -> str:
        return "a store"


def make_summary(pairs=MANY_PAIRS) -> RunSummary:
    """Return a run of these pairs in which three failed for one reason."""
    found = {pair: RESULTS[pair] for pair in pairs if pair in RESULTS}
    errors = {p: CandleError(f"{p}: no candles") for p in FAILED if p in pairs}
    return RunSummary("big", results=found, failures=errors)


def told(
    summary: RunSummary, pairs=MANY_PAIRS, *, terminal: bool = True, width: int = 80
) -> list[str]:
    """Return the lines that are printed."""
    out = io.StringIO()
    console = Console(
        file=out, width=width, force_terminal=terminal, color_system=None, soft_wrap=not terminal
    )
    _print_summary(console, make_settings(Path("user_data"), pairs=pairs), Chosen(), summary)
    return out.getvalue().splitlines()


def test_closing_of_many_pairs_is_one_screen_with_the_summary_first():
    """163 pairs, 80 columns: counts, failures, pooled figures, twenty pairs, and where the rest is."""
    lines = told(make_summary())
    text = " ".join(line.strip() for line in lines)
    assert lines[0].startswith("big: 163 pairs: ")
    assert "3 failed" in " ".join(line.strip() for line in lines[:2])
    assert f"failed: {', '.join(FAILED)}: no candles" in text
    assert "All 160 pairs together: skill over the ATR rule 6.42 % (SE 0.81, 95 %" in text
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 80
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    assert "and 140 more: " in text
    assert "feeder show --pairs" in text


def test_closing_of_many_pairs_has_changed_sets_first_and_then_the_largest_gain():
    """What bots will run from now on comes before what stays."""
    lines = told(make_summary(), terminal=False, width=150)
    rows = [line.split() for line in lines if line.strip().startswith(tuple(RESULTS))]
    assert len(rows) == 160
    words = [row[1] for row in rows]
    n_changed = sum(word in {"promoted", "first"} for word in words)
    assert set(words[:n_changed]) == {"promoted", "first"}
    gains = [RESULTS[row[0]].decided.gain for row in rows[n_changed:]]
    assert gains == sorted(gains, reverse=True)


def test_closing_of_few_pairs_tells_each_in_full():
    """Three pairs: every contender, a sentence each, and the same summary on top."""
    pairs = MANY_PAIRS[:3]
    lines = told(make_summary(pairs), pairs, width=120)
    assert lines[0] == "big: 3 pairs: 1 promoted, 1 kept, 1 refused"
    text = "\n".join(lines)
    assert text.count("ATR rule") > 3
    assert all(f"{pair}: " in text for pair in pairs)
    assert "--pairs" not in text


def test_closing_of_few_pairs_loses_no_digit_on_a_narrow_terminal():
    """Lines that are longer than the screen wrap; nothing is cut."""
    pairs = MANY_PAIRS[:3]
    lines = told(make_summary(pairs), pairs, width=60)
    assert not any("\N{HORIZONTAL ELLIPSIS}" in line for line in lines)
    assert (
        sum(line.startswith(pairs) and " ATR rule " in line for line in map(str.strip, lines)) == 3
    )


@pytest.mark.parametrize("n_failed", [3, 163])
def test_closing_where_every_pair_failed_says_why(n_failed):
    """No result is no reason to be silent: a reason once, with how many pairs have it."""
    failures = {pair: CandleError(f"{pair}: no candles") for pair in MANY_PAIRS[:n_failed]}
    lines = told(RunSummary("big", failures=failures))
    assert lines[0] == f"big: {n_failed} pairs: {n_failed} failed"
    assert "no candles" in " ".join(lines)
    assert len(lines) < 6


def test_summary_document_counts_what_the_lines_say():
    """`--json` has the summary in numbers."""
    document = summary_document(make_summary(), MANY_PAIRS)
    assert document["pairs"] == 163
    assert document["failed"] == 3
    assert sum(document["outcomes"].values()) == 160
    assert document["pooled_skill"] == 0.0642
    assert summary_document(RunSummary("big"), ())["pooled_skill"] is None
