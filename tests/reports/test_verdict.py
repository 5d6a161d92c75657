"""What the page says first: counts, pooled figures, warnings; nothing guessed, nothing swallowed."""

from __future__ import annotations

import pytest

from feeder_mixin.model.metrics import exceedance_interval
from feeder_mixin.reports._verdict import make_verdict, outcome_counts_text
from feeder_mixin.reports.documents import StoredPair, TunedPair
from feeder_mixin.tune.judge.result import DecisionValue
from tests.reports import builder

BTC, ETH = builder.TEN_PAIRS[:2]


def verdict_of(*results):
    """Return the verdict over results, one a pair."""
    return make_verdict(builder.make_report({one.pair: TunedPair(one) for one in results}))


def result(pair=BTC, *, decision=None, score=None, metrics=None, **changes):
    """Return a result with parts of the decision, the tuned score and metrics changed."""
    made = builder.with_decision(builder.make_result(pair, **changes), **(decision or {}))
    return builder.with_tuned(builder.with_score(made, **(score or {})), **(metrics or {}))


@pytest.mark.parametrize(
    ("skill", "error", "words"),
    [
        pytest.param(0.05, 0.02, "Better than the ATR rule, beyond noise", id="better"),
        pytest.param(0.03, 0.02, "Not better than the ATR rule beyond noise", id="noise"),
        pytest.param(-0.05, 0.02, "Worse than the ATR rule, beyond noise", id="worse"),
        pytest.param(0.05, None, "no pooled comparison", id="no error"),
    ],
)
def test_headline_says_what_the_pooled_interval_says(skill, error, words):
    """Better is said only where the whole interval is above 0."""
    pooled = {"pooled_skill": skill, "pooled_skill_se": error}
    assert words in verdict_of(result(decision=pooled)).headline


def test_verdict_takes_pooled_figures_from_the_newest_decision():
    """Pairs tuned on other days hold other pooled figures: the newest is the page's."""
    old = result(decision={"pooled_skill": 0.01}, time_ns=1)
    new = result(ETH, decision={"pooled_skill": 0.09}, time_ns=2)
    assert verdict_of(new, old).pooled_skill == 0.09


def test_verdict_of_the_kept_champion_is_about_the_champion():
    """What bots read decides, not what was tried: nothing written means the champion runs on."""
    kept = result(decision={"outcome": "kept", "written": None}, score={"exceedance": 0.2})
    kept = builder.with_score(kept, "running", exceedance=0.12)
    assert verdict_of(kept).exceedance == 0.12
    assert verdict_of(builder.with_decision(kept, written="tuned")).exceedance == 0.2


def test_verdict_counts_pairs_inside_their_own_interval():
    """Each pair has its own number of independent rows, so its own interval."""
    low, _ = exceedance_interval(builder.ALPHA, 144.0)
    inside = result(score={"exceedance": low})
    outside = result(ETH, score={"exceedance": low - 1e-9})
    verdict = verdict_of(inside, outside)
    assert (verdict.n_inside, verdict.n_intervals) == (1, 2)
    assert any("outside its 95 % interval: ETH" in line for line in verdict.warnings)


def test_verdict_sums_the_decision_value_over_pairs():
    """Unsafe candles of all pairs, at as many entries."""
    counts = DecisionValue(100, 40, unsafe_model=3, unsafe_rule=5, tolerance=0.01)
    verdict = verdict_of(result(decision_value=counts), result(ETH, decision_value=counts))
    assert (verdict.n_safe, verdict.unsafe_model, verdict.unsafe_rule) == (80, 6, 10)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"labelled_days": 40.0}, "Few labelled days", id="few days"),
        pytest.param(
            {"metrics": {"candles_to_s": builder.END_S - 9 * 86_400.0}},
            "Candles were old",
            id="old candles",
        ),
        pytest.param({"decision": {"beats_rule": False}}, "beats_rule 0", id="beats nothing"),
        pytest.param({"score": {"predicted_safe_share": 0.001}}, "0.1 % at 1.0 %", id="never safe"),
        pytest.param({"score": {"exceedance": 0.2}}, "95 % interval: BTC 20.0 %", id="outside"),
        pytest.param({"scale_is_fallback": True}, "ATR14/close was used", id="fallback"),
    ],
)
def test_every_warning_is_said_with_its_pair(changes, words):
    """Each has a cause of its own, and a sound pair has none of them."""
    sound = result(ETH, score={"exceedance": 0.1})
    verdict = verdict_of(result(**{"score": {"exceedance": 0.1}, **changes}), sound)
    (line,) = verdict.warnings
    assert words in line
    assert "BTC" in line
    assert "ETH" not in line


def test_verdict_of_a_run_that_was_stopped_before_its_decision_guesses_nothing():
    """The pair is counted apart, and no pooled figure is made up."""
    verdict = verdict_of(builder.make_result(decision=None))
    assert verdict.outcomes == {"undecided": 1}
    assert verdict.pooled_skill is None
    assert "no pooled comparison" in verdict.headline


def test_warning_of_a_stored_record_asks_its_metric():
    """A record tells of its decision only whether anything beat the ATR rule."""
    record = builder.make_record(result(metrics={"beats_rule": 0.0}))
    verdict = make_verdict(builder.make_report({BTC: StoredPair(record)}))
    assert any("beats_rule 0" in line for line in verdict.warnings)


def test_outcome_counts_text_names_every_outcome_once_and_unknown_ones_as_they_are():
    """A later version's outcome is shown, not dropped."""
    text = outcome_counts_text({"kept": 2, "expired_replaced": 1, "promoted": 3, "renamed": 1})
    assert text == "3 promoted, 2 kept, 1 expired and replaced, 1 renamed"
