"""Features from past candles only; the same code for tuner, backtest and bot.

Three steps: `own_features` (what a pair's candles say), `context.context_features` (what the
feeder's context pairs and the clock say), `build_table` (both joined, with labels where asked). A
row uses candles up to and including its own, which is closed. Windows count candles, so another
timeframe keeps their length in candles, not in hours; only the New York clock reads the time of day.

The set is the one that was measured to matter. Out of sample, ten pairs, quantile level 0.10: no
calendar and no seasonality costs 2.2 points of skill, no New York clock 1.0, no directional
features 0.3, no market and BTC volatility 0.2, while all 113 tried features lose 0.1 against these.

The bot asks for the newest row only, at every candle of every pair; the tuner for all of them. Both
run this code: a series is cut to what the wanted rows' windows read, and computed in numpy. A
rolling sum is put together from sums of 1, 2, 4, ... candles, so a row's bits hang on its own
window alone: no residue of candles that left it, and nothing a later candle could change. (A running
sum, pandas', was slower at every length and left residues; see `windows.rolling_sum`.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

import numpy as np
import pandas as pd
import talib
from numpy.typing import NDArray

from feeder_mixin.market.holes import MAX_BRIDGE_CANDLES, SHORT_CANDLES, bridge
from feeder_mixin.market.labels import LABEL_COLUMNS
from feeder_mixin.market.windows import (
    Array,
    last_values,
    rolling_extreme,
    rolling_mean,
    rolling_sum,
)
from feeder_mixin.schema import hash48
from feeder_mixin.settings import Side

DAY: Final = 288
WEEK: Final = 7 * DAY
"""Windows named after what they are at 5m, in candles."""

ATR_PERIOD: Final = 14
SMALLEST_RATIO: Final = 1e-7
"""Floor of ranges and volatilities: a flat market has a finite log."""

SMALLEST_ATR: Final = 1e-5
"""Floor of ATR14 / close, which divides: a tenth of a basis point, a tick of BTC's. The least of 12
pairs at 5m is 1.2e-4; under the floor nothing moves that could be traded."""

_SMALLEST_VARIANCE: Final = 1e-12
"""Floor of the variance over the horizon, above that of others."""

_SMALLEST_MOVE: Final = 1e-4
"""Added to ranges and returns of few candles, which are often 0: a basis point."""

_SMALLEST_SHARE: Final = 1e-3
"""Added to volumes in units of the week's mean, which are often 0 for thin pairs."""

SEASON_DAYS: Final = 21
_BEFORE_WINDOWS: Final = (6, 96)

QUIET_WINDOW: Final = 12
"""Newest candles of which the quiet ones are counted: an hour at 5m, as long as a hole is bridged."""


def warmup_candles(horizon: int) -> int:
    """Return how many candles come before the first complete row.

    The season before looks back two weeks, and over the horizon before that.
    """
    return 14 * DAY + max(horizon, ATR_PERIOD)


_ATR_MEMORY: Final = 1_000
"""Candles behind which Wilder's smoothing has forgotten its start: (13/14)**1000 is 1e-32."""

_CLOSE_WINDOWS: Final = (3, 6, 12, 24, 96, DAY, WEEK)
_RANGE_WINDOWS: Final = (3, 6, 24, 96, DAY, WEEK)
_SPAN_WINDOWS: Final = (6, 12, 96, DAY, WEEK)
_DOWN_UP_WINDOWS: Final = (6, 24, 96, DAY)
_LARGEST_WINDOWS: Final = (24, DAY)
_VOLUME_WINDOWS: Final = (1, 3, 12, 48, DAY)
_TREND_WINDOWS: Final = (24, 96, DAY)
_MOMENTUM_WINDOWS: Final = (6, 24, DAY)
_EXTREME_WINDOWS: Final = (24, DAY)
OWN_FEATURES: Final = (
    "atr_ratio",
    "quiet",
    "atr14",
    *(f"vol_close_{w}" for w in _CLOSE_WINDOWS),
    *(f"vol_range_{w}" for w in _RANGE_WINDOWS),
    "candle_range",
    *(f"range_{w}" for w in _SPAN_WINDOWS),
    "range_ahead_like",
    "range_ahead_like_day",
    "range_ahead_like_week",
    *(f"down_up_{w}" for w in _DOWN_UP_WINDOWS),
    *(f"largest_return_{w}" for w in _LARGEST_WINDOWS),
    "vol_horizon",
    "season_7d",
    "season_21d",
    "season_21d_relative",
    "season_weekday_relative",
    "season_before_7d",
    "season_before_21d",
    "season_before_21d_relative",
    "season_before_weekday_relative",
    *(f"season_before_21d_{w}" for w in _BEFORE_WINDOWS),
    *(f"volume_{w}" for w in _VOLUME_WINDOWS),
    "volume_season",
    "volume_season_before",
    *(f"trend_{w}" for w in _TREND_WINDOWS),
    *(f"momentum_{w}" for w in _MOMENTUM_WINDOWS),
    *(f"{side}_{w}" for w in _EXTREME_WINDOWS for side in ("to_low", "to_high")),
    "volume_ratio",
)
"""Columns of `own_features`."""

