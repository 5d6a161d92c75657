"""The market: moved by whole weeks, new candles on time, the folder it writes, the generated one."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest

from feeder_mixin.errors import CandleError, MissingCandlesError, SettingsError
from feeder_mixin.market.candles import checked_candles, load_candles
from feeder_mixin.rehearsal.exchange._series import CLOSE, DAY_MS, OPEN, VOLUME, WEEK_MS
from feeder_mixin.rehearsal.exchange.disk import MARKER, write_datadir
from feeder_mixin.rehearsal.exchange.market import HOUR_MS, MINUTE_MS, ReplayMarket
from tests.candle_factory import make_candles, write_candles
from tests.rehearsal.conftest import NOW_S, PAIRS

BTC, ETH = PAIRS
STEP_MS = 300_000


def as_frame(series) -> pd.DataFrame:
    """Return a series as freqtrade's raw candles."""
    frame = pd.DataFrame(series.rows, columns=["open", "high", "low", "close", "volume"])
    frame["date"] = pd.to_datetime(series.opens_ms, unit="ms", utc=True)
    return frame


def test_restamped_candles_keep_weekday_minute_and_values(market, stored_datadir):
    """Candles are moved by whole weeks and not changed, and now is inside with a day to come."""
    stored = load_candles(stored_datadir, BTC, "5m", "futures", "feather").frame
    moved = market.series[BTC]
    shift_ms = moved.opens_ms - stored.index.as_unit("ms").asi8

    assert len(set(shift_ms.tolist())) == 1
    assert shift_ms[0] % WEEK_MS == 0
    assert np.array_equal(moved.rows, stored.to_numpy())
    assert DAY_MS <= moved.end_ms - NOW_S * 1000 < DAY_MS + WEEK_MS


