"""Candles as the bot has them: the data folder's, then the host's.

One rule for live, backtest and training: a candle that is on disk is taken from there, newer ones
from the host's frame. Frames are on a regular UTC grid; missing candles are NaN rows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from feeder_mixin.errors import CandleError, MissingCandlesError
from feeder_mixin.market.candles import COLUMNS, find_candle_file, load_candles
from feeder_mixin.market.features import warmup_candles
from feeder_mixin.market.formats import describe_other_forms
from feeder_mixin.model.rows import DAY_S, expected_rows
from feeder_mixin.schema import open_text
from feeder_mixin.settings import FeederSettings

logger = logging.getLogger(__name__)

_SLACK: Final = 288
"""Candles above `keep` before a tail is cut: cutting copies it."""

_SECOND_LOOK_S: Final = 0.3
"""Pause before a file that looks damaged is read once more."""

_NO_FILE: Final = "none"
"""Stamp of candles that are not there."""

_OVERLAP: Final = 12
"""Newest host rows that are looked at again: a candle the exchange served late is filled in."""


@dataclass(frozen=True, slots=True)
class Tail:
    """A run of candles on a regular grid; never changed, only replaced.

    Attributes
    ----------
    first_s
        Open of the first candle in seconds since the epoch.
    rows : shape (n, 5)
        Open, high, low, close, volume; NaN where a candle is missing.
    """

    first_s: int
    timeframe_s: int
    rows: NDArray[np.float64]

    @property
    def last_s(self) -> int:
        """Return the open of the last candle."""
        return self.first_s + (len(self.rows) - 1) * self.timeframe_s

    def frame(self, n_last: int | None = None) -> pd.DataFrame:
        """Return the last candles in the form of `Candles.frame`."""
        rows = self.rows if n_last is None else self.rows[-n_last:]
        start = self.last_s - (len(rows) - 1) * self.timeframe_s
        index = pd.date_range(
            pd.Timestamp(start, unit="s", tz="UTC"),
            periods=len(rows),
            freq=pd.Timedelta(seconds=self.timeframe_s),
            name="date",
        )
        return pd.DataFrame(rows, index=index, columns=list(COLUMNS))

    def after(self, open_s: int) -> Tail | None:
        """Return the candles that open later, or None without any."""
        skip = max(0, (open_s - self.first_s) // self.timeframe_s + 1)
        if skip >= len(self.rows):
            return None
        return Tail(self.first_s + skip * self.timeframe_s, self.timeframe_s, self.rows[skip:])

    def before(self, open_s: int) -> Tail | None:
        """Return the candles that open earlier, or None without any."""
        keep = -((self.first_s - open_s) // self.timeframe_s)
        if keep <= 0:
            return None
        return Tail(self.first_s, self.timeframe_s, self.rows[:keep])

    def newest(self, n: int) -> Tail:
        """Return the last `n` candles."""
        rows = self.rows[-n:]
        return Tail(self.last_s - (len(rows) - 1) * self.timeframe_s, self.timeframe_s, rows)

    def joined(self, other: Tail) -> Tail:
        """Return both as one: what `other` has is added, what is here stays."""
        first = min(self.first_s, other.first_s)
        n = (max(self.last_s, other.last_s) - first) // self.timeframe_s + 1
        rows = np.full((n, len(COLUMNS)), np.nan)
        for part in (other, self):
            start = (part.first_s - first) // self.timeframe_s
            target = rows[start : start + len(part.rows)]
            known = ~np.isnan(part.rows[:, 3])
            target[known] = part.rows[known]
        return Tail(first, self.timeframe_s, rows)

    @property
    def n_missing(self) -> int:
        """Return how many candles are missing between first and last."""
        return int(np.isnan(self.rows[:, 3]).sum())


def from_host(frame: pd.DataFrame, timeframe_s: int, n_last: int | None = None) -> Tail | None:
    """Return the host's last candles (column ``date``, ascending), or None without any."""
    if frame.empty:
        return None
    first = 0 if n_last is None else max(0, len(frame) - n_last)
    opens = pd.DatetimeIndex(frame["date"].array[first:]).as_unit("s").asi8
    at = (opens - opens[0]) // timeframe_s
    rows = np.full((int(at[-1]) + 1, len(COLUMNS)), np.nan)
    for number, name in enumerate(COLUMNS):  # a frame of five columns would cost ten times as much
        rows[at, number] = frame[name].to_numpy(np.float64)[first:]
    return Tail(int(opens[0]), timeframe_s, rows)


