"""Labels: how far price goes against a position within the horizon.

The only functions of this package that look ahead. Used for training and scoring, never by the
bot for a decision about the current candle.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from feeder_mixin.market.holes import bridge

LABEL_COLUMNS: Final = {"long": "excursion_long", "short": "excursion_short"}


def adverse_excursions(candles: pd.DataFrame, horizon: int) -> pd.DataFrame:
    """Return the adverse excursion of both sides for every candle.

    LONG ``min(low[t+1..t+h]) / close[t] - 1``, SHORT ``1 - max(high[t+1..t+h]) / close[t]``: signed
    ratios, negative = against the position.

    Parameters
    ----------
    candles
        Columns high, low, close, volume on a regular grid; missing candles are NaN rows.
    horizon
        Candles the label looks ahead, at least 1.

    Returns
    -------
    DataFrame
        Columns ``excursion_long`` and ``excursion_short``; NaN where the horizon is not over or
        spans a missing candle or a halt (`holes.bridge`): what is bridged is no truth.
    """
    there = bridge(candles)
    high, low, close = (
        pd.Series(np.where(there.invented, np.nan, values), candles.index)
        for values in (there.high, there.low, there.close)
    )
    lowest = low.rolling(horizon).min().shift(-horizon)
    highest = high.rolling(horizon).max().shift(-horizon)
    return pd.DataFrame(
        {
            LABEL_COLUMNS["long"]: lowest / close - 1.0,
            LABEL_COLUMNS["short"]: 1.0 - highest / close,
        }
    )