@pytest.mark.parametrize(
    ("n", "unit_ms"), [(288 * 4, DAY_MS), (100, HOUR_MS)], ids=["four-days", "eight-hours"]
)
def test_short_candles_move_by_shorter_units(tmp_path, clock, n, unit_ms):
    """Where whole weeks can't reach now, days or hours do, and a quarter is left to come."""
    frame = make_candles(n, seed=1)
    market = ReplayMarket.from_datadir(write_candles(tmp_path, {BTC: frame}), clock=clock)
    shift_ms = int(market.series[BTC].opens_ms[0]) - int(frame.index[0].timestamp() * 1000)

    assert shift_ms % unit_ms == 0
    assert shift_ms % WEEK_MS
    assert market.series[BTC].end_ms - NOW_S * 1000 >= min(DAY_MS, n * STEP_MS // 4)


def test_weeks_option_gives_the_same_market_later(market, stored_datadir, clock):
    """A later start with the same number of weeks serves the same candles."""
    weeks = market.shift_ms // WEEK_MS
    clock.now_s += 5 * 3600
    again = ReplayMarket.from_datadir(stored_datadir, weeks=weeks, clock=clock)

    assert again.series[ETH].opens_ms.tolist() == market.series[ETH].opens_ms.tolist()
    with pytest.raises(SettingsError, match="--weeks 3: now is outside"):
        ReplayMarket.from_datadir(stored_datadir, weeks=3, clock=clock)


def test_pairs_without_common_time_are_refused(tmp_path, clock):
    """Two pairs that never traded at the same time make no market."""
    candles = {BTC: make_candles(300, 1), ETH: make_candles(300, 2, start="2025-12-01")}
    with pytest.raises(CandleError, match="no time in common"):
        ReplayMarket.from_datadir(write_candles(tmp_path, candles), clock=clock)


def test_folder_without_the_timeframe_names_those_it_has(stored_datadir):
    """The message tells which timeframes there are."""
    with pytest.raises(MissingCandlesError, match=r"no futures candles of 1m .*there: 5m"):
        ReplayMarket.from_datadir(stored_datadir, timeframe="1m")


def test_new_candle_arrives_at_its_boundary(market, clock):
    """One millisecond before its boundary a candle still forms; at it, it is the stored row."""
    boundary_ms = int(NOW_S * 1000) // STEP_MS * STEP_MS + STEP_MS
    clock.now_s = (boundary_ms - 1) / 1000
    before = market.klines(BTC, STEP_MS, market.now_ms())
    clock.now_s = boundary_ms / 1000
    after = market.klines(BTC, STEP_MS, market.now_ms())
    stored = market.series[BTC].rows[len(before) - 1]

    assert len(after) == len(before) + 1
    assert before.rows[-1, VOLUME] < stored[VOLUME]
    assert np.array_equal(after.rows[-2], stored)
    assert after.opens_ms[-1] == boundary_ms
    opening = market.series[BTC].rows[len(after) - 1, OPEN]
    assert after.rows[-1].tolist() == [opening, opening, opening, opening, 0.0]


def test_end_of_stored_candles_is_said_once(market, clock, caplog):
    """When candles run out the log says so, once, and the last ones stay."""
    clock.now_s = market.end_ms / 1000 + 900
    with caplog.at_level(logging.WARNING):
        market.say_if_run_out(market.now_ms())
        market.say_if_run_out(market.now_ms())

    said = [r.message for r in caplog.records if "Stored candles ran out" in r.message]
    assert len(said) == 1
    assert said[0].endswith("end=2026-12-02T00:00:00+00:00")
    assert len(market.klines(BTC, STEP_MS, market.now_ms())) == len(market.series[BTC])


def test_as_1m_serves_each_row_as_a_minute(stored_datadir, clock):
    """Rows keep order and values, a minute apart."""
    market = ReplayMarket.from_datadir(stored_datadir, as_1m=True, clock=clock)
    stored = load_candles(stored_datadir, BTC, "5m", "futures", "feather").frame

    assert market.timeframe == "1m"
    assert set(np.diff(market.series[BTC].opens_ms)) == {MINUTE_MS}
    assert np.array_equal(market.series[BTC].rows, stored.to_numpy())


def test_mark_prices_and_funding_are_those_stored(datadir, clock, tmp_path):
    """Hourly files beside the candles are moved with them, read in freqtrade's older layout, too."""
    market = ReplayMarket.from_datadir(datadir, ["HYPE/USDT:USDT"], clock=clock)
    write_datadir(market, tmp_path, market.end_ms)
    for kind, column in (("mark", "close"), ("funding_rate", "open")):
        name = f"futures/HYPE_USDT_USDT-1h-{kind}.feather"
        stored, written = pd.read_feather(datadir / name), pd.read_feather(tmp_path / name)
        moved = pd.DatetimeIndex(written["date"]) - pd.DatetimeIndex(stored["date"])

        assert set(moved) == {pd.Timedelta(market.shift_ms, "ms")}
        column_written = "funding_rate" if kind == "funding_rate" else column
        assert written[column_written].tolist() == stored[column].tolist()


def test_written_folder_ends_with_the_last_closed_candle(market, tmp_path):
    """Disk holds what is closed, bit for bit, with mark prices and funding beside it."""
    write_datadir(market, tmp_path / "binance")
    on_disk = load_candles(tmp_path / "binance", BTC, "5m", "futures", "feather")
    closed = market.series[BTC].closed(market.now_ms())

    assert on_disk.last_s * 1000 == int(NOW_S * 1000) // STEP_MS * STEP_MS - STEP_MS
    assert np.array_equal(on_disk.frame.to_numpy(), closed.rows)
    mark = load_candles(tmp_path / "binance", BTC, "1h", "mark", "feather")
    assert mark.last_s == NOW_S // 3600 * 3600 - 3600
    assert len(list((tmp_path / "binance" / "futures").glob("*funding_rate*"))) == len(PAIRS)


def test_written_folder_may_end_earlier(market, tmp_path):
    """With a gap wanted, disk ends hours before live begins."""
    write_datadir(market, tmp_path, market.now_ms(6 * 3600))
    on_disk = load_candles(tmp_path, BTC, "5m", "futures", "feather")
    assert on_disk.last_s == (NOW_S - 6 * 3600) // 300 * 300 - 300


def test_written_folder_has_the_longer_candles_that_are_asked_for(market, tmp_path):
    """They add up to what is stored; what shorter candles would be made of is not there."""
    write_datadir(market, tmp_path, timeframes=["5m", "15m", "3m"])
    longer = load_candles(tmp_path, BTC, "15m", "futures", "feather").frame
    stored = load_candles(tmp_path, BTC, "5m", "futures", "feather").frame
    added = stored.resample("15min").agg({"high": "max", "volume": "sum"})
    assert longer["high"].tolist() == added["high"].tolist()[: len(longer)]
    assert longer["volume"].to_numpy() == pytest.approx(added["volume"].to_numpy()[: len(longer)])
    assert longer.index[-1] + pd.Timedelta("15min") <= pd.Timestamp(NOW_S, unit="s", tz="UTC")
    assert not list(tmp_path.glob("futures/*-3m-*"))


def test_writing_over_real_candles_is_refused(market, stored_datadir, tmp_path):
    """Candles that no replay wrote are never overwritten; a replay's own are replaced."""
    with pytest.raises(SettingsError, match="holds candles that no replay wrote"):
        write_datadir(market, stored_datadir)
    write_datadir(market, tmp_path)
    (tmp_path / "futures" / "OLD_USDT_USDT-5m-futures.feather").touch()
    write_datadir(market, tmp_path)
    assert not list((tmp_path / "futures").glob("OLD*"))


def test_generated_market_follows_its_seed(clock):
    """Equal seeds give equal candles, whichever pairs are asked for; other seeds others."""
    first = ReplayMarket.generated(PAIRS, days=2, seed=7, clock=clock)
    again = ReplayMarket.generated([ETH], days=2, seed=7, clock=clock)
    other = ReplayMarket.generated(PAIRS, days=2, seed=8, clock=clock)

    assert np.array_equal(first.series[ETH].rows, again.series[ETH].rows)
    assert not np.array_equal(first.series[ETH].rows, other.series[ETH].rows)


@pytest.mark.parametrize("timeframe", ["1m", "5m", "1h"])
def test_generated_candles_are_valid(clock, timeframe):
    """They pass the checks of real candles, and the history asked for is there."""
    market = ReplayMarket.generated(days=3, timeframe=timeframe, clock=clock)
    for pair, series in market.series.items():
        checked_candles(pair, as_frame(series), timeframe, source="generated")
        assert series.opens_ms[0] <= NOW_S * 1000 - 3 * DAY_MS
        assert series.end_ms >= NOW_S * 1000 + DAY_MS


def test_generated_market_has_the_facts_of_real_ones(clock):
    """Volatility clusters, follows the hour, tails are fat, pairs move together."""
    market = ReplayMarket.generated(PAIRS, days=60, seed=3, clock=clock)
    returns = {pair: np.diff(np.log(one.rows[:, CLOSE])) for pair, one in market.series.items()}
    sizes = pd.Series(np.abs(returns[BTC]))
    hours = market.series[BTC].opens_ms[1:] % DAY_MS // HOUR_MS
    by_hour = sizes.groupby(hours).mean()

    assert sizes.autocorr(1) > 0.1
    assert sizes.autocorr(36) > 0.05
    assert abs(pd.Series(returns[BTC]).autocorr(1)) < 0.05
    assert 1.3 < by_hour[15] / by_hour[3] < 4
    assert pd.Series(returns[BTC]).kurt() > 2
    assert 0.4 < np.corrcoef(returns[BTC], returns[ETH])[0, 1] < 0.95


def test_generated_market_says_so(clock, caplog, tmp_path):
    """Log and folder warn that the prices are not real."""
    with caplog.at_level(logging.WARNING):
        market = ReplayMarket.generated([BTC], days=1, clock=clock)
    write_datadir(market, tmp_path)

    assert "no real prices" in caplog.text
    assert "NOT REAL PRICES" in (tmp_path / MARKER).read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"days": 0}, "days=0"),
        ({"seed": -1}, "seed=-1"),
        ({"timeframe": "7m"}, "timeframe '7m'"),
        ({"pairs": ["BTC/USDT"]}, "pair 'BTC/USDT'"),
    ],
    ids=["days", "seed", "timeframe", "pair"],
)
def test_wrong_generation_settings_are_refused(changes, message):
    """Each message names the setting and the value."""
    with pytest.raises(SettingsError, match=message):
        ReplayMarket.generated(**changes)
