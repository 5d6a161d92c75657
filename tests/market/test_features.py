"""Features: no look-ahead, gaps, flat markets, mirrored sides, and slow twins."""

import numpy as np
import pandas as pd
import pytest

from feeder_mixin.errors import CandleError
from feeder_mixin.market.context import FeatureContext
from feeder_mixin.market.features import (
    FEATURE_HASH,
    TABLE_FEATURES,
    TREE_FEATURES,
    atr_ratio,
    labels,
    own_features,
    tree_features,
    warmup_candles,
)
from tests.candle_factory import make_candles
from tests.oracles import market as oracle

BTC, ETH, SOL, XRP = (f"{name}/USDT:USDT" for name in ("BTC", "ETH", "SOL", "XRP"))
FEATURES = ["atr_ratio", "quiet", *TABLE_FEATURES]
HORIZON = 30


def utc(text):
    """Return a UTC time."""
    return pd.Timestamp(text, tz="UTC")


def build(context, candles, horizon=HORIZON, timeframe_s=300):
    """Return the table of candles in a context."""
    return FeatureContext(context, horizon, timeframe_s).build(candles)


def wreck_after(candles, moment, seed):
    """Return candles with everything after a time replaced by another market."""
    later = np.asarray(candles.index > moment)
    random = np.random.default_rng(seed)
    changed = candles.copy()
    factor = np.exp(random.normal(scale=0.1, size=later.sum()))
    changed.loc[later, ["open", "high", "low", "close"]] *= factor[:, None]
    changed.loc[later, "high"] *= 1.05
    changed.loc[later, "volume"] *= random.uniform(0, 9, size=later.sum())
    return changed


def assert_rows_up_to_equal(table, other, moment):
    """Fail unless both have the same rows and bits of features up to a time."""
    before, after = table.loc[:moment, FEATURES], other.loc[:moment, FEATURES]
    assert len(before)
    assert before.index.equals(after.index)
    different = [c for c in FEATURES if not np.array_equal(before[c], after[c])]
    assert not different


@pytest.fixture(scope="module")
def autumn(real_candles):
    """Give real candles of four pairs around the end of daylight saving time."""
    window = slice(utc("2025-10-10"), utc("2025-11-24"))
    return {pair: real_candles(pair).loc[window] for pair in (BTC, ETH, SOL, XRP)}


@pytest.fixture(scope="module")
def made():
    """Give 25 days of made candles of three pairs, across New York's repeated hour."""
    return {
        pair: make_candles(25 * 288, seed, start="2025-10-16")
        for seed, pair in enumerate((BTC, ETH, SOL))
    }


MOMENTS = [
    "2025-10-26 00:00",
    "2025-11-02 05:30",
    "2025-11-02 06:30",
    "2025-11-03 06:25",
    "2025-11-20 13:35",
]


@pytest.mark.parametrize("moment", MOMENTS)
def test_features_of_real_candles_changed_later_are_bit_equal(autumn, moment):
    """Whatever happens after t, in all pairs, no bit of a feature up to t changes."""
    context = {pair: autumn[pair] for pair in (BTC, ETH)}
    before = build(context, autumn[SOL])
    wrecked = {p: wreck_after(c, utc(moment), seed) for seed, (p, c) in enumerate(autumn.items())}
    after = build({pair: wrecked[pair] for pair in context}, wrecked[SOL])
    assert_rows_up_to_equal(before, after, utc(moment))


@pytest.mark.parametrize("moment", MOMENTS)
def test_features_of_real_candles_cut_are_bit_equal(autumn, moment):
    """A bot that knows nothing after t sees the features that a backtest sees."""
    context = {pair: autumn[pair] for pair in (BTC, ETH)}
    before = build(context, autumn[SOL])
    cut = {pair: candles.loc[: utc(moment)] for pair, candles in autumn.items()}
    after = build({pair: cut[pair] for pair in context}, cut[SOL])
    assert after.index[-1] == utc(moment)
    assert_rows_up_to_equal(before, after, utc(moment))


