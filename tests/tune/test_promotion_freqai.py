"""Decisions on a FreqAI bot's pairs: no rule, the config's own values in the place of the defaults."""

from __future__ import annotations

from dataclasses import replace

import pytest

from feeder_mixin.schema import FREQAI_MODEL_TYPE
from feeder_mixin.tune.judge.promotion import record_of
from feeder_mixin.tune.judge.result import DayTable, Evidence, MeasuredSet, TargetScores
from tests.reports import builder
from tests.tune.test_promotion import CHALLENGER, CHAMPION, METRICS, RUNS, decide_one, make_evidence

OWN = {**CHALLENGER, "num_leaves": 64, "max_depth": -1}
"""A config's values, outside of the schema's ranges."""


def freqai_evidence(
    *, gain=0.1, champion=None, tuned=CHALLENGER, share=0.12, before=0.2, level=0.1
) -> Evidence:
    """Return evidence that the tuned set won `gain` of the config's loss, with one target's shares."""
    built_in = make_evidence(gain=gain, skill=0.0, champion=champion, tuned=tuned)

    def table(one: DayTable) -> DayTable:
        names = {"defaults": "config", "running": "running", "tuned": "tuned"}
        losses = {names[name]: x for name, x in one.losses.items() if name in names}
        return DayTable(one.days, losses)

    comparison = replace(
        built_in.comparison,
        test=table(built_in.comparison.test),
        walk=table(built_in.comparison.walk),
    )
    sets = {"config": MeasuredSet(OWN, METRICS), "tuned": MeasuredSet(tuned, METRICS)}
    shares = {"config": before, "tuned": share}
    if champion is not None:
        sets["running"], shares["running"] = MeasuredSet(champion, METRICS), before
    target = TargetScores("&-low", level, dict.fromkeys(shares, 1.0), shares)
    return replace(built_in, sets=sets, comparison=comparison, targets=(target,))


def test_a_clear_win_over_the_configs_own_values_is_a_first_record():
    """Of its own type, without what only the built-in model has."""
    evidence = freqai_evidence()
    decision = decide_one(evidence, champion=None)
    assert (decision.outcome, decision.written) == ("first", "tuned")
    assert "over the config's own values" in decision.reason
    assert decision.beats_rule is None
    assert decision.exceedance_interval is None
    result = replace(builder.make_result(evidence=evidence), model_type=FREQAI_MODEL_TYPE)
    record = record_of("bot", result, decision, "tuned")
    assert record.model_type == FREQAI_MODEL_TYPE
    assert "beats_rule" not in record.metrics


@pytest.mark.parametrize("mode", ["auto", "always", "never"])
@pytest.mark.parametrize("champion", [None, RUNS])
def test_the_configs_own_values_are_never_written(champion, mode):
    """Where the search ends at them, what runs stays, and no candidate is kept."""
    evidence = freqai_evidence(tuned=OWN, champion=champion)
    decision = decide_one(evidence, champion=None if champion is None else CHAMPION, mode=mode)
    assert (decision.outcome, decision.written, decision.candidate) == ("kept", None, False)
    assert "the config's own values won the search" in decision.reason


def test_what_is_not_beyond_noise_is_a_candidate_and_writes_nothing():
    """The config's own values need no record."""
    decision = decide_one(freqai_evidence(gain=0.0), champion=None)
    assert (decision.outcome, decision.written, decision.candidate) == ("refused", None, True)


@pytest.mark.parametrize(
    ("share", "before", "outcome"),
    [
        pytest.param(0.17, 0.28, "first", id="nearer_than_before"),
        pytest.param(0.17, 0.12, "refused", id="further_than_before"),
        pytest.param(0.12, 0.10, "first", id="inside"),
    ],
)
def test_a_level_is_held_or_at_least_come_nearer_to(share, before, outcome):
    """Outside of its interval, but nearer than what it replaces: better in both."""
    decision = decide_one(freqai_evidence(share=share, before=before), champion=None)
    assert decision.outcome == outcome
    if outcome == "refused":
        assert "exceedance of &-low of 17.0 % is outside 5.1 to 14.9 %" in decision.reason


def test_a_target_without_a_level_has_no_exceedance():
    """The squared error asks for none."""
    decision = decide_one(freqai_evidence(share=0.9, before=0.5, level=None), champion=None)
    assert decision.outcome == "first"