def from_frame(frame: pd.DataFrame, timeframe_s: int) -> Tail:
    """Return candles in the form of `Candles.frame`."""
    return Tail(int(frame.index[0].timestamp()), timeframe_s, frame.to_numpy(np.float64))


@dataclass(frozen=True, slots=True)
class DataFolder:
    """The candles on disk that this feeder reads.

    Attributes
    ----------
    listed_s
        Pair -> when it was listed, in seconds since the epoch. A pair of which that is not known is
        left out, and counted as an old one.
    """

    settings: FeederSettings
    datadir: Path
    timeframe_s: int
    listed_s: Mapping[str, int] = field(default_factory=dict)

    def expected_rows(self, pair: str, cut_s: int) -> int:
        """Return how many rows a fit learns from where no candle is missing since the listing."""
        return expected_rows(
            cut_s,
            self.settings.label(self.timeframe_s),
            train_days=self.settings.train_days,
            first_s=self._first_s(pair, warmup_candles(self.settings.horizon_candles) - 1),
        )

    def wanted_from_s(self, pair: str, cut_s: int) -> int:
        """Return the open of the first candle that a fit at a cut reads of a pair."""
        warmup = warmup_candles(self.settings.horizon_candles)
        start_s = int(cut_s - self.settings.train_days * DAY_S) - warmup * self.timeframe_s
        return max(start_s, self._first_s(pair, 0) or start_s)

    def _first_s(self, pair: str, n_later: int) -> int | None:
        listed_s = self.listed_s.get(pair)
        return None if listed_s is None else listed_s + n_later * self.timeframe_s

    def load(self, pair: str, since_s: int | None = None) -> Tail | None:
        """Return a pair's candles, or None where there is no file.

        Where all are older than `since_s`, the newest one says where the file ends.

        Raises
        ------
        CandleError
            When the file is damaged.
        """
        try:
            return self._load(pair, since_s)
        except CandleError:
            # freqtrade writes a file in place: another bot's download may be at it right now.
            time.sleep(_SECOND_LOOK_S)
            return self._load(pair, since_s)

    def _load(self, pair: str, since_s: int | None) -> Tail | None:
        s = self.settings
        since = None if since_s is None else pd.Timestamp(since_s, unit="s", tz="UTC")
        source = (self.datadir, pair, s.timeframe, s.candle_type, s.data_format)
        try:
            return from_frame(load_candles(*source, since=since).frame, self.timeframe_s)
        except MissingCandlesError:
            return None
        except CandleError:
            if since is None:
                raise
            whole = from_frame(load_candles(*source).frame, self.timeframe_s)
            if since_s is None or whole.last_s >= since_s:
                raise  # damaged where it was asked for
            return whole.newest(1)

    def describe_other_forms(self, pair: str) -> str:
        """Return what is there in place of a pair's missing file, as the end of a sentence."""
        s = self.settings
        path = find_candle_file(self.datadir, pair, s.timeframe, s.candle_type, s.data_format)
        return describe_other_forms(path, pair, s.data_format)

    def has(self, pair: str) -> bool:
        """Return whether there is a file of a pair."""
        return self.stamp(pair) != _NO_FILE

    def stamp(self, pair: str) -> str:
        """Return what changes with every write to a pair's file: its size and time."""
        s = self.settings
        try:
            stat = find_candle_file(
                self.datadir, pair, s.timeframe, s.candle_type, s.data_format
            ).stat()
        except OSError:
            return _NO_FILE
        return f"{stat.st_size} {stat.st_mtime_ns}"

    def load_joined(self, pair: str, newer: Tail | None, since_s: int | None = None) -> Tail | None:
        """Return the folder's candles followed by the newer ones of the host; None without either.

        A candle that is missing inside the folder stays missing here. What the host makes up for it
        (flat, no volume) means the same: `market.holes` bridges both alike.
        """
        return followed(self.load(pair, since_s), newer)


