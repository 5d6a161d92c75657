"""The slow online factor that keeps a quantile calibrated: adaptive conformal inference.

What is served is ``raw * exp(theta)``. Every label that has ended moves theta a little: up (a wider
quantile) after a miss, down after a candle that held; and theta goes back to 0 by half in
`HALF_LIFE_CANDLES`, so that it follows the market of the last weeks and forgets the one before. One
theta per pair and side; it is state of the bot, not part of a parameter record, and goes on over
reloads and retraining.

Rate and half-life were measured on the forecasts of `benchmarks/quality.py --live` (ten pairs, both
sides, level 0.10), chosen on the five earlier windows; skill in % and exceedance error of a cell in
points, all seven windows:

    none                         7.28  1.69
    0.0005, 0.0013, no return    7.04  1.51,  6.56  1.32
    0.002, half in 4, 8, 16 days 6.94  1.18,  6.73  1.10,  6.53  1.08
    0.001, 0.003, half in 8 days 7.12  1.31,  6.27  0.95

Without the return to 0 a factor from an earlier market stands against the present one: on the two
later windows every rate made the error larger. The price: of a model that misses 20 % where it says
10, what is served still misses 13; a one-off factor from the last 15 or 30 days (split conformal)
hurt both figures.

References
----------
Gibbs and Candes (2021), Adaptive Conformal Inference Under Distribution Shift.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from feeder_mixin.model.metrics import check_same_length

Array = NDArray[np.float64]

RATE: Final = 0.002
"""Step of theta per candle."""

HALF_LIFE_CANDLES: Final = 2_304
"""In so many labels theta goes half of the way back to 0: eight days of 5m candles."""

_KEPT: Final = 0.5 ** (1 / HALF_LIFE_CANDLES)

CALIBRATION_DAYS: Final = 30
"""Days over which a backtest warms theta up before the cut of a model."""


def next_theta(theta: float, excursion: float, served: float, alpha: float) -> float:
    """Return theta after the label of one more candle has ended.

    Parameters
    ----------
    excursion, served
        The candle's label, and the calibrated quantile that was served at it.
    alpha
        The quantile level it was served at.
    """
    # In the mean it moves by RATE * (share of misses - alpha): it rests where the two are equal.
    return _KEPT * theta + RATE * ((excursion < served) - alpha)


def calibrate(
    raw: Array,
    excursion: Array,
    opens_s: NDArray[np.int64],
    *,
    alpha: float,
    label_s: int,
    theta: float = 0.0,
) -> tuple[Array, Array]:
    """Return what would have been served at every row, and the theta in force there.

    A row uses labels that had ended by its candle's close, and no other.

    Parameters
    ----------
    raw, excursion, opens_s : shape (n_rows,)
        Quantiles of the models in force, labels and candle opens, ascending. A row whose quantile
        or label is NaN moves nothing.
    label_s
        Length of a label in seconds: horizon x timeframe.
    theta
        In force at the first row.
    """
    alphas = np.full(len(raw), alpha)
    return calibrate_newer(raw, excursion, alphas, opens_s, label_s=label_s, theta=theta)


def calibrate_newer(
    forecasts: Array,
    excursion: Array,
    alphas: Array,
    opens_s: NDArray[np.int64],
    *,
    label_s: int,
    theta: float,
    seen_s: int | None = None,
) -> tuple[Array, Array]:
    """Return what is served at every row, and the theta in force at each new one.

    Row by row or all at once: the result is the same, bit by bit.

    Parameters
    ----------
    forecasts : shape (n_rows,)
        What was served at the rows seen before, and what the models say of the new ones.
    excursion, alphas, opens_s : shape (n_rows,)
        Labels, levels and candle opens, ascending. A row whose quantile or label is NaN moves
        nothing.
    label_s
        Length of a label in seconds: horizon x timeframe.
    theta
        In force at the row seen last, which used all labels that had ended by then; without one,
        at the first row.
    seen_s
        Open of the row seen last; None when all are new.
    """
    check_same_length(
        forecasts=forecasts, excursion=excursion, alphas=alphas, opens_s=opens_s.astype(np.float64)
    )
    first = taken = 0
    if seen_s is not None:
        first, taken = np.searchsorted(opens_s, [seen_s, seen_s - label_s], "right").tolist()
    # How many labels had ended by the close of each new row: those of rows that open label_s earlier.
    ended = np.searchsorted(opens_s, opens_s[first:] - label_s, "right").tolist()
    # Lists from here on: an element of an array takes ten times as long.
    start, stop = taken, max([taken, *ended])
    seen = (excursion[start:stop].tolist(), alphas[start:stop].tolist())
    values, thetas = forecasts[start:].tolist(), []
    for row, until in enumerate(ended, first - start):
        # What was served there decides, not the raw forecast: the loop corrects its own corrections.
        for earlier in range(taken - start, until - start):
            label, said = seen[0][earlier], values[earlier]
            if math.isfinite(label + said):
                theta = next_theta(theta, label, said, seen[1][earlier])
        taken = max(taken, until)
        thetas.append(theta)
        values[row] *= math.exp(theta)
    served = forecasts.copy()
    served[first:] = values[first - start :]
    return served, np.array(thetas)


def factors(thetas: Array) -> Array:
    """Return what a forecast is multiplied by at each theta: the very bits of `calibrate_newer`."""
    return np.array([math.exp(theta) for theta in thetas.tolist()])