_OWN_COLUMNS: Final = pd.Index(OWN_FEATURES)  # made once: making one costs more than a short row
MARKET_COLUMNS: Final = (
    "atr14",
    "vol_close_6",
    "vol_range_24",
    "vol_range_2016",
    "range_ahead_like_day",
    "season_before_21d",
    *(f"season_before_21d_{w}" for w in _BEFORE_WINDOWS),
    "volume_3",
    "vol_horizon",
)
BTC_COLUMNS: Final = (
    "atr14",
    "vol_close_6",
    "vol_range_96",
    "volume_1",
    "volume_3",
    "volume_12",
)
"""What the context pairs together, and BTC alone, give to every pair."""

NEW_YORK_EVENTS: Final = {"0830": 510, "0930": 570, "1400": 840, "1600": 960}
"""Minute of the New York day: data releases, stock open, central bank statements, stock close."""

NEW_YORK_CLOCK: Final = (
    "ny_sin",
    "ny_cos",
    "ny_sin2",
    "ny_cos2",
    "ny_weekend",
    "ny_sunday",
    "ny_weekend_sin",
    "ny_weekend_cos",
    *(f"ny_to_{event}" for event in NEW_YORK_EVENTS),
)

SCALE_FEATURES: Final = (
    *(f"vol_close_{w}" for w in (6, 24, 96, DAY, WEEK)),
    "atr14",
    "range_ahead_like",
    "range_ahead_like_day",
    "range_ahead_like_week",
    "season_7d",
    "season_21d",
    "season_21d_relative",
    "season_weekday_relative",
    "market_atr14",
    "market_vol_close_6",
    "market_vol_range_24",
    "market_vol_range_2016",
    "market_range_ahead_like_day",
    "btc_atr14",
    "btc_vol_close_6",
    "btc_vol_range_96",
    *NEW_YORK_CLOCK,
    "ny_profile_20",
    "ny_profile_weekday",
    # What the past would have been at this time of day: tells a loud hour from a loud day.
    "season_before_7d",
    "season_before_21d",
    "season_before_21d_relative",
    "season_before_weekday_relative",
    *(f"season_before_21d_{w}" for w in _BEFORE_WINDOWS),
    "market_season_before_21d",
    *(f"market_season_before_21d_{w}" for w in _BEFORE_WINDOWS),
    *(f"volume_{w}" for w in _VOLUME_WINDOWS),
    "volume_season",
    "volume_season_before",
    *(f"btc_volume_{w}" for w in (1, 3, 12)),
    "candle_range",
    "vol_range_3",
    *(f"range_{w}" for w in _SPAN_WINDOWS),
    *(f"down_up_{w}" for w in _DOWN_UP_WINDOWS),
    *(f"largest_return_{w}" for w in _LARGEST_WINDOWS),
    *(f"trend_{w}" for w in _TREND_WINDOWS),
)
"""Regressors of the label scale (`model.scale`), beside products of some of them."""