@pytest.mark.parametrize(
    ("timeframe_s", "horizon", "start", "n", "moment"),
    [
        pytest.param(300, 30, "2025-10-16", 5600, "2025-11-02 06:30", id="5m-repeated-hour"),
        pytest.param(300, 30, "2026-02-20", 5600, "2026-03-08 07:10", id="5m-lost-hour"),
        pytest.param(300, 288, "2026-02-20", 5600, "2026-03-08 12:00", id="5m-a-day-ahead"),
        pytest.param(300, 1, "2025-10-16", 5600, "2025-11-02 06:30", id="5m-one-candle"),
        pytest.param(60, 30, "2025-10-30", 5600, "2025-11-02 06:30", id="1m"),
        pytest.param(3600, 30, "2025-05-10", 4700, "2025-11-02 06:00", id="1h-30-hours"),
        pytest.param(3600, 30, "2025-05-10", 4700, "2025-11-03 06:00", id="1h-day-after"),
        pytest.param(3600, 48, "2025-09-15", 4700, "2026-03-08 12:00", id="1h-lost-hour"),
        pytest.param(14_400, 2, "2023-11-20", 4700, "2025-11-02 08:00", id="4h"),
    ],
)
def test_features_of_made_candles_changed_later_are_bit_equal(
    timeframe_s, horizon, start, n, moment
):
    """No timeframe and horizon looks ahead, not where New York's clock jumps either."""
    candles = {
        pair: make_candles(n, seed, start=start, timeframe_s=timeframe_s)
        for seed, pair in enumerate((BTC, ETH))
    }
    assert candles[BTC].index[-1] > utc(moment)
    before = build(candles, candles[ETH], horizon, timeframe_s)
    for end in pd.date_range(utc(moment), periods=3, freq=f"{timeframe_s}s"):
        wrecked = {pair: wreck_after(frame, end, 7) for pair, frame in candles.items()}
        after = build(wrecked, wrecked[ETH], horizon, timeframe_s)
        assert_rows_up_to_equal(before, after, end)


def test_features_with_only_context_changed_later_are_bit_equal(made):
    """Later candles of context pairs change nothing earlier, and something later."""
    moment = utc("2025-11-05 12:00")
    before = build(made, made[ETH])
    context = {**made, BTC: wreck_after(made[BTC], moment, 5)}
    after = build(context, made[ETH])
    assert_rows_up_to_equal(before, after, moment)
    assert not before["btc_atr14"].equals(after["btc_atr14"])


def test_features_with_context_in_another_order_are_bit_equal(made):
    """How context pairs were listed is not a fact about the market."""
    turned = dict(reversed(made.items()))
    assert build(made, made[ETH]).equals(build(turned, made[ETH]))


def test_features_of_a_pair_outside_the_context_leave_others_alone(made, make_candles):
    """Building other pairs' tables, in or outside the context, changes no table."""
    market = FeatureContext(made, HORIZON, 300)
    before = market.build(made[ETH])
    market.build(make_candles(25 * 288, 99, start="2025-10-16"))
    tables = dict(market.build_context())
    assert len(tables) == len(made)
    assert market.build(made[ETH]).equals(before)
    assert tables[ETH].equals(before)


def test_features_without_btc_fall_back_to_own(made):
    """A context without BTC reads the pair's own columns in its place."""
    table = build({SOL: made[SOL]}, made[ETH])
    own = own_features(made[ETH], HORIZON).loc[table.index]
    for name in ("atr14", "vol_close_6", "vol_range_96"):
        assert table[f"btc_{name}"].equals(own[name].rename(f"btc_{name}"))


@pytest.mark.parametrize("suffix", ["USDC:USDC", "USDT"], ids=["usdc", "spot"])
def test_features_of_pairs_in_another_currency_take_its_btc(made, suffix):
    """BTC is BTC, whatever it settles in: the same candles under other names, the same features."""
    renamed = {f"{pair.partition('/')[0]}/{suffix}": frame for pair, frame in made.items()}
    assert build(renamed, made[ETH]).equals(build(made, made[ETH]))


def test_market_without_context_candles_is_refused():
    """A feeder needs one context pair at least."""
    with pytest.raises(CandleError, match="no context pair"):
        FeatureContext({}, HORIZON, 300)


def test_market_means_run_over_the_pairs_present(made):
    """A context pair that misses candles leaves the mean of the others."""
    holed = made[SOL].copy()
    holed.iloc[-400:-100] = np.nan
    shared = FeatureContext({**made, SOL: holed}, HORIZON, 300).shared
    others = [own_features(made[pair], HORIZON)["atr14"] for pair in (BTC, ETH)]
    missing = holed.index[-300]
    assert shared["market_atr14"][missing] == pytest.approx((others[0] + others[1])[missing] / 2)


