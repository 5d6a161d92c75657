"""The stages of a forecast: raw, on the frame beside what was served before, and as columns.

A candle passes through all of them once: `RawForecasts` (the models in force) -> `FrameForecasts`
(its place in the host's frame) -> calibrated quantiles (`live.serve.calibration`) ->
`SafetyColumns`. Each stage makes its own arrays and changes none of an earlier one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from feeder_mixin.live.serve.snapshot import PairSnapshot
from feeder_mixin.model.decision import called_safe
from feeder_mixin.model.rows import open_seconds
from feeder_mixin.settings import FeederSettings

_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True, slots=True)
class RawForecasts:
    """What the models in force say of new candles, before calibration: one value a candle.

    Attributes
    ----------
    opens_s
        Candle opens, ascending.
    q
        Predicted excursion quantile, a ratio, negative = adverse; NaN where nothing can be said.
    alpha
        Quantile level of the model.
    generation
        Generation whose record trained the model.
    tolerance
        Of the record that the model was trained from (`settings.FeederSettings.tolerance`).
    is_trusted
        Whether the model may call a candle safe: it is young enough and beats the ATR rule.
    is_ordinary
        Whether the candle is like those that the model learned from.
    newest_unusual
        What is out of the ordinary about the newest candle; empty where nothing is.
    """

    opens_s: NDArray[np.int64]
    q: NDArray[np.float64]
    alpha: NDArray[np.float64]
    generation: NDArray[np.int64]
    tolerance: NDArray[np.float64]
    is_trusted: NDArray[np.bool_]
    is_ordinary: NDArray[np.bool_]
    newest_unusual: str


NO_FORECASTS: Final = RawForecasts(
    opens_s=np.zeros(0, np.int64),
    q=np.zeros(0),
    alpha=np.zeros(0),
    generation=np.zeros(0, np.int64),
    tolerance=np.zeros(0),
    is_trusted=np.zeros(0, bool),
    is_ordinary=np.zeros(0, bool),
    newest_unusual="",
)


@dataclass(frozen=True, slots=True)
class FrameForecasts:
    """The candles of one frame: those served before as they were served, new ones with raw quantiles.

    Attributes
    ----------
    q
        Calibrated where the candle was served before, raw where it `is_new`; NaN without either.
    was_safe
        Whether a candle served before was called safe.
    is_trusted
        Whether the model of a new candle may call it safe.
    """

    opens_s: NDArray[np.int64]
    q: NDArray[np.float64]
    alpha: NDArray[np.float64]
    generation: NDArray[np.int64]
    tolerance: NDArray[np.float64]
    was_safe: NDArray[np.bool_]
    is_trusted: NDArray[np.bool_]
    is_ordinary: NDArray[np.bool_]
    is_new: NDArray[np.bool_]

    def columns(self, q: NDArray[np.float64], is_blacked_out: NDArray[np.bool_]) -> SafetyColumns:
        """Return what the host's frame gets.

        Parameters
        ----------
        q : shape (n_rows,)
            The calibrated quantiles. Those of candles served before are what they were.
        is_blacked_out : shape (n_rows,)
            Whether a blackout lies on the candle; that of candles served before does not count.
        """
        is_allowed = ~is_blacked_out & self.is_trusted & self.is_ordinary
        safe = np.where(self.is_new, called_safe(q, self.tolerance, is_allowed), self.was_safe)
        return SafetyColumns(
            self.opens_s,
            q,
            safe,
            self.generation,
            self.alpha,
            self.tolerance,
            self.is_ordinary,
        )


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
    tolerance
        ``max_adverse_ratio``: how far price may go against a position here; NaN without model.
    is_ordinary
        Whether the candle is like those that the serving model learned from; False without model.
    """

    opens_s: NDArray[np.int64]
    q: NDArray[np.float64]
    safe: NDArray[np.bool_]
    generation: NDArray[np.int64]
    alpha: NDArray[np.float64]
    tolerance: NDArray[np.float64]
    is_ordinary: NDArray[np.bool_]

    @property
    def is_unusual(self) -> NDArray[np.bool_]:
        """Return which candles have a prediction and are out of the ordinary."""
        return np.isfinite(self.q) & ~self.is_ordinary

    @property
    def newest_predicted(self) -> int | None:
        """Return the place of the newest candle with a prediction; None without any."""
        predicted = np.flatnonzero(np.isfinite(self.q))
        return int(predicted[-1]) if len(predicted) else None

    def unusual_share(self, last_s: int) -> float | None:
        """Return the share of the last seconds' predicted candles that are unusual; None without any."""
        counted = np.isfinite(self.q) & (self.opens_s > self.opens_s[-1] - last_s)
        return float(np.mean(self.is_unusual[counted])) if counted.any() else None

    def reindexed(self, opens_s: NDArray[np.int64]) -> SafetyColumns:
        """Return the values of these candles; without value where there is none."""
        is_known, at = _places(self.opens_s, opens_s)
        return SafetyColumns(
            opens_s,
            _spread(self.q, is_known, at, np.nan),
            _spread(self.safe, is_known, at, fill=False),
            _spread(self.generation, is_known, at, 0),
            _spread(self.alpha, is_known, at, np.nan),
            _spread(self.tolerance, is_known, at, np.nan),
            _spread(self.is_ordinary, is_known, at, fill=False),
        )

    def joined(self, raw: RawForecasts) -> FrameForecasts:
        """Return these candles with the raw forecasts of some of them."""
        is_new, at = _places(raw.opens_s, self.opens_s)
        return FrameForecasts(
            self.opens_s,
            _spread(raw.q, is_new, at, self.q),
            _spread(raw.alpha, is_new, at, self.alpha),
            _spread(raw.generation, is_new, at, self.generation),
            _spread(raw.tolerance, is_new, at, self.tolerance),
            self.safe,
            _spread(raw.is_trusted, is_new, at, fill=False),
            _spread(raw.is_ordinary, is_new, at, self.is_ordinary),
            is_new,
        )