SCALE_TREE_LEVELS: Final = (
    *(f"vol_close_{w}" for w in (3, 6, 24, 96, DAY)),
    "atr14",
    "range_ahead_like",
    "range_ahead_like_day",
    *(f"vol_range_{w}" for w in (6, 96, DAY)),
    "market_atr14",
    "market_vol_close_6",
    "market_vol_range_24",
    "btc_vol_close_6",
    "btc_vol_range_96",
    "season_7d",
    "season_21d",
    "season_before_7d",
    "season_before_21d",
    "market_season_before_21d",
    *(f"range_{w}" for w in (6, 12, 96, DAY)),
)
"""Inputs of the scale's trees that enter as differences from the linear log scale."""

SCALE_TREE_STATES: Final = (
    "season_21d_relative",
    "season_weekday_relative",
    "utc_sin",
    "utc_cos",
    "ny_profile_20",
    "ny_profile_weekday",
    "ny_sin",
    "ny_cos",
    "ny_to_0930",
    "ny_to_0830",
    "ny_weekend",
    "volume_ratio",
    *(f"volume_{w}" for w in (1, 3, 12, 48)),
    "volume_season",
    "volume_season_before",
    "btc_volume_3",
    "market_volume_3",
    *(f"down_up_{w}" for w in (24, 96, DAY)),
    *(f"trend_{w}" for w in _TREND_WINDOWS),
    "largest_return_24",
)
"""Inputs of the scale's trees that enter as they are."""

_RELATIVE: Final = (
    "vol_close_3",
    "vol_close_12",
    "atr14",
    "range_ahead_like",
    "vol_range_96",
    "vol_range_288",
    "market_atr14",
    "btc_vol_close_6",
)
_AS_IS: Final = (
    "season_21d_relative",
    "season_weekday_relative",
    "utc_sin",
    "utc_cos",
    "ny_profile_20",
    "ny_sin",
    "ny_cos",
    "ny_to_0930",
    "ny_weekend",
    "volume_ratio",
)
_MOMENTUM: Final = tuple(f"momentum_{w}" for w in _MOMENTUM_WINDOWS)
_TO_LOW: Final = tuple(f"to_low_{w}" for w in _EXTREME_WINDOWS)
_TO_HIGH: Final = tuple(f"to_high_{w}" for w in _EXTREME_WINDOWS)

TREE_FEATURES: Final = (*_RELATIVE, *_AS_IS, *_MOMENTUM, *_TO_LOW, *_TO_HIGH)
"""Inputs of the trees, in this order. `_RELATIVE` enter as differences from the log scale; for
SHORT, momentum changes sign and distances to low and high are swapped, so that "adverse" means the
same on both sides."""

_TREE_COLUMNS: Final[Mapping[Side, tuple[str, ...]]] = {
    "long": TREE_FEATURES,
    "short": (*_RELATIVE, *_AS_IS, *_MOMENTUM, *_TO_HIGH, *_TO_LOW),
}
_MOMENTUM_ROWS: Final = slice(
    len(_RELATIVE) + len(_AS_IS), len(_RELATIVE) + len(_AS_IS) + len(_MOMENTUM)
)

TABLE_FEATURES: Final = tuple(
    dict.fromkeys((*SCALE_FEATURES, *SCALE_TREE_LEVELS, *SCALE_TREE_STATES, *TREE_FEATURES))
)

_TABLE_NAMES: Final = ("atr_ratio", "quiet", *TABLE_FEATURES)
_TABLE_COLUMNS: Final = pd.Index(_TABLE_NAMES)
_LABELLED_COLUMNS: Final = pd.Index([*_TABLE_NAMES, *LABEL_COLUMNS.values()])
_FROM_OWN: Final = tuple(name for name in _TABLE_NAMES if name in OWN_FEATURES)
_FROM_CONTEXT: Final = tuple(name for name in _TABLE_NAMES if name not in OWN_FEATURES)
_STAND_IN: Final = {  # column of the context -> the pair's own, where no context pair has one
    f"{prefix}_{name}": name
    for prefix, names in (("market", MARKET_COLUMNS), ("btc", BTC_COLUMNS))
    for name in names
    if f"{prefix}_{name}" in _FROM_CONTEXT
}

RECIPE_VERSION: Final = "5"
"""Goes into `feature_hash`: raise it when a formula changes while its name stays, or other rows are learned from."""

