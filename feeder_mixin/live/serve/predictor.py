"""Columns of the host's frame: the newest candles predicted, older ones kept as they were said.

A candle's ``safety_q`` is the value of the model in force at that candle times the calibration factor
in force there, and is never recomputed by a later model. What runs here runs on the bot's main thread once per pair and candle, and waits for
nothing: no store, no file (but a pair's first), no training.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from feeder_mixin.errors import CandleError
from feeder_mixin.live.serve.calibration import Calibration
from feeder_mixin.live.serve.candles import DataFolder, LiveTails, Tail
from feeder_mixin.live.serve.snapshot import PairSnapshot, Serving
from feeder_mixin.market.context import ContextTail, context_candles
from feeder_mixin.model.rows import open_seconds
from feeder_mixin.schema import open_text

logger = logging.getLogger(__name__)

_LOOK_BACK: Final = 12
"""Candles of the context that are taken again with the newest: some may have come late."""


@dataclass(frozen=True, slots=True)
class SafetyColumns:
    """What the host's frame gets, one value a candle.

    Attributes
    ----------
    opens_s
        Candle opens, ascending.
    q
        ``safety_q``: predicted excursion quantile, a ratio, negative = adverse; NaN without model.
    safe
        Whether the candle is predicted safe.
    generation
        The generation whose record trained the serving model; 0 without, or from an earlier process.
    alpha
        The serving model's quantile level; NaN without model.
    """

    opens_s: NDArray[np.int64]
    q: NDArray[np.float64]
    safe: NDArray[np.bool_]
    generation: NDArray[np.int64]
    alpha: NDArray[np.float64]

    def reindexed(self, opens_s: NDArray[np.int64]) -> SafetyColumns:
        """Return the values of these candles; without value where there is none."""
        columns = empty_columns(opens_s)
        at = np.searchsorted(self.opens_s, opens_s)
        known = at < len(self.opens_s)
        known[known] = self.opens_s[at[known]] == opens_s[known]
        columns.q[known] = self.q[at[known]]
        columns.safe[known] = self.safe[at[known]]
        columns.generation[known] = self.generation[at[known]]
        columns.alpha[known] = self.alpha[at[known]]
        return columns


def empty_columns(opens_s: NDArray[np.int64]) -> SafetyColumns:
    """Return columns without any prediction."""
    n = len(opens_s)
    return SafetyColumns(
        opens_s, np.full(n, np.nan), np.zeros(n, bool), np.zeros(n, np.int64), np.full(n, np.nan)
    )


def fill(
    columns: SafetyColumns, table: pd.DataFrame, servings: Sequence[Serving], max_age_s: float
) -> None:
    """Write the raw forecasts of a table's rows into `columns`, each by the model in force there.

    `safe` says for now whether the record's model may be trusted at all.

    Parameters
    ----------
    columns
        Has every row of the table.
    servings
        Oldest first. A row before the first has no prediction.
    max_age_s
        Seconds after its cut from which a model calls nothing safe.
    """
    opens_s = open_seconds(table)
    first = np.array([s.first_candle_s for s in servings], np.int64)
    in_force = np.searchsorted(first, opens_s, "right") - 1
    for number in np.unique(in_force[in_force >= 0]):
        serving = servings[number]
        rows = in_force == number
        at = np.searchsorted(columns.opens_s, opens_s[rows])
        columns.q[at] = serving.model.safety.predict(table if rows.all() else table[rows])
        is_young = opens_s[rows] < serving.model.cut_s + max_age_s
        columns.safe[at] = is_young & serving.loaded.beats_rule
        columns.generation[at] = serving.generation
        columns.alpha[at] = serving.model.safety.alpha


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
        self._tails = tails
        self._calibration = calibration
        self._host_frame = host_frame
        self._context: ContextTail | None = None
        self._until_s = 0
        self._n_frame = 0
        self._columns: dict[str, SafetyColumns] = {}
        self._repaired: set[str] = set()
        self._context_changed = True
        self._behind: set[str] = set()

    def predict(self, pair: str, frame: pd.DataFrame, snapshot: PairSnapshot) -> SafetyColumns:
        """Return the columns of the host's frame; only candles not seen before are predicted."""
        columns = self._predict(pair, frame, snapshot)
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

    def _predict(self, pair: str, frame: pd.DataFrame, snapshot: PairSnapshot) -> SafetyColumns:
        opens_s = pd.DatetimeIndex(frame["date"]).as_unit("s").asi8
        before = self._columns.get(pair)
        columns = empty_columns(opens_s) if before is None else before.reindexed(opens_s)
        context = self._advance_context(int(opens_s[-1]), len(frame))
        tail = self._take(pair, frame)
        if tail is None or context is None or not snapshot.servings:
            return columns
        if before is None or pair in self._repaired:
            new = np.isnan(columns.q)
            self._repaired.discard(pair)
        else:
            new = opens_s > before.opens_s[-1]
        new &= opens_s >= snapshot.servings[0].first_candle_s
        if new.any():
            n_last = int((tail.last_s - opens_s[new][0]) // tail.timeframe_s) + 1
            table = context.build(tail.frame(), n_last)
            wanted = table[np.isin(open_seconds(table), opens_s[new])]
            if len(wanted):
                max_age_s = self._settings.model_max_age_hours * 3600
                fill(columns, wanted, snapshot.servings, max_age_s)
        # Also where nothing is new: the labels of candles that were served go on ending.
        self._calibration.serve(pair, columns.opens_s, columns.q, columns.alpha, new, tail)
        columns.safe[new] &= columns.q[new] >= -self._settings.max_adverse_ratio
        return columns

    @property
    def until_s(self) -> int:
        """Return the open of the newest candle seen, 0 before the first."""
        return self._until_s

    def _take(self, pair: str, frame: pd.DataFrame) -> Tail | None:
        tail, changed = self._tails.take(pair, frame)
        if changed:
            self._repaired.add(pair)
            self._context_changed |= pair in self._settings.context_pairs
        return tail

    def _advance_context(self, until_s: int, n_frame: int) -> ContextTail | None:
        """Return the context up to a candle; taken from the host once a candle."""
        if n_frame > self._n_frame:  # the first pair may be a young one with a short frame
            self._n_frame, self._context_changed = n_frame, True
        if until_s <= self._until_s and not self._context_changed:
            return self._context
        since_s = self._until_s - _LOOK_BACK * self._folder.timeframe_s
        self._until_s = until_s = max(until_s, self._until_s)
        newer = {}
        for pair in self._settings.context_pairs:
            tail = self._take(pair, self._host_frame(pair))
            self._say_behind(pair, tail, until_s)
            part = None if tail is None else tail.after(since_s)
            if part is not None:
                newer[pair] = part.frame()
        if self._context is None or self._context_changed:
            self._context = self._build_context()
            self._context_changed = False
        else:
            self._context.extend(newer, pd.Timestamp(until_s, unit="s", tz="UTC"))
        return self._context

    def _build_context(self) -> ContextTail | None:
        """Return the context from the data folder and the host; None without any context candle."""
        s, timeframe_s = self._settings, self._folder.timeframe_s
        since_s = (
            self._until_s
            - context_candles(s.horizon_candles, timeframe_s, self._n_frame) * timeframe_s
        )
        frames = {}
        for pair in s.context_pairs:
            tail = self._tails.tails.get(pair)
            try:
                joined = self._folder.load_joined(pair, tail, since_s)
            except CandleError:  # said when the tail was read
                joined = tail
            if joined is not None:
                frames[pair] = joined.frame()
        if not frames:
            return None
        context = ContextTail(frames, s.horizon_candles, timeframe_s, self._n_frame)
        context.extend({}, pd.Timestamp(self._until_s, unit="s", tz="UTC"))
        return context

    def _say_behind(self, pair: str, tail: Tail | None, until_s: int) -> None:
        is_behind = tail is None or tail.last_s < until_s
        if is_behind and pair not in self._behind:
            last = "none" if tail is None else open_text(tail.last_s)
            logger.warning(
                "Context pair is behind, features go on without it pair=%s last_candle=%s",
                pair,
                last,
            )
            self._behind.add(pair)
        elif not is_behind and pair in self._behind:
            logger.info("Context pair is back pair=%s", pair)
            self._behind.discard(pair)