def test_table_of_complete_candles_starts_after_the_warm_up(made):
    """The first row comes when the warm-up is over; then every candle has one."""
    table = build(made, made[ETH])
    first = made[ETH].index.get_loc(table.index[0])
    assert first < warmup_candles(HORIZON)
    assert warmup_candles(HORIZON) - first < 20
    assert len(table) == len(made[ETH]) - first
    assert np.isfinite(table[FEATURES].to_numpy()).all()


def test_table_of_candles_with_a_gap_leaves_out_rows_that_span_it(made):
    """A hole of over an hour takes away every row with a window over it, and no other."""
    holed = made[ETH].copy()
    place = 14 * 288 + 600
    holed.iloc[place - 12 : place + 1] = np.nan
    context = {BTC: made[BTC], SOL: made[SOL]}
    table, complete = build(context, holed), build(context, made[ETH])
    gap = holed.index[place]
    before = complete.loc[: gap - pd.Timedelta("65min"), FEATURES]
    assert table.loc[: gap - pd.Timedelta("65min"), FEATURES].equals(before)
    week = holed.index[place + 2016]
    assert table.loc[gap:week].empty
    there = table.loc[week:]
    assert set(there.index) <= set(complete.index)
    # Windows that the gap has left compute the same again, up to rounding of running sums.
    same = there[["vol_close_3", "vol_range_96", "to_low_24"]]
    np.testing.assert_allclose(same, complete.loc[there.index, same.columns], rtol=1e-6, atol=1e-9)


def test_atr_of_candles_with_gaps_equals_the_oracle(make_candles):
    """ATR is Wilder's, and starts anew behind every gap, even a single candle."""
    candles = make_candles(400, 8)
    for gap in (slice(100, 101), slice(110, 113), slice(250, 280)):
        candles.iloc[gap] = np.nan
    expected = np.array(oracle.atr(candles)) / candles["close"]
    high, low, close = (candles[name].to_numpy() for name in ("high", "low", "close"))
    np.testing.assert_allclose(atr_ratio(high, low, close, 400), expected, rtol=1e-10)


def test_features_of_a_flat_market_are_finite(made):
    """No range gives numbers, not a missing row, as long as something trades."""
    flat = made[ETH].copy()
    flat[["open", "high", "low", "close"]] = 100.0
    table = build({BTC: flat}, flat)
    assert len(table) == len(build(made, made[ETH]))
    assert np.isfinite(tree_features(table, np.full(len(table), -10.0), "long")).all()
    assert (table["momentum_24"] == 0).all()


def test_features_of_a_market_gone_flat_are_finite(made):
    """A market that stops moving keeps its rows: residues of running sums do no harm."""
    stopped = made[ETH].copy()
    last = stopped["close"].iloc[4500]
    stopped.iloc[4501:, :4] = last
    table = build({BTC: stopped}, stopped)
    assert len(table) == len(build(made, made[ETH]))
    assert np.isfinite(tree_features(table, np.full(len(table), -10.0), "short")).all()


def test_features_of_tiny_prices_are_those_of_the_same_market(made):
    """A coin that costs a billionth has the features of the same market at another price."""
    tiny = made[ETH].copy()
    tiny.iloc[:, :4] *= 2.0**-40
    columns = list(TREE_FEATURES)
    np.testing.assert_allclose(
        build(made, tiny)[columns], build(made, made[ETH])[columns], rtol=1e-6, atol=1e-7
    )


def test_own_features_of_made_candles_equal_the_oracles(made):
    """Volatilities, momentum, distances and seasons are the loops' at scattered candles."""
    candles = made[ETH]
    own, atrs = own_features(candles, HORIZON), oracle.atr(candles)
    week = own["vol_horizon"].rolling(2016).mean()
    for i in range(21 * 288 + 40, len(candles), 173):
        row = own.iloc[i]
        for window in (3, 6, 12, 24, 96, 288, 2016):
            expected = oracle.log_realised_volatility(candles, i, window)
            assert row[f"vol_close_{window}"] == pytest.approx(expected, abs=1e-8)
        for window in (24, 96, 288, 2016):
            expected = oracle.log_range_volatility(candles, i, window)
            assert row[f"vol_range_{window}"] == pytest.approx(expected, abs=1e-8)
        for window in (6, 24, 288):
            expected = oracle.momentum(candles, atrs, i, window)
            assert row[f"momentum_{window}"] == pytest.approx(expected, abs=1e-9)
        for window in (24, 288):
            expected = oracle.distance_to_low(candles, atrs, i, window)
            assert row[f"to_low_{window}"] == pytest.approx(expected, abs=1e-9)
        season_7d = oracle.season(candles, i, HORIZON, list(range(1, 8)))
        season_21d = oracle.season(candles, i, HORIZON, list(range(1, 22)))
        weekday = oracle.season(candles, i, HORIZON, [7, 14]) - week.iloc[i]
        assert row["season_7d"] == pytest.approx(season_7d, abs=1e-8)
        assert row["season_21d"] == pytest.approx(season_21d, abs=1e-8)
        assert row["season_21d_relative"] == pytest.approx(season_21d - week.iloc[i], abs=1e-8)
        assert row["season_weekday_relative"] == pytest.approx(weekday, abs=1e-8)