FEATURE_HASH: Final = hash48(RECIPE_VERSION, *TABLE_FEATURES, "|", *TREE_FEATURES)


def tail_candles(horizon: int) -> int:
    """Return how many candles make their newest row of `own_features` that of all candles.

    Equal to 1e-9, and with NaN in the same places; `last` rows need ``last - 1`` candles more.
    """
    reach = max(
        SEASON_DAYS * DAY + max(horizon, *_BEFORE_WINDOWS),  # the window before the oldest season
        WEEK + horizon,  # a week of windows of the horizon
        WEEK + 1,  # a week of returns
        _ATR_MEMORY + ATR_PERIOD + 1,
    )
    return reach + MAX_BRIDGE_CANDLES + 1  # whether the oldest candle read is bridged


def log_floor(values: Array) -> Array:
    """Return the logarithm, floored so that a flat market gives a finite number."""
    floored: Array = np.log(np.maximum(values, SMALLEST_RATIO))
    return floored


def atr_ratio(high: Array, low: Array, close: Array, count: int) -> Array:
    """Return the last `count` ATR14 / close, at least `SMALLEST_ATR`; anew after a missing candle.

    TA-Lib's ATR never recovers from a NaN, so every run of present candles is computed alone.
    """
    reach = min(len(close), count + _ATR_MEMORY)
    high, low, close = (last_values(values, reach) for values in (high, low, close))
    present = np.zeros(reach + 2, np.int8)
    present[1:-1] = ~np.isnan(close)
    edges = np.flatnonzero(np.diff(present))
    atr = np.full(reach, np.nan)
    for start, stop in edges.reshape(-1, 2):
        if stop - start > ATR_PERIOD:
            part = slice(start, stop)
            atr[part] = talib.ATR(high[part], low[part], close[part], ATR_PERIOD)
    ratio: Array = np.maximum(last_values(atr, count) / last_values(close, count), SMALLEST_ATR)
    return ratio


def _range_variance(high: Array, low: Array, count: int) -> Array:
    # Parkinson's estimator, per candle.
    log_range = np.log(last_values(high, count) / last_values(low, count))
    variance: Array = log_range**2 / (4 * math.log(2))
    return variance


def _log_volatility(range_variance: Array, horizon: int, count: int) -> Array:
    variance = np.maximum(rolling_mean(range_variance, horizon, count), _SMALLEST_VARIANCE)
    log_volatility: Array = np.log(variance) / 2
    return log_volatility


def vol_horizon(candles: pd.DataFrame, horizon: int, count: int) -> Array:
    """Return the last `count` values of the column ``vol_horizon`` alone, shape (count,).

    The log volatility over the horizon: all that the New York profile reads of the past.
    """
    there = bridge(candles)
    variance = _range_variance(there.high, there.low, count + horizon - 1)
    return _log_volatility(variance, horizon, count)


