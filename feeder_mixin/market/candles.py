"""Candles from disk, through freqtrade's own data handlers, checked before anything uses them.

freqtrade's loader repairs silently: it reads naive dates as UTC, drops duplicates and fills gaps.
For training, each of these is an error or a warning instead, so the raw frame is taken from the
handler and checked here.
"""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
from ccxt import NotSupported  # type: ignore[import-untyped]
from freqtrade.configuration import TimeRange
from freqtrade.data.history import get_datahandler
from freqtrade.data.history.datahandlers.idatahandler import IDataHandler
from freqtrade.enums import CandleType
from freqtrade.exceptions import FreqtradeException
from freqtrade.exchange import timeframe_to_seconds
from numpy.typing import NDArray

from feeder_mixin.errors import CandleError, MissingCandlesError, OldCandlesError, SettingsError
from feeder_mixin.market.formats import describe_other_forms
from feeder_mixin.market.holes import LARGEST_WICK, bridge

logger = logging.getLogger(__name__)

PRICE_COLUMNS: Final = ("open", "high", "low", "close")
COLUMNS: Final = (*PRICE_COLUMNS, "volume")

CLOCK_SLACK_S: Final = 3_600.0
"""What is dated further in the future was made by a wrong clock."""


@dataclass(frozen=True, slots=True)
class Candles:
    """One pair's checked candles on a regular grid.

    Attributes
    ----------
    frame
        Columns open, high, low, close, volume by candle open (UTC); missing candles are NaN rows.
    n_missing, longest_gap
        Candles missing inside the range, and the longest run of them.
    n_halted, n_impossible
        Candles in which nothing had traded for over an hour, and with a wick that can't be: no
        market (`market.holes`).
    """

    pair: str
    frame: pd.DataFrame
    n_missing: int = 0
    longest_gap: int = 0
    n_halted: int = 0
    n_impossible: int = 0

    @property
    def first_s(self) -> int:
        """Return the open of the first candle in seconds since the epoch."""
        return int(self.frame.index[0].timestamp())

    @property
    def last_s(self) -> int:
        """Return the open of the last candle in seconds since the epoch."""
        return int(self.frame.index[-1].timestamp())

    def content_hash(self) -> str:
        """Return a hash of dates and values: equal candles, equal hash."""
        digest = hashlib.blake2b(digest_size=12)
        digest.update(f"{self.first_s} {self.last_s}".encode())
        digest.update(np.ascontiguousarray(self.frame.to_numpy(np.float64)).tobytes())
        return digest.hexdigest()


def timeframe_seconds(timeframe: str) -> int:
    """Return the length of a candle in seconds, or raise `SettingsError` for an unknown name."""
    try:
        seconds = int(timeframe_to_seconds(timeframe))
    except (ValueError, IndexError, TypeError, NotSupported) as error:
        raise SettingsError(
            f"timeframe {timeframe!r} is not one freqtrade knows: {error}"
        ) from error
    if seconds <= 0:
        raise SettingsError(f"timeframe {timeframe!r} is not one freqtrade knows")
    return seconds


def load_candles(
    datadir: Path,
    pair: str,
    timeframe: str,
    candle_type: str,
    data_format: str,
    since: pd.Timestamp | None = None,
    now_s: float | None = None,
) -> Candles:
    """Return a pair's checked candles from a freqtrade data folder.

    Parameters
    ----------
    datadir
        The exchange's folder, for example ``user_data/data/binance``.
    candle_type
        ``futures`` or ``spot``.
    data_format
        freqtrade's ``dataformat_ohlcv``.
    since
        Leave out candles that open earlier, with a time zone: a bot needs the newest only. They are
        neither checked nor, from feather and parquet files, turned into a frame.
    now_s
        Seconds since the epoch, by default of this host's clock: no candle may open later.

    Raises
    ------
    CandleError
        When the file is missing or damaged, or has no candle from `since` on; the message names
        file, pair and what is wrong.
    SettingsError
        When freqtrade does not know the data format.
    """
    kind = CandleType.from_string(candle_type)
    handler = _handler(datadir, data_format)
    path = candle_path(handler, datadir, pair, timeframe, kind)
    if not path.exists():
        found = describe_other_forms(path, pair, data_format)
        about = found or " (a data folder is the exchange's, such as user_data/data/binance)"
        raise MissingCandlesError(
            f"{pair}: no {timeframe} candles: {path} does not exist{about}", found
        )
    _check_dates_have_zone(pair, path)
    try:
        raw = handler._ohlcv_load(pair, timeframe, timerange=_from(since), candle_type=kind)
    except (ValueError, TypeError, OSError) as error:
        raise CandleError(f"{pair}: {path} is not a readable candle file: {error}") from error
    if raw.empty:
        raise CandleError(f"{pair}: {path} holds no readable candles; download them again")
    if since is not None:
        newest, raw = raw["date"].max(), raw[raw["date"] >= since]
        if raw.empty:
            raise OldCandlesError(
                f"{pair}: {path} holds no candle since {since}, the last is {newest}"
            )
    return checked_candles(pair, raw, timeframe, source=str(path), now_s=now_s)


