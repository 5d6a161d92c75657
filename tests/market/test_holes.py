"""Holes, halts and impossible candles: what is bridged, what is no market, what no label may read."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeder_mixin.market.context import FeatureContext
from feeder_mixin.market.features import TABLE_FEATURES, labels, own_features, warmup_candles
from feeder_mixin.market.holes import SHORT_CANDLES, bridge, bridge_candles
from feeder_mixin.market.labels import LABEL_COLUMNS, adverse_excursions
from tests.candle_factory import make_candles

BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"
HORIZON = 30
HOUR = 12
"""Candles of an hour."""

holes = st.lists(st.tuples(st.integers(1, 380), st.integers(1, 40)), max_size=5)


@pytest.fixture(scope="module")
def day():
    """Give 400 candles."""
    return make_candles(400, 2)


def with_holes(candles, runs):
    """Return candles of which runs (start, length) are missing."""
    holed = candles.copy()
    for start, length in runs:
        holed.iloc[start : start + length] = np.nan
    return holed


def filled_by_the_host(candles):
    """Return what freqtrade makes of missing candles: flat at the last close, without volume."""
    filled = candles.copy()
    filled["close"] = filled["close"].ffill()
    for name in ("open", "high", "low"):
        filled[name] = filled[name].fillna(filled["close"])
    return filled.fillna({"volume": 0.0})


def values(there):
    """Return bridged values as one array."""
    return np.array([there.high, there.low, there.close, there.volume])


@given(runs=holes)
def test_hole_on_disk_is_what_the_host_makes_of_it(day, runs):
    """Bot and backtest see one market: a hole of any length reads like the host's flat candles."""
    holed = with_holes(day, runs)
    holed.iloc[[0, -1]] = day.iloc[[0, -1]]
    on_disk, at_the_host = bridge(holed), bridge(filled_by_the_host(holed))
    np.testing.assert_array_equal(values(on_disk), values(at_the_host))
    np.testing.assert_array_equal(on_disk.quiet_for, at_the_host.quiet_for)


@given(runs=holes, stop=st.integers(1, 400))
def test_later_candles_change_no_bridge(day, runs, stop):
    """What a candle counts as hangs on earlier ones alone; missing at the end may still come."""
    holed = with_holes(day, runs)
    known = holed.iloc[:stop]
    last = int(np.flatnonzero(known["close"].notna())[-1]) + 1 if known["close"].any() else 0
    np.testing.assert_array_equal(values(bridge(known))[:, :last], values(bridge(holed))[:, :last])
    assert np.isnan(values(bridge(known))[:, last:]).all()


def test_candles_without_a_quiet_one_are_left_as_they_are(day):
    """A whole market goes through untouched."""
    there = bridge(day)
    np.testing.assert_array_equal(values(there), day[["high", "low", "close", "volume"]].T)
    assert not there.quiet_for.any()
    assert not there.invented.any()


@pytest.mark.parametrize(
    ("timeframe_s", "n"),
    [(60, 60), (300, 12), (900, 4), (3_600, 1), (14_400, 1), (1, 60)],
    ids=["1m", "5m", "15m", "1h", "4h", "1s"],
)
def test_bridge_is_an_hour_long_in_any_timeframe(timeframe_s, n):
    """At least a candle; at most as many as features look back for it."""
    assert bridge_candles(timeframe_s) == n


def test_halt_is_bridged_for_an_hour_and_then_is_no_market(day):
    """Flat candles without volume: an hour stands at the last close, the rest is missing."""
    halted = day.copy()
    halted.iloc[100:200, :4] = day["close"].iloc[99]
    halted.iloc[100:200, 4] = 0.0
    close = bridge(halted).close
    assert (close[100 : 100 + HOUR] == day["close"].iloc[99]).all()
    assert np.isnan(close[100 + HOUR : 200]).all()
    np.testing.assert_array_equal(close[200:], day["close"].iloc[200:])


def test_flat_candles_with_volume_are_a_market(day):
    """A pair that stands still, but trades, is no halt."""
    still = day.copy()
    still.iloc[100:200, :4] = 100.0
    assert np.isfinite(bridge(still).close).all()


