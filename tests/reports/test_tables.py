"""What a run says about its result: honest where tuning lost."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from feeder_mixin.reports.tables import (
    closing_table,
    feeder_notes,
    identical_pairs,
    mean_importances,
    on_bounds,
    verdicts,
)
from feeder_mixin.schema import default_parameters


def score(skill: float):
    """Return a contender's fields."""
    return {
        "skill": skill,
        "skill_se": 0.02,
        "mae": 0.0123,
        "exceedance": 0.11,
        "safety_accuracy": 0.6,
        "predicted_safe_share": 0.0,
        "realised_safe_share": 0.7,
        "false_positive_rate": 0.0,
        "false_negative_rate": None,
    }


def result(tuned=0.06, defaults=0.05, importances=None, beats_rule=1.0, **changes):
    """Return a pair's result document."""
    return {
        "parameters": {**default_parameters(), **changes},
        "scores": {"ATR rule": score(0.0), "defaults": score(defaults), "tuned": score(tuned)},
        "alpha": 0.1,
        "importances": importances or {},
        "metrics": {"beats_rule": beats_rule},
        "tuned_gain": tuned - defaults,
        "tuned_gain_se": 0.002,
        "max_adverse_ratio": 0.01,
        "scale_is_fallback": False,
    }


def text_of(table) -> str:
    """Return a table as plain text."""
    console = Console(width=120, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


def test_closing_table_shows_every_contender_and_a_dash_for_an_absent_rate():
    """A rate with an empty denominator is absent, never 0."""
    text = text_of(closing_table({"BTC/USDT:USDT": result()}))
    for word in ("ATR rule", "defaults", "tuned", "quantile level 0.1", "called", "base"):
        assert word in text
    tuned = next(line for line in text.splitlines() if line.strip().startswith("tuned"))
    assert tuned.split()[-2:] == ["0.0", "-"]


@pytest.mark.parametrize(
    ("document", "words"),
    [
        pytest.param(result(), "the defaults won", id="defaults"),
        pytest.param(result(num_leaves=20), "beat the defaults", id="won"),
        pytest.param(result(tuned=0.03, num_leaves=20), "lost to the defaults", id="lost"),
        pytest.param(result(tuned=-0.01, num_leaves=20), "worse than the ATR rule", id="below"),
        pytest.param(result(beats_rule=0.0), "nothing beat the ATR rule", id="beats nothing"),
        pytest.param(result(tuned=0.051, num_leaves=20), "within noise", id="noise"),
        pytest.param(result(), "hardly any entry would pass", id="never safe"),
    ],
)
def test_verdict_says_plainly_what_happened(document, words):
    """Where tuning lost, the sentence says lost."""
    (line,) = verdicts({"BTC/USDT:USDT": document})
    assert words in line


def test_on_bounds_counts_tuned_winners_only():
    """The defaults stand on bounds by design; they are no sign of a range too narrow."""
    results = [result(), result(learning_rate=0.1), result(learning_rate=0.1, max_depth=5)]
    assert on_bounds(results)["learning_rate"] == 2
    assert on_bounds([result()]) == {}


def test_identical_pairs_are_grouped_and_named():
    """Two pairs with the same parameters are said, with whether they are the defaults."""
    results = {"A": result(), "B": result(num_leaves=20), "C": result()}
    assert identical_pairs(results) == [["A", "C"]]
    assert any("the defaults" in note and "A, C" in note for note in feeder_notes(results))


def test_mean_importances_averages_over_pairs_that_have_any():
    """A pair with too few finished trials does not dilute the others."""
    results = [
        result(importances={"max_depth": 0.2}),
        result(importances={"max_depth": 0.4}),
        result(),
    ]
    assert mean_importances(results) == {"max_depth": pytest.approx(0.3)}
