"""Rows: windows, purge, thinning from the epoch, recency."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeder_mixin.model.rows import (
    DAY_S,
    open_seconds,
    recency_weights,
    select_rows,
    thinning,
    train_stop_s,
)
from feeder_mixin.settings import LabelSpec

EVERY = st.sampled_from((1, 5, 6, 10, 20))


@given(st.integers(1, 287))
def test_thinning_is_finer_at_shorter_horizons_and_never_coarser_than_at_30_candles(horizon):
    """A longer horizon thins no less, and two rows of a pair's own trees fall into it at least."""
    used, longer, most = thinning(horizon), thinning(horizon + 1), thinning(30)
    for name in ("own", "pooled", "scale", "score"):
        assert 1 <= getattr(used, name) <= getattr(longer, name) <= getattr(most, name)
    assert used.own == 1 or horizon / used.own >= 2
    assert used.pooled > used.own


@given(
    st.integers(0, 500),
    st.integers(1, 400),
    EVERY,
    st.integers(0, 30),
    st.sets(st.integers(0, 399)),
    st.integers(1, 100),
)
def test_selected_rows_when_candles_are_added_stay_the_same(
    first, n, every, offset, unknown, n_later
):
    """Later candles, and labels known later, change no earlier choice; each row is as asked for."""
    opens_s = (first + np.arange(n + n_later)) * 300
    finite = np.array([i not in unknown for i in range(n + n_later)])
    window = {"start_s": (first + 3) * 300, "stop_s": (first + n - 2) * 300}

    def select(count):
        return select_rows(
            opens_s[:count], finite[:count], **window, timeframe_s=300, every=every, offset=offset
        )

    expected = [
        i
        for i in range(n)
        if finite[i]
        and window["start_s"] <= opens_s[i] < window["stop_s"]
        and opens_s[i] // 300 % every == offset % every
    ]
    assert list(select(n)) == list(select(n + n_later)) == expected


@given(st.integers(0, 10**9), st.integers(1, 288), st.sampled_from((60, 300, 3600)), st.booleans())
def test_last_training_row_at_any_cut_has_a_label_known_by_then(
    moment, horizon, timeframe_s, on_grid
):
    """The last row allowed ends its label by the cut, and one more would not."""
    cut_s = moment // timeframe_s * timeframe_s if on_grid else moment
    stop_s = train_stop_s(cut_s, LabelSpec("long", horizon, timeframe_s))
    grid = stop_s // timeframe_s + np.arange(-3, 4)
    last = max(open_s for open_s in grid * timeframe_s if open_s < stop_s)
    label_known_s = last + (horizon + 1) * timeframe_s
    assert label_known_s <= cut_s < label_known_s + timeframe_s


def test_recency_weights_a_half_life_ago_are_a_half():
    """Weights halve with every half-life and are 1 at the cut."""
    opens_s = 10**9 - np.array([90, 45, 0]) * DAY_S
    assert list(recency_weights(opens_s, 10**9, 45.0)) == [0.25, 0.5, 1.0]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_open_seconds_of_any_resolution_are_seconds(unit):
    """The loader of freqtrade gives milliseconds, pandas microseconds: both are seconds here."""
    index = pd.date_range("2026-01-01", periods=3, freq="5min", tz="UTC").as_unit(unit)
    seconds = open_seconds(pd.DataFrame(index=index))
    assert list(seconds) == [1_767_225_600, 1_767_225_900, 1_767_226_200]
