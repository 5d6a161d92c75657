"""Tails: the newest rows, computed alone, are those of the whole history."""

import pickle
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeder_mixin.errors import CandleError
from feeder_mixin.market.context import (
    ContextTail,
    FeatureContext,
    context_candles,
    context_features,
    profile_candles,
)
from feeder_mixin.market.features import (
    OWN_FEATURES,
    TABLE_FEATURES,
    build_table,
    column_values,
    own_features,
    tail_candles,
    vol_horizon,
)
from feeder_mixin.market.holes import MAX_BRIDGE_CANDLES
from feeder_mixin.market.labels import LABEL_COLUMNS
from feeder_mixin.market.windows import rolling_extreme, rolling_mean
from tests.candle_factory import make_candles
from tests.strategies import examples

BTC, ETH, SOL, XRP, BNB = (f"{name}/USDT:USDT" for name in ("BTC", "ETH", "SOL", "XRP", "BNB"))
HORIZON = 30
FEATURES = ["atr_ratio", "quiet", *TABLE_FEATURES]


def utc(text):
    """Return a UTC time."""
    return pd.Timestamp(text, tz="UTC")


def with_gaps(candles, gaps):
    """Return candles of which runs (start, length) are missing."""
    holed = candles.copy()
    for start, length in gaps:
        holed.iloc[start : start + length] = np.nan
    return holed


def assert_same_rows(found, expected):
    """Fail unless both frames have the same rows, columns, NaN, and values to 1e-9."""
    assert list(found.columns) == list(expected.columns)
    assert list(found.index) == list(expected.index)
    np.testing.assert_allclose(found.to_numpy(), expected.to_numpy(), rtol=0, atol=1e-9)


@pytest.fixture(scope="module")
def rough():
    """Give 31 days of candles with a crash, a stretch that stands still, and one missing candle."""
    candles = make_candles(31 * 288, 5)
    candles.iloc[3_000:, :4] *= 0.6
    candles.iloc[6_000:6_400, :4] = candles["close"].iloc[5_999]
    candles.iloc[6_000:6_400, 4] = 0.0
    return with_gaps(candles, [(7_500, 1)])


gaps_near_the_end = st.lists(st.tuples(st.integers(0, 8_900), st.integers(1, 60)), max_size=4)


@given(
    gaps=gaps_near_the_end,
    stop=st.integers(1, 31 * 288),
    last=st.sampled_from((1, 2, 7, 300)),
    horizon=st.sampled_from((1, 2, 30, 288)),
)
def test_own_features_of_a_tail_equal_those_of_all_candles(rough, gaps, stop, last, horizon):
    """The last rows, from all candles or from as many as a tail needs, are those of all rows."""
    candles = with_gaps(rough, gaps).iloc[:stop]
    expected = own_features(candles, horizon).iloc[-last:]
    assert_same_rows(own_features(candles, horizon, last), expected)
    few = candles.iloc[-(tail_candles(horizon) + last - 1) :]
    assert_same_rows(own_features(few, horizon, last), expected)


def test_own_features_of_fewer_candles_than_wanted_are_all_rows(rough):
    """Asking for more rows than there are candles gives one row each."""
    assert len(own_features(rough.iloc[:5], HORIZON, 10)) == 5
    assert own_features(rough.iloc[:0], HORIZON).empty


def test_own_features_one_candle_short_of_a_tail_differ(make_candles):
    """The stated length of a tail is not longer than its windows."""
    candles = make_candles(6_144, 3)
    assert tail_candles(HORIZON) == len(candles) + MAX_BRIDGE_CANDLES + 1
    whole, short = (own_features(c, HORIZON, 1).iloc[0] for c in (candles, candles.iloc[1:]))
    assert whole["season_before_21d_96"] != short["season_before_21d_96"]


def test_vol_horizon_alone_equals_the_column(rough):
    """The column that history is made of is the feature."""
    expected = own_features(rough, HORIZON)["vol_horizon"]
    np.testing.assert_array_equal(vol_horizon(rough, HORIZON, len(rough)), expected)
    np.testing.assert_array_equal(vol_horizon(rough, HORIZON, 9), expected[-9:])


