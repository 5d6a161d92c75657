"""The label scale: a pooled linear regression of the log excursion.

LightGBM learns the quantile of excursion / scale. Formulation moves skill by ten points where
hyperparameters move it by half a point: the raw label gives -7 % skill against the ATR rule, the
label over ATR14 / close about +3 to +5 %, over this scale +5.75 % (ten pairs, level 0.10).

Weighted least squares on `SCALE_FEATURES`; target ``log(max(-excursion, 0) + 0.3 ATR14/close)``,
mean of both sides. The normal equations are averaged over the context pairs (each counts the same)
and mixed with the pair's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from feeder_mixin.market.features import SCALE_FEATURES, column_values, labels
from feeder_mixin.model.rows import open_seconds, recency_weights, select_rows, train_stop_s
from feeder_mixin.settings import SIDES

SCALE_EVERY: Final = 6
HALF_LIFE_DAYS: Final = 120.0
OWN_SHARE: Final = 0.25
RIDGE: Final = 1e-3
ATR_SHARE: Final = 0.3
"""Of ATR14 / close, added to the excursion: keeps the log finite where price never went adverse."""

MIN_ROWS: Final = 2_000
"""Thinned rows below which the scale falls back to ATR14 / close (about 42 days of one pair)."""


@dataclass(frozen=True, slots=True)
class LabelScale:
    """The fitted regression of one cut: pooled moments, coefficients by pair.

    Attributes
    ----------
    mean, std : shape (len(SCALE_FEATURES),)
        Moments that standardise the regressors.
    coefficients
        Pair -> weights of the standardised regressors and the intercept. Empty where history was
        too short: the scale then is ATR14 / close.
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    coefficients: Mapping[str, NDArray[np.float64]]

    @property
    def is_fallback(self) -> bool:
        """Return whether ATR14 / close stands in for the regression."""
        return not self.coefficients

    def log_scale(self, pair: str, table: pd.DataFrame) -> NDArray[np.float64]:
        """Return the log scale of every row of a pair's table, shape (n_rows,)."""
        if self.is_fallback:
            atr_ratio: NDArray[np.float64] = table["atr_ratio"].to_numpy(np.float64)
            return np.log(np.maximum(atr_ratio, 1e-7))
        x = column_values(table, SCALE_FEATURES)
        x -= self.mean[:, None]
        x /= self.std[:, None]
        weights = self.coefficients[pair]
        # Column by column: a matrix product (einsum, too) rounds a row differently in another
        # batch, and live, backtest and tuner must agree to the last digits.
        log_scale = np.full(len(table), weights[-1])
        for column, weight in zip(x, weights[:-1], strict=True):
            log_scale += column * weight
        return log_scale


def fit_scale(
    tables: Mapping[str, pd.DataFrame], cut_s: int, horizon: int, timeframe_s: int
) -> LabelScale:
    """Return the label scale fitted on all rows whose label ended by the cut.

    Parameters
    ----------
    tables
        Pair -> `build_table`: the context pairs, and the pair to be served.
    cut_s
        Seconds since the epoch; no label that ends later is used.
    """
    stop_s = train_stop_s(cut_s, horizon, timeframe_s)
    parts: dict[str, tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]] = {}
    for pair in sorted(tables):
        table = tables[pair]
        opens_s = open_seconds(table)
        excursions = [labels(table, side) for side in SIDES]
        finite = np.isfinite(excursions[0]) & np.isfinite(excursions[1])
        rows = select_rows(
            opens_s, finite, start_s=0, stop_s=stop_s, timeframe_s=timeframe_s, every=SCALE_EVERY
        )
        if not len(rows):
            continue
        atr_ratio: NDArray[np.float64] = table["atr_ratio"].to_numpy(np.float64)[rows]
        unit = ATR_SHARE * np.maximum(atr_ratio, 1e-7)
        target = np.mean([np.log(np.maximum(-y[rows], 0.0) + unit) for y in excursions], axis=0)
        regressors = table[list(SCALE_FEATURES)].to_numpy(np.float64)[rows]
        parts[pair] = regressors, target, recency_weights(opens_s[rows], cut_s, HALF_LIFE_DAYS)
    n_features = len(SCALE_FEATURES)
    if sum(len(target) for _, target, _ in parts.values()) < MIN_ROWS:
        return LabelScale(np.zeros(n_features), np.ones(n_features), {})
    seen = np.vstack([x for x, _, _ in parts.values()])
    mean, std = seen.mean(axis=0), seen.std(axis=0) + 1e-9
    equations = {}
    for pair, (x, target, weight) in parts.items():
        z = np.column_stack([(x - mean) / std, np.ones(len(x))])
        equations[pair] = (z * weight[:, None]).T @ np.column_stack([z, target]) / weight.sum()
    pooled: NDArray[np.float64] = np.mean(list(equations.values()), axis=0)
    ridge = RIDGE * np.diag([1.0] * n_features + [0.0])
    coefficients = {}
    for pair in tables:
        own = equations.get(pair, pooled)  # a pair without a finished label takes the pooled fit
        mixed = (1 - OWN_SHARE) * pooled + OWN_SHARE * own
        coefficients[pair] = np.linalg.solve(mixed[:, :-1] + ridge, mixed[:, -1])
    return LabelScale(mean, std, coefficients)