def own_features(candles: pd.DataFrame, horizon: int, last: int | None = None) -> pd.DataFrame:
    """Return what a pair's own candles say, one row per candle.

    Parameters
    ----------
    candles
        open, high, low, close, volume on a regular UTC grid; missing candles are NaN rows.
    horizon
        Candles the label looks ahead, 1 to `settings.MAX_HORIZON_CANDLES`.
    last
        Give the last so many rows only, at the cost of what their windows read; equal to the same
        rows of all to 1e-9, and with NaN in the same places.

    Returns
    -------
    DataFrame
        Columns `OWN_FEATURES`; NaN wherever a window is not full or spans a missing candle that is
        not bridged (`holes.bridge`). ``quiet`` is no input of a model: how many of the newest `QUIET_WINDOW`
        candles nothing traded in (`model.ordinary`). ``atr_ratio``, without which there is no row, is NaN behind
        `holes.SHORT_CANDLES` candles in which nothing traded, too.
    """
    count = len(candles) if last is None else min(last, len(candles))
    there = bridge(candles)
    high, low, close, volume = there.high, there.low, there.close, there.volume
    log_close = np.log(last_values(close, count + WEEK))
    here, now = last_values(close, count), last_values(log_close, count)
    atr = atr_ratio(high, low, close, count)
    is_quiet = (there.quiet_for > 0).astype(np.float64)
    out = {
        "atr_ratio": atr,
        "quiet": rolling_sum(is_quiet, QUIET_WINDOW, count),
        "atr14": log_floor(atr),
    }
    squared_return = np.diff(log_close) ** 2
    for window in _CLOSE_WINDOWS:  # log of the root mean square return
        out[f"vol_close_{window}"] = log_floor(np.sqrt(rolling_mean(squared_return, window, count)))
    reach = count + SEASON_DAYS * DAY + max(horizon, *_BEFORE_WINDOWS)
    range_variance = _range_variance(high, low, reach)
    for window in _RANGE_WINDOWS:
        out[f"vol_range_{window}"] = log_floor(np.sqrt(rolling_mean(range_variance, window, count)))
    out |= _spans(high, low, count) | _ranges_ahead_like(high, low, horizon, count)
    out |= _seasons(range_variance, horizon, count) | _volumes(volume, horizon, count)
    out |= _returns(np.diff(log_close), count)
    for window in _TREND_WINDOWS:  # how far from the mean price, in units of ATR14 x sqrt(candles)
        away = np.abs(now - rolling_mean(log_close, window, count))
        out[f"trend_{window}"] = away / atr / math.sqrt(window)
    for window in _MOMENTUM_WINDOWS:  # past return in units of ATR14 x sqrt(candles)
        out[f"momentum_{window}"] = (
            (now - last_values(log_close, count, back=window)) / atr / math.sqrt(window)
        )
    for window in _EXTREME_WINDOWS:  # distance to the window's low and high, same unit, both <= 0
        unit = atr * math.sqrt(window)
        lowest = rolling_extreme(low, window, count, np.minimum)
        highest = rolling_extreme(high, window, count, np.maximum)
        out[f"to_low_{window}"] = np.log(lowest / here) / unit
        out[f"to_high_{window}"] = np.log(here / highest) / unit
    values = np.empty((len(OWN_FEATURES), count))
    for row, name in zip(values, OWN_FEATURES, strict=True):
        row[:] = out[name]
    values[0, there.quiet_for[len(candles) - count :] >= SHORT_CANDLES] = np.nan
    values[:, np.isnan(here)] = np.nan  # earlier days' seasons would be known: the candle is not
    index = candles.index[len(candles) - count :]
    return pd.DataFrame(values.T, index=index, columns=_OWN_COLUMNS, copy=False)


def _ranges_ahead_like(high: Array, low: Array, horizon: int, count: int) -> dict[str, Array]:
    """Return ranges shaped like the label, and their means."""
    reach = count + WEEK - 1
    highest = rolling_extreme(high, horizon, reach, np.maximum)
    span = log_floor(np.log(highest / rolling_extreme(low, horizon, reach, np.minimum)))
    return {
        "range_ahead_like": last_values(span, count),
        "range_ahead_like_day": rolling_mean(span, DAY, count),
        "range_ahead_like_week": rolling_mean(span, WEEK, count),
    }


def _spans(high: Array, low: Array, count: int) -> dict[str, Array]:
    """Return log ranges of the candle and of windows."""
    candle = np.log(last_values(high, count) / last_values(low, count))
    out = {"candle_range": np.log(candle + _SMALLEST_MOVE)}
    for window in _SPAN_WINDOWS:
        highest = rolling_extreme(high, window, count, np.maximum)
        lowest = rolling_extreme(low, window, count, np.minimum)
        out[f"range_{window}"] = log_floor(np.log(highest / lowest))
    return out


def _returns(log_return: Array, count: int) -> dict[str, Array]:
    """Return how much of the volatility was downward, and the largest return of a window."""
    down, up = np.minimum(log_return, 0.0) ** 2, np.maximum(log_return, 0.0) ** 2
    out = {}
    for window in _DOWN_UP_WINDOWS:
        fall = rolling_mean(down, window, count) + _SMALLEST_MOVE**2
        rise = rolling_mean(up, window, count) + _SMALLEST_MOVE**2
        out[f"down_up_{window}"] = np.log(fall / rise) / 2
    for window in _LARGEST_WINDOWS:
        largest = rolling_extreme(np.abs(log_return), window, count, np.maximum)
        out[f"largest_return_{window}"] = np.log(largest + _SMALLEST_MOVE)
    return out