@given(
    values=st.lists(st.floats(-1e3, 1e3) | st.just(np.nan), max_size=40),
    window=st.integers(1, 17),
    count=st.integers(1, 45),
)
def test_rolling_windows_equal_pandas(values, window, count):
    """Means and extremes are those of pandas, NaN where a window is short or holds a NaN."""
    values = np.array(values, np.float64)
    padded = pd.Series(np.concatenate([np.full(count + window, np.nan), values]))
    mean, least = (
        rolling_mean(values, window, count),
        rolling_extreme(values, window, count, np.minimum),
    )
    naive = padded.rolling(window).apply(np.mean, raw=True)[-count:]
    np.testing.assert_allclose(mean, naive, rtol=1e-12, atol=1e-9)
    np.testing.assert_array_equal(least, padded.rolling(window).min()[-count:])


def test_rolling_mean_behind_a_spike_has_no_residue():
    """A value that left the window leaves nothing in it."""
    values = np.array([1e-10, 0.04, 1e-10, 3e-10, 2e-10, 0.0, 0.0, 0.0])
    means = rolling_mean(values, 3, 8)
    np.testing.assert_allclose(means[4:], [2e-10, 5e-10 / 3, 2e-10 / 3, 0.0], rtol=1e-15)


def test_column_values_of_an_unknown_column_name_it(rough):
    """A table without a feature is an error, not another column."""
    with pytest.raises(KeyError, match="volume_ratio"):
        column_values(rough, ("high", "volume_ratio"))


def test_tables_without_excursions_have_no_labels(rough):
    """The bot's table is the tuner's without its labels."""
    candles = rough.iloc[:5_900]
    market = FeatureContext({BTC: candles}, HORIZON, 300)
    own = own_features(candles, HORIZON)
    table = build_table(own, market.shared)
    assert table.equals(market.build(candles).drop(columns=list(LABEL_COLUMNS.values())))
    newest = build_table(own.iloc[-9:], market.shared.iloc[-99:])
    assert_same_rows(newest, table.iloc[-9:])


@dataclass(frozen=True)
class Calendar:
    """A context's own features and shared ones over a long time, of one timeframe."""

    timeframe_s: int
    horizon: int
    own: dict[str, pd.DataFrame]
    shared: pd.DataFrame
    moments: tuple[pd.Timestamp, ...]


