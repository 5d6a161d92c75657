"""Blackouts: times around scheduled releases in which nothing is safe, from a file that a trader writes.

A model knows candles, not calendars: around a rate decision the next two hours are unlike what the
candles before them lead to. The file is CSV with a header::

    time,minutes_before,minutes_after,name
    2026-12-10T19:00Z,150,60,FOMC

A candle is decided on at its close, so that moment is what counts: a candle is blacked out when its
close lies within a window, both ends included. ``minutes_before`` as long as the horizon covers every
candle whose horizon the release falls into. One rule for tuner, backtest and bot.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from feeder_mixin.errors import SettingsError
from feeder_mixin.schema import open_text
from feeder_mixin.settings import BotSettings

HEADER: Final = ("time", "minutes_before", "minutes_after", "name")
"""Columns of the file; the name may be left out."""

MOST_MINUTES: Final = 10_080
"""A week before and a week after: more is a typo."""

_YEARS: Final = (2000, 2199)
_LONGEST_NAME: Final = 80
_N_NEEDED: Final = 3


@dataclass(frozen=True, slots=True, order=True)
class Blackout:
    """A stretch of time in which nothing is safe, in seconds since the epoch, both ends included."""

    start_s: float
    end_s: float
    name: str = ""

    def __str__(self) -> str:
        """Return the window as status and log show it."""
        span = f"{open_text(int(self.start_s))} to {open_text(int(self.end_s))}"
        return f"{span} ({self.name})" if self.name else span


@dataclass(frozen=True, slots=True)
class Blackouts:
    """The windows of one file, sorted; immutable once read."""

    windows: tuple[Blackout, ...] = ()
    _starts_s: NDArray[np.float64] = field(init=False, repr=False, compare=False)
    _ends_s: NDArray[np.float64] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Sort what every candle is looked up in."""
        object.__setattr__(self, "windows", tuple(sorted(self.windows)))
        starts_s = np.array([window.start_s for window in self.windows], np.float64)
        ends_s = np.sort(np.array([window.end_s for window in self.windows], np.float64))
        object.__setattr__(self, "_starts_s", starts_s)
        object.__setattr__(self, "_ends_s", ends_s)

    def cover(self, opens_s: NDArray[np.int64], timeframe_s: int) -> NDArray[np.bool_]:
        """Return which candles are blacked out: their close lies within a window.

        Parameters
        ----------
        opens_s : shape (n_candles,)
            Candle opens in seconds since the epoch.
        """
        closes_s = opens_s + timeframe_s
        # Windows may overlap: inside is who has seen more of them begin than end.
        n_begun = np.searchsorted(self._starts_s, closes_s, "right")
        n_ended = np.searchsorted(self._ends_s, closes_s, "left")
        return np.asarray(n_begun > n_ended)

    def next_at(self, now_s: float) -> Blackout | None:
        """Return the window in force, else the next one; None when all are past."""
        return next((window for window in self.windows if window.end_s >= now_s), None)


NO_BLACKOUTS: Final = Blackouts()


def load_blackouts(settings: BotSettings) -> Blackouts:
    """Return the windows of the file that ``feeder.blackouts`` names; none without one.

    Raises
    ------
    SettingsError
        Naming file, line, value and what was expected.
    """
    path = settings.blackouts_path
    return NO_BLACKOUTS if path is None else read_blackouts(path)


def read_blackouts(path: Path) -> Blackouts:
    """Return the windows of a file; raises as `load_blackouts`."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets write the mark
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsError(
            f"feeder.blackouts: {path} can't be read: {reason}. Correct the key (relative paths start at "
            "the parent of user_data_dir), or take it out for no blackouts"
        ) from error
    return Blackouts(tuple(_parse(path, text)))


def _parse(path: Path, text: str) -> Iterator[Blackout]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    has_header = False
    try:
        for row in rows:
            fields = [field.strip() for field in row]
            if not any(fields) or fields[0].startswith("#"):
                continue
            place = f"feeder.blackouts: {path} line {rows.line_num}"
            if has_header:
                yield _window(place, fields)
            else:
                _check_header(place, fields)
                has_header = True
    except csv.Error as error:
        raise SettingsError(
            f"feeder.blackouts: {path} line {rows.line_num}: not CSV: {error}"
        ) from error
    if not has_header:
        raise SettingsError(f"feeder.blackouts: {path} is empty, expected the header {_header()}")


def _header() -> str:
    return repr(",".join(HEADER))


def _check_header(place: str, fields: Sequence[str]) -> None:
    if tuple(fields) not in (HEADER, HEADER[:_N_NEEDED]):
        raise SettingsError(f"{place}: {','.join(fields)!r}, expected the header {_header()}")


def _window(place: str, fields: Sequence[str]) -> Blackout:
    if not _N_NEEDED <= len(fields) <= len(HEADER):
        raise SettingsError(f"{place}: {len(fields)} values, expected {_header()}")
    time_s = _time_s(place, fields[0])
    before, after = (_minutes(place, *pair) for pair in zip(HEADER[1:3], fields[1:3], strict=True))
    name = fields[_N_NEEDED] if len(fields) > _N_NEEDED else ""
    if len(name) > _LONGEST_NAME or not name.isprintable():
        raise SettingsError(f"{place}: name={name!r}, expected at most {_LONGEST_NAME} letters")
    return Blackout(time_s - 60 * before, time_s + 60 * after, name)


def _time_s(place: str, text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None or not _YEARS[0] <= moment.year <= _YEARS[1]:
        raise SettingsError(
            f"{place}: time={text!r}, expected date and time with the zone, in UTC like "
            f"2026-12-10T19:00Z, of the years {_YEARS[0]} to {_YEARS[1]}"
        )
    return moment.timestamp()


def _minutes(place: str, name: str, text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = math.nan
    if not 0 <= minutes <= MOST_MINUTES:
        raise SettingsError(
            f"{place}: {name}={text!r}, expected minutes from 0 to {MOST_MINUTES} (a week)"
        )
    return minutes
