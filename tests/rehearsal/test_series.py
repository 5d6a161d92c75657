"""Candles on a clock: windows, longer candles, the one that forms."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from feeder_mixin.rehearsal.exchange._series import (
    CLOSE,
    DAY_MS,
    HIGH,
    LOW,
    OPEN,
    VOLUME,
    WEEK_MS,
    Series,
    bucket_open,
    forming_row,
    resample,
    visible,
    window,
)
from tests.candle_factory import make_candles

STEP_MS = 300_000
HOUR_MS = 3_600_000


@pytest.fixture
def candles():
    """Give a day of random 5m candles without those of one hour and a half."""
    frame = make_candles(288, seed=3)
    frame = pd.concat([frame.iloc[:100], frame.iloc[118:]])
    return Series(STEP_MS, frame.index.as_unit("ms").asi8, frame.to_numpy())


def test_resample_equals_pandas(candles):
    """Longer candles are what pandas makes of the shorter ones; an empty hour is left out."""
    frame = pd.DataFrame(candles.rows, pd.to_datetime(candles.opens_ms, unit="ms"))
    how = {OPEN: "first", HIGH: "max", LOW: "min", CLOSE: "last", VOLUME: "sum"}
    expected = frame.resample("1h").agg(how).dropna()

    hourly = resample(candles, HOUR_MS)

    assert hourly.opens_ms.tolist() == expected.index.as_unit("ms").asi8.tolist()
    np.testing.assert_allclose(hourly.rows, expected.to_numpy(), rtol=1e-12)


def test_bucket_open_of_a_week_is_its_monday():
    """Weekly candles open on Monday, as on Binance."""
    sunday = int(pd.Timestamp("2026-11-22 23:59", tz="UTC").timestamp() * 1000)
    monday = int(pd.Timestamp("2026-11-16", tz="UTC").timestamp() * 1000)
    assert int(bucket_open(sunday, WEEK_MS)) == monday


@pytest.mark.parametrize("close", [104.0, 98.0], ids=["rising", "falling"])
def test_forming_row_goes_from_the_open_to_the_whole_candle(close):
    """At its open a candle is its open price, at its end it is what was stored, and never beyond."""
    row = np.array([100.0, 105.0, 95.0, close, 70.0])
    seen = np.array([forming_row(row, share, 2) for share in np.linspace(0, 1, 50)])

    assert seen[0].tolist() == [100.0, 100.0, 100.0, 100.0, 0.0]
    assert seen[-1].tolist() == row.tolist()
    assert (np.diff(seen[:, HIGH]) >= 0).all()
    assert (np.diff(seen[:, LOW]) <= 0).all()
    assert ((seen[:, LOW] <= seen[:, CLOSE]) & (seen[:, CLOSE] <= seen[:, HIGH])).all()


def test_visible_hour_is_its_closed_candles_and_the_forming_one(candles):
    """The forming hour holds what has happened in it so far."""
    now_ms = int(candles.opens_ms[30]) + STEP_MS // 2  # the seventh candle of the third hour
    hourly = visible(candles, resample(candles, HOUR_MS), now_ms, 8)
    forming = forming_row(candles.rows[30], 0.5, 8)

    assert len(hourly) == 3
    assert hourly.rows[-1, OPEN] == candles.rows[24, OPEN]
    assert hourly.rows[-1, CLOSE] == forming[CLOSE]
    assert hourly.rows[-1, HIGH] == max(candles.rows[24:30, HIGH].max(), forming[HIGH])


def test_visible_in_a_gap_shows_no_forming_candle(candles):
    """Where candles are missing nothing is made up."""
    now_ms = int(candles.opens_ms[99]) + 3 * STEP_MS
    assert len(visible(candles, candles, now_ms, 8)) == 100


@pytest.mark.parametrize(
    ("start", "end", "limit", "expected"),
    [
        (None, None, 3, [7, 8, 9]),
        (2, None, 3, [2, 3, 4]),
        (None, 5, 3, [3, 4, 5]),
        (2, 5, 2, [2, 3]),
        (2, 3, 9, [2, 3]),
        (-5, None, 2, [0, 1]),
        (8, None, 9, [8, 9]),
        (12, None, 9, []),
        (5, 2, 9, []),
    ],
    ids=["newest", "from", "until", "both-limited", "both", "before", "last", "after", "reversed"],
)
def test_window_follows_binance(start, end, limit, expected):
    """A start gives the first rows from it, no start the last ones, and the end counts in."""
    opens_ms = np.arange(10) * DAY_MS
    rows = window(
        opens_ms,
        None if start is None else start * DAY_MS,
        None if end is None else end * DAY_MS,
        limit,
    )
    assert (opens_ms[rows] // DAY_MS).tolist() == expected