AUTUMN = ("2025-11-01 04:00", "2025-11-02 05:30", "2025-11-02 06:30", "2025-11-03 05:00")
AROUND = (-2, -1, 0, 1, 6, 11, 12, 13, 15, 288)
"""Rows after a moment: before it, in and at the end of an hour of 5m candles, a day later."""
SPRING = ("2026-03-07 05:00", "2026-03-08 06:55", "2026-03-08 07:00", "2026-03-15 07:00")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((300, 30, "2025-07-25", 32_000, AUTUMN), id="5m-autumn"),
        pytest.param((300, 288, "2025-11-30", 32_000, SPRING), id="5m-a-day-ahead-spring"),
        pytest.param((60, 30, "2025-08-10", 125_000, AUTUMN), id="1m-autumn"),
        pytest.param((3_600, 48, "2025-05-01", 8_000, (*AUTUMN, *SPRING)), id="1h"),
        pytest.param((14_400, 20, "2023-06-01", 6_300, (*AUTUMN, *SPRING)), id="4h"),
        pytest.param((86_400, 3, "2014-06-01", 4_400, (*AUTUMN, *SPRING)), id="1d"),
    ],
)
def calendar(request):
    """Give shared features over both of New York's clock changes."""
    timeframe_s, horizon, start, n, moments = request.param
    candles = {
        pair: make_candles(n, seed, start=start, timeframe_s=timeframe_s)
        for seed, pair in enumerate((BTC, ETH))
    }
    candles[ETH] = with_gaps(candles[ETH], [(n // 2, 40), (n - 3_000, 7)])
    own = {pair: own_features(frame, horizon) for pair, frame in candles.items()}
    shared = context_features(own, horizon, timeframe_s)
    assert shared.index[-1] > utc(moments[-1])
    return Calendar(timeframe_s, horizon, own, shared, tuple(utc(moment) for moment in moments))


def assert_context_tail_equal(calendar, start, stop):
    """Fail unless rows computed with no more history than is asked for are those of all."""
    n_before = profile_candles(calendar.horizon, calendar.timeframe_s)
    known = calendar.shared["market_vol_horizon"].to_numpy()
    found = context_features(
        {pair: frame.iloc[start:stop] for pair, frame in calendar.own.items()},
        calendar.horizon,
        calendar.timeframe_s,
        before=known[max(0, start - n_before) : start],
    )
    assert_same_rows(found, calendar.shared.iloc[start:stop])


@given(data=st.data(), length=st.sampled_from((1, 2, 13, 300)))
def test_context_features_of_a_tail_equal_those_of_all_candles(calendar, data, length):
    """Wherever history ends, its last rows are those of all candles."""
    stop = data.draw(st.integers(length, len(calendar.shared)))
    assert_context_tail_equal(calendar, stop - length, stop)


@pytest.mark.parametrize("length", [1, 30])
def test_context_features_of_a_tail_where_clocks_change_equal_those_of_all(calendar, length):
    """Repeated and lost hours of New York are the same in a tail; profiles have values there."""
    for moment in calendar.moments:
        first = int(calendar.shared.index.searchsorted(moment))
        there = range(len(calendar.shared) - length)
        for start in {first + rows for rows in AROUND}.intersection(there):
            assert_context_tail_equal(calendar, start, start + length)
    rows = calendar.shared.loc[calendar.moments[0] :]
    assert (rows[["ny_profile_20", "ny_profile_weekday"]] != 0).to_numpy().mean() > 0.9


def market_rows(context, until, last, horizon=HORIZON, timeframe_s=300):
    """Return the last shared rows from whole histories."""
    return FeatureContext(context, horizon, timeframe_s, until=until).shared.iloc[-last:]


def assert_tail_is_market(tail, context, candles, until):
    """Fail unless shared rows and a pair's table are those of whole histories."""
    market = FeatureContext(context, tail.horizon, tail.timeframe_s, until=until)
    assert_same_rows(tail.shared, market.shared.iloc[-tail.last :])
    first = candles.index[max(0, len(candles) - tail.last)]
    expected = market.build(candles).loc[first:, FEATURES]
    assert_same_rows(tail.build(candles, tail.last), expected)
    return len(expected)


@pytest.fixture(scope="module")
def autumn():
    """Give 28 days of candles of three context pairs and another, over New York's repeated hour."""
    return {
        pair: make_candles(28 * 288, seed, start="2025-10-10")
        for seed, pair in enumerate((BTC, ETH, SOL, XRP))
    }


def test_context_tail_fed_candle_by_candle_equals_the_market(autumn):
    """Every new candle gives the rows that whole histories give."""
    context = {pair: with_gaps(autumn[pair], [(7_000, 3), (7_690, 1)]) for pair in (BTC, ETH, SOL)}
    n = 7_680
    tail = ContextTail({pair: c.iloc[:n] for pair, c in context.items()}, HORIZON, 300, 12)
    n_rows = 0
    for stop in range(n + 1, n + 40):
        new = {pair: c.iloc[stop - 1 : stop] for pair, c in context.items()}
        tail.extend(new, new[BTC].index[-1])
        if stop % 4 == 0:
            cut = {pair: c.iloc[:stop] for pair, c in context.items()}
            candles = autumn[XRP].iloc[:stop]
            n_rows += assert_tail_is_market(tail, cut, candles, candles.index[-1])
    assert n_rows == 9 * 12


@pytest.mark.parametrize(
    ("timeframe_s", "horizon", "n", "start"),
    [
        pytest.param(300, 288, 42_000, "2025-11-01", id="5m-a-day-ahead"),
        pytest.param(3_600, 30, 9_000, "2025-03-01", id="1h"),
    ],
)
def test_context_tail_that_forgot_old_candles_equals_the_market(timeframe_s, horizon, n, start):
    """What is forgotten on the way is not missed later, however candles come."""
    context = {
        pair: make_candles(n, seed, start=start, timeframe_s=timeframe_s)
        for seed, pair in enumerate((BTC, ETH))
    }
    needed = context_candles(horizon, timeframe_s, 5)
    stop = n - 2_500
    assert stop > needed
    on_disk = {pair: c.iloc[stop - needed : stop] for pair, c in context.items()}
    tail = ContextTail(on_disk, horizon, timeframe_s, 5)
    for step in (1, 400, 2_000, 1, 98):
        new = {pair: c.iloc[stop - 30 : stop + step] for pair, c in context.items()}
        stop += step
        tail.extend(new, new[BTC].index[-1])
        cut = {pair: c.iloc[:stop] for pair, c in context.items()}
        n_rows = assert_tail_is_market(tail, cut, cut[ETH], cut[ETH].index[-1])
        assert n_rows == 5
    assert stop == n


@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 30),  # candles that the clock goes on
            st.tuples(  # what each pair hands over: candles back to, candles left out
                *(st.tuples(st.integers(0, 90), st.integers(0, 12)) for _ in range(3))
            ),
            st.sets(st.sampled_from((BTC, ETH, SOL))),
        ),
        min_size=1,
        max_size=6,
    ),
    last=st.sampled_from((1, 8, 60)),
)
@examples(10)
def test_context_tail_of_late_and_missing_candles_equals_the_market(autumn, steps, last):
    """In whatever order, overlap and completeness candles come: what is known counts."""
    pairs, stop = (BTC, ETH, SOL), 7_650
    known = {pair: np.arange(len(autumn[pair])) < stop for pair in pairs}
    known[SOL][7_000:] = False
    tail = ContextTail(
        {pair: autumn[pair].iloc[:stop][known[pair][:stop]] for pair in (BTC, ETH)}
        | {SOL: autumn[SOL].iloc[:7_000]},
        HORIZON,
        300,
        last,
    )
    for on, handed, silent in steps:
        stop += on
        new = {}
        for pair, (back, short) in zip(pairs, handed, strict=True):
            if pair not in silent:
                part = slice(stop - back, stop - short)
                new[pair] = autumn[pair].iloc[part]
                known[pair][part] = True
        tail.extend(new, autumn[BTC].index[stop - 1])
    missing = {pair: np.flatnonzero(~known[pair][:stop]) for pair in pairs}
    context = {pair: autumn[pair].iloc[:stop].copy() for pair in pairs}
    for pair in pairs:
        context[pair].iloc[missing[pair]] = np.nan
    assert_tail_is_market(tail, context, autumn[XRP].iloc[:stop], autumn[BTC].index[stop - 1])


