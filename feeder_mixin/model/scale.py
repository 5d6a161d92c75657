"""The label scale: how far price is expected to go, before any quantile is asked for.

LightGBM learns the quantile of excursion / scale. Formulation moves skill by ten points where
hyperparameters move it by half a point: the raw label gives -7 % skill against the ATR rule, the
label over ATR14 / close about +3 to +5 %, over this scale +7.5 % (ten pairs, seven windows, level
0.10).

Two steps and an anchor. A weighted linear regression of the log excursion on `SCALE_FEATURES` and
some products of them; its normal equations are averaged over the context pairs (each counts the same)
and mixed with the pair's own, also those of a pair outside of the context (`LabelScale.with_pair`).
Trees, learned from the context pairs and shared by all, learn what it leaves over: the log of the
excursion is easier to learn than its quantile, so the many features go here and the quantile models
stay small. Then a fifth of the log ATR14 / close: it costs nothing on average and keeps every pair
nearer to the rule it is judged against (cells above the rule: 133 without, 135 to 136 with, of 140).

Measured as scale x one constant, mean skill over both sides and seven windows: linear on the 35
regressors of before 5.8 %, with the season before, volume, ranges, signed and largest returns 6.3,
with products 6.4, with trees 7.0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import lightgbm as lgb
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from feeder_mixin.market.features import (
    DAY,
    SCALE_FEATURES,
    SCALE_TREE_LEVELS,
    SCALE_TREE_STATES,
    SMALLEST_ATR,
    WEEK,
    column_values,
    labels,
)
from feeder_mixin.model.rows import (
    open_seconds,
    recency_weights,
    select_rows,
    shared_trees,
    thinning,
    train_stop_s,
)
from feeder_mixin.settings import SIDES, LabelSpec

Array = NDArray[np.float64]

HALF_LIFE_DAYS: Final = 120.0  # 60 and 240 score the same
OWN_SHARE: Final = 0.4  # 0.25 loses 0.04 points
RIDGE: Final = 1e-3  # 0.01 loses 0.05 points
ATR_SHARE: Final = 0.3
"""Of ATR14 / close, added to the excursion: keeps the log finite where price never went adverse."""

ANCHOR_SHARE: Final = 0.2
"""Share of log ATR14 / close in the log scale: 0 scores 7.47, 0.1 7.51, 0.2 7.54 % under the trees."""

SMALLEST_SCALE: Final = SMALLEST_ATR
LARGEST_SCALE: Final = 1.0
"""Where the scale may lie, a ratio of the price: labels are divided by it. The regression's is 1e-3 to
1e-1; outside of these bounds it has seen nothing like the candle."""

MIN_ROWS: Final = 2_000
"""Thinned rows below which the scale falls back to ATR14 / close (about 42 days of one pair)."""

MIN_TREE_ROWS: Final = 20_000
"""Thinned rows below which there are no trees (about 85 days of five pairs)."""

_SQUARES: Final = (
    ("vol_close_24", f"vol_close_{WEEK}"),
    ("atr14", f"vol_close_{DAY}"),
    (f"vol_close_{DAY}", f"vol_close_{WEEK}"),
)
"""Differences that enter squared: volatility comes back faster from an extreme."""

_BY_CLOCK: Final = ("atr14", "vol_close_96", f"vol_close_{WEEK}")
"""Levels that enter times the sine and cosine of New York's time: what lasts differs by hour."""

TREES: Final = 200
TREE_PARAMS: Final[Mapping[str, Any]] = {
    "objective": "l2",
    "learning_rate": 0.04,
    "num_leaves": 15,  # 31 score the same, 7 lose 0.15 points
    "max_depth": 5,
    "min_child_samples": 200,
    "lambda_l2": 1.0,
    "feature_fraction": 0.4,  # 0.2 loses 0.15 points
    "bagging_fraction": 0.4,
    "bagging_freq": 1,
    "max_bin": 31,
    "seed": 1,
    "num_threads": 1,
    "deterministic": True,
    "force_col_wise": True,
    "verbosity": -1,
}


def _log_atr(table: pd.DataFrame) -> Array:
    log_atr: Array = np.log(np.maximum(table["atr_ratio"].to_numpy(np.float64), SMALLEST_ATR))
    return log_atr


def predict_trees(booster: lgb.Booster, x: NDArray[np.float32]) -> Array:
    """Return a Booster's forecasts of the rows of `x`, shape (n_rows,)."""
    # One row takes 0.03 ms with one thread and 8 ms when LightGBM wakes a thread per core.
    forecast: Array = booster.predict(x, num_threads=1)
    return forecast