def _on_earlier_days(values: Array, count: int, ahead: int) -> dict[int, Array]:
    """Return k -> the values `ahead` candles after this time of day, k days ago.

    With `ahead` of the values' window they tell what FOLLOWED; that ended k * DAY - ahead candles
    ago, so nothing of today's future is in them. With 0 they tell what came before.
    """
    return {k: last_values(values, count, back=k * DAY - ahead) for k in range(1, SEASON_DAYS + 1)}


def _mean_of_week(earlier: Mapping[int, Array]) -> Array:
    return sum((earlier[k] for k in range(2, 8)), start=earlier[1]) / 7


def _mean_of_season(earlier: Mapping[int, Array]) -> Array:
    """Return the mean of all days; a missing old one is replaced by its weekday of the last seven."""
    mean = earlier[1]
    for k in range(2, SEASON_DAYS + 1):
        weekday = earlier[(k - 1) % 7 + 1]
        mean = mean + np.where(np.isnan(earlier[k]), weekday, earlier[k])
    return mean / SEASON_DAYS


def _seasons(range_variance: Array, horizon: int, count: int) -> dict[str, Array]:
    """Return the volatility over the horizon, and what followed and came before on earlier days."""
    log_volatility = _log_volatility(range_variance, horizon, count + SEASON_DAYS * DAY)
    week_mean = rolling_mean(log_volatility, WEEK, count)
    after = _on_earlier_days(log_volatility, count, horizon)
    before = _on_earlier_days(log_volatility, count, 0)
    out = {
        "vol_horizon": last_values(log_volatility, count),
        "season_7d": _mean_of_week(after),
        "season_21d": _mean_of_season(after),
        "season_weekday_relative": (after[7] + after[14]) / 2 - week_mean,
        "season_before_7d": _mean_of_week(before),
        "season_before_21d": _mean_of_season(before),
        "season_before_weekday_relative": (before[7] + before[14]) / 2 - week_mean,
    }
    for window in _BEFORE_WINDOWS:
        volatility = _log_volatility(range_variance, window, count + SEASON_DAYS * DAY)
        earlier = _on_earlier_days(volatility, count, 0)
        out[f"season_before_21d_{window}"] = _mean_of_season(earlier)
    out["season_21d_relative"] = out["season_21d"] - week_mean
    out["season_before_21d_relative"] = out["season_before_21d"] - week_mean
    return out


def _volumes(volume: Array, horizon: int, count: int) -> dict[str, Array]:
    """Return volume against the past week's, and what is usual at this time of day."""
    week = rolling_mean(volume, WEEK, count) + 1e-9
    out = {"volume_ratio": log_floor(rolling_mean(volume, 3, count) / week + 1e-4)}
    for window in _VOLUME_WINDOWS:
        out[f"volume_{window}"] = np.log(
            rolling_mean(volume, window, count) / week + _SMALLEST_SHARE
        )
    over_horizon = rolling_mean(volume, horizon, count + SEASON_DAYS * DAY)
    for name, ahead in (("volume_season", horizon), ("volume_season_before", 0)):
        usual = _mean_of_season(_on_earlier_days(over_horizon, count, ahead))
        out[name] = np.log(usual / week + _SMALLEST_SHARE)
    return out


@lru_cache(maxsize=64)
def _positions(columns: tuple[str, ...], names: tuple[str, ...]) -> NDArray[np.intp]:
    place = {name: position for position, name in enumerate(columns)}
    return np.array([place[name] for name in names], np.intp)


def column_values(frame: pd.DataFrame, names: Sequence[str]) -> Array:
    """Return columns of an all-float frame as rows of an array, shape (len(names), n_rows).

    pandas takes 0.15 ms to find names in a frame of one row; this takes 0.01 ms.
    """
    positions = _positions(tuple(frame.columns.tolist()), tuple(names))
    values: Array = frame.to_numpy(np.float64).T[positions]
    return values


def index_seconds(index: pd.Index) -> NDArray[np.int64]:
    """Return candle opens as whole seconds since the epoch."""
    return pd.DatetimeIndex(index).as_unit("s").asi8


