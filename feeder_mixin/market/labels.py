"""Labels: how far price goes against a position within the horizon.

The only functions of this package that look ahead. Used for training and scoring, never by the
bot for a decision about the current candle.
"""

from __future__ import annotations

from typing import Final

import pandas as pd

LABEL_COLUMNS: Final = {"long": "excursion_long", "short": "excursion_short"}


def adverse_excursions(candles: pd.DataFrame, horizon: int) -> pd.DataFrame:
    """Return the adverse excursion of both sides for every candle.

    LONG ``min(low[t+1..t+h]) / close[t] - 1``, SHORT ``1 - max(high[t+1..t+h]) / close[t]``: signed
    ratios, negative = against the position.

    Parameters
    ----------
    candles
        Columns high, low, close on a regular grid of candles; missing candles are NaN rows.
    horizon
        Candles the label looks ahead, at least 1.

    Returns
    -------
    DataFrame
        Columns ``excursion_long`` and ``excursion_short``; NaN where the horizon is not over or
        spans a missing candle.
    """
    lowest = candles["low"].rolling(horizon).min().shift(-horizon)
    highest = candles["high"].rolling(horizon).max().shift(-horizon)
    return pd.DataFrame(
        {
            LABEL_COLUMNS["long"]: lowest / candles["close"] - 1.0,
            LABEL_COLUMNS["short"]: 1.0 - highest / candles["close"],
        }
    )
