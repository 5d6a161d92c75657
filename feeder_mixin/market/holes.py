"""Missing candles and candles without trades: which are bridged, and which count as a halt.

One rule for tuner, backtest and bot, by candles alone and by earlier ones alone. A candle is *quiet*
when it is missing, or flat without volume: freqtrade fills holes with flat candles before a strategy
sees them, so the two can't be told apart there, and must not differ here. For an hour of quiet candles
the last close stands, as freqtrade has it; from then on it is a halt, which is no market: its candles
are missing, and windows that span one give no row. A candle whose wick is ten times its close, or a
tenth, is impossible (the worst of 830,000 candles of 12 pairs, the crash of 2025-10-10 among them, is
1.4 times) and counts as missing.

What bridging must not do is make up truth: a label that reads an invented candle is no label
(`labels.adverse_excursions`), and behind `SHORT_CANDLES` quiet candles a row has no features. Thin
pairs have single flat candles often: their labels and the rows beside them stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from feeder_mixin.market.windows import Array

BRIDGE_S: Final = 3_600
"""Length of a hole that is bridged; of longer ones the first hour."""

MAX_BRIDGE_CANDLES: Final = 60
"""An hour of 1m candles: so far back a candle's meaning may depend on those before."""

SHORT_CANDLES: Final = 3
"""Quiet candles behind which the shortest windows of the features hold nothing."""

LARGEST_WICK: Final = 10.0
"""A high above so many closes, or a low below such a part of one, is impossible."""

_NAMES: Final = ("high", "low", "close", "volume")


@dataclass(frozen=True, slots=True)
class Bridged:
    """Candles with bridges; arrays of shape (n_candles,), NaN where there is no market.

    Attributes
    ----------
    quiet_for
        How many candles, this one included, nothing has traded.
    invented
        Whether the candle is missing or impossible: its values, if any, are made up.
    """

    high: Array
    low: Array
    close: Array
    volume: Array
    quiet_for: NDArray[np.int64]
    invented: NDArray[np.bool_]


def bridge_candles(timeframe_s: int) -> int:
    """Return how many quiet candles are bridged at most: an hour of them, at least one."""
    return min(max(BRIDGE_S // timeframe_s, 1), MAX_BRIDGE_CANDLES)


def find_impossible(high: Array, low: Array, close: Array) -> NDArray[np.bool_]:
    """Return which candles have an impossible wick."""
    found: NDArray[np.bool_] = (high > LARGEST_WICK * close) | (low * LARGEST_WICK < close)
    return found


def bridge(candles: pd.DataFrame) -> Bridged:
    """Return high, low, close and volume with short holes bridged and halts taken out.

    Candles that are missing at the end stay missing: nobody knows yet whether they are late.

    Parameters
    ----------
    candles
        Columns high, low, close, volume on a regular grid; missing candles are NaN rows.
    """
    high, low, close, volume = (candles[name].to_numpy(np.float64) for name in _NAMES)
    return bridge_values(high, low, close, volume, _timeframe_s(candles))


def bridge_values(
    high: Array, low: Array, close: Array, volume: Array, timeframe_s: int
) -> Bridged:
    """Return the same of columns, shape (n_candles,) each, of candles `timeframe_s` seconds long."""
    invented = np.isnan(close) | find_impossible(high, low, close)
    quiet = invented | ((volume == 0.0) & (high == low))
    if not quiet.any():
        return Bridged(high, low, close, volume, np.zeros(len(close), np.int64), invented)
    place = np.arange(len(close))
    quiet_for = place - np.maximum.accumulate(np.where(quiet, -1, place))
    source = np.maximum.accumulate(np.where(invented, -1, place))
    is_market = (quiet_for <= bridge_candles(timeframe_s)) & (source >= 0)
    is_market &= ~invented | (place < source[-1])
    last_close = close[source]

    def shown(values: Array, stand_in: Array | float) -> Array:
        return np.where(is_market, np.where(invented, stand_in, values), np.nan)

    return Bridged(
        shown(high, last_close),
        shown(low, last_close),
        shown(close, last_close),
        shown(volume, 0.0),
        quiet_for,
        invented,
    )


def _timeframe_s(candles: pd.DataFrame) -> int:
    if len(candles) < 2:
        return BRIDGE_S
    return int((candles.index[1] - candles.index[0]).total_seconds())
