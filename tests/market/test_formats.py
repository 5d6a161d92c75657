"""Candles in another form than configured are named, with what to set."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pandas as pd
import pytest
from freqtrade.data.history import get_datahandler
from freqtrade.enums import CandleType

from feeder_mixin.errors import MissingCandlesError
from feeder_mixin.live.serve.candles import DataFolder
from feeder_mixin.market.candles import load_candles
from feeder_mixin.rehearsal.exchange._stored import stored_pairs
from tests.live.conftest import market_settings

PAIR = "ETH/USDT:USDT"


@pytest.fixture
def store(tmp_path, make_candles):
    """Give a function that stores a day of candles as freqtrade does."""
    (tmp_path / "futures").mkdir()

    def write(data_format="feather", timeframe="5m", candle_type="futures", pair=PAIR):
        handler = get_datahandler(tmp_path, data_format)
        frame = make_candles(288, 3).rename_axis("date").reset_index()
        handler.ohlcv_store(pair, timeframe, frame, CandleType(candle_type))

    return write


def missing(datadir, pair=PAIR, candle_type="futures"):
    """Return what is said where 5m candles in feather files are wanted."""
    with pytest.raises(MissingCandlesError) as caught:
        load_candles(datadir, pair, "5m", candle_type, "feather")
    return str(caught.value)


@pytest.mark.parametrize("data_format", ["parquet", "json", "jsongz"])
def test_missing_candles_in_another_format_name_the_file_and_the_setting(
    tmp_path, store, data_format
):
    """The same candles are there: no download is needed, one word in the config is."""
    store(data_format)
    said = missing(tmp_path)
    assert f"there is {tmp_path}/futures/ETH_USDT_USDT-5m-futures." in said
    assert f"set dataformat_ohlcv to '{data_format}'" in said
    assert f"--format-from {data_format} --format-to feather --datadir {tmp_path}" in said


def test_missing_candles_in_a_format_of_before_say_that_it_is_not_read(tmp_path):
    """No handler of freqtrade reads hdf5 any more: neither setting nor converting helps."""
    (tmp_path / "futures").mkdir()
    (tmp_path / "futures" / "ETH_USDT_USDT-5m-futures.h5").touch()
    assert "freqtrade no longer reads hdf5" in missing(tmp_path)


@pytest.mark.parametrize(
    ("stored", "named"),
    [
        pytest.param(
            {"timeframe": "1h"}, "futures/ETH_USDT_USDT-1h-futures.feather", id="timeframe"
        ),
        pytest.param(
            {"candle_type": "mark"}, "futures/ETH_USDT_USDT-5m-mark.feather", id="candle-type"
        ),
        pytest.param({"candle_type": "spot", "pair": "ETH/USDT"}, "ETH_USDT-5m.feather", id="spot"),
    ],
)
def test_missing_candles_of_another_kind_are_named(tmp_path, store, stored, named):
    """What is there of that coin shows what was downloaded in place of what is wanted."""
    store(**stored)
    assert f"of this pair there is {named} (another timeframe or candle type)" in missing(tmp_path)


def test_missing_spot_candles_beside_futures_name_those(tmp_path, store):
    """The other way round: a spot feeder on a folder of futures candles."""
    store()
    said = missing(tmp_path, "ETH/USDT", "spot")
    assert "of this pair there is futures/ETH_USDT_USDT-5m-futures.feather" in said


def test_missing_candles_with_nothing_there_say_what_a_data_folder_is(tmp_path, store):
    """Another coin's candles are no hint."""
    store(pair="ETHFI/USDT:USDT")
    assert missing(tmp_path).endswith("such as user_data/data/binance)")


def test_bot_without_candles_on_disk_names_the_other_form(tmp_path, store):
    """What a bot says of a gap, and of a context pair that models go without, names the file."""
    store("parquet")
    folder = DataFolder(market_settings(tmp_path / "user_data"), tmp_path, 300)
    assert "set dataformat_ohlcv to 'parquet'" in folder.describe_other_forms(PAIR)


def test_replay_of_candles_in_another_format_names_the_formats_there(tmp_path, store):
    """`feeder replay-exchange` on a folder of parquet files says so as well."""
    store("parquet")
    with pytest.raises(MissingCandlesError, match=r"in feather format.*formats there: parquet;"):
        stored_pairs(tmp_path, "5m", "feather")


@pytest.mark.slow
def test_convert_command_that_is_printed_makes_the_candles_that_lack(tmp_path, store):
    """The advice works as it is pasted."""
    store("parquet")
    (tmp_path / "user_data").mkdir()  # freqtrade asks for one in the project's folder
    command = missing(tmp_path).partition("convert them: freqtrade ")[2]
    subprocess.run(  # noqa: S603 - our own arguments
        [sys.executable, "-m", "freqtrade", *shlex.split(command)],
        check=True,
        cwd=tmp_path,
        capture_output=True,
        timeout=120,
    )
    converted = load_candles(tmp_path, PAIR, "5m", "futures", "feather").frame
    assert len(converted) == 288
    assert converted.index[0] == pd.Timestamp("2025-10-01", tz="UTC")
