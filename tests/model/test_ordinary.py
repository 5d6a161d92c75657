"""Ordinary candles: what a wick, a jump and a halt do to the measures, and what drifts does not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from feeder_mixin.market.context import FeatureContext
from feeder_mixin.market.features import QUIET_WINDOW, build_table, own_features
from feeder_mixin.model.ordinary import MEASURES, OrdinaryRange, fit_ordinary, ordinary_measures
from feeder_mixin.model.rows import DAY_S, open_seconds
from tests.candle_factory import make_candles

PAIR = "BTC/USDT:USDT"
HORIZON = 30
N = 30 * 288
PRICES = ["open", "high", "low", "close"]


@pytest.fixture(scope="module")
def market():
    """Return candles, a function that makes the newest rows of changed ones, and a fitted range."""
    candles = make_candles(N, 5)
    context = FeatureContext({PAIR: candles}, HORIZON, 300)
    table = context.build(candles)

    def rows(changed: pd.DataFrame, last: int = 1) -> pd.DataFrame:
        return build_table(own_features(changed, HORIZON, last), context.shared)

    learned = table[open_seconds(table) < open_seconds(table)[-1] - 3 * DAY_S]
    return candles, table, rows, fit_ordinary(learned.iloc[::10])


def test_candles_like_those_learned_from_are_ordinary(market):
    """At most one of a hundred is lost."""
    _, table, _, ordinary = market
    assert ordinary.contains(table.iloc[-3 * 288 :]).mean() >= 0.99


@pytest.mark.parametrize("sign", [-1, 1], ids=["down", "up"])
@pytest.mark.parametrize("back", [1, 100, 200])
def test_wick_of_ten_atr_is_out_of_the_ordinary_and_says_so(market, back, sign):
    """A flash wick, whichever way."""
    candles, table, rows, ordinary = market
    changed = candles.iloc[:-back].copy()
    away = 10 * table["atr_ratio"].loc[changed.index[-1]] * changed["close"].iloc[-1]
    name = "low" if sign < 0 else "high"
    changed.iloc[-1, changed.columns.get_loc(name)] += sign * away
    row = rows(changed)
    assert not ordinary.contains(row).any()
    assert "x ATR14, ordinary up to" in ordinary.describe(row)
    assert ordinary.describe(rows(candles.iloc[:-back])) == ""


@pytest.mark.parametrize("factor", [0.97, 1.03], ids=["down", "up"])
def test_jump_of_the_close_is_out_of_the_ordinary(market, factor):
    """A gap between two candles, without any range of its own."""
    candles, _, rows, ordinary = market
    changed = candles.copy()
    changed.iloc[-1, [changed.columns.get_loc(name) for name in PRICES]] *= factor
    assert not ordinary.contains(rows(changed)).any()
    assert "closes move by" in ordinary.describe(rows(changed))


@pytest.mark.parametrize("length", [6, 9, 12])
def test_halt_and_the_hour_behind_it_are_out_of_the_ordinary(market, length):
    """No candle of a halt is ordinary, and none as long as the newest twelve hold a part of it."""
    candles, _, rows, ordinary = market
    first = N - length - QUIET_WINDOW
    changed = candles.copy()
    changed.iloc[first : first + length, :4] = candles["close"].iloc[first - 1]
    changed.iloc[first : first + length, 4] = 0.0
    found = rows(changed, length + QUIET_WINDOW)
    is_ordinary = pd.Series(ordinary.contains(found), found.index)
    halt, behind = changed.index[first : first + length], changed.index[first + length :]
    assert not is_ordinary.reindex(halt, fill_value=False).any()
    assert not is_ordinary.loc[behind[:-1]].any()
    assert f"of {QUIET_WINDOW} candles without trades, ordinary up to 0" in ordinary.describe(
        found.loc[[behind[0]]]
    )


def test_single_quiet_candles_of_a_thin_pair_are_ordinary(market):
    """What a pair is like is learned from the pair: a thin one often has candles without trades."""
    candles, _, _, _ = market
    thin = candles.copy()
    quiet = np.random.default_rng(2).random(N) < 0.05
    close = thin["close"].shift(1).bfill()
    thin.loc[quiet, PRICES] = np.repeat(close[quiet].to_numpy()[:, None], 4, axis=1)
    thin.loc[quiet, "volume"] = 0.0
    table = FeatureContext({PAIR: thin}, HORIZON, 300).build(thin)
    ordinary = fit_ordinary(table.iloc[: -3 * 288 : 10])
    newest = table.iloc[-3 * 288 :]
    assert (newest["quiet"] > 0).mean() > 0.4
    assert ordinary.contains(newest).mean() >= 0.98


def test_market_that_calms_down_or_doubles_stays_ordinary(market):
    """Levels drift for months; the measures are relative to the pair's own day."""
    candles, _, rows, ordinary = market
    for factor in (0.5, 2.0):
        changed = candles.copy()
        middle = (changed["high"] + changed["low"]) / 2
        for name in PRICES:  # every candle's range, not the path of prices
            changed[name] = middle + factor * (changed[name] - middle)
        changed["volume"] *= factor
        assert ordinary.contains(rows(changed, 288)).mean() > 0.97


def test_bound_lies_half_again_as_far_as_the_last_hundredth(market):
    """Two numbers decide, and the rows that a model learned from."""
    _, table, _, _ = market
    learned = table.iloc[:4_000:10]
    bounds = fit_ordinary(learned).bounds
    for one, values in zip(MEASURES, ordinary_measures(learned), strict=True):
        median, tail = np.quantile(values, 0.5), np.quantile(values, 0.99)
        assert bounds[one.name] == pytest.approx(median + 1.5 * (tail - median))


def test_row_at_its_bound_is_ordinary(market):
    """The border belongs to the ordinary."""
    _, table, _, _ = market
    row = table.iloc[-1:]
    at = {one.name: float(v) for one, v in zip(MEASURES, ordinary_measures(row)[:, 0], strict=True)}
    assert OrdinaryRange(at).contains(row).all()
    below = {name: value - 1e-9 for name, value in at.items()}
    assert not OrdinaryRange(below).contains(row).any()
    assert len(OrdinaryRange(below).describe(row).split("; ")) == len(MEASURES)
