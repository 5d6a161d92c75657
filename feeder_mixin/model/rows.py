"""Which rows of a table train or score a model: windows, purge, thinning, recency.

Rows are counted from the epoch (row number = candle open / timeframe), never from the newest, so
that a later candle changes no earlier choice and live bot, backtest and tuner pick the same rows.
Labels of neighbouring rows overlap but for a candle, so a row in `horizon` / 3 carries nearly all
information: how many are left out follows the horizon (`thinning`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from feeder_mixin.settings import LabelSpec

DAY_S: Final = 86_400

LEAST_ROWS: Final = 100
"""Rows below which nothing is trained: two leaves of the default 50, so that one split is possible.

Fewer make a constant, and at level 0.10 not ten misses to place it by.
"""

SHORT_SHARE: Final = 0.5
"""Share of the expected rows under which a model is one on a short history."""


@dataclass(frozen=True, slots=True)
class Thinning:
    """Of how many rows one is used: by a pair's own trees, pooled trees, label scale, a fold's score."""

    own: int
    pooled: int
    scale: int
    score: int


@cache
def thinning(horizon: int) -> Thinning:
    """Return which rows are used at a horizon, in candles.

    Measured at 5m and 30 candles (ten pairs, seven cuts): own rows every 5th score as every 10th,
    the scale's every 12th cost its trees 0.1 points, every 24th 0.25. The same constants at shorter
    horizons lose half a point, finer ones at longer horizons two (1h and 24 candles).

    Examples
    --------
    >>> thinning(30)
    Thinning(own=10, pooled=20, scale=6, score=5)
    >>> thinning(6)
    Thinning(own=2, pooled=4, scale=2, score=1)
    """

    def every(share: float, least: int, most: int) -> int:
        return min(most, max(least, round(horizon * share)))

    return Thinning(
        own=every(1 / 3, 1, 10),
        pooled=every(2 / 3, 2, 20),
        scale=every(1 / 5, 2, 6),
        score=every(1 / 6, 1, 5),
    )


def shared_trees(at_30: int, horizon: int) -> int:
    """Return how many trees a shared model grows: finer thinning gives more to learn from.

    Measured at 5m and 6 candles: twice the scale's trees are worth 0.16 points, twice the pooled ones
    0.09; at 15m and 12 candles nothing either way.

    Parameters
    ----------
    at_30
        Trees at 30 candles and more.

    Examples
    --------
    >>> shared_trees(200, 30), shared_trees(200, 24), shared_trees(200, 6)
    (200, 250, 400)
    """
    return round(at_30 * min(2.0, max(1.0, 30 / horizon)))


def open_seconds(table: pd.DataFrame) -> NDArray[np.int64]:
    """Return the candle opens of a table's rows as whole seconds since the epoch."""
    index = pd.DatetimeIndex(table.index)
    return index.as_unit("s").asi8


def select_rows(
    opens_s: NDArray[np.int64],
    finite: NDArray[np.bool_],
    *,
    start_s: int,
    stop_s: int,
    timeframe_s: int,
    every: int = 1,
    offset: int = 0,
) -> NDArray[np.int64]:
    """Return positions of rows that open in ``[start_s, stop_s)`` and have a label.

    Parameters
    ----------
    opens_s : shape (n_rows,)
        Candle opens, ascending.
    finite : shape (n_rows,)
        Whether the row's label is known.
    every, offset
        Keep the rows whose number from the epoch is `offset` modulo `every`.
    """
    # A binary search, not a mask over all rows: a backtest asks this dozens of times a pair.
    low, high = np.searchsorted(opens_s, [start_s, stop_s])
    inside = np.arange(low, high)
    keep = finite[low:high]
    if every > 1:
        keep = keep & ((opens_s[low:high] // timeframe_s) % every == offset % every)
    return inside[keep]


def keep_multiples(table: pd.DataFrame, timeframe_s: int, *every: int) -> pd.DataFrame:
    """Return the rows of a table that `select_rows` can choose by one of these thinnings."""
    number = open_seconds(table) // timeframe_s
    rows: pd.DataFrame = table[np.logical_or.reduce([number % n == 0 for n in every])]
    return rows


def train_stop_s(cut_s: int, label: LabelSpec) -> int:
    """Return the first open that must not train a model cut at `cut_s`: purge by the horizon.

    The label of the row that opens at t reads candles up to the one that closes at
    t + (horizon + 1) x timeframe; it is known at the cut when that close is not later. A cut inside
    a candle counts as that candle's open.
    """
    return cut_s // label.timeframe_s * label.timeframe_s - label.horizon_s


def recency_weights(
    opens_s: NDArray[np.int64], cut_s: int, half_life_days: float
) -> NDArray[np.float64]:
    """Return weights that halve every `half_life_days` before the cut."""
    weights: NDArray[np.float64] = 0.5 ** ((cut_s - opens_s) / (half_life_days * DAY_S))
    return weights


def expected_rows(
    cut_s: int, label: LabelSpec, *, train_days: float, first_s: int | None = None
) -> int:
    """Return how many rows the own trees of a pair learn from at a cut where no candle is missing.

    Parameters
    ----------
    first_s
        Open of the first candle that can have features: the pair's listing and the warm-up. A young
        pair is not a short history. None where the listing is not known.
    """
    start_s = cut_s - train_days * DAY_S
    first = math.ceil(max(start_s, first_s or start_s) / label.timeframe_s)
    stop = math.ceil(train_stop_s(cut_s, label) / label.timeframe_s)
    every = thinning(label.horizon).own
    return max(0, -(-stop // every) - -(-first // every))
