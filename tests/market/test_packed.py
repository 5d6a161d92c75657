"""Candles packed for a journey arrive as they were."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from feeder_mixin.market.packed import pack_candles, unpack_candles
from tests.candle_factory import make_candles


def decimals() -> pd.DataFrame:
    """Return candles as an exchange gives them: prices in ticks, holes between."""
    frame = make_candles(5_000, 1).round(2)
    frame.iloc[100:120] = np.nan
    frame.iloc[0] = np.nan
    return frame


def odd() -> pd.DataFrame:
    """Return candles with what no tick can hold."""
    frame = decimals()
    frame.iloc[7, 4] = -0.0
    frame.iloc[8, 4] = np.inf
    frame.iloc[9, 0] = 1e300
    return frame


def without_freq() -> pd.DataFrame:
    """Return candles with one left out."""
    return decimals().drop(decimals().index[50])


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(decimals(), id="ticks"),
        pytest.param(make_candles(5_000, 2), id="any numbers"),
        pytest.param(odd(), id="odd numbers"),
        pytest.param(without_freq(), id="no frequency"),
        pytest.param(decimals().iloc[:1], id="one candle"),
        pytest.param(decimals()[["open", "high", "low", "close", "volume"]] * 0, id="zeros"),
    ],
)
def test_unpacked_candles_are_the_packed_ones_bit_by_bit(frame):
    """Records made on another machine are those made here."""
    there = unpack_candles(pack_candles(frame))
    pd.testing.assert_frame_equal(there, frame, check_exact=True, check_freq=True)
    assert np.array_equal(there.to_numpy().view(np.int64), frame.to_numpy().view(np.int64))


def test_candles_of_an_exchange_take_a_sixth(real_candles):
    """So that hundreds of pairs go over an ordinary line in seconds."""
    frame = real_candles("BTC/USDT:USDT")
    packed = pack_candles(frame)
    assert len(packed) < 0.7e6
    pd.testing.assert_frame_equal(unpack_candles(packed), frame, check_exact=True)
