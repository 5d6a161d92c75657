"""Loading candles: what is accepted, what is refused, and what is said."""

import logging

import numpy as np
import pandas as pd
import pytest
from freqtrade.data.history import get_datahandler
from freqtrade.enums import CandleType

from feeder_mixin.errors import CandleError, MissingCandlesError, SettingsError
from feeder_mixin.market.candles import (
    CLOCK_SLACK_S,
    Candles,
    checked_candles,
    load_candles,
    timeframe_seconds,
)
from tests.candle_factory import candle_file

PAIR = "ETH/USDT:USDT"


def load(datadir, pair=PAIR, timeframe="5m", data_format="feather", since=None):
    """Load futures candles."""
    return load_candles(datadir, pair, timeframe, "futures", data_format, since)


def raw(candles):
    """Return candles in the form a data handler gives."""
    return candles.reset_index()


@pytest.fixture
def candles(make_candles):
    """Give a day of candles."""
    return make_candles(288, 3)


def set_value(column, value):
    """Return a change that sets one value of the fifth candle."""

    def change(candles):
        candles = candles.copy()
        candles.iloc[4, candles.columns.get_loc(column)] = value
        return candles

    return change


def with_dates(change):
    """Return a change of the index."""
    return lambda candles: candles.set_axis(change(candles.index), axis=0)


BAD = [
    pytest.param(set_value("close", np.nan), "close=nan at 2025-10-01 00:20", id="nan"),
    pytest.param(set_value("volume", np.inf), "volume=inf at 2025-10-01 00:20", id="infinity"),
    pytest.param(set_value("high", 1.0), "impossible values.* 00:20", id="high-below-close"),
    pytest.param(set_value("low", 1e6), "impossible values.* 00:20", id="low-above-open"),
    pytest.param(set_value("low", 0.0), "impossible values.* 00:20", id="zero-price"),
    pytest.param(set_value("volume", -1.0), "impossible values.* 00:20", id="negative-volume"),
    pytest.param(
        lambda c: pd.concat([c.iloc[:9], c.iloc[8:]]), "1 duplicate dates.* 00:40", id="duplicate"
    ),
    pytest.param(
        lambda c: pd.concat([c.iloc[9:], c.iloc[:9]]), "not ascending.*2025-10-01", id="order"
    ),
    pytest.param(lambda c: c.iloc[::3], "mostly 900 s apart, expected 300 s", id="15m-candles"),
    pytest.param(
        with_dates(lambda i: pd.date_range(i[0], periods=len(i), freq="60s")),
        "mostly 60 s apart, expected 300 s",
        id="1m-candles",
    ),
    pytest.param(
        with_dates(lambda i: i + pd.Timedelta("2min")),
        "288 candles do not open on a multiple of 300 s",
        id="off-grid",
    ),
    pytest.param(
        with_dates(lambda i: i[:9].append(i[9:10] + pd.Timedelta("500ms")).append(i[10:])),
        "1 candles do not open on a multiple of 300 s",
        id="fraction-of-a-second",
    ),
    pytest.param(with_dates(lambda i: i.tz_localize(None)), "no time zone", id="naive-dates"),
    pytest.param(lambda c: c.iloc[:0], "no readable candles", id="no-rows"),
]


@pytest.mark.parametrize(("change", "what"), BAD)
def test_load_candles_of_damaged_file_names_pair_file_and_what(made_datadir, candles, change, what):
    """No damage is repaired silently: pair, file and what is wrong are named."""
    datadir = made_datadir({PAIR: change(candles)})
    with pytest.raises(CandleError, match=what) as caught:
        load(datadir)
    assert str(caught.value).startswith(PAIR)
    assert str(candle_file(datadir, PAIR)) in str(caught.value)


DAY_OF_CANDLES_END_S = pd.Timestamp("2025-10-02", tz="UTC").timestamp()


@pytest.mark.parametrize("since", [None, pd.Timestamp("2025-10-01 12:00", tz="UTC")], ids=str)
def test_load_candles_that_open_in_the_future_is_refused_by_how_much(made_datadir, candles, since):
    """118 days ahead is a wrong clock, here or there: said by pair, file, candle and what to do."""
    datadir, now_s = made_datadir({PAIR: candles}), DAY_OF_CANDLES_END_S - 118 * 86_400
    with pytest.raises(CandleError, match=r"\d+ candles in .* open in the future") as caught:
        load_candles(datadir, PAIR, "5m", "futures", "feather", since, now_s)
    message = str(caught.value)
    assert message.startswith(PAIR)
    assert str(candle_file(datadir, PAIR)) in message
    assert "the last at 2025-10-01 23:55:00+00:00, 118.0 days ahead" in message
    assert "Set the clock" in message


