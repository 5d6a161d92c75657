"""How often price really went further than a running bot had served: its own check, from outside.

Asked by the training thread about once a minute, never on a candle's path. Counted are candles whose
horizon has ended within the last day, with the value served then; after a restart they are known at
once, because the host's frame is served again as it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from feeder_mixin.live.serve.calibration import excursions_at
from feeder_mixin.live.serve.candles import Tail
from feeder_mixin.live.serve.columns import SafetyColumns
from feeder_mixin.settings import Side

WINDOW_S: Final = 86_400
"""How far back the ends of horizons lie, at most; less where the host's frame is shorter."""


@dataclass(frozen=True, slots=True)
class Exceedance:
    """Realised against nominal.

    Attributes
    ----------
    share
        Candles that went worse than served, of those counted.
    nominal
        Mean quantile level they were served at: what `share` should be near.
    n_candles
        How many were counted; they overlap, so only about one a horizon is independent.
    """

    share: float
    nominal: float
    n_candles: int


def realised_exceedance(
    served: SafetyColumns | None, tail: Tail | None, horizon: int, side: Side
) -> Exceedance | None:
    """Return a pair's exceedance over the last day up to its newest candle; None when unknown.

    Parameters
    ----------
    served
        Columns of the host's frame, as served.
    horizon
        Candles that a label looks ahead.
    """
    if served is None or tail is None:
        return None
    ends_s = served.opens_s + horizon * tail.timeframe_s
    wanted = (ends_s <= tail.last_s) & (ends_s > tail.last_s - WINDOW_S) & np.isfinite(served.q)
    if not wanted.any():
        return None
    excursions = excursions_at(served.opens_s[wanted], tail, horizon, side)
    known = np.isfinite(excursions)
    if not known.any():
        return None
    worse = excursions[known] < served.q[wanted][known]
    return Exceedance(
        float(worse.mean()), float(served.alpha[wanted][known].mean()), int(known.sum())
    )
