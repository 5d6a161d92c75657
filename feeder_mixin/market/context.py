"""A feeder's view of the market: its context pairs' candles and all that is built from them.

Features look across the feeder's context pairs, never across "the pairs at hand": tuning one pair
alone, a live bot and a backtest see the same context. `FeatureContext` holds whole histories, for tuner and
backtest; `ContextTail` follows the newest candles, for the bot. Both run `context_features`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from feeder_mixin.errors import CandleError
from feeder_mixin.market.features import (
    BTC_COLUMNS,
    MARKET_COLUMNS,
    NEW_YORK_CLOCK,
    NEW_YORK_EVENTS,
    WEEK,
    build_outline,
    build_table,
    column_values,
    index_seconds,
    own_features,
    tail_candles,
    vol_horizon,
)
from feeder_mixin.market.holes import MAX_BRIDGE_CANDLES, find_impossible
from feeder_mixin.market.labels import adverse_excursions
from feeder_mixin.market.windows import Array, rolling_sum
from feeder_mixin.pairs import btc_among

_NEW_YORK: Final = "America/New_York"
_HOUR_S: Final = 3_600
_DAY_S: Final = 86_400

_PROFILES: Final = {"ny_profile_20": (20, 3), "ny_profile_weekday": (4, 1)}
"""Earlier days of the slot that are averaged at most, and at least (else 0)."""

_LEAST_WEEK: Final = 500
"""Candles that a week needs for the market's mean of it."""

_CLOCK_FEATURES: Final = ("utc_sin", "utc_cos", *NEW_YORK_CLOCK)
_CONTEXT_COLUMNS: Final = pd.Index(
    [
        *(f"market_{name}" for name in MARKET_COLUMNS),
        *(f"btc_{name}" for name in BTC_COLUMNS),
        *_CLOCK_FEATURES,
        *_PROFILES,
    ]
)
_CANDLE_NAMES: Final = ("high", "low", "close", "volume")
_CANDLE_COLUMNS: Final = pd.Index(_CANDLE_NAMES)
"""What features read of a candle."""

_VOL_HORIZON: Final = MARKET_COLUMNS.index("vol_horizon")


def context_features(
    own: Mapping[str, pd.DataFrame],
    horizon: int,
    timeframe_s: int,
    until: pd.Timestamp | None = None,
    before: Array | None = None,
) -> pd.DataFrame:
    """Return what all pairs of a feeder share: means over its context pairs, BTC, and the clock.

    Means run over the context pairs present at a candle. Columns that no context pair gives are
    NaN: `build_table` puts the pair's own value there.

    Parameters
    ----------
    own
        Context pair -> `own_features`. Their grids may start and end at different times.
    horizon
        Candles the label looks ahead.
    timeframe_s
        Length of a candle in seconds.
    until
        Open of the last row; where it is later than every context pair's last candle, the rows
        between have the clock only.
    before
        ``market_vol_horizon`` of the candles right before the first row, where `own` holds the
        newest rows only: the one column whose past is read here, `profile_candles` of it.
    """
    first = min(frame.index[0] for frame in own.values())
    ends = [frame.index[-1] for frame in own.values()]
    last = max(ends if until is None else [*ends, until])
    grid = pd.date_range(first, last, freq=pd.Timedelta(seconds=timeframe_s), name="date")
    opens_s = index_seconds(grid)

    def on_grid(pair: str | None, names: tuple[str, ...]) -> Array:
        values = np.full((len(names), len(grid)), np.nan)
        if pair is not None:
            frame = own[pair]
            start = (int(frame.index[0].timestamp()) - opens_s[0]) // timeframe_s
            values[:, start : start + len(frame)] = column_values(frame, names)
        return values

    market = _mean_of_present(on_grid(pair, MARKET_COLUMNS) for pair in sorted(own))
    known = market[_VOL_HORIZON]
    if before is not None:
        known = np.concatenate([before, known])
    profiles = _profiles(opens_s[-1], known, horizon, timeframe_s, len(grid))
    clock = _clock(opens_s, horizon, timeframe_s)
    values = np.concatenate([market, on_grid(btc_among(own), BTC_COLUMNS), clock, profiles])
    return pd.DataFrame(values.T, index=grid, columns=_CONTEXT_COLUMNS, copy=False)


