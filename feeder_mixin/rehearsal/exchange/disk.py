"""Writes the replayed history as freqtrade's data folder, so that disk and live are one market."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from freqtrade.data.history import get_datahandler
from freqtrade.enums import CandleType

from feeder_mixin.errors import SettingsError
from feeder_mixin.market.candles import COLUMNS, timeframe_seconds
from feeder_mixin.rehearsal.exchange._series import Series
from feeder_mixin.rehearsal.exchange.market import HOUR_MS, ReplayMarket, iso

MARKER: Final = "README.txt"


def write_datadir(
    market: ReplayMarket,
    datadir: Path,
    until_ms: int | None = None,
    timeframes: Sequence[str] = (),
) -> None:
    """Write candles, hourly mark prices and funding that are complete by `until_ms` (None: by now).

    Candles that an earlier replay wrote there are deleted first, because they may have been moved by
    another number of weeks.

    Parameters
    ----------
    datadir
        An exchange's folder.
    timeframes
        Written beside the market's own; those that its candles do not add up to are left out.

    Raises
    ------
    SettingsError
        When the folder holds candles that no replay wrote: real ones are never overwritten.
    """
    end_ms = market.now_ms() if until_ms is None else until_ms
    marker = datadir / MARKER
    if any((datadir / "futures").glob("*.*")) and not marker.exists():
        raise SettingsError(
            f"{datadir} holds candles that no replay wrote, and they are not overwritten; name a new "
            "folder with --write-datadir"
        )
    for path in (datadir / "futures").glob("*.feather"):
        path.unlink()
    (datadir / "futures").mkdir(parents=True, exist_ok=True)
    marker.write_text(_about(market, end_ms), encoding="utf-8")
    handler = get_datahandler(datadir, "feather")
    for pair in market.series:
        for timeframe in dict.fromkeys((market.timeframe, *timeframes)):
            step_ms = timeframe_seconds(timeframe) * 1000
            if step_ms % market.series[pair].step_ms == 0:
                candles = market.klines(pair, step_ms, end_ms).closed(end_ms)
                handler.ohlcv_store(pair, timeframe, _frame(candles), CandleType.FUTURES)
        if HOUR_MS % market.series[pair].step_ms == 0:
            mark = _frame(market.klines(pair, HOUR_MS, end_ms, mark=True).closed(end_ms))
            handler.ohlcv_store(pair, "1h", mark.assign(volume=0.0), CandleType.MARK)
        funding = market.fundings[pair]
        paid = funding.n_paid(end_ms)
        frame = _funding_frame(funding.times_ms[:paid], funding.rates[:paid])
        handler.ohlcv_store(pair, "1h", frame, CandleType.FUNDING_RATE)


def _funding_frame(times_ms: np.ndarray, rates: np.ndarray) -> pd.DataFrame:
    """Return funding with the columns of every freqtrade, which stores those that it knows.

    Until 2026.6 at least the rate was the open of a candle; 2026.9 has a column of its own for it.
    """
    frame = pd.DataFrame(0.0, index=range(len(rates)), columns=list(COLUMNS))
    frame.insert(0, "date", _dates(times_ms))
    return frame.assign(open=rates, funding_rate=rates)


def _about(market: ReplayMarket, end_ms: int) -> str:
    warning = "NOT REAL PRICES: generated from a seed.\n" if market.is_generated else ""
    return (
        f"Candles of the replay exchange: {market.origin}.\n{warning}"
        f"Timeframe {market.timeframe}, up to {iso(end_ms)}. Their dates are not real.\n"
        "Written by `feeder replay-exchange --write-datadir`, which replaces them on its next run.\n"
    )


def _dates(times_ms: np.ndarray) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(times_ms.astype("datetime64[ms]"), tz="UTC", name="date")


def _frame(series: Series) -> pd.DataFrame:
    frame = pd.DataFrame(series.rows, columns=list(COLUMNS))
    frame.insert(0, "date", _dates(series.opens_ms))
    return frame
