"""What is called safe, by tuner, backtest and bot alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def called_safe(
    q: NDArray[np.float64], max_adverse_ratio: float, is_allowed: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return which candles are called safe; without prediction none is.

    Parameters
    ----------
    q : shape (n_candles,)
        Predicted quantile of the excursion, calibrated; NaN without prediction.
    max_adverse_ratio
        The tolerance: price is predicted to stay within it.
    is_allowed : shape (n_candles,)
        Whether a candle may be called safe at all: no blackout lies on it.
    """
    return (q >= -max_adverse_ratio) & is_allowed