def regressors(table: pd.DataFrame) -> Array:
    """Return the linear regressors of a table's rows, shape (n_regressors, n_rows)."""
    plain = column_values(table, SCALE_FEATURES)
    low, high = (column_values(table, names) for names in zip(*_SQUARES, strict=True))
    clock = column_values(table, ("ny_sin", "ny_cos"))
    levels = column_values(table, _BY_CLOCK)
    by_clock = (levels * clock[:, None]).reshape(-1, len(table))
    return np.concatenate([plain, (low - high) ** 2, by_clock])


def _tree_inputs(table: pd.DataFrame, linear: Array) -> NDArray[np.float32]:
    levels = column_values(table, SCALE_TREE_LEVELS) - linear
    states = column_values(table, SCALE_TREE_STATES)
    return np.ascontiguousarray(np.concatenate([levels, states]).astype(np.float32).T)


@dataclass(frozen=True, slots=True)
class LabelScale:
    """The fitted scale of one cut: pooled moments, coefficients by pair, trees of all.

    Attributes
    ----------
    cut_s
        Seconds since the epoch; no label that ended later was used.
    mean, std : shape (n_regressors,)
        Moments of the context pairs that standardise the regressors.
    equations : shape (n_regressors + 1, n_regressors + 2)
        Normal equations of the linear part, averaged over the context pairs; the last column is their
        right side.
    coefficients
        Pair -> weights of the standardised regressors and the intercept. Empty where history was
        too short: the scale then is ATR14 / close.
    trees
        What the linear part leaves over; None where there were too few rows to learn it from.
    """

    cut_s: int
    mean: Array
    std: Array
    equations: Array
    coefficients: Mapping[str, Array]
    trees: lgb.Booster | None = None

    @property
    def is_fallback(self) -> bool:
        """Return whether ATR14 / close stands in for the regression."""
        return not self.coefficients

    def with_pair(self, pair: str, table: pd.DataFrame, label: LabelSpec) -> LabelScale:
        """Return the scale with weights of a pair outside of the context, itself for one inside.

        Moments and trees stay those of the context, so that every pair shares one fit.

        Parameters
        ----------
        table
            All rows of the pair's `build_table`; those whose label ended by the cut are used.
        """
        if self.is_fallback or pair in self.coefficients:
            return self
        rows = _training_rows(table, self.cut_s, label)
        own = self.equations if rows is None else _normal_equations(rows, self.mean, self.std)
        return replace(self, coefficients={**self.coefficients, pair: _solve(self.equations, own)})

    def log_scale(self, pair: str, table: pd.DataFrame) -> Array:
        """Return the log scale of every row of a pair's table, shape (n_rows,)."""
        if self.is_fallback or table.empty:
            return _log_atr(table)
        log_scale = _linear(regressors(table), self.mean, self.std, self.coefficients[pair])
        if self.trees is not None:
            log_scale = log_scale + predict_trees(self.trees, _tree_inputs(table, log_scale))
        anchored = (1 - ANCHOR_SHARE) * log_scale + ANCHOR_SHARE * _log_atr(table)
        bounded: Array = np.clip(anchored, math.log(SMALLEST_SCALE), math.log(LARGEST_SCALE))
        return bounded


def _linear(x: Array, mean: Array, std: Array, weights: Array) -> Array:
    # Column by column: a matrix product (einsum, too) rounds a row differently in another batch, and
    # live, backtest and tuner must agree to the last digits.
    total = np.full(x.shape[1], weights[-1])
    for column, centre, spread, weight in zip(x, mean, std, weights[:-1], strict=True):
        total += (column - centre) / spread * weight
    return total


@dataclass(frozen=True, slots=True)
class _Rows:
    """Training rows of one pair: positions in its table, regressors, log excursion, recency weight."""

    positions: NDArray[np.int64]
    x: Array
    target: Array
    weight: Array


def _training_rows(table: pd.DataFrame, cut_s: int, label: LabelSpec) -> _Rows | None:
    opens_s = open_seconds(table)
    excursions = [labels(table, side) for side in SIDES]
    rows = select_rows(
        opens_s,
        np.isfinite(excursions[0]) & np.isfinite(excursions[1]),
        start_s=0,
        stop_s=train_stop_s(cut_s, label),
        timeframe_s=label.timeframe_s,
        every=thinning(label.horizon).scale,
    )
    if not len(rows):
        return None
    part = table.iloc[rows]
    unit = ATR_SHARE * np.exp(_log_atr(part))
    # A unit of ATR is added before the log: many candles have no excursion at all, and log 0 is none.
    target = np.mean([np.log(np.maximum(-y[rows], 0.0) + unit) for y in excursions], axis=0)
    weight = recency_weights(opens_s[rows], cut_s, HALF_LIFE_DAYS)
    return _Rows(rows, regressors(part), target, weight)


