"""Decisions on the evidence of pairs: who is written, who is refused, what a bot is told."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from feeder_mixin.schema import default_parameters
from feeder_mixin.tune.judge.decision import Champion
from feeder_mixin.tune.judge.promotion import decide, record_of
from feeder_mixin.tune.judge.result import (
    Comparison,
    DayTable,
    Evidence,
    MeasuredSet,
    PairResult,
)
from tests.reports import builder

PAIR = "BTC/USDT:USDT"
DAYS = tuple(range(20_000, 20_015))
WALK_DAYS = tuple(range(19_940, 20_015))
DEFAULT = default_parameters()
CHALLENGER = {**DEFAULT, "num_leaves": 31}
RUNS = {**DEFAULT, "num_leaves": 20}
CHAMPION = Champion(123, RUNS)
METRICS = {"exceedance": 0.1, "skill": 0.05, "best_trial": 4.0}


def make_evidence(
    *,
    gain=0.0,
    noise=0.01,
    skill=0.06,
    tuned=CHALLENGER,
    champion=RUNS,
    exceedance=0.1,
    seed=1,
    scale=1.0,
    is_feeders=True,
) -> Evidence:
    """Return evidence that the tuned set won `gain` of the rule's loss over what runs."""
    random = np.random.default_rng(seed)
    rule = scale * np.exp(0.3 * random.normal(size=len(WALK_DAYS)))
    runs = rule * (1 - skill + 0.02 * random.normal(size=len(rule)))
    won = rule * (gain + noise * random.normal(size=len(rule)))
    losses = {"ATR rule": rule, "defaults": runs, "running": runs, "tuned": runs - won}
    sets = {
        "defaults": MeasuredSet(DEFAULT, {**METRICS, "best_trial": 0.0}),
        "running": MeasuredSet(champion, METRICS),
        "tuned": MeasuredSet(tuned, {**METRICS, "exceedance": exceedance}),
    }
    if champion is None:
        del losses["running"], sets["running"]
    walk = DayTable(WALK_DAYS, {name: tuple(x.tolist()) for name, x in losses.items()})
    test = DayTable(DAYS, {name: x[-len(DAYS) :] for name, x in walk.losses.items()})
    comparison = Comparison({}, test, walk, 0.0, None)
    return Evidence(sets, comparison, n_independent=144.0, is_feeders=is_feeders)


def make_result(**options) -> PairResult:
    """Return a result with such evidence."""
    return builder.make_result(evidence=make_evidence(**options))


def decide_one(evidence, champion=CHAMPION, mode="auto", earlier=None):
    """Return the decision on a single pair."""
    champions = {} if champion is None else {PAIR: champion}
    decisions = {} if earlier is None else {PAIR: earlier}
    return decide({PAIR: evidence}, champions, mode, decisions)[PAIR]


def test_decide_without_evidence_decides_nothing():
    """A run interrupted before any pair ended."""
    assert decide({}, {}, "auto") == {}


def test_decide_clear_gain_is_promoted_with_its_numbers():
    """Better than what runs beyond noise, exceedance inside: bots get it."""
    decision = decide_one(make_evidence(gain=0.05))
    assert (decision.outcome, decision.written, decision.candidate) == ("promoted", "tuned", False)
    assert decision.gain == pytest.approx(0.05, abs=0.01)
    assert 0 < decision.gain_se < 0.02
    assert f"{100 * decision.gain:+.2f} points" in decision.reason
    assert (decision.champion_time_ns, decision.champion_parameters) == (123, RUNS)


@pytest.mark.parametrize(
    ("evidence", "word"),
    [
        pytest.param(make_evidence(gain=-0.05), "not beyond noise", id="worse"),
        pytest.param(make_evidence(gain=0.002, noise=0.05), "not beyond noise", id="noise"),
        pytest.param(make_evidence(gain=0.05, exceedance=0.16), "16.0 % is outside 5.1 to 14.9", id="wide"),
        pytest.param(make_evidence(gain=0.05, exceedance=0.04), "4.0 % is outside", id="narrow"),
    ],
)  # fmt: skip
def test_decide_refused_challenger_goes_to_the_candidates_and_nothing_is_written(evidence, word):
    """What runs stays, and the reason is said with its numbers."""
    decision = decide_one(evidence)
    assert (decision.outcome, decision.written, decision.candidate) == ("refused", None, True)
    assert word in decision.reason


