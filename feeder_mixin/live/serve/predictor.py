"""Columns of the host's frame: the newest candles predicted, older ones kept as they were served.

A candle's ``safety_q`` is the value of the model in force at that candle times the calibration factor
in force there, and is never recomputed by a later model. What runs here runs on the bot's main
thread once per pair and candle, and waits for no store and no training. It reads files only for a
pair's first candle, and when the market's features are made anew (`_advance_context`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from feeder_mixin.errors import CandleError
from feeder_mixin.live.serve.calibration import Calibration
from feeder_mixin.live.serve.candles import DataFolder, LiveTails, Tail
from feeder_mixin.live.serve.columns import (
    NO_FORECASTS,
    RawForecasts,
    SafetyColumns,
    empty_columns,
    raw_forecasts,
)
from feeder_mixin.live.serve.snapshot import PairSnapshot
from feeder_mixin.market.blackouts import NO_BLACKOUTS, Blackouts
from feeder_mixin.market.context import ContextTail, context_candles
from feeder_mixin.model.rows import open_seconds
from feeder_mixin.schema import open_text

logger = logging.getLogger(__name__)

_LOOK_BACK: Final = 12
"""Candles of the context that are taken again with the newest: some may have come late."""


class Predictor:
    """Predicts candle by candle, on the bot's main thread.

    Parameters
    ----------
    tails
        Candles of every pair followed.
    calibration
        Turns forecasts into what is served.
    host_frame
        Gives the host's candles of a context pair; an empty frame when it has none.
    """

    def __init__(
        self,
        folder: DataFolder,
        tails: LiveTails,
        calibration: Calibration,
        host_frame: Callable[[str], pd.DataFrame],
    ) -> None:
        self._settings = folder.settings
        self._folder = folder
        self.tails = tails
        self.calibration = calibration
        self._host_frame = host_frame
        self.context: ContextTail | None = None
        self._n_frame = 0
        self._columns: dict[str, SafetyColumns] = {}
        self._repaired: set[str] = set()
        self._context_changed = True
        self._behind: set[str] = set()
        self._unusual: set[str] = set()

    def predict(
        self,
        pair: str,
        frame: pd.DataFrame,
        snapshot: PairSnapshot,
        blackouts: Blackouts = NO_BLACKOUTS,
    ) -> SafetyColumns:
        """Return the columns of the host's frame; only candles not seen before are predicted."""
        columns = self._predict(pair, frame, snapshot, blackouts)
        self._columns[pair] = columns  # whole: other threads read `served`
        return columns

    def served(self, pair: str) -> SafetyColumns | None:
        """Return the columns that a pair's newest frame got, None before the first; any thread."""
        return self._columns.get(pair)

    @property
    def columns(self) -> Mapping[str, SafetyColumns]:
        """Return what was served last, by pair."""
        return self._columns

    def restore(self, columns: Mapping[str, SafetyColumns]) -> None:
        """Go on from what another predictor served: its candles keep their values."""
        self._columns = dict(columns)

    def _predict(
        self, pair: str, frame: pd.DataFrame, snapshot: PairSnapshot, blackouts: Blackouts
    ) -> SafetyColumns:
        opens_s = pd.DatetimeIndex(frame["date"]).as_unit("s").asi8
        known = self._columns.get(pair)
        earlier = empty_columns(opens_s) if known is None else known.reindexed(opens_s)
        context = self._advance_context(int(opens_s[-1]), len(frame))
        tail = self._take(pair, frame)
        if tail is None or context is None or not snapshot.servings:
            return earlier
        is_new = self._is_new(pair, earlier) & (opens_s >= snapshot.servings[0].first_candle_s)
        raw = self._forecast(opens_s[is_new], context, tail, snapshot)
        forecasts = earlier.joined(raw)
        # Also where nothing is new: the labels of candles that were served go on ending.
        q = self.calibration.serve(pair, forecasts, tail)
        self._say_unusual(pair, raw, int(opens_s[-1]))
        return forecasts.columns(q, blackouts.cover(opens_s, self._folder.timeframe_s))

    def _is_new(self, pair: str, earlier: SafetyColumns) -> NDArray[np.bool_]:
        """Return which candles of a frame are to be predicted: later ones, and once those missed."""
        known = self._columns.get(pair)
        if known is None or pair in self._repaired:
            self._repaired.discard(pair)
            return np.isnan(earlier.q)
        return np.asarray(earlier.opens_s > known.opens_s[-1])

    def _forecast(
        self, opens_s: NDArray[np.int64], context: ContextTail, tail: Tail, snapshot: PairSnapshot
    ) -> RawForecasts:
        """Return the raw forecasts of a pair's candles, as far as they have features."""
        if not len(opens_s):
            return NO_FORECASTS
        n_last = int((tail.last_s - opens_s[0]) // tail.timeframe_s) + 1
        table = context.build(tail.frame(), n_last)
        wanted = table[np.isin(open_seconds(table), opens_s)]
        if not len(wanted):
            return NO_FORECASTS
        return raw_forecasts(wanted, snapshot, self._settings)

    def _say_unusual(self, pair: str, raw: RawForecasts, newest_s: int) -> None:
        """Say when a pair's newest candle is out of the ordinary, and not again while they all are."""
        if not len(raw.opens_s) or raw.opens_s[-1] != newest_s:
            return
        if not raw.newest_unusual:
            self._unusual.discard(pair)
        elif pair not in self._unusual:
            self._unusual.add(pair)
            logger.info(
                "Candle is out of the ordinary, not called safe pair=%s candle=%s: %s",
                pair,
                open_text(newest_s),
                raw.newest_unusual,
            )

    def _take(self, pair: str, frame: pd.DataFrame) -> Tail | None:
        tail, changed = self.tails.take(pair, frame)
        if changed:
            self._repaired.add(pair)
            self._context_changed |= pair in self._settings.context_pairs
        return tail

    def _advance_context(self, until_s: int, n_frame: int) -> ContextTail | None:
        """Return the context up to a candle; taken from the host once a candle."""
        if n_frame > self._n_frame:  # the first pair may be a young one with a short frame
            self._n_frame, self._context_changed = n_frame, True
        before_s = self.tails.until_s
        if until_s <= before_s and not self._context_changed:
            return self.context
        since_s = before_s - _LOOK_BACK * self._folder.timeframe_s
        self.tails.until_s = until_s = max(until_s, before_s)
        newer = {}
        for pair in self._settings.context_pairs:
            tail = self._take(pair, self._host_frame(pair))
            self._say_behind(pair, tail, until_s)
            part = None if tail is None else tail.after(since_s)
            if part is not None:
                newer[pair] = part.frame()
        if self.context is None or self._context_changed:
            self.context = self._build_context()
            self._context_changed = False
        else:
            self.context.extend(newer, pd.Timestamp(until_s, unit="s", tz="UTC"))
        return self.context

    def _build_context(self) -> ContextTail | None:
        """Return the context from the data folder and the host; None without any context candle."""
        s, timeframe_s = self._settings, self._folder.timeframe_s
        since_s = (
            self.tails.until_s
            - context_candles(s.horizon_candles, timeframe_s, self._n_frame) * timeframe_s
        )
        frames = {}
        for pair in s.context_pairs:
            tail = self.tails.tails.get(pair)
            try:
                joined = self._folder.load_joined(pair, tail, since_s)
            except CandleError:  # said when the tail was read
                joined = tail
            if joined is not None:
                frames[pair] = joined.frame()
        if not frames:
            return None
        context = ContextTail(frames, s.horizon_candles, timeframe_s, self._n_frame)
        context.extend({}, pd.Timestamp(self.tails.until_s, unit="s", tz="UTC"))
        return context

    def _say_behind(self, pair: str, tail: Tail | None, until_s: int) -> None:
        is_behind = tail is None or tail.last_s < until_s
        if is_behind and pair not in self._behind:
            last = "none" if tail is None else open_text(tail.last_s)
            logger.warning(
                "Context pair is behind, features are built without it pair=%s last_candle=%s",
                pair,
                last,
            )
            self._behind.add(pair)
        elif not is_behind and pair in self._behind:
            logger.info("Context pair is back pair=%s", pair)
            self._behind.discard(pair)