def test_ranges_returns_and_volumes_of_made_candles_equal_the_oracles(made):
    """What a window's range, signed and largest returns, trend and volume say is the loops'."""
    candles = made[ETH]
    own, atrs = own_features(candles, HORIZON), oracle.atr(candles)
    for i in range(21 * 288 + 130, len(candles), 307):
        row = own.iloc[i]
        expected = {f"range_{w}": oracle.log_range(candles, i, w) for w in (6, 12, 96, 288, 2016)}
        expected |= {f"down_up_{w}": oracle.down_up(candles, i, w) for w in (6, 24, 96, 288)}
        expected |= {f"largest_return_{w}": oracle.largest_return(candles, i, w) for w in (24, 288)}
        expected |= {f"trend_{w}": oracle.trend(candles, atrs, i, w) for w in (24, 96, 288)}
        expected |= {f"volume_{w}": oracle.log_volume(candles, i, w) for w in (1, 3, 12, 48, 288)}
        expected["volume_season"] = oracle.volume_season(candles, i, HORIZON, HORIZON)
        expected["volume_season_before"] = oracle.volume_season(candles, i, HORIZON, 0)
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, abs=1e-8), name


def test_seasons_before_of_made_candles_equal_the_oracles(made):
    """What came before this time of day on earlier days is the loops'."""
    candles = made[ETH]
    own = own_features(candles, HORIZON)
    week = own["vol_horizon"].rolling(2016).mean()
    season = list(range(1, 22))
    for i in range(21 * 288 + 130, len(candles), 307):
        before = oracle.season_before(candles, i, HORIZON, season)
        weekday = oracle.season_before(candles, i, HORIZON, [7, 14]) - week.iloc[i]
        expected = {
            "season_before_7d": oracle.season_before(candles, i, HORIZON, season[:7]),
            "season_before_21d": before,
            "season_before_21d_relative": before - week.iloc[i],
            "season_before_weekday_relative": weekday,
            "season_before_21d_6": oracle.season_before(candles, i, 6, season),
            "season_before_21d_96": oracle.season_before(candles, i, 96, season),
        }
        for name, value in expected.items():
            assert own.iloc[i][name] == pytest.approx(value, abs=1e-8), name


@pytest.mark.parametrize(
    ("name", "n_days", "at_least", "by_weekday"),
    [
        pytest.param("ny_profile_20", 20, 3, False, id="20-days"),
        pytest.param("ny_profile_weekday", 4, 1, True, id="weekday"),
    ],
)
def test_new_york_profile_of_made_candles_equals_the_oracle(
    made, name, n_days, at_least, by_weekday
):
    """The profile by New York slot is the loop's, across the end of daylight saving time."""
    shared = FeatureContext({ETH: made[ETH]}, HORIZON, 300).shared
    volatility = list(shared["market_vol_horizon"])
    scattered = [*range(400, len(shared), 499), *_positions(shared, "2025-11-02 04:55", 30, 3)]
    found, expected = [], []
    for i in scattered:
        found.append(shared[name].iloc[i])
        expected.append(
            oracle.profile(
                int(shared.index[0].timestamp()),
                volatility,
                i,
                horizon=HORIZON,
                timeframe_s=300,
                n_days=n_days,
                at_least=at_least,
                by_weekday=by_weekday,
            )
        )
    np.testing.assert_allclose(found, expected, atol=1e-8)
    assert np.count_nonzero(expected) > 15


def _positions(frame, first, n, step):
    start = frame.index.get_loc(utc(first))
    return range(start, start + n * step, step)


