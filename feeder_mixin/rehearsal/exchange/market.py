"""The market that is replayed: candles, mark prices and funding of all pairs on one clock.

Stored candles are moved by a whole number of weeks, so that now lies inside them and weekday and
session keep their meaning. Built by the command line and by tests, asked by `answers`.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from feeder_mixin.errors import CandleError, SettingsError
from feeder_mixin.market.candles import timeframe_seconds
from feeder_mixin.rehearsal.exchange._generate import (
    FUNDING_STEP_MS,
    MEAN_FUNDING_RATIO,
    START_MS,
    generate_candles,
    generate_funding,
)
from feeder_mixin.rehearsal.exchange._series import (
    CLOSE,
    DAY_MS,
    OPEN,
    WEEK_MS,
    Series,
    bucket_open,
    resample,
    visible,
)
from feeder_mixin.rehearsal.exchange._stored import StoredSeries, load_stored, stored_pairs

logger = logging.getLogger(__name__)

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000
INTERVALS: Final[Mapping[str, int]] = {
    name: timeframe_seconds(name) * 1000
    for name in ("1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "1w")
}
"""Timeframes that can be asked for, where the replayed candles are not longer."""

DEFAULT_PAIRS: Final = ("BTC/USDT:USDT", "ETH/USDT:USDT", "SOL/USDT:USDT", "XRP/USDT:USDT")
_DECIMALS_MAX: Final = 8
_DAYS_MAX: Final = 3650
_PAIR: Final = re.compile(r"[\w-]+/[\w-]+:[\w-]+")
_UNITS_MS: Final = ((WEEK_MS, "weeks"), (DAY_MS, "days"), (HOUR_MS, "hours"))


@dataclass(frozen=True, slots=True, eq=False)
class Funding:
    """Funding times in milliseconds and their rates as a fraction, ascending."""

    times_ms: NDArray[np.int64]
    rates: NDArray[np.float64]

    def n_paid(self, now_ms: int) -> int:
        """Return how many fundings have happened by `now_ms`."""
        return int(np.searchsorted(self.times_ms, now_ms, side="right"))

    def next_ms(self, now_ms: int) -> int:
        """Return when the next funding is due."""
        n = self.n_paid(now_ms)
        if n < len(self.times_ms):
            return int(self.times_ms[n])
        return int(bucket_open(now_ms, FUNDING_STEP_MS)) + FUNDING_STEP_MS


@dataclass(frozen=True, eq=False)
class ReplayMarket:
    """Everything the exchange knows; the clock decides what it tells.

    Attributes
    ----------
    timeframe
        Of the shortest candles served; longer ones are made from them.
    series, marks, fundings
        By pair, already moved. A mark series is hourly, or the candles themselves.
    shift_ms
        By how much the stored candles were moved.
    origin
        Where the candles are from and how they were moved, for people.
    clock
        Gives the time in seconds since the epoch.
    """

    timeframe: str
    series: Mapping[str, Series]
    marks: Mapping[str, Series]
    fundings: Mapping[str, Funding]
    shift_ms: int
    origin: str
    is_generated: bool
    clock: Callable[[], float] = time.time
    _cache: dict[tuple[str, bool, int], Series] = field(default_factory=dict, repr=False)
    _decimals: dict[str, int] = field(default_factory=dict, repr=False)
    _said: set[str] = field(default_factory=set, repr=False)

    @classmethod
    def from_datadir(
        cls,
        datadir: Path,
        pairs: Sequence[str] = (),
        timeframe: str = "5m",
        *,
        as_1m: bool = False,
        weeks: int | None = None,
        data_format: str = "feather",
        clock: Callable[[], float] = time.time,
    ) -> ReplayMarket:
        """Return a market of the candles in a freqtrade data folder.

        Parameters
        ----------
        datadir
            The exchange's folder, such as ``user_data/data/binance``.
        pairs
            Empty: every pair with a file of this timeframe.
        as_1m
            Serve each stored row as one candle of a minute.
        weeks
            Move by so many weeks instead of choosing (the same market again at a later start).

        Raises
        ------
        CandleError
            When candles are missing, damaged, or the pairs have no time in common.
        SettingsError
            When the timeframe is not one of Binance's, or now is outside with `weeks`.
        """
        chosen = list(dict.fromkeys(pairs)) or stored_pairs(datadir, timeframe, data_format)
        stored = {
            pair: load_stored(datadir, pair, timeframe, data_format, with_hourly=not as_1m)
            for pair in chosen
        }
        return _build(stored, timeframe, as_1m, weeks, clock, f"candles of {datadir}")

    @classmethod
    def generated(
        cls,
        pairs: Sequence[str] = DEFAULT_PAIRS,
        timeframe: str = "5m",
        *,
        days: float = 30.0,
        seed: int = 1,
        as_1m: bool = False,
        weeks: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> ReplayMarket:
        """Return a market made from a seed, with at least `days` of history and a day to come."""
        if not 0 < days <= _DAYS_MAX:
            raise SettingsError(f"days={days:g}, expected above 0, at most {_DAYS_MAX}")
        if seed < 0:
            raise SettingsError(f"seed={seed}, expected 0 or more")
        for pair in pairs:
            if not _PAIR.fullmatch(pair):
                raise SettingsError(
                    f"pair {pair!r}, expected a futures pair such as 'BTC/USDT:USDT'"
                )
        step_ms = _interval_ms(timeframe)
        served_ms = MINUTE_MS if as_1m else step_ms
        n = math.ceil((days * DAY_MS + WEEK_MS + DAY_MS) / served_ms)
        candles = generate_candles(list(dict.fromkeys(pairs)), step_ms, n, seed)
        stored = {
            pair: StoredSeries(series, None, generate_funding(pair, seed, START_MS + n * step_ms))
            for pair, series in candles.items()
        }
        if as_1m:
            stored = {pair: StoredSeries(one.series, None, None) for pair, one in stored.items()}
        name = f"a generated market (seed {seed}, no real prices)"
        logger.warning("Market is generated: these are no real prices seed=%d", seed)
        return _build(stored, timeframe, as_1m, weeks, clock, name, is_generated=True)

    def now_ms(self, lag_s: float = 0.0) -> int:
        """Return the time by this market's clock, `lag_s` seconds late."""
        return int((self.clock() - lag_s) * 1000)

    @property
    def end_ms(self) -> int:
        """Return when the first of the pairs runs out of candles."""
        return min(series.end_ms for series in self.series.values())

    def klines(self, pair: str, step_ms: int, now_ms: int, *, mark: bool = False) -> Series:
        """Return candles open by `now_ms`, ascending; the last is the one that forms."""
        base = self.series[pair]
        if mark and step_ms % self.marks[pair].step_ms == 0:
            base = self.marks[pair]
        key = (pair, mark, step_ms)
        if key not in self._cache:
            self._cache[key] = resample(base, step_ms)
        return visible(base, self._cache[key], now_ms, self.decimals(pair))

    def price(self, pair: str, now_ms: int) -> float:
        """Return the last traded price, on the tick."""
        series = self.series[pair]
        done = series.n_closed(now_ms)
        around = series.cut(max(0, done - 1), done + 1)
        seen = visible(around, around, now_ms, self.decimals(pair))
        price = seen.rows[-1, CLOSE] if len(seen) else series.rows[0, OPEN]
        return round(float(price), self.decimals(pair))

    def decimals(self, pair: str) -> int:
        """Return how many decimals the prices of a pair have."""
        if pair not in self._decimals:
            self._decimals[pair] = _count_decimals(self.series[pair].rows[-2000:, : CLOSE + 1])
        return self._decimals[pair]

    def say_if_run_out(self, now_ms: int) -> None:
        """Warn once when candles that should be there by now are not stored."""
        if now_ms >= self.end_ms and "end" not in self._said:
            self._said.add("end")
            logger.warning(
                "Stored candles ran out: no new ones arrive, start the replay exchange again end=%s",
                iso(self.end_ms),
            )