def test_context_tail_with_a_late_candle_repairs_rows_and_profile(autumn):
    """A candle that comes 100 candles late counts in the rows kept, and in profiles to come."""
    context = {pair: autumn[pair] for pair in (BTC, ETH)}
    n, late = 7_200, 7_100
    holed = {BTC: autumn[BTC], ETH: with_gaps(autumn[ETH], [(late, 1)])}
    tail = ContextTail({pair: c.iloc[:n] for pair, c in holed.items()}, HORIZON, 300, 300)
    cut = {pair: c.iloc[:n] for pair, c in context.items()}
    until = cut[BTC].index[-1]
    expected = market_rows(cut, until, 300)
    assert np.abs(tail.shared["market_vol_range_24"] - expected["market_vol_range_24"]).max() > 1e-3
    tail.extend({ETH: autumn[ETH].iloc[late : late + 1]}, until)
    assert_same_rows(tail.shared, expected)
    tail.extend({pair: c.iloc[n : n + 400] for pair, c in context.items()}, until)
    cut = {pair: c.iloc[: n + 400] for pair, c in context.items()}
    assert_tail_is_market(tail, cut, cut[ETH], until)


def test_context_tail_with_the_oldest_candle_changed_keeps_its_history():
    """Volatilities whose candles are forgotten are kept as they are, not lost."""
    candles = make_candles(30_000, 1, start="2025-11-01")
    n = 29_000
    tail = ContextTail({BTC: candles.iloc[:n]}, 288, 300, 5)
    oldest = candles.iloc[n - tail_candles(288) - 5 :].iloc[:1].copy()
    oldest["high"] *= 1 + 1e-13
    tail.extend({BTC: oldest}, candles.index[n - 1])
    tail.extend({BTC: candles.iloc[n:]}, candles.index[-1])
    assert_tail_is_market(tail, {BTC: candles}, candles, candles.index[-1])


