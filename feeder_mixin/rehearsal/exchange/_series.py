"""Candles on a clock: which are closed, what the forming one shows, what is still to come.

Used by the market and its answers. Nothing here knows of HTTP or files. All times are milliseconds
since the epoch, as in Binance's answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

DAY_MS: Final = 86_400_000
WEEK_MS: Final = 7 * DAY_MS
_MONDAY_MS: Final = 4 * DAY_MS
"""The epoch was a Thursday; weekly candles open on Mondays."""

OPEN, HIGH, LOW, CLOSE, VOLUME = range(5)
_VOLUME_DECIMALS: Final = 8


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Candles in ascending order; gaps are simply not there.

    Attributes
    ----------
    step_ms
        Length of a candle.
    opens_ms : NDArray[np.int64], shape (n,)
        When each candle opens.
    rows : NDArray[np.float64], shape (n, 5)
        Open, high, low, close, volume.
    """

    step_ms: int
    opens_ms: NDArray[np.int64]
    rows: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.opens_ms)

    @property
    def end_ms(self) -> int:
        """Return when the last candle closes."""
        return int(self.opens_ms[-1]) + self.step_ms

    def n_closed(self, now_ms: int) -> int:
        """Return how many candles have closed by `now_ms`."""
        return int(np.searchsorted(self.opens_ms, now_ms - self.step_ms, side="right"))

    def cut(self, start: int, stop: int) -> Series:
        """Return the candles from index `start` to before `stop`."""
        return Series(self.step_ms, self.opens_ms[start:stop], self.rows[start:stop])

    def closed(self, now_ms: int) -> Series:
        """Return the candles that have closed by `now_ms`."""
        return self.cut(0, self.n_closed(now_ms))


def bucket_open(time_ms: int | NDArray[np.int64], step_ms: int) -> NDArray[np.int64]:
    """Return the open of the candle that holds each time; weeks begin on Monday."""
    offset = _MONDAY_MS if step_ms == WEEK_MS else 0
    opens: NDArray[np.int64] = (np.asarray(time_ms) - offset) // step_ms * step_ms + offset
    return opens


def resample(series: Series, step_ms: int) -> Series:
    """Return longer candles; each holds what is there of its shorter ones."""
    if step_ms == series.step_ms or not len(series):
        return series
    opens = bucket_open(series.opens_ms, step_ms)
    first = np.flatnonzero(np.diff(opens, prepend=opens[0] - 1))
    last = np.append(first[1:], len(opens)) - 1
    values = series.rows
    merged = np.column_stack(
        (
            values[first, OPEN],
            np.maximum.reduceat(values[:, HIGH], first),
            np.minimum.reduceat(values[:, LOW], first),
            values[last, CLOSE],
            np.add.reduceat(values[:, VOLUME], first),
        )
    )
    return Series(step_ms, opens[first], merged)


def forming_row(row: NDArray[np.float64], share: float, decimals: int) -> NDArray[np.float64]:
    """Return what a candle shows when `share` (0-1) of its time has passed.

    The price goes open, low, high, close in a rising candle and open, high, low, close in a falling
    one, in straight lines of equal duration, in steps of `decimals`; volume comes evenly.
    """
    opening, high, low, close, volume = row
    turns = (low, high) if close >= opening else (high, low)
    corners = np.array([opening, *turns, close])
    at = np.linspace(0.0, 1.0, len(corners))
    price = round(float(np.interp(share, at, corners)), decimals)
    seen = np.append(corners[at <= share], price)
    return np.array(
        [opening, seen.max(), seen.min(), price, round(volume * share, _VOLUME_DECIMALS)]
    )


def visible(series: Series, coarse: Series, now_ms: int, decimals: int) -> Series:
    """Return closed candles of `coarse` and, last, the one that forms at `now_ms`.

    Parameters
    ----------
    series
        The shortest candles there are.
    coarse
        `series`, or what `resample` made of it.
    decimals
        Of the price that the forming candle shows.
    """
    n = coarse.n_closed(now_ms)
    if n == len(coarse) or coarse.opens_ms[n] > now_ms:
        return coarse.cut(0, n)
    done = series.n_closed(now_ms)
    part = series.cut(int(np.searchsorted(series.opens_ms, coarse.opens_ms[n])), done)
    if done < len(series) and series.opens_ms[done] <= now_ms:
        share = (now_ms - int(series.opens_ms[done])) / series.step_ms
        row = forming_row(series.rows[done], share, decimals)
        part = _append(part, int(series.opens_ms[done]), row)
    if not len(part):
        return coarse.cut(0, n)
    merged = resample(part, coarse.step_ms)
    return _append(coarse.cut(0, n), int(coarse.opens_ms[n]), merged.rows[-1])


def _append(series: Series, open_ms: int, row: NDArray[np.float64]) -> Series:
    return Series(
        series.step_ms,
        np.append(series.opens_ms, np.int64(open_ms)),
        np.vstack((series.rows, row)),
    )


def window(
    opens_ms: NDArray[np.int64], start_ms: int | None, end_ms: int | None, limit: int
) -> slice:
    """Return which rows Binance answers with.

    From `start_ms` on, the first `limit`; without a start, the last `limit`; `end_ms` counts in.
    """
    stop = len(opens_ms)
    if end_ms is not None:
        stop = int(np.searchsorted(opens_ms, end_ms, side="right"))
    if start_ms is None:
        return slice(max(0, stop - limit), stop)
    first = int(np.searchsorted(opens_ms, start_ms, side="left"))
    return slice(first, max(first, min(stop, first + limit)))
