"""Features from past candles only; the same code for tuner, backtest and bot.

Three steps: `own_features` (what a pair's candles say), `context_features` (what the feeder's
context pairs and the clock say), `build_table` (both joined, with labels). A row uses candles up
to and including its own, which is closed. Windows count candles, so another timeframe keeps their
length in candles, not in hours; only the New York clock reads the time of day.

The set is the one that was measured to matter. Out of sample, ten pairs, quantile level 0.10: no
calendar and no seasonality costs 2.2 points of skill, no New York clock 1.0, no directional
features 0.3, no market and BTC volatility 0.2, while all 113 tried features lose 0.1 against these.

Rolling windows are pandas' (running sums with compensation), which go forward in time only:
changing a later candle changes no bit of an earlier feature.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
import pandas as pd
import talib
from numpy.typing import NDArray

from feeder_mixin.market.labels import LABEL_COLUMNS, adverse_excursions
from feeder_mixin.schema import hash48
from feeder_mixin.settings import BTC_PAIR, Side

DAY: Final = 288
WEEK: Final = 7 * DAY
"""Windows named after what they are at 5m, in candles."""

ATR_PERIOD: Final = 14
SMALLEST_RATIO: Final = 1e-7
"""Floor of ranges and volatilities: a flat market has a finite log, and ATR can divide."""

SEASON_DAYS: Final = 21
WARMUP_CANDLES: Final = 14 * DAY + ATR_PERIOD
"""Candles before the first complete row: the season of the same weekday looks back two weeks."""

_CLOSE_WINDOWS: Final = (3, 6, 12, 24, 96, DAY, WEEK)
_RANGE_WINDOWS: Final = (24, 96, DAY, WEEK)
_MOMENTUM_WINDOWS: Final = (6, 24, DAY)
_EXTREME_WINDOWS: Final = (24, DAY)
_MARKET_COLUMNS: Final = (
    "atr14",
    "vol_close_6",
    "vol_range_24",
    "vol_range_2016",
    "range_ahead_like_day",
    "vol_horizon",
)
_BTC_COLUMNS: Final = ("atr14", "vol_close_6", "vol_range_96")
_NEW_YORK: Final = "America/New_York"
_NEW_YORK_EVENTS: Final = {"0830": 510, "0930": 570, "1400": 840, "1600": 960}
"""Minute of the New York day: data releases, stock open, central bank statements, stock close."""

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
    "ny_sin",
    "ny_cos",
    "ny_sin2",
    "ny_cos2",
    "ny_weekend",
    "ny_sunday",
    "ny_weekend_sin",
    "ny_weekend_cos",
    *(f"ny_to_{event}" for event in _NEW_YORK_EVENTS),
    "ny_profile_20",
    "ny_profile_weekday",
)
"""Regressors of the label scale (`model.scale`)."""

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

TABLE_FEATURES: Final = tuple(dict.fromkeys((*SCALE_FEATURES, *TREE_FEATURES)))

RECIPE_VERSION: Final = "1"
"""Goes into `feature_hash`: raise it when a formula changes while its name stays."""

FEATURE_HASH: Final = hash48(RECIPE_VERSION, *SCALE_FEATURES, "|", *TREE_FEATURES)


def log_floor(values: pd.Series) -> pd.Series:
    """Return the logarithm, floored so that a flat market gives a finite number."""
    return pd.Series(np.log(np.maximum(values.to_numpy(), SMALLEST_RATIO)), index=values.index)


def atr_ratio(candles: pd.DataFrame) -> pd.Series:
    """Return ATR14 / close, at least `SMALLEST_RATIO`; after a missing candle it starts anew.

    TA-Lib's ATR never recovers from a NaN, so every run of present candles is computed alone.
    """
    present = candles["close"].notna().to_numpy()
    atr = np.full(len(candles), np.nan)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], present.view(np.int8), [0]))))
    high, low, close = (candles[name].to_numpy(np.float64) for name in ("high", "low", "close"))
    for start, stop in edges.reshape(-1, 2):
        if stop - start > ATR_PERIOD:
            part = slice(start, stop)
            atr[part] = talib.ATR(high[part], low[part], close[part], ATR_PERIOD)
    return pd.Series(np.maximum(atr / close, SMALLEST_RATIO), index=candles.index)


def own_features(candles: pd.DataFrame, horizon: int) -> pd.DataFrame:
    """Return what a pair's own candles say, one row per candle.

    Parameters
    ----------
    candles
        open, high, low, close, volume on a regular UTC grid; missing candles are NaN rows.
    horizon
        Candles the label looks ahead, 1 to `settings.MAX_HORIZON_CANDLES`.

    Returns
    -------
    DataFrame
        NaN wherever a window is not full or spans a missing candle.
    """
    high, low, close, volume = (candles[name] for name in ("high", "low", "close", "volume"))
    log_close = pd.Series(np.log(close.to_numpy()), index=candles.index)
    log_range = pd.Series(np.log((high / low).to_numpy()), index=candles.index)
    atr = atr_ratio(candles)
    out = {"atr_ratio": atr, "atr14": log_floor(atr)}
    squared_return = log_close.diff() ** 2
    for window in _CLOSE_WINDOWS:  # log of the root mean square return
        out[f"vol_close_{window}"] = log_floor(_root(squared_return.rolling(window).mean()))
    range_variance = log_range**2 / (4 * math.log(2))  # Parkinson's estimator, per candle
    for window in _RANGE_WINDOWS:
        out[f"vol_range_{window}"] = log_floor(_root(range_variance.rolling(window).mean()))
    out |= _seasons(high, low, range_variance, horizon)
    for window in _MOMENTUM_WINDOWS:  # past return in units of ATR14 x sqrt(candles)
        out[f"momentum_{window}"] = log_close.diff(window) / atr / math.sqrt(window)
    for window in _EXTREME_WINDOWS:  # distance to the window's low and high, same unit, both <= 0
        unit = atr * math.sqrt(window)
        out[f"to_low_{window}"] = _log_ratio(low.rolling(window).min(), close) / unit
        out[f"to_high_{window}"] = _log_ratio(close, high.rolling(window).max()) / unit
    week_volume = volume.rolling(WEEK).mean() + 1e-9
    out["volume_ratio"] = log_floor(volume.rolling(3).mean() / week_volume + 1e-4)
    return pd.DataFrame(out, index=candles.index)


def _root(values: pd.Series) -> pd.Series:
    # Running sums can end a hair below zero in a flat market.
    return values.clip(lower=0.0) ** 0.5


def _seasons(
    high: pd.Series, low: pd.Series, range_variance: pd.Series, horizon: int
) -> dict[str, pd.Series]:
    """Return ranges shaped like the label, and what followed this time of day on earlier days."""
    span = log_floor(_log_ratio(high.rolling(horizon).max(), low.rolling(horizon).min()))
    volatility = range_variance.rolling(horizon).mean().clip(lower=1e-12)
    log_volatility = pd.Series(np.log(volatility.to_numpy()) / 2, index=high.index)
    week_mean = log_volatility.rolling(WEEK).mean()
    # Volatility of the candles that FOLLOWED this time of day k days ago; they ended
    # k * DAY - horizon candles ago, so nothing of today's future is in them.
    after = {k: log_volatility.shift(k * DAY - horizon) for k in range(1, SEASON_DAYS + 1)}
    season_7d = sum((after[k] for k in range(2, 8)), start=after[1]) / 7
    # Missing old days are replaced by the same weekday of the last seven.
    filled = (after[k].fillna(after[(k - 1) % 7 + 1]) for k in range(2, SEASON_DAYS + 1))
    season_21d = sum(filled, start=after[1]) / SEASON_DAYS
    return {
        "range_ahead_like": span,
        "range_ahead_like_day": span.rolling(DAY).mean(),
        "range_ahead_like_week": span.rolling(WEEK).mean(),
        "vol_horizon": log_volatility,
        "season_7d": season_7d,
        "season_21d": season_21d,
        "season_21d_relative": season_21d - week_mean,
        "season_weekday_relative": (after[7] + after[14]) / 2 - week_mean,
    }


def _log_ratio(high: pd.Series, low: pd.Series) -> pd.Series:
    return pd.Series(np.log((high / low).to_numpy()), index=high.index)


def context_features(
    own: Mapping[str, pd.DataFrame],
    horizon: int,
    timeframe_s: int,
    until: pd.Timestamp | None = None,
) -> pd.DataFrame:
    """Return what all pairs of a feeder share: means over its context pairs, BTC, and the clock.

    Means run over the context pairs present at a candle. Columns that no context pair gives are
    NaN: `build_table` puts the pair's own value there.

    Parameters
    ----------
    own
        Context pair -> `own_features`. Their grids may start and end at different times.
    horizon
        Candles the label looks ahead.
    timeframe_s
        Length of a candle in seconds.
    until
        Open of the last row; where it is later than every context pair's last candle, the rows
        between have the clock only.
    """
    first = min(frame.index[0] for frame in own.values())
    ends = [frame.index[-1] for frame in own.values()]
    last = max(ends if until is None else [*ends, until])
    grid = pd.date_range(first, last, freq=pd.Timedelta(seconds=timeframe_s), name="date")
    out: dict[str, pd.Series] = {}
    pairs = sorted(own)  # the order of summation must not depend on how the pairs were listed
    for name in _MARKET_COLUMNS:
        columns = [own[pair][name].reindex(grid) for pair in pairs]
        out[f"market_{name}"] = pd.concat(columns, axis=1).mean(axis=1)
    btc = own.get(BTC_PAIR)
    for name in _BTC_COLUMNS:
        column = pd.Series(np.nan, index=grid) if btc is None else btc[name].reindex(grid)
        out[f"btc_{name}"] = column
    clock = _clock(grid, out["market_vol_horizon"], horizon, timeframe_s)
    return pd.DataFrame({**out, **clock}, index=grid)


def _clock(
    grid: pd.DatetimeIndex, market: pd.Series, horizon: int, timeframe_s: int
) -> dict[str, pd.Series | NDArray[np.float64]]:
    """Return the time of day in UTC and New York, and the market's profile by New York slot."""
    utc_angle = 2 * np.pi * (grid.hour * 60 + grid.minute).to_numpy() / 1440
    local = grid.tz_convert(_NEW_YORK)
    minute = (local.hour * 60 + local.minute).to_numpy()
    weekday = np.asarray(local.day_of_week)
    weekend, angle = weekday >= 5, (2 * np.pi * minute / 1440).astype(np.float64)
    out: dict[str, pd.Series | NDArray[np.float64]] = {
        "utc_sin": np.sin(utc_angle),
        "utc_cos": np.cos(utc_angle),
        "ny_sin": np.sin(angle),
        "ny_cos": np.cos(angle),
        "ny_sin2": np.sin(2 * angle),
        "ny_cos2": np.cos(2 * angle),
        "ny_weekend": weekend.astype(np.float64),
        "ny_sunday": (weekday == 6).astype(np.float64),
        "ny_weekend_sin": np.sin(angle) * weekend,
        "ny_weekend_cos": np.cos(angle) * weekend,
    }
    # Weekdays, less than the horizon before an event: exp(-time to go / horizon), else 0.
    for name, event in _NEW_YORK_EVENTS.items():
        to_go = (event - minute) % 1440 / (horizon * timeframe_s / 60)
        out[f"ny_to_{name}"] = np.where(~weekend & (to_go <= 1), np.exp(-to_go), 0.0)
    # How much the market's NEXT candles exceed its week before: this looks ahead, so a row reads it
    # from earlier rows of its clock slot only, `lag` occurrences ago. When New York repeats an hour,
    # the previous occurrence would be an hour ago: the first of the two is left out. Days of 23
    # hours (and slots above an hour, which shift) need slack; behind a lag of 2 or more the
    # repeated hour would count as one of the days.
    ahead = market.shift(-horizon) - market.rolling(WEEK, min_periods=500).mean()
    slot = minute * 60 // timeframe_s
    day = local.tz_localize(None).normalize().asi8
    ahead[pd.DataFrame({"day": day, "slot": slot}).duplicated(keep="last").to_numpy()] = np.nan
    lag = math.ceil(((horizon + 1) * timeframe_s + 3600) / 86_400)
    lag += lag > 1
    for name, kind, window, at_least in (
        ("20", weekend.astype(np.int64), 20, 3),
        ("weekday", weekday, 4, 1),
    ):
        groups = ahead.groupby(slot + 10_000 * kind)
        past = groups.shift(lag).groupby(slot + 10_000 * kind)
        mean = past.rolling(window, min_periods=at_least).mean()
        out[f"ny_profile_{name}"] = mean.droplevel(0).sort_index().fillna(0.0)
    return out


