"""What is called safe, by tuner, backtest and bot alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def called_safe(
    q: NDArray[np.float64],
    tolerance: NDArray[np.float64] | float,
    is_allowed: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Return which candles are called safe; without prediction none is.

    Parameters
    ----------
    q : shape (n_candles,)
        Predicted quantile of the excursion, calibrated; NaN without prediction.
    tolerance
        Price is predicted to stay within it; one for all candles, or each candle's own.
    is_allowed : shape (n_candles,)
        Whether a candle may be called safe at all: it is ordinary (`model.ordinary`), no blackout lies on
        it (`market.blackouts`), and its model is trusted (`live.serve.columns`).
    """
    return (q >= -tolerance) & is_allowed