def _from(since: pd.Timestamp | None) -> TimeRange | None:
    # A hint: the handler takes a candle more, and the whole file where nothing is in the range.
    return None if since is None else TimeRange("date", None, int(since.timestamp()), 0)


def find_candle_file(
    datadir: Path, pair: str, timeframe: str, candle_type: str, data_format: str
) -> Path:
    """Return where freqtrade keeps these candles, whether they are there or not.

    Raises
    ------
    SettingsError
        When freqtrade does not know the data format.
    """
    handler = _handler(datadir, data_format)
    return candle_path(handler, datadir, pair, timeframe, CandleType.from_string(candle_type))


def _handler(datadir: Path, data_format: str) -> IDataHandler:
    try:
        return get_datahandler(datadir, data_format)
    except (FreqtradeException, ValueError) as error:
        raise SettingsError(f"dataformat_ohlcv {data_format!r} can't be read: {error}") from error


def candle_path(
    handler: IDataHandler, datadir: Path, pair: str, timeframe: str, kind: CandleType
) -> Path:
    """Return where freqtrade keeps these candles."""
    return Path(handler._pair_data_filename(datadir, pair, timeframe, kind))


def _check_dates_have_zone(pair: str, path: Path) -> None:
    # The handler turns naive dates into UTC without a word; only the file itself still knows.
    if path.suffix not in {".feather", ".parquet"}:
        return  # the other formats hold integers since the epoch
    try:
        dataset = pa.dataset.dataset(path, format=path.suffix[1:])
        kind = dataset.schema.field("date").type
    except (KeyError, OSError, pa.ArrowException) as error:
        raise CandleError(f"{pair}: {path} is not a readable candle file: {error}") from error
    if pa.types.is_timestamp(kind) and kind.tz is None:
        raise CandleError(
            f"{pair}: dates in {path} have no time zone; expected UTC. Write them as "
            "datetime64[ns, UTC] (a naive local time would shift every candle)"
        )


def checked_candles(
    pair: str, raw: pd.DataFrame, timeframe: str, *, source: str, now_s: float | None = None
) -> Candles:
    """Return raw candles on a regular grid, or raise `CandleError` for what can't be trusted.

    Dates must be UTC, ascending, unique, on the timeframe's grid and not in the future; prices finite, positive and
    low <= open, close <= high; volume finite and not negative. Gaps become NaN rows; they, halts
    and impossible wicks are a warning, and `market.holes` says what becomes of them.
    """
    timeframe_s = timeframe_seconds(timeframe)
    dates = pd.DatetimeIndex(raw["date"])
    if dates.tz is None:
        raise CandleError(f"{pair}: dates in {source} have no time zone; expected UTC")
    dates = dates.tz_convert("UTC")
    steps = _check_dates(pair, dates, timeframe, source)
    _check_not_ahead(pair, dates, time.time() if now_s is None else now_s, source)
    values = _check_values(pair, raw, dates, source)
    grid = pd.date_range(dates[0], dates[-1], freq=pd.Timedelta(seconds=timeframe_s), name="date")
    gaps = steps[steps > 1] - 1
    if len(gaps):
        there, values = values, np.full((len(COLUMNS), len(grid)), np.nan)
        values[:, np.concatenate([[0], np.cumsum(steps)])] = there
    frame = pd.DataFrame(values.T, index=grid, columns=list(COLUMNS), copy=False)
    bridged = bridge(frame)
    is_known = frame["close"].notna().to_numpy()
    impossible = bridged.invented & is_known
    halted = np.isnan(bridged.close) & is_known & ~impossible
    candles = Candles(
        pair,
        frame,
        int(gaps.sum()),
        int(gaps.max(initial=0)),
        int(halted.sum()),
        int(impossible.sum()),
    )
    _say_lacks(candles, len(gaps), halted, impossible, source)
    return candles