@pytest.mark.parametrize("column", ["high", "low"])
def test_impossible_wick_counts_as_a_missing_candle(day, column):
    """One candle with a high of 1e9 moves no feature and no label."""
    wicked, holed = day.copy(), with_holes(day, [(200, 1)])
    wicked.iloc[200, wicked.columns.get_loc(column)] = 1e9 if column == "high" else 1e-9
    pd.testing.assert_frame_equal(own_features(wicked, 6), own_features(holed, 6))
    pd.testing.assert_frame_equal(adverse_excursions(wicked, 6), adverse_excursions(holed, 6))
    real = day.copy()
    real.iloc[200, real.columns.get_loc("high")] = 2 * day["close"].iloc[200]
    assert not bridge(real).invented.any(), "a wick of twice the close happens"


@pytest.fixture(scope="module")
def month():
    """Give 30 days of two pairs."""
    return {pair: make_candles(30 * 288, seed) for seed, pair in enumerate((BTC, ETH))}


@pytest.mark.parametrize("length", [1, 2, HOUR])
def test_hole_up_to_an_hour_costs_only_the_rows_that_touch_it(month, length):
    """Not 14 days: the rows in it with nothing in their short windows, and labels that span it."""
    whole = FeatureContext(month, HORIZON, 300).build(month[ETH])
    place = warmup_candles(HORIZON) + 500
    holed = with_holes(month[ETH], [(place, length)])
    table = FeatureContext({**month, ETH: holed}, HORIZON, 300).build(holed)
    opens = month[ETH].index
    lost = whole.index.difference(table.index)
    assert list(lost) == list(opens[place + SHORT_CANDLES - 1 : place + length])
    for side in LABEL_COLUMNS:
        unlabelled = table.index[np.isnan(labels(table, side))]
        touched = opens[place - HORIZON : place + length].difference(lost).union(opens[-HORIZON:])
        assert list(unlabelled) == list(touched)


def test_400_single_missing_candles_leave_a_pair_usable(month):
    """Features stay for every candle that is there; labels, where their horizon is whole."""
    random = np.random.default_rng(1)
    n = len(month[ETH])
    missing = random.choice(np.arange(100, n - 100), 160, replace=False)  # 400 in 75 days
    holed = month[ETH].copy()
    holed.iloc[missing] = np.nan
    whole = FeatureContext(month, HORIZON, 300).build(month[ETH])
    table = FeatureContext({**month, ETH: holed}, HORIZON, 300).build(holed)
    assert len(table) > 0.99 * len(whole)
    clear = 1 - 160 / n
    share = np.isfinite(labels(table, "long")).mean()
    assert share == pytest.approx(clear ** (HORIZON + 1), abs=0.1)


def test_halted_context_pair_takes_no_part_in_the_market(month):
    """Behind an hour of silence the means run over the other pairs."""
    halted = month[ETH].copy()
    halted.iloc[-300:, :4] = halted["close"].iloc[-301]
    halted.iloc[-300:, 4] = 0.0
    without = FeatureContext({**month, ETH: halted.iloc[:-300]}, HORIZON, 300, halted.index[-1])
    shared = FeatureContext({**month, ETH: halted}, HORIZON, 300).shared
    means = [name for name in shared if name.startswith(("market_", "btc_"))]
    pd.testing.assert_frame_equal(shared[means].iloc[-200:], without.shared[means].iloc[-200:])


def test_halted_candles_have_no_row_and_no_label(month):
    """Nothing is trained, scored or called safe there; before it, labels end where the market does."""
    halted = month[ETH].copy()
    start = len(halted) - 600
    halted.iloc[start:-300, :4] = halted["close"].iloc[start - 1]
    halted.iloc[start:-300, 4] = 0.0
    table = FeatureContext({**month, ETH: halted}, HORIZON, 300).build(halted)
    opens = halted.index
    assert table.loc[opens[start + SHORT_CANDLES - 1] :].empty, "windows span the halt"
    y = pd.Series(labels(table, "long"), table.index)
    assert y.loc[opens[start + HOUR - HORIZON] :].isna().all()
    assert y.loc[: opens[start + HOUR - HORIZON - 1]].notna().all()
    assert np.isfinite(table[list(TABLE_FEATURES)].to_numpy()).all()