def test_decide_gain_within_noise_says_how_many_windows_would_tell():
    """Who waits wants to know for how long; of a loss there is nothing to wait for."""
    reason = decide_one(make_evidence(gain=0.01, noise=0.05, seed=2)).reason
    told = re.search(r"is not beyond noise: to tell takes (\d+) windows of 15 days$", reason)
    assert told is not None, reason
    gain, error = map(float, re.findall(r"([+.\d]+) points of skill \(SE ([.\d]+)\)", reason)[0])
    assert int(told[1]) == math.ceil((stats.t.ppf(0.95, 14) * error / gain) ** 2)
    assert decide_one(make_evidence(gain=-0.05)).reason.endswith("is not beyond noise")


def test_decide_exceedance_is_held_to_the_level_that_would_be_served():
    """A set of another quantile level misses as often as that level says."""
    tuned = {**CHALLENGER, "quantile_alpha": 0.2}
    decision = decide_one(make_evidence(gain=0.05, tuned=tuned, exceedance=0.2))
    assert decision.outcome == "promoted"
    assert decision.exceedance_interval == pytest.approx((0.1347, 0.2653), abs=1e-4)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("gain", [-0.05, 0.0, 0.05])
def test_decide_challenger_equal_to_the_champion_is_kept_and_never_promoted(seed, gain):
    """The same ten values: nothing is refused, nothing is written, whatever the losses say."""
    decision = decide_one(make_evidence(gain=gain, tuned=dict(RUNS), seed=seed))
    assert (decision.outcome, decision.written, decision.candidate) == ("kept", None, False)
    assert (decision.gain, decision.pooled_gain) == (None, None)


@pytest.mark.parametrize(
    ("champion", "outcome"),
    [
        pytest.param(None, "first", id="none"),
        pytest.param(Champion(99, None), "expired_replaced", id="expired"),
    ],
)
@pytest.mark.parametrize(
    ("evidence", "written", "candidate"),
    [
        pytest.param(make_evidence(gain=0.05, champion=None), "tuned", False, id="better"),
        pytest.param(make_evidence(gain=0.0, champion=None), "defaults", True, id="no better"),
        pytest.param(make_evidence(tuned=DEFAULT, champion=None), "defaults", False, id="defaults"),
        pytest.param(
            make_evidence(gain=0.05, champion=None, exceedance=0.3),
            "defaults",
            True,
            id="dishonest",
        ),
    ],
)
def test_decide_without_a_champion_writes_the_better_of_challenger_and_defaults(
    champion, outcome, evidence, written, candidate
):
    """A bot always has a valid record; the challenger is it only where it beats the defaults."""
    decision = decide_one(evidence, champion)
    assert (decision.outcome, decision.written, decision.candidate) == (outcome, written, candidate)
    assert decision.champion_parameters is None
    assert decision.champion_time_ns == (champion and champion.time_ns)


def test_decide_always_writes_whatever_the_evidence():
    """The option's name."""
    decision = decide_one(make_evidence(gain=-0.5, exceedance=0.9), mode="always")
    assert (decision.outcome, decision.written, decision.candidate) == ("promoted", "tuned", False)
    first = decide_one(make_evidence(gain=-0.5, champion=None), None, mode="always")
    assert (first.outcome, first.written) == ("first", "tuned")


@pytest.mark.parametrize(
    ("evidence", "champion"),
    [
        pytest.param(make_evidence(gain=0.5), CHAMPION, id="better"),
        pytest.param(make_evidence(gain=0.5, skill=-0.3), CHAMPION, id="verdict changed"),
        pytest.param(make_evidence(tuned=dict(RUNS)), CHAMPION, id="equal"),
        pytest.param(make_evidence(gain=0.5, champion=None), None, id="first"),
        pytest.param(make_evidence(champion=None), Champion(9, None), id="expired"),
    ],
)
def test_decide_never_writes_nothing_that_bots_read(evidence, champion):
    """Every challenger is a candidate, whatever the evidence."""
    decision = decide_one(evidence, champion, mode="never")
    assert (decision.written, decision.candidate) == (None, True)