def test_context_tail_with_pairs_in_another_order_is_bit_equal(autumn):
    """How context pairs were listed, or when they came, is not a fact about the market."""
    pairs, n = (BTC, ETH, SOL), 7_000
    tails = [
        ContextTail({pair: autumn[pair].iloc[:n] for pair in order}, HORIZON, 300, 300)
        for order in (pairs, pairs[::-1])
    ]
    later = {pair: autumn[pair].iloc[n:] for pair in pairs}
    for tail in tails:
        tail.extend(later, autumn[BTC].index[-1])
    assert tails[0].shared.equals(tails[1].shared)


def test_context_tail_with_a_corrected_candle_takes_the_newer_value(autumn):
    """The newer of two values of a candle counts, a missing one does not."""
    wrong = autumn[BTC].iloc[:7_000].copy()
    wrong.iloc[-2, :4] *= 1.1
    tail = ContextTail({BTC: wrong}, HORIZON, 300, 4)
    cut = autumn[BTC].iloc[:7_000]
    tail.extend({BTC: with_gaps(cut.iloc[-5:], [(0, 3)])}, cut.index[-1])
    assert_tail_is_market(tail, {BTC: cut}, cut, cut.index[-1])


@pytest.mark.parametrize("names", [(BTC,), (ETH, SOL), (SOL,)], ids=" ".join)
def test_context_tail_without_some_pairs_equals_the_market(autumn, names):
    """Missing pairs, BTC too, and empty candles leave the means of the others."""
    n = 7_000
    context = {pair: autumn[pair].iloc[:n] for pair in names}
    missing = {pair: autumn[pair].iloc[:0] for pair in (BTC, ETH, SOL) if pair not in names}
    tail = ContextTail(context | missing, HORIZON, 300, 20)
    assert_tail_is_market(tail, context, autumn[XRP].iloc[:n], context[names[-1]].index[-1])


def test_context_tail_that_gains_a_pair_equals_the_market(autumn):
    """A context pair whose first candles come later joins the means, in an order of its own."""
    n = 7_000
    tail = ContextTail({ETH: autumn[ETH].iloc[:n]}, HORIZON, 300, 20)
    new = {pair: autumn[pair].iloc[n - 300 : n + 1] for pair in (ETH, BTC)}
    until = new[BTC].index[-1]
    tail.extend(new, until)
    context = {ETH: autumn[ETH].iloc[: n + 1], BTC: new[BTC]}
    assert_tail_is_market(tail, context, autumn[XRP].iloc[: n + 1], until)


def test_context_tail_behind_the_clock_keeps_the_pairs_rows(autumn):
    """Where the context is late the clock goes on, and a pair's own values stand in."""
    n = 7_000
    context = {pair: autumn[pair].iloc[:n] for pair in (BTC, ETH)}
    tail = ContextTail(context, HORIZON, 300, 20)
    candles = autumn[XRP].iloc[: n + 3]
    tail.extend({}, candles.index[-1])
    assert_tail_is_market(tail, context, candles, candles.index[-1])
    newest = tail.build(candles, 1).iloc[0]
    assert newest["btc_atr14"] == newest["market_atr14"] == newest["atr14"]


