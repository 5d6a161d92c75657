"""The online calibration of a running bot: theta of every pair, candle by candle, over restarts.

Theta is the bot's own state: no record holds it, and neither a reload nor a new model touches it. Kept
is its track over the candles of the host's frame, so that a restart serves every candle what it was
served; what a killed bot had not written follows from the last known theta by the same rule.

2026-11: the tracks travel as base64 of their doubles. As JSON numbers a hundred pairs of a thousand
candles would keep the interpreter, and with it the main thread, for 65 ms; all of `save` takes 9 ms.
"""

from __future__ import annotations

import base64
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from feeder_mixin.documents import CandleOpen, checked
from feeder_mixin.errors import StateError
from feeder_mixin.live.serve.candles import Tail
from feeder_mixin.live.serve.columns import FrameForecasts
from feeder_mixin.live.state.files import read_checked, write_checked
from feeder_mixin.market.candles import CLOCK_SLACK_S, COLUMNS
from feeder_mixin.market.holes import MAX_BRIDGE_CANDLES, bridge_values
from feeder_mixin.market.windows import rolling_extreme
from feeder_mixin.model.calibration import calibrate_newer, factors
from feeder_mixin.schema import open_text
from feeder_mixin.settings import FeederSettings, Side

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]

_FORMAT: Final = 1
"""Raise it when the file's content changes: theta then begins at 0 again."""

_DOUBLE: Final = np.dtype("<f8")
_HIGH, _LOW, _CLOSE, _VOLUME = (COLUMNS.index(n) for n in ("high", "low", "close", "volume"))


