"""Reads what a freqtrade data folder holds about a pair: candles, hourly mark prices, funding."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from freqtrade.data.history import get_datahandler
from freqtrade.enums import CandleType, TradingMode
from freqtrade.exceptions import FreqtradeException
from numpy.typing import NDArray

from feeder_mixin.errors import MissingCandlesError, SettingsError
from feeder_mixin.market.candles import Candles, candle_path, load_candles, timeframe_seconds
from feeder_mixin.market.formats import formats_in
from feeder_mixin.rehearsal.exchange._series import Series


@dataclass(frozen=True, slots=True, eq=False)
class StoredSeries:
    """One pair as stored, not moved yet; None where the folder has no file."""

    series: Series
    mark: Series | None
    funding: tuple[NDArray[np.int64], NDArray[np.float64]] | None


def stored_pairs(datadir: Path, timeframe: str, data_format: str) -> list[str]:
    """Return the pairs with futures candles of this timeframe, sorted."""
    try:
        handler = type(get_datahandler(datadir, data_format))
    except (FreqtradeException, ValueError) as error:
        raise SettingsError(f"dataformat_ohlcv {data_format!r} can't be read: {error}") from error
    found = handler.ohlcv_get_available_data(datadir, TradingMode.FUTURES)
    pairs = [pair for pair, step, kind in found if (step, kind) == (timeframe, CandleType.FUTURES)]
    if not pairs:
        steps = sorted({step for _, step, kind in found if kind == CandleType.FUTURES})
        raise MissingCandlesError(
            f"{datadir}: no futures candles of {timeframe} in {data_format} format "
            f"(timeframes there: {', '.join(steps) or 'none'}; formats there: "
            f"{', '.join(formats_in(datadir / 'futures')) or 'none'}; a data folder is the exchange's, "
            "such as user_data/data/binance)"
        )
    return sorted(pairs)


def load_stored(
    datadir: Path, pair: str, timeframe: str, data_format: str, *, with_hourly: bool
) -> StoredSeries:
    """Return a pair's checked candles and, `with_hourly`, the mark prices and funding beside them."""
    series = _series(load_candles(datadir, pair, timeframe, "futures", data_format), timeframe)
    if not with_hourly:
        return StoredSeries(series, None, None)
    try:
        mark = _series(load_candles(datadir, pair, "1h", "mark", data_format), "1h")
    except MissingCandlesError:
        mark = None
    return StoredSeries(series, mark, _load_funding(datadir, pair, data_format))


def _series(candles: Candles, timeframe: str) -> Series:
    frame = candles.frame.dropna()
    opens_ms = pd.DatetimeIndex(frame.index).as_unit("ms").asi8
    return Series(timeframe_seconds(timeframe) * 1000, opens_ms, frame.to_numpy(np.float64))


def _load_funding(
    datadir: Path, pair: str, data_format: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
    handler = get_datahandler(datadir, data_format)
    if not candle_path(handler, datadir, pair, "1h", CandleType.FUNDING_RATE).exists():
        return None
    frame = handler._ohlcv_load(pair, "1h", timerange=None, candle_type=CandleType.FUNDING_RATE)
    if frame.empty:
        return None
    # Until 2026.6 at least freqtrade had the rate as the open of a candle.
    frame = frame.rename(columns={"open": "funding_rate"})
    frame = frame.dropna(subset=["funding_rate"]).sort_values("date")
    times_ms = pd.DatetimeIndex(frame["date"]).as_unit("ms").asi8
    return times_ms, frame["funding_rate"].to_numpy(np.float64)