def build_table(
    own: pd.DataFrame, context: pd.DataFrame, excursions: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return a pair's complete rows: ATR14 / close, `TABLE_FEATURES`, and both labels if given.

    Rows whose features are not all finite (warm-up, or a window that spans a missing candle) are
    left out; labels may be NaN. Where no context pair has a value, the pair's own stands in.

    Parameters
    ----------
    own
        `own_features` of the pair: all rows, or the last.
    context
        `context_features`; a row that it lacks is left out.
    excursions
        `labels.adverse_excursions` of the same candles. The bot decides without them.
    """
    place, is_there = _places(own, context)
    shared = column_values(context, _FROM_CONTEXT)[:, place]
    shared[:, ~is_there] = np.nan
    optional = _positions(_FROM_CONTEXT, tuple(_STAND_IN))
    own_values = column_values(own, tuple(_STAND_IN.values()))
    shared[optional] = np.where(np.isnan(shared[optional]), own_values, shared[optional])
    n_names = len(_TABLE_NAMES)
    columns = _TABLE_COLUMNS if excursions is None else _LABELLED_COLUMNS
    values = np.empty((len(columns), len(own)))
    values[_positions(_TABLE_NAMES, _FROM_OWN)] = column_values(own, _FROM_OWN)
    values[_positions(_TABLE_NAMES, _FROM_CONTEXT)] = shared
    if excursions is not None:
        labels_here = excursions.reindex(own.index)
        values[n_names:] = column_values(labels_here, tuple(LABEL_COLUMNS.values()))
    complete = np.flatnonzero(np.isfinite(values[:n_names]).all(axis=0))
    rows = values[:, complete]
    return pd.DataFrame(rows.T, index=own.index[complete], columns=columns, copy=False)


def build_outline(
    own: pd.DataFrame, context: pd.DataFrame, excursions: pd.DataFrame
) -> pd.DataFrame:
    """Return all rows of `build_table` with ATR14 / close and both labels alone, without making them.

    A fit reads no more of most rows; a table of all of them costs ten times as much.
    """
    place, is_complete = _places(own, context)
    own_values, shared = own.to_numpy(np.float64).T, context.to_numpy(np.float64).T  # no copies
    own_at = dict(zip(own.columns, own_values, strict=True))
    for name in _FROM_OWN:
        is_complete &= np.isfinite(own_at[name])
    for name, values in zip(context.columns, shared, strict=True):
        is_known = np.isfinite(values)
        if name in _FROM_CONTEXT and not is_known.all():
            is_known = is_known[place]
            if name in _STAND_IN:
                is_known |= np.isfinite(own_at[_STAND_IN[name]])
            is_complete &= is_known
    columns = {"atr_ratio": own["atr_ratio"], **excursions.reindex(own.index)}
    outline: pd.DataFrame = pd.DataFrame(columns)[is_complete]
    return outline


def _places(own: pd.DataFrame, context: pd.DataFrame) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return where rows of a pair are in the context, and whether they are there at all."""
    opens_s, context_s = index_seconds(own.index), index_seconds(context.index)
    place = np.minimum(np.searchsorted(context_s, opens_s), len(context_s) - 1)
    return place, context_s[place] == opens_s


def tree_features(table: pd.DataFrame, log_scale: Array, side: Side) -> NDArray[np.float32]:
    """Return the trees' inputs for rows of a table, in the order of `TREE_FEATURES`.

    Parameters
    ----------
    table
        Rows of `build_table`.
    log_scale : shape (n_rows,)
        Logarithm of the label scale of the same rows.
    side
        ``short`` mirrors the directional features.

    Returns
    -------
    NDArray[np.float32], shape (n_rows, len(TREE_FEATURES))
    """
    values = column_values(table, _TREE_COLUMNS[side])
    values[: len(_RELATIVE)] -= log_scale
    if side == "short":
        momentum = values[_MOMENTUM_ROWS]
        np.negative(momentum, out=momentum)
    return np.ascontiguousarray(values.astype(np.float32).T)


def labels(table: pd.DataFrame, side: Side) -> Array:
    """Return the adverse excursion of every row of a table, NaN where the horizon is not over."""
    return table[LABEL_COLUMNS[side]].to_numpy(np.float64)