def test_candles_within_the_clock_slack_are_taken(candles):
    """A clock that is a little off costs nothing; one second more than the slack does."""
    last_s = DAY_OF_CANDLES_END_S - 300
    checked_candles(PAIR, raw(candles), "5m", source="x", now_s=last_s - CLOCK_SLACK_S)
    with pytest.raises(CandleError, match=r"the last at .* 1\.0 h ahead"):
        checked_candles(PAIR, raw(candles), "5m", source="x", now_s=last_s - CLOCK_SLACK_S - 1)


def test_load_candles_of_missing_file_names_the_file_and_what_a_folder_is(tmp_path):
    """A missing file names itself; a run adds the download command for all that are missing."""
    with pytest.raises(MissingCandlesError) as caught:
        load(tmp_path)
    message = str(caught.value)
    assert str(candle_file(tmp_path, PAIR)) in message
    assert "user_data/data/binance" in message


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"not candles", id="garbage"),
        pytest.param(None, id="truncated"),
    ],
)
@pytest.mark.parametrize("data_format", ["feather", "parquet"])
def test_load_candles_of_unreadable_file_names_pair_and_file(
    tmp_path, candles, content, data_format
):
    """Bytes that are no candle file are an error, not an empty frame."""
    path = candle_file(tmp_path, PAIR).with_suffix(f".{data_format}")
    path.parent.mkdir()
    if content is None:
        getattr(raw(candles), f"to_{data_format}")(path)
        content = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes(content)
    with pytest.raises(CandleError) as caught:
        load(tmp_path, data_format=data_format)
    assert str(caught.value).startswith(PAIR)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(lambda c: raw(c).drop(columns="date"), id="no-date"),
        pytest.param(lambda c: raw(c).drop(columns="volume"), id="no-volume"),
        pytest.param(lambda c: raw(c).assign(close="many"), id="text"),
    ],
)
def test_load_candles_of_other_columns_names_pair_and_file(tmp_path, candles, frame):
    """A feather file of something else is an error that names it."""
    path = candle_file(tmp_path, PAIR)
    path.parent.mkdir()
    frame(candles).to_feather(path)
    with pytest.raises(CandleError) as caught:
        load(tmp_path)
    assert str(caught.value).startswith(PAIR)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("{broken", id="broken"),
        pytest.param("[]", id="no-rows"),
        pytest.param('[["2025-10-01", 1, 1, 1, 1, "x"]]', id="text"),
    ],
)
def test_load_candles_of_unreadable_json_names_pair_and_file(tmp_path, text):
    """Broken JSON is an error that names the file, too."""
    path = candle_file(tmp_path, PAIR).with_suffix(".json")
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(CandleError) as caught:
        load(tmp_path, data_format="json")
    assert str(caught.value).startswith(PAIR)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("data_format", ["feather", "parquet", "json", "jsongz"])
def test_load_candles_stored_by_freqtrade_gives_the_same_values(tmp_path, candles, data_format):
    """Every format that freqtrade writes loads, dates in UTC on the grid."""
    handler = get_datahandler(tmp_path, data_format)
    handler.ohlcv_store(PAIR, "5m", raw(candles), CandleType.FUTURES)
    loaded = load(tmp_path, data_format=data_format)
    exact = data_format in {"feather", "parquet"}  # JSON keeps ten decimals
    np.testing.assert_allclose(loaded.frame, candles, rtol=0 if exact else 1e-9)
    assert (loaded.frame.index == candles.index).all()
    assert str(loaded.frame.index.tz) == "UTC"
    assert (loaded.n_missing, loaded.longest_gap) == (0, 0)
    assert loaded.first_s == int(candles.index[0].timestamp())
    assert loaded.last_s == int(candles.index[-1].timestamp())


def test_load_candles_in_unknown_format_is_a_settings_error(tmp_path):
    """A data format freqtrade does not know is the user's setting to mend."""
    with pytest.raises(SettingsError, match="hdf5"):
        load(tmp_path, data_format="hdf5")


def test_load_candles_with_gaps_warns_with_count_and_longest(made_datadir, candles, caplog):
    """Gaps are a warning with pair, count and longest run; they become NaN rows."""
    kept = candles.drop(candles.index[[10, 50, 51, 52, 100]])
    with caplog.at_level(logging.WARNING, "feeder_mixin"):
        loaded = load(made_datadir({PAIR: kept}))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    for fact in (f"pair={PAIR}", "missing=5", "gaps=3", "longest_candles=3"):
        assert fact in record.getMessage()
    assert (loaded.n_missing, loaded.longest_gap) == (5, 3)
    missing = loaded.frame.index[loaded.frame.isna().all(axis=1)]
    assert list(missing) == list(candles.index[[10, 50, 51, 52, 100]])
    np.testing.assert_array_equal(loaded.frame.dropna(), kept)


def test_load_candles_without_gaps_logs_nothing(made_datadir, candles, caplog):
    """Clean candles are no news."""
    with caplog.at_level(logging.WARNING):
        load(made_datadir({PAIR: candles}))
    assert not caplog.records


