"""What a risk costs: counted by hand, pooled by days, and a level that keeps to what was asked."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from feeder_mixin.documents import built
from feeder_mixin.tune.judge.evaluate import Forecast, ServedForecasts
from feeder_mixin.tune.judge.result import RiskTable
from feeder_mixin.tune.judge.risk import (
    LEVELS,
    MIN_DAYS,
    ONE_SIDED_95,
    RATIO_SPREAD,
    TOLERANCE_FACTORS,
    SafeCalls,
    at_settings,
    choose_level,
    count_risk,
    pool_risk,
)

N_DAYS, A_DAY = 40, 96


def make_walk(seed: int = 1, n_days: int = N_DAYS, *, size: float = 0.01) -> ServedForecasts:
    """Return a walk whose forecasts are honest 0.10 quantiles of an excursion of changing size."""
    random = np.random.default_rng(seed)
    n = n_days * A_DAY
    scale = size * np.exp(0.5 * random.normal(size=n))
    excursion = -scale * random.exponential(size=n)
    rows = Forecast(
        excursion=excursion,
        q=scale * np.log(0.10),
        rule=-size * np.exp(0.5 * random.normal(size=n)),
        opens_s=1_760_000_000 // 86_400 * 86_400 + 900 * np.arange(n),
        tolerance=np.full(n, 1.6 * size),
        is_ordinary=np.ones(n, bool),
        is_allowed=np.arange(n) % 7 != 0,
    )
    return ServedForecasts(0.10, (), rows, rows, 0.0, 0)


def test_counts_at_the_walks_level_are_those_of_its_candles_day_by_day():
    """Called safe and unsafe of them, at every tolerance; nothing where no candle may be called safe."""
    walk = make_walk()
    table, rows = count_risk(walk), walk.everything
    day = rows.opens_s // 86_400
    assert table.days == tuple(np.unique(day))
    assert set(table.rows) == {A_DAY}
    assert {(cell.level, cell.factor) for cell in table.cells} == {
        (level, factor) for level in LEVELS for factor in TOLERANCE_FACTORS
    }
    for cell in table.cells:
        if cell.level != 0.10:
            continue
        limit = -cell.factor * rows.tolerance
        called = (rows.q >= limit) & rows.is_allowed
        unsafe = called & (rows.excursion < limit)
        assert cell.called == tuple(int(called[day == one].sum()) for one in table.days)
        assert cell.unsafe == tuple(int(unsafe[day == one].sum()) for one in table.days)
        allowed = np.flatnonzero(rows.is_allowed)
        safest = sorted(allowed, key=lambda row: -rows.rule[row])[: called.sum()]
        assert cell.rule_unsafe == int((rows.excursion < limit)[safest].sum())


def test_another_level_calls_what_honest_quantiles_of_that_level_call():
    """Counted from one forecast as a model of that level would have it: 0.05 and 0.20 of an exponential."""
    walk = make_walk(n_days=400)
    table, rows = count_risk(walk), walk.everything
    for level in (0.05, 0.20):
        q = rows.q / math.log(0.10) * math.log(level)
        called = (q >= -rows.tolerance) & rows.is_allowed
        unsafe = called & (rows.excursion < -rows.tolerance)
        told = at_settings(pool_risk([table]), level)
        assert told.n_called == pytest.approx(called.sum(), rel=0.02)
        assert told.unsafe_share == pytest.approx(unsafe.sum() / called.sum(), abs=0.003)


def test_pairs_are_pooled_by_day_and_their_error_is_that_of_days():
    """Two pairs that fail on the same days prove no more than one."""
    table = count_risk(make_walk())
    (one,) = [r for r in pool_risk([table]) if (r.level, r.factor) == (0.15, 1.0)]
    (two,) = [r for r in pool_risk([table, table]) if (r.level, r.factor) == (0.15, 1.0)]
    assert two.n_called == 2 * one.n_called
    assert two.rule_unsafe == 2 * one.rule_unsafe
    assert two.calls_a_day == 2 * one.calls_a_day
    assert two.error == pytest.approx(one.error)
    (cell,) = [c for c in table.cells if (c.level, c.factor) == (0.15, 1.0)]
    called, unsafe = np.array(cell.called), np.array(cell.unsafe)
    random = np.random.default_rng(0)
    draws = random.integers(0, len(called), (4_000, len(called)))
    shares = unsafe[draws].sum(axis=1) / called[draws].sum(axis=1)
    assert one.error == pytest.approx(shares.std(), rel=0.1)


def test_honest_forecasts_expect_what_turns_unsafe():
    """Candle by candle, and as many as there are."""
    walk = make_walk(n_days=100)
    table, rows = count_risk(walk), walk.everything
    ratios = rows.excursion / rows.q
    for cell in table.cells:
        if cell.level != 0.10:
            continue
        limit = cell.factor * rows.tolerance
        called = (rows.q >= -limit) & rows.is_allowed
        by_hand = sum(float(np.mean(ratios > one)) for one in (limit / -rows.q)[called])
        assert cell.expected == pytest.approx(by_hand)
        assert abs(cell.expected - sum(cell.unsafe)) < 3 * math.sqrt(cell.expected)


def calls(n_unsafe: int, expected: float, error: float) -> SafeCalls:
    """Return a thousand candles called safe of which some turned unsafe."""
    return SafeCalls(0.10, 1.0, 2_000, 90, 1_000, n_unsafe, expected, error, 0)


@pytest.mark.parametrize(
    ("n_unsafe", "expected", "error"),
    [(50, 50, 0.01), (30, 50, 0.004), (45, 40, 0.03), (49, 50, 1.0)],
)
def test_upper_share_is_that_of_evidence_and_expectation_together(n_unsafe, expected, error):
    """The 95 % quantile of prior times likelihood of the log of found / expected, on a grid."""
    one = calls(n_unsafe, expected, error)
    ratio = np.linspace(-3, 3, 600_001)
    found = math.log(n_unsafe / expected)
    density = stats.norm.pdf(ratio, 0.0, RATIO_SPREAD) * stats.norm.pdf(
        found, ratio, error / (n_unsafe / 1_000)
    )
    at = np.searchsorted(np.cumsum(density) / density.sum(), stats.norm.cdf(ONE_SIDED_95))
    assert one.upper == pytest.approx(expected / 1_000 * math.exp(ratio[at]), rel=1e-3)


def test_upper_share_is_never_less_than_what_was_found_nor_nothing():
    """A walk that was worse than expected is no proof of less; one without an unsafe candle proves no 0."""
    assert calls(80, 40.0, 0.02).upper == calls(80, 40.0, 0.02).unsafe_share == 0.08
    assert 0.04 < calls(0, 40.0, 0.0).upper < 0.05
    assert math.isinf(calls(20, 40.0, math.inf).upper)
    assert math.isinf(calls(20, 0.0, 0.01).upper)


def test_upper_share_falls_with_more_evidence_of_less():
    """More days that say the same prove more."""
    uppers = [calls(30, 50.0, error).upper for error in (0.02, 0.01, 0.005, 0.0001)]
    assert uppers == sorted(uppers, reverse=True)
    assert uppers[-1] == pytest.approx(0.03, rel=0.02)


@pytest.mark.parametrize("asked", [0.05, 0.08, 0.10])
def test_chosen_level_is_the_largest_that_keeps_to_what_was_asked(asked):
    """All pairs together, with confidence: the next one up does not keep to it."""
    tables = {f"P{seed}": count_risk(make_walk(seed)) for seed in range(4)}
    chosen = choose_level(tables, asked)
    uppers = {r.level: r.upper for r in pool_risk(tables.values()) if r.factor == 1.0}
    assert chosen.is_kept
    assert chosen.upper == uppers[chosen.level] <= asked
    assert all(upper > asked for level, upper in uppers.items() if level > chosen.level)
    assert chosen.share < chosen.upper


def test_no_level_that_keeps_to_it_takes_the_least_and_says_so():
    """Also where too few days have a candle called safe to prove anything."""
    wild = {"P": count_risk(make_walk())}
    chosen = choose_level(wild, 0.0001)
    assert (chosen.level, chosen.is_kept) == (LEVELS[0], False)
    assert chosen.share > 0.0001
    short = choose_level({"P": count_risk(make_walk(n_days=MIN_DAYS - 1))}, 0.5)
    assert (short.level, short.is_kept, short.upper) == (LEVELS[0], False, None)


def test_larger_risk_takes_no_smaller_level():
    """What is asked for is monotone."""
    tables = {f"P{seed}": count_risk(make_walk(seed)) for seed in range(4)}
    levels = [choose_level(tables, asked).level for asked in (0.02, 0.05, 0.08, 0.1, 0.2, 0.5)]
    assert levels == sorted(levels)
    assert levels[-1] == LEVELS[-1]


def test_levels_that_not_every_pair_has_are_left_out():
    """A pair tuned with another `--fix` has a level of its own."""
    tables = [count_risk(make_walk()), count_risk(replace(make_walk(2), alpha=0.123))]
    assert 0.123 not in {one.level for one in pool_risk(tables)}
    assert {one.level for one in pool_risk(tables)} == set(LEVELS)


def test_table_comes_back_from_its_json():
    """The journal keeps it."""
    table = count_risk(make_walk())
    assert built(RiskTable, json.dumps(table.to_json()), ValueError) == table