def test_decide_verdict_on_the_rule_that_changed_is_told_to_bots():
    """The champion is written again with what now holds, in both directions, and only then."""
    bad, good = make_evidence(skill=-0.1), make_evidence(skill=0.1)
    for evidence, beats_rule in ((bad, False), (good, True)):
        told = decide_one(evidence, replace(CHAMPION, beats_rule=not beats_rule))
        assert (told.outcome, told.written, told.candidate) == ("kept", "running", True)
        assert told.beats_rule is beats_rule
        assert "ATR rule" in told.reason
        assert decide_one(evidence, replace(CHAMPION, beats_rule=beats_rule)).written is None


def test_decide_renewed_pair_gets_a_record_whatever_becomes_of_its_challenger():
    """Tolerance and level are measured by every tuning: the set that stays goes out with them."""
    for gain, written, outcome in ((0.0, "running", "refused"), (0.05, "tuned", "promoted")):
        evidence = {PAIR: make_evidence(gain=gain, noise=0.001 if gain else 0.01)}
        told = decide(evidence, {PAIR: CHAMPION}, "auto", renewed={PAIR})[PAIR]
        assert (told.written, told.outcome) == (written, outcome)
    never = decide(evidence, {PAIR: CHAMPION}, "never", renewed={PAIR})[PAIR]
    assert never.written is None


def test_decide_defaults_that_beat_the_rule_clear_a_served_set_that_does_not():
    """The verdict is on the pair: the better of what is served and the defaults."""
    evidence = make_evidence(skill=-0.1)
    walk = evidence.comparison.walk
    beaten = tuple(0.9 * loss for loss in walk.losses["ATR rule"])
    walk = replace(walk, losses={**walk.losses, "defaults": beaten})
    comparison = replace(evidence.comparison, walk=walk)
    assert decide_one(replace(evidence, comparison=comparison)).beats_rule


def test_decide_single_bad_pair_is_judged_with_the_others():
    """What hardly shows on one pair is drawn to what shows on all: pooled by day, shrunk."""
    results = {f"P{i}": make_evidence(skill=0.1, seed=i) for i in range(6)}
    results["P0"] = make_evidence(skill=0.0, seed=0)
    together, alone = decide(results, {}, "always")["P0"], decide_one(results["P0"], None, "always")
    assert together.skill > alone.skill
    assert together.pooled_skill > 0.05


def test_decide_pair_whose_challenger_is_the_champion_says_nothing_about_challengers():
    """Its zero is no evidence that challengers gain nothing."""
    results = {f"P{i}": make_evidence(gain=0.02, seed=i) for i in range(4)}
    champions = dict.fromkeys(results, CHAMPION)
    idle = {**results, "P9": make_evidence(tuned=dict(RUNS), seed=9)}
    with_idle = decide(idle, {**champions, "P9": CHAMPION}, "auto")
    without = decide(results, champions, "auto")
    for pair in results:
        assert with_idle[pair].gain == without[pair].gain
        assert with_idle[pair].gain_se == without[pair].gain_se


def test_decide_feeders_set_reaches_all_its_pairs_or_none():
    """Beyond noise only on all pairs together: promoted for each, also where a pair alone says nothing."""
    weak = {f"P{i}": make_evidence(gain=0.012, noise=0.03, seed=i) for i in range(12)}
    champions = dict.fromkeys(weak, CHAMPION)
    together = decide(weak, champions, "auto")
    alone = [decide_one(one) for one in weak.values()]
    assert {d.outcome for d in together.values()} == {"promoted"}
    assert "over 12 pairs together" in together["P0"].reason
    assert {d.outcome for d in alone} == {"promoted", "refused"}
    noise = {f"P{i}": make_evidence(gain=0.0, noise=0.03, seed=i) for i in range(12)}
    refused = decide(noise, champions, "auto")
    assert {d.outcome for d in refused.values()} == {"refused"}
    assert len({d.pooled_gain for d in refused.values()}) == 1


def test_decide_pair_that_loses_by_the_feeders_set_beyond_noise_keeps_what_it_has():
    """One pair's own days speak against what the others won with."""
    evidence = {f"P{i}": make_evidence(gain=0.05, seed=i) for i in range(6)}
    evidence["P9"] = make_evidence(gain=-0.2, seed=9)
    decisions = decide(evidence, dict.fromkeys(evidence, CHAMPION), "auto")
    assert decisions["P0"].outcome == "promoted"
    assert decisions["P9"].outcome == "refused"
    assert "worse beyond noise" in decisions["P9"].reason