def iso(time_ms: int) -> str:
    """Return a time as people read it."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="seconds")


def _interval_ms(timeframe: str) -> int:
    if timeframe not in INTERVALS:
        raise SettingsError(f"timeframe {timeframe!r}: expected one of {', '.join(INTERVALS)}")
    return INTERVALS[timeframe]


def _count_decimals(prices: NDArray[np.float64]) -> int:
    """Return the fewest decimals that hold every price, or those of six significant digits."""
    for decimals in range(_DECIMALS_MAX + 1):
        if np.array_equal(np.round(prices, decimals), prices):
            return decimals
    return min(_DECIMALS_MAX, max(0, 5 - int(np.floor(np.log10(np.median(prices))))))


def _build(
    stored: Mapping[str, StoredSeries],
    timeframe: str,
    as_1m: bool,
    weeks: int | None,
    clock: Callable[[], float],
    name: str,
    *,
    is_generated: bool = False,
) -> ReplayMarket:
    """Return the market of stored rows, moved to now."""
    _interval_ms(timeframe)
    if as_1m:
        stored = {pair: _as_minutes(one) for pair, one in stored.items()}
        name += f", each {timeframe} candle served as 1m"
    shift_ms, moved = _choose_shift([one.series for one in stored.values()], clock(), weeks)
    series = {pair: _shifted(one.series, shift_ms) for pair, one in stored.items()}
    marks = {
        pair: _shifted(one.mark, shift_ms)
        if one.mark and _covers(one.mark, one.series)
        else series[pair]
        for pair, one in stored.items()
    }
    fundings = {pair: _funding(one.funding, shift_ms, series[pair]) for pair, one in stored.items()}
    logger.info("Market is replayed from=%s moved=%s pairs=%d", name, moved, len(stored))
    return ReplayMarket(
        timeframe="1m" if as_1m else timeframe,
        series=series,
        marks=marks,
        fundings=fundings,
        shift_ms=shift_ms,
        origin=f"{name}, moved by {moved}",
        is_generated=is_generated,
        clock=clock,
    )


def _covers(mark: Series, series: Series) -> bool:
    """Tell whether mark prices go on as long as the candles do; where not, candles stand for them."""
    return mark.end_ms > series.end_ms - HOUR_MS


def _as_minutes(stored: StoredSeries) -> StoredSeries:
    series = stored.series
    opens_ms = START_MS + (series.opens_ms - START_MS) // series.step_ms * MINUTE_MS
    return StoredSeries(Series(MINUTE_MS, opens_ms, series.rows), None, None)


def _shifted(series: Series, shift_ms: int) -> Series:
    return Series(series.step_ms, series.opens_ms + shift_ms, series.rows)


def _funding(
    stored: tuple[NDArray[np.int64], NDArray[np.float64]] | None, shift_ms: int, series: Series
) -> Funding:
    if stored is not None:
        return Funding(stored[0] + shift_ms, stored[1])
    first = int(bucket_open(int(series.opens_ms[0]), FUNDING_STEP_MS))
    times_ms = np.arange(first, series.end_ms, FUNDING_STEP_MS, dtype=np.int64)
    return Funding(times_ms, np.full(len(times_ms), MEAN_FUNDING_RATIO))


def _choose_shift(series: Iterable[Series], now_s: float, weeks: int | None) -> tuple[int, str]:
    """Return by how much to move candles so that now lies inside those of every pair, and in words.

    Whole weeks, with at least a day of candles to come; where the candles are too short for that,
    a quarter of them to come and whole days or hours.
    """
    spans = [(int(one.opens_ms[0]), one.end_ms) for one in series]
    start_ms, end_ms = max(first for first, _ in spans), min(last for _, last in spans)
    if start_ms >= end_ms:
        raise CandleError(
            f"the pairs' candles have no time in common: one begins at {iso(start_ms)}, another "
            f"ends at {iso(end_ms)}; name others with --pairs"
        )
    now_ms = int(now_s * 1000)
    if weeks is not None:
        if not start_ms + weeks * WEEK_MS <= now_ms < end_ms + weeks * WEEK_MS:
            raise SettingsError(
                f"--weeks {weeks}: now is outside the candles, which would go from "
                f"{iso(start_ms + weeks * WEEK_MS)} to {iso(end_ms + weeks * WEEK_MS)}"
            )
        return weeks * WEEK_MS, f"{weeks} weeks"
    to_come_ms = min(DAY_MS, (end_ms - start_ms) // 4)
    for unit_ms, unit in _UNITS_MS:
        count = math.ceil((now_ms + to_come_ms - end_ms) / unit_ms)
        if start_ms + count * unit_ms <= now_ms:
            if unit_ms != WEEK_MS:
                logger.warning("History is too short to keep weekdays moved_%s=%d", unit, count)
            return count * unit_ms, f"{count} {unit}"
    raise CandleError(
        f"the pairs share only {(end_ms - start_ms) / HOUR_MS:g} hours of candles, too few to replay"
    )