def _mean_of_present(parts: Iterable[Array]) -> Array:
    """Return the mean over arrays where they are not NaN; hand them over in an order of their own.

    Sums depend on the order in their last bit: it must not be the one in which pairs were listed.
    """
    total: Array | float = 0.0
    present: Array | float = 0.0
    for part in parts:
        there = ~np.isnan(part)
        total = total + np.where(there, part, 0.0)
        present = present + there
    mean: Array = np.where(np.greater(present, 0), total / np.maximum(present, 1), np.nan)
    return mean


def _new_york(opens_s: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return day (since the epoch) and minute of New York's clock."""
    utc = pd.DatetimeIndex(opens_s.view("datetime64[s]")).tz_localize("UTC")
    local_s = index_seconds(utc.tz_convert(_NEW_YORK).tz_localize(None))
    return local_s // _DAY_S, local_s % _DAY_S // 60


def _weekday(day: NDArray[np.int64]) -> NDArray[np.int64]:
    return (day + 3) % 7  # the epoch was a Thursday; Monday is 0


def _clock(opens_s: NDArray[np.int64], horizon: int, timeframe_s: int) -> Array:
    """Return the time of day in UTC and New York, shape (len(_CLOCK_FEATURES), n_rows)."""
    utc_angle = 2 * np.pi * (opens_s % _DAY_S // 60) / 1440
    day, minute = _new_york(opens_s)
    weekday, angle = _weekday(day), 2 * np.pi * minute / 1440
    weekend, sine, cosine = weekday >= 5, np.sin(angle), np.cos(angle)
    # Weekdays, less than the horizon before an event: exp(-time to go / horizon), else 0.
    event = np.array(list(NEW_YORK_EVENTS.values()))[:, None]
    to_go = (event - minute) % 1440 / (horizon * timeframe_s / 60)
    return np.concatenate(
        [
            [np.sin(utc_angle), np.cos(utc_angle)],
            [sine, cosine, np.sin(2 * angle), np.cos(2 * angle)],
            [weekend, weekday == 6, sine * weekend, cosine * weekend],
            np.where(~weekend & (to_go <= 1), np.exp(-to_go), 0.0),
        ]
    )


def _profile_lag(horizon: int, timeframe_s: int) -> int:
    """Return how many occurrences ago a row's clock slot is known with its horizon.

    When New York repeats an hour, the previous occurrence would be an hour ago: the first of the
    two is left out. Days of 23 hours (and slots above an hour, which shift) need slack; behind a
    lag of 2 or more the repeated hour would count as one of the days.
    """
    lag = math.ceil(((horizon + 1) * timeframe_s + _HOUR_S) / _DAY_S)
    return lag + (lag > 1)


def profile_candles(horizon: int, timeframe_s: int) -> int:
    """Return how many earlier candles' ``market_vol_horizon`` a row's New York profile reads."""
    lag = _profile_lag(horizon, timeframe_s)
    (days, _), (weekdays, _) = _PROFILES.values()
    # Weekends have two days in seven; one more week for daylight saving time and its repeated hour.
    weeks = max(math.ceil((lag + days) / 2), lag + weekdays) + 1
    days_per_candle = math.ceil(timeframe_s / _DAY_S)
    return math.ceil(weeks * 7 * _DAY_S / timeframe_s) * days_per_candle + WEEK


def context_candles(horizon: int, timeframe_s: int, last: int = 1) -> int:
    """Return how many candles of the context make its `last` rows those of all candles."""
    profile = profile_candles(horizon, timeframe_s) + horizon + MAX_BRIDGE_CANDLES + 1
    return max(tail_candles(horizon), profile) + last


def _profiles(last_s: int, market: Array, horizon: int, timeframe_s: int, count: int) -> Array:
    """Return how much the market exceeded its week after the row's clock slot on earlier days.

    Parameters
    ----------
    last_s
        Open of the last candle.
    market
        ``market_vol_horizon`` of all candles up to the last one.
    count
        How many of the last rows are wanted.

    Returns
    -------
    Array, shape (len(_PROFILES), count)
    """
    # How much the market's NEXT candles exceed its week before: this looks ahead, so a row reads it
    # from earlier rows of its clock slot only, `lag` occurrences ago.
    ahead = np.concatenate([market[horizon:], np.full(min(horizon, len(market)), np.nan)])
    excess = ahead - _week_mean(market)
    opens_s = last_s - timeframe_s * np.arange(len(market) - 1, -1, -1)
    # Slots of the wanted rows lie within an hour (New York's shift) and a candle of their UTC times.
    slack_s = _HOUR_S + timeframe_s
    span_s = (count - 1) * timeframe_s + 2 * slack_s
    near = (opens_s - (opens_s[-count] - slack_s)) % _DAY_S <= span_s
    opens_s, excess = opens_s[near], excess[near]
    day, minute = _new_york(opens_s)
    slot, weekday = minute * 60 // timeframe_s, _weekday(day)
    lag = _profile_lag(horizon, timeframe_s)
    out = np.empty((len(_PROFILES), count))
    groups = (slot + 10_000 * (weekday >= 5).astype(np.int64), slot + 10_000 * weekday)
    for row, group, (n_days, at_least) in zip(out, groups, _PROFILES.values(), strict=True):
        row[:] = _mean_of_earlier(excess, group, day, count, lag, n_days, at_least)
    return out


def _week_mean(market: Array) -> Array:
    there, none_yet = ~np.isnan(market), np.zeros(WEEK - 1)  # the first weeks are short
    known = np.concatenate([none_yet, np.where(there, market, 0.0)])
    total = rolling_sum(known, WEEK, len(market))
    present = rolling_sum(np.concatenate([none_yet, there]), WEEK, len(market))
    mean: Array = np.where(present >= _LEAST_WEEK, total / np.maximum(present, 1), np.nan)
    return mean


def _mean_of_earlier(
    values: Array,
    group: NDArray[np.int64],
    day: NDArray[np.int64],
    count: int,
    lag: int,
    n_days: int,
    at_least: int,
) -> Array:
    """Return the last rows' means over values of earlier rows of their group, 0 where too few.

    Averaged are the occurrences from `lag` back to ``lag + n_days - 1`` back; of two on one day the
    first has no value.
    """
    order = np.argsort(group, kind="stable")  # groups one behind another, each in time order
    values, group, day = values[order], group[order], day[order]
    repeated = (group[:-1] == group[1:]) & (day[:-1] == day[1:])
    values[:-1][repeated] = np.nan
    wanted = np.flatnonzero(order >= len(order) - count)
    start = np.searchsorted(group, group[wanted])
    total, present = np.zeros(count), np.zeros(count)
    for back in range(lag, lag + n_days):
        earlier = wanted - back
        value = np.where(earlier >= start, values[np.maximum(earlier, 0)], np.nan)
        there = ~np.isnan(value)
        total += np.where(there, value, 0.0)
        present += there
    mean = np.empty(count)
    place = order[wanted] - (len(order) - count)
    mean[place] = np.where(present >= at_least, total / np.maximum(present, 1), 0.0)
    return mean


Choose = Callable[[pd.DataFrame], pd.DataFrame]
"""Returns some rows of a frame, unchanged."""


def _all_rows(frame: pd.DataFrame) -> pd.DataFrame:
    return frame


class FeatureContext:
    """Context candles, and the tables built from them when first asked for.

    Parameters
    ----------
    context
        Context pair -> candles on a regular grid (`market.candles.Candles.frame`).
    horizon
        Candles the label looks ahead.
    timeframe_s
        Length of a candle in seconds.
    until
        Open of the newest candle of any pair: the clock goes on where the context ends earlier.
    """

    def __init__(
        self,
        context: Mapping[str, pd.DataFrame],
        horizon: int,
        timeframe_s: int,
        until: pd.Timestamp | None = None,
    ) -> None:
        if not context:
            raise CandleError("no context pair has usable candles")
        self.context = dict(context)
        self.horizon = horizon
        self.timeframe_s = timeframe_s
        self._until = until

    @cached_property
    def shared(self) -> pd.DataFrame:
        """Return `context_features` of all context pairs."""
        # Copies of what is read: all columns of ten pairs at once took 200 MB more.
        names = list(dict.fromkeys((*MARKET_COLUMNS, *BTC_COLUMNS)))
        own = {p: own_features(frame, self.horizon)[names] for p, frame in self.context.items()}
        return context_features(own, self.horizon, self.timeframe_s, self._until)

    def build_context(self, choose: Choose = _all_rows) -> Iterator[tuple[str, pd.DataFrame]]:
        """Yield context pair and `build`, one at a time: a table of all rows takes about 60 MB."""
        for pair, frame in self.context.items():
            table = self.build(frame, choose)
            if not table.empty:
                yield pair, table

    def build(self, candles: pd.DataFrame, choose: Choose = _all_rows) -> pd.DataFrame:
        """Return the table of any pair's candles in this context, with labels.

        Made are the rows that `choose` leaves of `own_features`.
        """
        own = choose(own_features(candles, self.horizon))
        return build_table(own, self.shared, adverse_excursions(candles, self.horizon))

    def build_for_fit(
        self, candles: pd.DataFrame, choose: Choose
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return `build` of the rows chosen, and the outline of all rows (`build_outline`)."""
        own, excursions = (
            own_features(candles, self.horizon),
            adverse_excursions(candles, self.horizon),
        )
        table = build_table(choose(own), self.shared, excursions)
        return table, build_outline(own, self.shared, excursions)


class ContextTail:
    """The shared features of the newest candles, extended as candles come.

    Rows equal those of `FeatureContext.shared` over the same candles to 1e-9. Kept are the candles that the
    newest rows read, and the market's volatility as far back as the New York profile reads it.
    Not thread-safe; `shared` is replaced whole, so a reader of the old frame is not disturbed.

    Parameters
    ----------
    context
        Context pair -> candles on a regular grid (`market.candles.Candles.frame`), reaching back
        `context_candles` or to the pair's first one. Empty ones count as missing pairs.
    horizon
        Candles the label looks ahead.
    timeframe_s
        Length of a candle in seconds.
    last
        How many of the newest rows are kept.
    """

    def __init__(
        self, context: Mapping[str, pd.DataFrame], horizon: int, timeframe_s: int, last: int
    ) -> None:
        usable = {pair: frame for pair, frame in context.items() if len(frame)}
        if not usable:
            raise CandleError("no context pair has usable candles")
        self.horizon = horizon
        self.timeframe_s = timeframe_s
        self.last = last
        step = pd.Timedelta(seconds=timeframe_s)
        end = max(frame.index[-1] for frame in usable.values())
        start = max(
            min(frame.index[0] for frame in usable.values()),
            end - step * (context_candles(horizon, timeframe_s, last) - 1),
        )
        self._end = start - step
        self._n = 0
        self._candles: dict[str, Array] = {}  # per pair, columns end with the newest candle's
        self._market = np.empty(0)  # market_vol_horizon, to the newest candle; reaches further back
        self._shared = pd.DataFrame()
        self.extend(usable, end)
        self._make_room(0)

    @property
    def shared(self) -> pd.DataFrame:
        """Return the newest rows of `context_features`: `last` of them, or all there are."""
        return self._shared

    def build(self, candles: pd.DataFrame, last: int) -> pd.DataFrame:
        """Return the table of the newest `last` candles of any pair, without labels.

        Rows without complete features are left out, and so are rows that `shared` has not.
        """
        return build_table(own_features(candles, self.horizon, last), self._shared)

    def extend(self, new: Mapping[str, pd.DataFrame], until: pd.Timestamp) -> None:
        """Take in newer candles of some or all context pairs, and compute what they change.

        Parameters
        ----------
        new
            Context pair -> candles, ascending. They may overlap known ones: newer values win, NaN
            is no value. What lies between them and known ones is missing. A pair not known so far
            joins the context. Candles older than those kept are left out.
        until
            Open of the newest candle of any pair: the clock goes on where the context ends earlier.

        Raises
        ------
        CandleError
            When candles do not open on the timeframe's grid, or not in order; nothing is changed.
        """
        opens_s = {pair: self._check_opens(pair, frame) for pair, frame in new.items()}
        newest_s = max([int(until.timestamp()), *(o[-1] for o in opens_s.values() if len(o))])
        n_new = max(0, (newest_s - int(self._end.timestamp())) // self.timeframe_s)
        self._make_room(n_new)
        stale = max([n_new, *(self._put(pair, opens_s[pair], new[pair]) for pair in new)])
        if stale:
            self._compute(stale)

    def _check_opens(self, pair: str, candles: pd.DataFrame) -> NDArray[np.int64]:
        opens_s = index_seconds(candles.index)
        if (opens_s % self.timeframe_s).any() or (np.diff(opens_s) <= 0).any():
            raise CandleError(
                f"{pair}: new candles must open in order on multiples of {self.timeframe_s} s, got "
                f"{len(candles)} from {candles.index[0]} to {candles.index[-1]}"
            )
        return opens_s

    @property
    def _n_kept(self) -> int:
        return tail_candles(self.horizon) + self.last

    def _make_room(self, n_new: int) -> None:
        """Append missing candles, and forget old ones that no row reads any more."""
        for pair, known in self._candles.items():
            missing = np.full((len(_CANDLE_NAMES), n_new), np.nan)
            self._candles[pair] = np.concatenate([known[:, -self._n_kept :], missing], axis=1)
        self._n = min(self._n, self._n_kept) + n_new
        n_market = profile_candles(self.horizon, self.timeframe_s) + self.last
        self._market = np.concatenate([self._market[-n_market:], np.full(n_new, np.nan)])
        self._end += pd.Timedelta(seconds=n_new * self.timeframe_s)

    def _put(self, pair: str, opens_s: NDArray[np.int64], candles: pd.DataFrame) -> int:
        """Note a pair's candles; return how many rows, from the first changed one on, are stale."""
        known = self._candles.setdefault(pair, np.full((len(_CANDLE_NAMES), self._n), np.nan))
        place = self._n - 1 - (int(self._end.timestamp()) - opens_s) // self.timeframe_s
        first = int(np.searchsorted(place, 0))  # older ones are forgotten
        place, values = place[first:], column_values(candles.iloc[first:], _CANDLE_NAMES)
        there, before = ~np.isnan(values), known[:, place]
        changed = (there & (values != before)).any(axis=0)
        if not changed.any():
            return 0
        known[:, place] = np.where(there, values, before)
        # A hole right before the first change is bridged now.
        high, low, close = known[:3, : place[changed][0]]
        traded = np.flatnonzero(~(np.isnan(close) | find_impossible(high, low, close)))
        first_stale = int(traded[-1]) + 1 if len(traded) else 0
        return int(self._n - first_stale)

    def _compute(self, stale: int) -> None:
        """Compute the last `stale` rows, as far as they are kept."""
        step = pd.Timedelta(seconds=self.timeframe_s)
        grid = pd.date_range(end=self._end, periods=self._n, freq=step, name="date")
        frames = {
            pair: pd.DataFrame(self._candles[pair].T, grid, _CANDLE_COLUMNS, copy=False)
            for pair in sorted(self._candles)
        }
        # Where older candles are forgotten, the first ones kept have no full horizon behind them, and
        # none that would bridge them.
        is_whole = len(self._market) == self._n
        n_known = self._n - self.horizon - MAX_BRIDGE_CANDLES
        n_market = min(stale, self._n if is_whole else n_known)
        volatilities = (vol_horizon(frame, self.horizon, n_market) for frame in frames.values())
        self._market[-n_market:] = _mean_of_present(volatilities)
        count = min(stale, self.last, self._n)
        own = {pair: own_features(frame, self.horizon, count) for pair, frame in frames.items()}
        before = self._market[:-count]
        fresh = context_features(own, self.horizon, self.timeframe_s, before=before)
        if count < self.last and len(self._shared):
            stop = int(self._shared.index.searchsorted(fresh.index[0]))
            still = self._shared.iloc[max(0, stop - (self.last - count)) : stop]
            fresh = pd.concat([still, fresh])
        self._shared = fresh