def build_table(
    own: pd.DataFrame, context: pd.DataFrame, candles: pd.DataFrame, horizon: int
) -> pd.DataFrame:
    """Return a pair's complete rows: ATR14 / close, `TABLE_FEATURES` and both labels.

    Rows whose features are not all finite (warm-up, or a window that spans a missing candle) are
    left out; labels may be NaN. Where no context pair has a value, the pair's own stands in.
    """
    shared = context.reindex(own.index)
    for prefix, names in (("market", _MARKET_COLUMNS), ("btc", _BTC_COLUMNS)):
        for name in names:
            column = f"{prefix}_{name}"
            shared[column] = shared[column].fillna(own[name])
    columns = ["atr_ratio", *TABLE_FEATURES]
    table = pd.concat([own, shared], axis=1)[columns]
    complete = np.isfinite(table.to_numpy()).all(axis=1)
    rows: pd.DataFrame = table[complete].join(adverse_excursions(candles, horizon))
    return rows


def tree_features(
    table: pd.DataFrame, log_scale: NDArray[np.float64], side: Side
) -> NDArray[np.float32]:
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
    flip = side == "short"
    momentum = table[list(_MOMENTUM)].to_numpy()
    low, high = (_TO_HIGH, _TO_LOW) if flip else (_TO_LOW, _TO_HIGH)
    parts = [
        table[list(_RELATIVE)].to_numpy() - log_scale[:, None],
        table[list(_AS_IS)].to_numpy(),
        -momentum if flip else momentum,
        table[list(low)].to_numpy(),
        table[list(high)].to_numpy(),
    ]
    return np.hstack(parts).astype(np.float32)


def labels(table: pd.DataFrame, side: Side) -> NDArray[np.float64]:
    """Return the adverse excursion of every row of a table, NaN where the horizon is not over."""
    return table[LABEL_COLUMNS[side]].to_numpy(np.float64)