@dataclass(frozen=True, slots=True)
class ThetaTrack:
    """Theta in force at each candle of a run on a regular grid; never changed, only replaced.

    Attributes
    ----------
    first_s
        Open of the first candle in seconds since the epoch.
    thetas : shape (n,), at least one
        At a candle that is missing, that of the one before.
    """

    first_s: int
    timeframe_s: int
    thetas: Array

    @property
    def last_s(self) -> int:
        """Return the open of the last candle."""
        return self.first_s + (len(self.thetas) - 1) * self.timeframe_s

    @property
    def last(self) -> float:
        """Return theta at the last candle."""
        return float(self.thetas[-1])

    def at(self, opens_s: NDArray[np.int64]) -> Array:
        """Return theta at candles; before the first one its own, after the last one the last."""
        place = (opens_s - self.first_s) // self.timeframe_s
        return self.thetas[np.clip(place, 0, len(self.thetas) - 1)]

    def extended(self, opens_s: NDArray[np.int64], thetas: Array, keep: int) -> ThetaTrack:
        """Return the track with later candles, of which the newest `keep` stay."""
        ends_s = np.append(opens_s[1:], opens_s[-1] + self.timeframe_s)
        fresh = np.repeat(thetas, np.minimum((ends_s - opens_s) // self.timeframe_s, keep))
        n_missing = min((int(opens_s[0]) - self.last_s) // self.timeframe_s - 1, keep)
        known = np.concatenate([self.thetas, np.full(n_missing, self.last), fresh])[-keep:]
        first_s = int(opens_s[-1]) - (len(known) - 1) * self.timeframe_s
        return ThetaTrack(first_s, self.timeframe_s, known)


class Calibration:
    """Theta of every pair of a bot.

    `serve` is called on the bot's main thread only; other threads call `factor` and `save`. Tracks are
    replaced whole, never changed in place.

    Parameters
    ----------
    keep
        Candles of a pair for which theta is kept: at least those of the host's frame.
    """

    def __init__(self, settings: FeederSettings, timeframe_s: int, keep: int) -> None:
        self.settings = settings
        self._timeframe_s = timeframe_s
        self._keep = keep
        self._saved: dict[str, int] = {}
        self._tried_at = -math.inf
        self.tracks: dict[str, ThetaTrack] = {}

    def factor(self, pair: str) -> float:
        """Return what a pair's forecasts are multiplied by now; 1 at the beginning."""
        track = self.tracks.get(pair)
        return 1.0 if track is None else math.exp(track.last)

    def serve(self, pair: str, forecasts: FrameForecasts, tail: Tail) -> Array:
        """Return the quantiles that a frame's candles are served.

        Candles after those seen move theta by the labels that ended since; one that was seen before
        (after a restart, or filled in by a download) is served by the theta it had.

        Parameters
        ----------
        tail
            The pair's candles, to the newest.
        """
        opens_s, q = forecasts.opens_s, forecasts.q.copy()
        first_s = int(opens_s[0]) - self._timeframe_s
        track = self.tracks.get(pair) or ThetaTrack(first_s, self._timeframe_s, np.zeros(1))
        older = forecasts.is_new & (opens_s <= track.last_s)
        q[older] *= factors(track.at(opens_s[older]))
        # Up to the last candle that is served: where a gap is filled later, nothing was said yet.
        served = np.flatnonzero(np.isfinite(q))
        n = int(served[-1]) + 1 if len(served) else 0
        if not n or opens_s[n - 1] <= track.last_s:
            return q
        q[:n], thetas = calibrate_newer(
            q[:n],
            self._ended_excursions(opens_s[:n], track.last_s, tail),
            forecasts.alpha[:n],
            opens_s[:n],
            label_s=self._label_s,
            theta=track.last,
            seen_s=track.last_s,
        )
        self.tracks[pair] = track.extended(opens_s[n - len(thetas) : n], thetas, self._keep)
        return q

    @property
    def _label_s(self) -> int:
        return self.settings.horizon_candles * self._timeframe_s

    def _ended_excursions(self, opens_s: NDArray[np.int64], seen_s: int, tail: Tail) -> Array:
        """Return the labels that ended after the row seen last; NaN for the others."""
        excursions = np.full(len(opens_s), np.nan)
        ends = np.array([seen_s, opens_s[-1]]) - self._label_s
        first, stop = np.searchsorted(opens_s, ends, "right")
        if first < stop:
            excursions[first:stop] = excursions_at(
                opens_s[first:stop], tail, self.settings.horizon_candles, self.settings.side
            )
        return excursions

    # -------------------------------------------------------------- the file, other threads

    def is_due(self, pause_s: float) -> bool:
        """Return whether a candle came since `save`, which was tried `pause_s` ago or earlier."""
        is_newer = self._ends_s(self.tracks) != self._saved
        return is_newer and time.monotonic() >= self._tried_at + pause_s

    def save(self, path: Path) -> None:
        """Write all tracks.

        Raises
        ------
        StateError
            When it can't be written.
        """
        self._tried_at = time.monotonic()
        tracks = dict(self.tracks)
        pairs = {
            pair: {
                "first_candle_s": track.first_s,
                "thetas": base64.b64encode(track.thetas.astype(_DOUBLE).tobytes()).decode(),
            }
            for pair, track in tracks.items()
        }
        write_checked(path, {"identity": self._identity, "pairs": pairs})
        self._saved = self._ends_s(tracks)

    def restore(self, path: Path) -> None:
        """Go on from what `save` wrote, of pairs that are no longer traded, too.

        What can't be used is said; theta then begins at 0.
        """
        try:
            document = read_checked(path)
            if document is None:
                return
            if document.get("identity") != self._identity:
                logger.warning(
                    "Saved calibration does not match this config (side, horizon, timeframe or "
                    "version changed): it begins anew"
                )
                return
            kept = checked(
                _Kept, document, lambda problem: StateError(f"{path} is not usable: {problem}")
            )
            self.tracks = {
                pair: _track_of(f"{path}: {pair}", entry, self._timeframe_s)
                for pair, entry in kept["pairs"].items()
            }
        except StateError as error:
            logger.error("Calibration is lost, it begins anew: %s", error)  # noqa: TRY400
            return
        self._saved = self._ends_s(self.tracks)

    def _ends_s(self, tracks: Mapping[str, ThetaTrack]) -> dict[str, int]:
        return {pair: track.last_s for pair, track in dict(tracks).items()}

    @property
    def _identity(self) -> dict[str, Any]:
        """Return what theta belongs to: that of another side, horizon or timeframe says nothing."""
        s = self.settings
        return {
            "format": _FORMAT,
            "side": s.side,
            "horizon_candles": s.horizon_candles,
            "timeframe": s.timeframe,
        }


class _KeptTrack(TypedDict):
    """Theta of a pair as it is kept: the first candle, and base64 of one double a candle."""

    first_candle_s: CandleOpen
    thetas: str


class _Kept(TypedDict):
    pairs: dict[str, _KeptTrack]


def _track_of(where: str, kept: _KeptTrack, timeframe_s: int) -> ThetaTrack:
    """Return a pair's track, or raise `StateError` that begins with `where`."""
    try:
        thetas = np.frombuffer(base64.b64decode(kept["thetas"], validate=True), _DOUBLE)
    except ValueError as error:
        raise StateError(f"{where} has thetas that are not base64 of doubles: {error}") from error
    if not (len(thetas) and np.isfinite(thetas).all()):
        raise StateError(f"{where} has a theta that is not a finite number")
    track = ThetaTrack(kept["first_candle_s"], timeframe_s, thetas.astype(np.float64))
    if track.last_s > time.time() + CLOCK_SLACK_S:
        raise StateError(
            f"{where} extends to {open_text(track.last_s)}, which is in the future (was the clock "
            "wrong?)"
        )
    return track


def excursions_at(opens_s: NDArray[np.int64], tail: Tail, horizon: int, side: Side) -> Array:
    """Return the labels of candles, ascending: those of `market.labels.adverse_excursions`.

    NaN where the horizon is not over or spans a missing candle or a halt. For one candle this takes 0.03 ms and
    pandas 2.5: a third of all that a candle of a pair costs.
    """
    place = (opens_s - tail.first_s) // tail.timeframe_s
    before = MAX_BRIDGE_CANDLES + 1  # whether the first candle is in a halt
    first, count = int(place[0]) - before, int(place[-1] - place[0]) + 1
    rows = np.full((before + count + horizon, tail.rows.shape[1]), np.nan)
    known = tail.rows[max(first, 0) : max(first + len(rows), 0)]
    start = max(-first, 0)
    rows[start : start + len(known)] = known
    there = bridge_values(
        rows[:, _HIGH], rows[:, _LOW], rows[:, _CLOSE], rows[:, _VOLUME], tail.timeframe_s
    )
    close = np.where(there.invented, np.nan, there.close)[before : before + count]
    if side == "short":
        highest = np.where(there.invented, np.nan, there.high)
        labels = 1.0 - rolling_extreme(highest, horizon, count, np.maximum) / close
    else:
        lowest = np.where(there.invented, np.nan, there.low)
        labels = rolling_extreme(lowest, horizon, count, np.minimum) / close - 1.0
    wanted: Array = labels[place - int(place[0])]
    return wanted