def test_context_tail_of_known_candles_computes_nothing(autumn):
    """The same candles again leave the frame as it is."""
    tail = ContextTail({BTC: autumn[BTC]}, HORIZON, 300, 5)
    before = tail.shared
    tail.extend({BTC: autumn[BTC].iloc[-100:]}, autumn[BTC].index[-1])
    assert tail.shared is before


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda c: c.set_axis(c.index + pd.Timedelta("1min"), axis=0), id="off-grid"),
        pytest.param(lambda c: c.iloc[::-1], id="order"),
        pytest.param(lambda c: pd.concat([c, c.iloc[-1:]]), id="duplicate"),
    ],
)
def test_context_tail_of_candles_off_the_grid_is_refused_unchanged(autumn, change):
    """Candles that can't be placed are an error with the pair's name, and change nothing."""
    tail = ContextTail({BTC: autumn[BTC].iloc[:7_000]}, HORIZON, 300, 5)
    before = tail.shared
    new = {BTC: autumn[BTC].iloc[7_000:7_002], ETH: change(autumn[ETH].iloc[7_000:7_003])}
    with pytest.raises(CandleError, match=f"{ETH}: new candles must open in order"):
        tail.extend(new, utc("2025-11-03"))
    assert tail.shared is before
    tail.extend({BTC: new[BTC]}, new[BTC].index[-1])
    assert tail.shared.index[-1] == new[BTC].index[-1]


def test_context_tail_without_candles_is_refused(autumn):
    """A feeder needs one context pair at least."""
    with pytest.raises(CandleError, match="no context pair"):
        ContextTail({BTC: autumn[BTC].iloc[:0]}, HORIZON, 300, 5)


def test_context_tail_of_many_candles_stays_small(autumn):
    """However long a bot runs, no more is kept than rows read."""
    step, candles = pd.Timedelta("5min"), autumn[BTC]
    tail = ContextTail({BTC: candles}, HORIZON, 300, 5)
    sizes = []
    for i in range(1, 6):
        later = candles.set_axis(candles.index + i * len(candles) * step, axis=0)
        tail.extend({BTC: later}, later.index[-1])
        tail.extend({}, later.index[-1] + step)  # forgets what the candles before pushed out
        sizes.append(len(pickle.dumps(tail)))
    # The New York profile fills first; from then on nothing is added.
    assert max(sizes) <= 1.01 * sizes[2]


@pytest.mark.parametrize("horizon", [30, pytest.param(288, marks=pytest.mark.slow)])
def test_context_tail_of_real_candles_equals_the_market(real_candles, horizon):
    """Real candles of five pairs, fed over New York's repeated hour, give the market's rows."""
    window = slice(utc("2025-07-25"), utc("2025-11-03 12:00"))
    context = {pair: real_candles(pair).loc[window] for pair in (BTC, ETH, SOL, XRP, BNB)}
    market = FeatureContext(context, horizon, 300)
    tables = {pair: market.build(c)[FEATURES] for pair, c in context.items()}
    stop = int(context[BTC].index.searchsorted(utc("2025-11-02 05:45")))
    tail = ContextTail({pair: c.iloc[:stop] for pair, c in context.items()}, horizon, 300, 10)
    while stop < len(context[BTC]):
        stop = min(stop + (1 if stop % 7 else 40), len(context[BTC]))
        new = {pair: c.iloc[stop - 60 : stop] for pair, c in context.items()}
        until = new[BTC].index[-1]
        tail.extend(new, until)
        assert_same_rows(tail.shared, market.shared.iloc[stop - 10 : stop])
        for pair in (BTC, SOL):
            found = tail.build(context[pair].iloc[stop - tail_candles(horizon) - 10 : stop], 10)
            assert_same_rows(found, tables[pair].loc[new[pair].index[-10] : until])
            assert len(found) == 10


def test_own_features_names_are_those_of_the_frame(rough):
    """The stated columns are the frame's."""
    assert tuple(own_features(rough, HORIZON, 1).columns) == OWN_FEATURES