class LiveTails:
    """The newest candles of every pair a bot follows, kept as the host brings more.

    `take` is called on the bot's main thread only. Other threads read `tails`, whose values never
    change, and hand in what a download brought by `repair`.

    Parameters
    ----------
    keep
        Candles kept in memory per pair.

    Attributes
    ----------
    until_s
        Open of the newest candle that the host has asked about, 0 before the first.
    """

    def __init__(self, folder: DataFolder, keep: int) -> None:
        self.folder = folder
        self._keep = keep
        self._repairs: dict[str, Tail] = {}
        self.until_s = 0
        self.tails: dict[str, Tail] = {}
        self.disk_last_s: dict[str, int | None] = {}

    def take(self, pair: str, frame: pd.DataFrame) -> tuple[Tail | None, bool]:
        """Take the host's newest candles.

        Returns
        -------
        tail, changed
            The pair's candles, None without any; whether older ones than the host's newest changed.
        """
        known = self.tails.get(pair)
        repair = self._repairs.pop(pair, None)
        if known is None:
            tail = self._first(pair, from_host(frame, self.folder.timeframe_s))
        else:
            if repair is not None:
                self.disk_last_s[pair] = repair.last_s
            tail = followed(repair, known) or known
            tail = _with_newest(tail, frame, self.disk_last_s.get(pair))
        if tail is None:
            return None, False
        if len(tail.rows) > self._keep + _SLACK:
            tail = tail.newest(self._keep)
        self.tails[pair] = tail
        return tail, known is None or repair is not None

    def repair(self, pair: str) -> None:
        """Read what the folder holds now; the next `take` fills gaps with it."""
        known = self.tails.get(pair)
        on_disk = self._load(pair, known.last_s if known else None)
        if on_disk is not None:
            self._repairs[pair] = on_disk

    def gap(self, pair: str) -> str | None:
        """Return what is missing between data folder and host, or None."""
        tail = self.tails.get(pair)
        if tail is None:
            return None  # the host has not come to this pair yet
        repair = self._repairs.get(pair)
        if repair is not None:
            tail = followed(repair, tail) or tail
        disk_last_s = repair.last_s if repair else self.disk_last_s.get(pair)
        if disk_last_s is None:
            other = self.folder.describe_other_forms(pair)
            return f"no candles on disk before {open_text(tail.first_s)}{other}"
        live = tail.after(disk_last_s)
        if live is None:
            return None
        known = live.first_s + live.timeframe_s * np.flatnonzero(~np.isnan(live.rows[:, 3]))
        opens_s = np.concatenate([[disk_last_s], known])
        holes = np.flatnonzero(np.diff(opens_s) > live.timeframe_s)  # the bot was away for longer
        if not len(holes):
            return None
        before_s, after_s = opens_s[holes[0]], opens_s[holes[0] + 1]
        return f"candles from {open_text(int(before_s) + live.timeframe_s)} to {open_text(int(after_s))}"

    def _first(self, pair: str, host: Tail | None) -> Tail | None:
        on_disk = self._load(pair, host.last_s if host else None)
        self.disk_last_s[pair] = on_disk.last_s if on_disk else None
        return followed(on_disk, host)

    def _load(self, pair: str, last_s: int | None) -> Tail | None:
        since_s = None if last_s is None else last_s - self._keep * self.folder.timeframe_s
        try:
            return self.folder.load(pair, since_s)
        except CandleError as error:
            logger.error("Candles on disk can't be used: %s", error)  # noqa: TRY400
            return None


def followed(on_disk: Tail | None, host: Tail | None) -> Tail | None:
    """Return the folder's candles and, behind them, the host's newer ones; None without either."""
    if on_disk is None or host is None:
        return on_disk or host
    newer = host.after(on_disk.last_s)
    return on_disk if newer is None else on_disk.joined(newer)


def _with_newest(tail: Tail, frame: pd.DataFrame, disk_last_s: int | None) -> Tail:
    """Return `tail` with the host's newer candles, late ones, and what it corrected.

    The host hands over a candle that a slow exchange has not finished, and corrects it later: its
    newest rows win, but not over the folder's.
    """
    newest = from_host(frame, tail.timeframe_s, _OVERLAP)
    if newest is not None and newest.first_s > tail.last_s + tail.timeframe_s:
        newest = from_host(frame, tail.timeframe_s)  # the bot was away for longer
    if newest is not None and disk_last_s is not None:
        newest = newest.after(disk_last_s)
    return tail if newest is None else newest.joined(tail)


def forming_candle_s(timeframe_s: int) -> int:
    """Return the open of the candle that forms now: the first that a new model serves."""
    return int(time.time() // timeframe_s * timeframe_s)
