"""Whether a candle is of a kind that the model learned from: an ordinary one.

Forecasts hold for markets like those that were learned from. After a flash wick, a jump or a halt the
trees answer with the leaf of the nearest candle that they know, and may call it safe. So four measures
of the newest candles are compared with the pair's own training rows. Each is relative (to ATR14, to
the day's volume): a quiet or a wild month is ordinary, and so is the change between the two.

A measure is out of the ordinary where it lies beyond `REACH` times the distance from the median at
which its highest hundredth (`TAIL`) begins. Only the side that hides danger has a bound.

2026-11, ten pairs, seven cuts, the 15 days after each: that flags 0.2 % of the candles as they are. The
0.999 quantiles of the training rows as bounds flag 0.4 %, and 2.2 % with the 200 rows of a young pair
(0.4 % by this rule). The range of every input flags 29 %, because levels of volatility drift. FreqAI's
dissimilarity index would need the training rows themselves in every model's file. What the check keeps
from being called safe, ``benchmarks/unusual.py`` prints.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from feeder_mixin.market.features import DAY, QUIET_WINDOW, column_values

Array = NDArray[np.float64]

TAIL: Final = 0.01
REACH: Final = 1.5
"""A bound lies half again as far from the median as the highest hundredth of the training rows begins.
1.75 misses 2 % of wicks and jumps of ten times ATR14, 1.5 none in a thousand."""

_COLUMNS: Final = ("candle_range", "atr14", "vol_close_3", "volume_1", f"volume_{DAY}", "quiet")


class Measure(NamedTuple):
    """What is compared; larger is less ordinary. `told` says a value and its bound in words."""

    name: str
    told: str
    is_log: bool


MEASURES: Final = (
    Measure("range", "range of {:.1f} x ATR14, ordinary up to {:.1f}", is_log=True),
    Measure("move", "closes move by {:.1f} x ATR14 a candle, ordinary up to {:.1f}", is_log=True),
    Measure("lull", "volume is a day's mean / {:.0f}, ordinary down to / {:.0f}", is_log=True),
    Measure(
        "quiet",
        f"{{:.0f}} of {QUIET_WINDOW} candles without trades, ordinary up to {{:.0f}}",
        is_log=False,
    ),
)


def ordinary_measures(table: pd.DataFrame) -> Array:
    """Return `MEASURES` of rows of `market.features.build_table`, shape (len(MEASURES), n_rows)."""
    candle_range, atr14, move, volume, usual_volume, quiet = column_values(table, _COLUMNS)
    return np.stack([candle_range - atr14, move - atr14, usual_volume - volume, quiet])


@dataclass(frozen=True, slots=True)
class OrdinaryRange:
    """How far each of `MEASURES` may go, by name; fitted with a model, kept and served with it."""

    bounds: Mapping[str, float]

    def contains(self, table: pd.DataFrame) -> NDArray[np.bool_]:
        """Return which rows of a table are ordinary, shape (n_rows,)."""
        bounds = np.array([self.bounds[one.name] for one in MEASURES])
        return np.asarray((ordinary_measures(table) <= bounds[:, None]).all(axis=0))

    def describe(self, row: pd.DataFrame) -> str:
        """Return what of a table's single row is out of the ordinary; empty where nothing is."""
        parts = []
        for one, value in zip(MEASURES, ordinary_measures(row)[:, 0].tolist(), strict=True):
            bound = self.bounds[one.name]
            if value > bound:
                shown = (math.exp(value), math.exp(bound)) if one.is_log else (value, bound)
                parts.append(one.told.format(*shown))
        return "; ".join(parts)


def fit_ordinary(rows: pd.DataFrame) -> OrdinaryRange:
    """Return the range of the rows that a model learns from."""
    median, tail = np.quantile(ordinary_measures(rows), [0.5, 1 - TAIL], axis=1)
    bounds = median + REACH * (tail - median)
    return OrdinaryRange({one.name: float(b) for one, b in zip(MEASURES, bounds, strict=True)})