@pytest.mark.parametrize("data_format", ["feather", "parquet", "json"])
@pytest.mark.parametrize(
    ("since", "first"),
    [
        pytest.param("2025-09-30 23:00", 0, id="before-all"),
        pytest.param("2025-10-01 00:00", 0, id="first"),
        pytest.param("2025-10-01 10:00", 120, id="candle"),
        pytest.param("2025-10-01 10:00:01", 121, id="inside-candle"),
        pytest.param("2025-10-01 10:47", 132, id="inside-gap"),
        pytest.param("2025-10-01 12:55+03:00", 119, id="other-zone"),
        pytest.param("2025-10-01 23:55", 287, id="last"),
    ],
)
def test_load_candles_since_a_time_gives_that_slice(tmp_path, candles, data_format, since, first):
    """What is loaded from a time on is a slice of all, and counts only its own gaps."""
    kept = candles.drop(candles.index[[*range(50, 60), *range(128, 132), 200]])
    handler = get_datahandler(tmp_path, data_format)
    handler.ohlcv_store(PAIR, "5m", raw(kept), CandleType.FUTURES)
    moment = pd.Timestamp(since)
    moment = moment.tz_localize("UTC") if moment.tz is None else moment
    whole = load(tmp_path, data_format=data_format).frame
    part = load(tmp_path, data_format=data_format, since=moment)
    pd.testing.assert_frame_equal(part.frame, whole.iloc[first:])
    assert part.n_missing == whole.iloc[first:].isna().any(axis=1).sum()


def test_load_candles_since_a_time_checks_what_is_kept_only(made_datadir, candles):
    """Damage before the time is left out with its candles; after it, it is an error as ever."""
    damaged = candles.copy()
    damaged.iloc[100, 3] = -1.0
    datadir = made_datadir({PAIR: damaged})
    with pytest.raises(CandleError, match=r"impossible values.* 08:20"):
        load(datadir, since=candles.index[100])
    since = candles.index[101]
    np.testing.assert_array_equal(load(datadir, since=since).frame, candles.loc[since:])


def test_load_candles_since_after_the_last_is_refused(made_datadir, candles):
    """A file that ends earlier is an error that names its last candle."""
    datadir = made_datadir({PAIR: candles})
    with pytest.raises(CandleError, match=r"no candle since 2025-10-02.*last is 2025-10-01 23:55"):
        load(datadir, since=candles.index[-1] + pd.Timedelta("5min"))


def test_candles_in_another_zone_gives_utc(candles):
    """Dates with any zone are the same instants in UTC."""
    tokyo = raw(candles.tz_convert("Asia/Tokyo"))
    checked = checked_candles(PAIR, tokyo, "5m", source="test")
    assert str(checked.frame.index.tz) == "UTC"
    pd.testing.assert_frame_equal(checked.frame, candles, check_freq=False, check_names=False)


def test_candles_without_a_date_is_refused(candles):
    """A candle without date can't be placed."""
    frame = raw(candles)
    frame.loc[3, "date"] = pd.NaT
    with pytest.raises(CandleError, match=f"{PAIR}: 1 candles without date in here"):
        checked_candles(PAIR, frame, "5m", source="here")


@pytest.mark.parametrize("column", ["open", "high", "low", "close", "volume"])
def test_content_hash_with_any_value_changed_differs(candles, column):
    """One changed bit of one value is other content; equal candles are not."""
    before = Candles(PAIR, candles).content_hash()
    changed = candles.copy()
    place = (100, changed.columns.get_loc(column))
    changed.iloc[place] = np.nextafter(changed.iloc[place], np.inf)
    assert Candles(PAIR, candles.copy()).content_hash() == before
    assert Candles(PAIR, changed).content_hash() != before


def test_content_hash_of_shifted_or_cut_candles_differs(candles):
    """Dates are content."""
    hashes = {
        Candles(PAIR, frame).content_hash()
        for frame in (
            candles,
            candles.iloc[1:],
            candles.iloc[:-1],
            candles.set_axis(candles.index + pd.Timedelta("5min"), axis=0),
        )
    }
    assert len(hashes) == 4


@pytest.mark.parametrize(
    ("timeframe", "seconds"), [("1m", 60), ("5m", 300), ("1h", 3600), ("1d", 86_400)]
)
def test_timeframe_seconds_of_a_known_name_is_right(timeframe, seconds):
    """Names of freqtrade mean freqtrade's lengths."""
    assert timeframe_seconds(timeframe) == seconds


@pytest.mark.parametrize("timeframe", ["", "5x", "m", "five", "0m", "-5m"], ids=repr)
def test_timeframe_seconds_of_an_unknown_name_is_refused(timeframe):
    """An unknown timeframe is a settings error that quotes it."""
    with pytest.raises(SettingsError, match="timeframe"):
        timeframe_seconds(timeframe)


def test_load_candles_of_real_files_is_clean(datadir, caplog):
    """The development set loads without a warning."""
    loaded = load(datadir, "BTC/USDT:USDT")
    assert loaded.frame.shape == (83_520, 5)
    assert not caplog.records