def fit_scale(tables: Mapping[str, pd.DataFrame], cut_s: int, label: LabelSpec) -> LabelScale:
    """Return the label scale fitted on all rows whose label ended by the cut.

    Parameters
    ----------
    tables
        Context pair -> `build_table`.
    cut_s
        Seconds since the epoch; no label that ends later is used.
    label
        Horizon and timeframe; the scale is one for both sides.
    """
    scale, left_over = _fit_linear(tables, cut_s, label)
    if sum(len(rows.target) for rows in left_over.values()) < MIN_TREE_ROWS:
        return scale
    return replace(scale, trees=_fit_trees(tables, left_over, label.horizon))


@dataclass(frozen=True, slots=True)
class _LeftOver:
    """What the linear part leaves over of one pair: positions in its table, linear part, rest."""

    positions: NDArray[np.int64]
    linear: Array
    target: Array


def _fit_linear(
    tables: Mapping[str, pd.DataFrame], cut_s: int, label: LabelSpec
) -> tuple[LabelScale, dict[str, _LeftOver]]:
    """Return the scale without trees, and pair -> what trees may learn of it.

    The regressors (60 MB of ten pairs) end with this function: trees take other memory.
    """
    parts = {
        pair: rows
        for pair in sorted(tables)  # sums depend on the order in their last bit
        if (rows := _training_rows(tables[pair], cut_s, label)) is not None
    }
    if sum(len(rows.target) for rows in parts.values()) < MIN_ROWS:
        return LabelScale(cut_s, np.empty(0), np.empty(0), np.empty((0, 0)), {}), {}
    mean, std = _moments([rows.x for rows in parts.values()])
    own = {pair: _normal_equations(rows, mean, std) for pair, rows in parts.items()}
    equations: Array = np.mean(np.stack(list(own.values())), axis=0, dtype=np.float64)
    # A pair without a finished label takes the pooled fit.
    coefficients = {pair: _solve(equations, own.get(pair, equations)) for pair in tables}
    left_over = {}
    for pair, rows in parts.items():
        linear = _linear(rows.x, mean, std, coefficients[pair])
        left_over[pair] = _LeftOver(rows.positions, linear, rows.target - linear)
    return LabelScale(cut_s, mean, std, equations, coefficients), left_over


def _moments(parts: Sequence[Array]) -> tuple[Array, Array]:
    """Return mean and standard deviation of each regressor over all pairs together.

    One regressor at a time: all of them at once would take the memory twice more.
    """
    columns = (np.concatenate(rows) for rows in zip(*parts, strict=True))
    moments = np.array([(column.mean(), column.std()) for column in columns])
    return moments[:, 0], moments[:, 1] + 1e-9


def _normal_equations(rows: _Rows, mean: Array, std: Array) -> Array:
    """Return ``[Z'Z | Z'y]`` of a pair's standardised rows, per unit of weight.

    So pairs count alike, however long they are.
    """
    z = np.column_stack([((rows.x - mean[:, None]) / std[:, None]).T, np.ones(len(rows.target))])
    weighted = (z * rows.weight[:, None]).T
    equations: Array = weighted @ np.column_stack([z, rows.target]) / rows.weight.sum()
    return equations


def _solve(pooled: Array, own: Array) -> Array:
    """Return a pair's weights and intercept from its own and the pooled equations.

    Equations are mixed, not coefficients: a pair with few rows of one kind borrows just those.
    """
    mixed = (1 - OWN_SHARE) * pooled + OWN_SHARE * own
    # The intercept is not shrunk: it is the typical size itself.
    ridge = RIDGE * np.diag([1.0] * (len(mixed) - 1) + [0.0])
    return np.linalg.solve(mixed[:, :-1] + ridge, mixed[:, -1]).astype(np.float64)


def _fit_trees(
    tables: Mapping[str, pd.DataFrame], left_over: Mapping[str, _LeftOver], horizon: int
) -> lgb.Booster:
    target = np.concatenate([rows.target for rows in left_over.values()])
    n_inputs = len(SCALE_TREE_LEVELS) + len(SCALE_TREE_STATES)
    # Filled in place: a list and its concatenation are twice as large.
    inputs, end = np.empty((len(target), n_inputs), np.float32), 0
    for pair, rows in left_over.items():
        start, end = end, end + len(rows.target)
        inputs[start:end] = _tree_inputs(tables[pair].iloc[rows.positions], rows.linear)
    dataset = lgb.Dataset(inputs, target, params={**TREE_PARAMS})
    return lgb.train(dict(TREE_PARAMS), dataset, shared_trees(TREES, horizon))