def test_clock_of_known_times_is_new_yorks(made):
    """Weekend, Sunday and time to the stock open follow New York's clock, not UTC."""
    shared = FeatureContext({ETH: made[ETH]}, HORIZON, 300).shared
    assert shared["ny_weekend"][utc("2025-11-03 04:55")] == 1  # Sunday 23:55 in New York
    assert shared["ny_sunday"][utc("2025-11-03 04:55")] == 1
    assert shared["ny_weekend"][utc("2025-11-03 05:00")] == 0
    summer, winter = shared["ny_to_0930"][utc("2025-10-31 13:30")], "2025-11-03 14:30"
    assert summer == shared["ny_to_0930"][utc(winter)] == 1.0
    assert shared["ny_to_0930"][utc("2025-10-31 11:00")] == pytest.approx(np.exp(-1))
    assert shared["ny_to_0930"][utc("2025-10-31 10:55")] == 0
    assert shared["ny_to_0930"][utc("2025-11-01 13:30")] == 0  # Saturday


def test_tree_features_of_a_mirrored_market_swap_sides(made):
    """A falling market looks to SHORT as the rising one does to LONG."""
    mirror = 1e4 / made[ETH][["open", "low", "high", "close"]]
    mirror.columns = ["open", "high", "low", "close"]
    mirror["volume"] = made[ETH]["volume"]
    here, there = build({BTC: made[BTC]}, made[ETH]), build({BTC: made[BTC]}, mirror)
    log_scale = np.full(len(here), -7.0)
    short, long = tree_features(here, log_scale, "short"), tree_features(there, log_scale, "long")
    np.testing.assert_allclose(short, long, rtol=0.05, atol=0.02)
    directional = [TREE_FEATURES.index("momentum_24"), TREE_FEATURES.index("to_low_288")]
    same_side = tree_features(here, log_scale, "long")
    assert np.abs(short - same_side)[:, directional].mean() > 0.1


def test_tree_features_have_fixed_order_type_and_shape(made):
    """Columns stand in the order of `TREE_FEATURES`, as 32-bit floats."""
    table = build(made, made[ETH]).iloc[:50]
    log_scale = np.linspace(-8, -6, 50)
    x = tree_features(table, log_scale, "long")
    assert x.dtype == np.float32
    assert x.shape == (50, len(TREE_FEATURES))
    for name in ("season_21d_relative", "momentum_6", "to_low_24", "to_high_288", "volume_ratio"):
        expected = table[name].to_numpy(np.float32)
        np.testing.assert_array_equal(x[:, TREE_FEATURES.index(name)], expected)
    relative = (table["vol_close_3"].to_numpy() - log_scale).astype(np.float32)
    np.testing.assert_array_equal(x[:, TREE_FEATURES.index("vol_close_3")], relative)
    short = tree_features(table, log_scale, "short")
    low, high = TREE_FEATURES.index("to_low_24"), TREE_FEATURES.index("to_high_24")
    np.testing.assert_array_equal(short[:, low], x[:, high])
    momentum = TREE_FEATURES.index("momentum_6")
    np.testing.assert_array_equal(short[:, momentum], -x[:, momentum])


@pytest.mark.parametrize("side", ["long", "short"])
def test_labels_of_a_table_are_the_candles_own(made, side):
    """A table's labels are those of its candles; the last `horizon` are not known."""
    table = build(made, made[ETH])
    y = labels(table, side)
    assert np.isnan(y[-HORIZON:]).all()
    assert np.isfinite(y[:-HORIZON]).all()
    place = made[ETH].index.get_loc(table.index[100])
    assert y[100] == pytest.approx(oracle.excursion(made[ETH], place, HORIZON, side))


def test_feature_hash_as_float_is_exact():
    """The hash is stored as a float."""
    assert int(float(FEATURE_HASH)) == FEATURE_HASH


def test_pair_ahead_of_its_context_keeps_its_rows_and_the_clock():
    """A context that ends earlier costs a pair none of its newest rows."""
    frames = {"BTC/USDT:USDT": make_candles(20 * 288, 1)}
    ahead = make_candles(20 * 288 + 5, 2)
    market = FeatureContext(frames, 30, 300, until=ahead.index[-1])
    short = FeatureContext(frames, 30, 300)
    assert market.build(ahead).index[-1] == ahead.index[-1]
    assert short.build(ahead).index[-1] == frames["BTC/USDT:USDT"].index[-1]
    pd.testing.assert_frame_equal(market.build(ahead).iloc[:-5], short.build(ahead))