def empty_columns(opens_s: NDArray[np.int64]) -> SafetyColumns:
    """Return columns without any prediction."""
    n, nothing = len(opens_s), np.full(len(opens_s), np.nan)
    return SafetyColumns(
        opens_s,
        nothing,
        np.zeros(n, bool),
        np.zeros(n, np.int64),
        nothing.copy(),
        nothing.copy(),
        np.zeros(n, bool),
    )


def raw_forecasts(
    table: pd.DataFrame, pair: PairSnapshot, settings: FeederSettings
) -> RawForecasts:
    """Return what is predicted for the rows of a feature table, each by the model in force there.

    Parameters
    ----------
    table
        Rows from the first candle on that the pair has a model for.
    """
    opens_s, servings = open_seconds(table), pair.servings
    numbers = pair.numbers_at(opens_s)
    q, is_ordinary = np.full(len(opens_s), np.nan), np.zeros(len(opens_s), bool)
    for number in np.unique(numbers):
        rows = numbers == number
        safety, part = servings[number].model.safety, table if rows.all() else table[rows]
        q[rows], is_ordinary[rows] = safety.predict(part), safety.ordinary.contains(part)
    newest = servings[numbers[-1]].model.safety.ordinary
    max_age_s = settings.model_max_age_hours * 3600
    old_from_s = np.array([s.model.cut_s + max_age_s for s in servings])[numbers]
    beats_rule = np.array([s.loaded.beats_rule for s in servings])[numbers]
    return RawForecasts(
        opens_s,
        q,
        alpha=np.array([s.model.safety.alpha for s in servings])[numbers],
        generation=np.array([s.generation for s in servings], np.int64)[numbers],
        tolerance=np.array([s.loaded.tolerance(settings).ratio for s in servings])[numbers],
        is_trusted=beats_rule & (opens_s < old_from_s),
        is_ordinary=is_ordinary,
        newest_unusual="" if is_ordinary[-1] else newest.describe(table.iloc[-1:]),
    )


def _places(
    known_s: NDArray[np.int64], opens_s: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """Return which of the candles are among the known ones, and where these are there."""
    at = np.searchsorted(known_s, opens_s)
    is_known = at < len(known_s)
    is_known[is_known] = known_s[at[is_known]] == opens_s[is_known]
    return is_known, at[is_known]


def _spread(
    values: NDArray[_Scalar],
    is_there: NDArray[np.bool_],
    at: NDArray[np.intp],
    fill: NDArray[_Scalar] | float,
) -> NDArray[_Scalar]:
    """Return ``values[at]`` where something is there, and `fill` elsewhere."""
    spread = np.empty(len(is_there), values.dtype)
    spread[:] = fill
    spread[is_there] = values[at]
    return spread
