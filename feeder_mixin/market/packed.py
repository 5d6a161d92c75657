"""Candles on their way to another machine: the same frame in a sixth of the bytes.

Prices are whole numbers of ticks near to each other, so that differences in ticks take a byte or two.
290 days of 5m candles of BTC: 4.0 MB pickled, 0.63 MB packed, in 0.06 CPU-seconds.
"""

from __future__ import annotations

import pickle
import zlib
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from feeder_mixin.market.windows import Array

_Ticks = NDArray[np.int64]

_ZLIB_LEVEL: Final = 1
"""6 takes four times as long for 6 % less."""

_MOST_DIGITS: Final = 9
_MOST_TICKS: Final = 2.0**52


def pack_candles(frame: pd.DataFrame) -> bytes:
    """Return a frame of open, high, low, close and volume, bit by bit; dates in UTC."""
    values = frame.to_numpy(np.float64).T
    is_missing = np.isnan(values)
    values = np.where(is_missing, 0.0, values)
    prices, volume = _ticks(values[:4]), _ticks(values[4:])
    if prices is None or volume is None:  # no decimal numbers of few digits
        digits, rows = None, values.view(np.int64)
    else:
        digits = prices[0], volume[0]
        rows = np.concatenate([_differences(prices[1]), volume[1]])
    index = pd.DatetimeIndex(frame.index)
    dates = np.diff(index.asi8, prepend=0)
    parts = (list(frame.columns), index.dtype, index.freq, index.name, _split(dates[np.newaxis]))
    whole = (*parts, digits, np.packbits(is_missing).tobytes(), _split(rows))
    return zlib.compress(pickle.dumps(whole), _ZLIB_LEVEL)


def unpack_candles(packed: bytes) -> pd.DataFrame:
    """Return the frame that `pack_candles` packed."""
    names, dtype, freq, name, dates, digits, missing, rows = pickle.loads(  # noqa: S301 - ours
        zlib.decompress(packed)
    )
    opens = np.cumsum(_joined(dates, 1)[0]).view(f"M8[{dtype.unit}]")
    index = pd.DatetimeIndex(opens, name=name, tz="UTC", freq=freq)
    ticks = _joined(rows, len(names))
    if digits is None:
        values = ticks.view(np.float64)
    else:
        prices = _sums(ticks[:4]) / 10.0 ** digits[0]
        values = np.concatenate([prices, ticks[4:] / 10.0 ** digits[1]])
    is_missing = np.unpackbits(np.frombuffer(missing, np.uint8), count=values.size)
    values = np.where(is_missing.reshape(values.shape), np.nan, values)
    return pd.DataFrame(values.T, index=index, columns=names, copy=False)


def _ticks(values: Array) -> tuple[int, _Ticks] | None:
    """Return digits behind the point, and values in units of the last; None where that loses a bit."""
    if not (np.abs(values) < _MOST_TICKS).all():
        return None
    for digits in range(_MOST_DIGITS + 1):
        ticks = np.round(values * 10.0**digits)
        if np.array_equal((ticks / 10.0**digits).view(np.int64), values.view(np.int64)):
            return digits, ticks.astype(np.int64)
    return None


def _differences(prices: _Ticks) -> _Ticks:
    """Return what `_sums` puts together: small numbers, none of them larger than a candle."""
    opens, highs, lows, closes = prices
    before = np.concatenate([[0], closes[:-1]])
    top, bottom = np.maximum(opens, closes), np.minimum(opens, closes)
    return np.stack([opens - before, closes - opens, highs - top, bottom - lows])


def _sums(differences: _Ticks) -> _Ticks:
    to_open, body, above, below = differences
    closes = np.cumsum(to_open + body)
    opens = closes - body
    highs, lows = np.maximum(opens, closes) + above, np.minimum(opens, closes) - below
    return np.stack([opens, highs, lows, closes])


def _split(rows: _Ticks) -> bytes:
    """Return each row's lowest bytes, then its second ones, ...: alike ones lie side by side."""
    n_rows, n_candles = rows.shape
    unsigned = (rows << 1) ^ (rows >> 63)  # the high bytes of -1 as those of 1
    as_bytes = np.ascontiguousarray(unsigned).view(np.uint8).reshape(n_rows, n_candles, 8)
    return np.ascontiguousarray(as_bytes.transpose(0, 2, 1)).tobytes()


def _joined(split: bytes, n_rows: int) -> _Ticks:
    as_bytes = np.frombuffer(split, np.uint8).reshape(n_rows, 8, -1).transpose(0, 2, 1)
    unsigned = np.ascontiguousarray(as_bytes).view(np.uint64)[..., 0]
    rows: _Ticks = (unsigned >> np.uint64(1)).view(np.int64)
    return rows ^ -(unsigned & np.uint64(1)).view(np.int64)