def test_decide_pair_with_a_set_of_its_own_is_judged_by_itself():
    """It neither carries the feeder's set nor is carried by it."""
    evidence = {f"P{i}": make_evidence(gain=0.05, seed=i) for i in range(6)}
    evidence["P9"] = make_evidence(gain=-0.02, seed=9, is_feeders=False)
    champions = dict.fromkeys(evidence, CHAMPION)
    decisions = decide(evidence, champions, "auto")
    without = decide({p: e for p, e in evidence.items() if p != "P9"}, champions, "auto")
    assert decisions["P9"].outcome == "refused"
    assert decisions["P0"] == replace(
        without["P0"],
        skill=decisions["P0"].skill,
        skill_se=decisions["P0"].skill_se,
        pooled_skill=decisions["P0"].pooled_skill,
        pooled_skill_se=decisions["P0"].pooled_skill_se,
    )


def test_decide_exceedance_of_the_feeders_set_is_that_of_all_its_pairs():
    """One pair in twenty misses its own interval by chance: that is no reason to refuse all, nor it."""
    evidence = {f"P{i}": make_evidence(gain=0.05, seed=i) for i in range(6)}
    evidence["P0"] = make_evidence(gain=0.05, exceedance=0.16, seed=0)
    champions = dict.fromkeys(evidence, CHAMPION)
    assert {d.outcome for d in decide(evidence, champions, "auto").values()} == {"promoted"}
    wide = {f"P{i}": make_evidence(gain=0.05, exceedance=0.16, seed=i) for i in range(6)}
    refused = decide(wide, champions, "auto")
    assert {d.outcome for d in refused.values()} == {"refused"}
    assert "exceedance of 16.0 % over 6 pairs together" in refused["P0"].reason


@pytest.mark.parametrize("seed", range(5))
def test_decide_scaled_losses_change_no_decision(seed):
    """Losses of a pair in percent instead of ratios: the same outcomes."""
    small = {f"P{i}": make_evidence(gain=0.01, noise=0.02, seed=seed + i) for i in range(3)}
    large = {
        f"P{i}": make_evidence(gain=0.01, noise=0.02, seed=seed + i, scale=1e4) for i in range(3)
    }
    champions = dict.fromkeys(small, CHAMPION)
    first, second = decide(small, champions, "auto"), decide(large, champions, "auto")
    assert [d.outcome for d in first.values()] == [d.outcome for d in second.values()]


@pytest.mark.parametrize(
    ("written", "champion", "expected"),
    [
        pytest.param("tuned", CHAMPION, "running", id="promoted before"),
        pytest.param("running", CHAMPION, "running", id="told before"),
        pytest.param(None, CHAMPION, None, id="kept before"),
    ],
)
def test_decide_after_an_interruption_puts_the_champion_back_where_it_was_replaced(
    written, champion, expected
):
    """What bots read is what is decided over all pairs, not what was among the first few."""
    evidence = make_evidence(gain=-0.05)
    earlier = replace(decide_one(evidence), written=written)
    decision = decide_one(evidence, champion, earlier=earlier)
    assert decision.written == expected
    assert decision.candidate


def test_record_of_the_tuned_set_carries_evidence_and_reason():
    """Metrics as floats; who was decided against is in the provenance."""
    result = make_result(gain=0.05)
    decision = decide_one(result.evidence)
    record = record_of("f", result, decision, "tuned")
    assert dict(record.parameters) == CHALLENGER
    assert record.time_ns == result.time_ns
    assert record.metrics["gain"] == decision.gain
    assert record.metrics["gain_se"] == decision.gain_se
    assert record.metrics["pooled_skill"] == decision.skill
    assert record.metrics["pooled_skill_se"] == decision.skill_se
    assert record.metrics["beats_rule"] == 1.0
    assert record.provenance["promotion"] == {
        "mode": "auto",
        "outcome": "promoted",
        "reason": decision.reason,
    }


@pytest.mark.parametrize(
    ("contender", "parameters"),
    [pytest.param("running", RUNS, id="running"), pytest.param("defaults", DEFAULT, id="defaults")],
)
def test_record_of_others_carries_their_own_metrics_and_no_gain(contender, parameters):
    """A gain is the challenger's; the champion written again has none."""
    result = make_result(skill=-0.1)
    record = record_of("f", result, decide_one(result.evidence), contender)
    assert dict(record.parameters) == parameters
    assert record.metrics["beats_rule"] == 0.0
    assert "gain" not in record.metrics
    assert record.metrics["best_trial"] == (0.0 if contender == "defaults" else 4.0)