def _say_lacks(
    candles: Candles,
    n_gaps: int,
    halted: NDArray[np.bool_],
    impossible: NDArray[np.bool_],
    source: str,
) -> None:
    """Log which candles are missing, halted or impossible, each kind once."""
    frame = candles.frame
    if candles.n_missing:
        logger.warning(
            "Candles are missing: gaps up to an hour cost the rows that they touch, longer ones also a "
            "week and more after them pair=%s missing=%d gaps=%d longest_candles=%d source=%s",
            candles.pair,
            candles.n_missing,
            n_gaps,
            candles.longest_gap,
            source,
        )
    if candles.n_halted:
        logger.warning(
            "Nothing traded for over an hour: such candles are not trained on, not scored and never "
            "safe pair=%s candles=%d from=%s to=%s source=%s",
            candles.pair,
            candles.n_halted,
            frame.index[halted][0],
            frame.index[halted][-1],
            source,
        )
    if candles.n_impossible:
        first = frame[impossible].iloc[0]
        logger.warning(
            "Candles with an impossible wick (over %g times the close, or under a part of it) count as "
            "missing, download them again pair=%s candles=%d first=%s high=%g low=%g close=%g source=%s",
            LARGEST_WICK,
            candles.pair,
            candles.n_impossible,
            frame.index[impossible][0],
            first["high"],
            first["low"],
            first["close"],
            source,
        )


def _check_dates(
    pair: str, dates: pd.DatetimeIndex, timeframe: str, source: str
) -> NDArray[np.int64]:
    """Return how many candles each date is after the one before, or raise `CandleError`."""
    if dates.hasnans:
        raise CandleError(
            f"{pair}: {int(np.asarray(dates.isna()).sum())} candles without date in {source}"
        )
    timeframe_s = timeframe_seconds(timeframe)
    step_ns, opens_ns = timeframe_s * 1_000_000_000, dates.as_unit("ns").asi8
    steps = np.diff(opens_ns)
    if duplicates := int((steps == 0).sum()):
        where = dates[1:][steps == 0][0]
        raise CandleError(f"{pair}: {duplicates} duplicate dates in {source}, first {where}")
    if (steps < 0).any():
        where = dates[1:][steps < 0][0]
        raise CandleError(f"{pair}: dates in {source} are not ascending, first at {where}")
    if len(steps) and (usual_ns := int(np.median(steps))) != step_ns:
        raise CandleError(
            f"{pair}: {source} is not {timeframe}: candles are mostly {usual_ns / 1e9:g} s apart, "
            f"expected {timeframe_s} s"
        )
    off_grid: NDArray[np.bool_] = opens_ns % step_ns != 0
    if off_grid.any():
        raise CandleError(
            f"{pair}: {source} is not {timeframe}: {int(off_grid.sum())} candles do not open on a "
            f"multiple of {timeframe_s} s, first {dates[off_grid][0]}"
        )
    whole_steps: NDArray[np.int64] = steps // step_ns
    return whole_steps


def _check_not_ahead(pair: str, dates: pd.DatetimeIndex, now_s: float, source: str) -> None:
    ahead_s = dates[-1].timestamp() - now_s
    if ahead_s > CLOCK_SLACK_S:
        now = pd.Timestamp(int(now_s), unit="s", tz="UTC")
        n_ahead = int(np.asarray(dates > now).sum())
        span = f"{ahead_s / 86_400:.1f} days" if ahead_s > 86_400 else f"{ahead_s / 3_600:.1f} h"
        raise CandleError(
            f"{pair}: {n_ahead} candles in {source} open in the future, the last at {dates[-1]}, "
            f"{span} ahead of this host's clock ({now}). Set the clock where it is behind (NTP); "
            "else the file's dates are wrong: download it anew (freqtrade download-data --erase)"
        )


def _check_values(
    pair: str, raw: pd.DataFrame, dates: pd.DatetimeIndex, source: str
) -> NDArray[np.float64]:
    """Return the values, shape (len(COLUMNS), n_candles), or raise `CandleError`."""
    values = np.array([raw[name].to_numpy(np.float64) for name in COLUMNS])
    bad = ~np.isfinite(values)
    if bad.any():
        row, column = np.argwhere(bad.T)[0]
        raise CandleError(
            f"{pair}: {int(bad.any(axis=0).sum())} candles with NaN or infinity in {source}, first "
            f"{COLUMNS[column]}={values[column, row]} at {dates[row]}"
        )
    opening, high, low, close, volume = values
    wrong = (low > np.minimum(opening, close)) | (high < np.maximum(opening, close))
    wrong |= (low <= 0) | (volume < 0)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise CandleError(
            f"{pair}: {int(wrong.sum())} candles with impossible values in {source}, first at "
            f"{dates[row]}: open={opening[row]} high={high[row]} low={low[row]} close={close[row]} "
            f"volume={volume[row]} (expected 0 < low <= open, close <= high and volume >= 0)"
        )
    return values
