"""From ten parameters to a quantile model: the one place that knows LightGBM's names.

``q = 0.95 scale(x) * (0.4 own(x) + 0.6 pooled(x)) + 0.05 rule(x)``: `own` is the pair's LGBMRegressor, built from its ten
parameters and trained on excursion / scale; `pooled` is one model of all context pairs and both
sides, the same for every parameter set. What is fixed beside the ten parameters stands here, with
what it was measured to do (ten pairs, five windows, level 0.10).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import lightgbm as lgb
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from feeder_mixin.market.context import FeatureContext
from feeder_mixin.market.features import labels, tree_features
from feeder_mixin.model.baseline import rule_constant
from feeder_mixin.model.ordinary import OrdinaryRange
from feeder_mixin.model.rows import (
    keep_multiples,
    open_seconds,
    select_rows,
    shared_trees,
    thinning,
    train_stop_s,
)
from feeder_mixin.model.scale import LabelScale, fit_scale, predict_trees
from feeder_mixin.model.training_set import TrainingSet, TrainingWindow, make_training_set
from feeder_mixin.schema import PARAMETERS
from feeder_mixin.settings import SIDES, LabelSpec, Side

Params = dict[str, Any]

DATASET_PARAMS: Final[Mapping[str, Any]] = {
    "max_bin": 31,  # 63 and 255 score the same and cost more
    "feature_pre_filter": False,  # or a Dataset could not be shared by trials of other leaf sizes
    "verbosity": -1,
}
FIXED_PARAMS: Final[Mapping[str, Any]] = {
    **DATASET_PARAMS,
    "objective": "quantile",
    "num_threads": 1,  # more threads than free cores are catastrophically slower; pairs go parallel
    "deterministic": True,
    "force_col_wise": True,  # or LightGBM times both layouts at every fit, and may pick either
}
SERVED_SEED: Final = 1  # of every model that serves: a restart must give the same trees
POOLED_ALPHAS: Final = (0.05, 0.10, 0.15, 0.20)
POOLED_PARAMS: Final[Mapping[str, Any]] = {
    **FIXED_PARAMS,
    "learning_rate": 0.015,
    "num_leaves": 15,
    "max_depth": 5,
    "min_child_samples": 50,
    "reg_lambda": 1.0,
    "feature_fraction": 0.6,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
}
POOLED_TREES: Final = 150
OWN_WEIGHT: Final = 0.4
"""Share of the pair's own model in the trees' mean: own alone 7.2 % skill, pooled 7.3, both 7.5."""

RULE_WEIGHT: Final = 0.05
"""Share of the ATR rule itself: costs no skill, and a pair whose trees are off stays nearer to the
rule (cells above the rule: 133 without, 136 with, of 140; 0.1 costs 0.05 points)."""


def lightgbm_params(parameters: Mapping[str, float], seed: int) -> Params:
    """Return the ten parameters under LightGBM's sklearn names, with all that is fixed beside them.

    ``subsample_freq`` = 1 is written out: without it LightGBM ignores ``subsample``.
    """
    named = {p.lightgbm_name: p.restore(parameters[p.name]) for p in PARAMETERS}
    return {**FIXED_PARAMS, **named, "subsample_freq": 1, "random_state": seed}


def booster_params(parameters: Mapping[str, float], seed: int) -> Params:
    """Return the same for ``lgb.Booster``: the tree count is the number of updates there."""
    params = lightgbm_params(parameters, seed)
    del params["n_estimators"]
    return params


def make_regressor(parameters: Mapping[str, float], seed: int) -> lgb.LGBMRegressor:
    """Return the unfitted LGBMRegressor of a parameter set."""
    params = lightgbm_params(parameters, seed)
    params["n_jobs"] = params.pop("num_threads")
    return lgb.LGBMRegressor(**params)


def make_dataset(
    x: NDArray[np.float32],
    z: NDArray[np.float64],
    weight: NDArray[np.float64] | None = None,
    reference: lgb.Dataset | None = None,
) -> lgb.Dataset:
    """Return a constructed Dataset that trials share; its raw data is freed.

    Without raw data a lost reuse is an error of LightGBM, not a silent rebuild. A `reference` gives
    its bins: for rows that are scored, not trained on.
    """
    dataset = lgb.Dataset(
        x,
        z,
        weight=weight,
        reference=reference,
        params=dict(DATASET_PARAMS),
        free_raw_data=True,
    )
    return dataset.construct()


def validation_scores(booster: lgb.Booster) -> list[NDArray[np.float64]]:
    """Return what a Booster says of its validation sets, in the order in which they were added.

    LightGBM keeps these scores up to date tree by tree; a metric function is the public way to them.
    """
    scores: list[NDArray[np.float64]] = []

    def keep(one: NDArray[np.float64], _dataset: lgb.Dataset) -> tuple[str, float, bool]:
        scores.append(one.copy())
        return "read", 0.0, False

    booster.eval_valid(keep)
    return scores


@dataclass(frozen=True, slots=True)
class SharedModels:
    """What a cut gives to every parameter set: the label scale and the pooled trees.

    Attributes
    ----------
    pooled
        Quantile level -> pooled Booster; empty where history was too short for one.
    """

    cut_s: int
    scale: LabelScale
    pooled: Mapping[float, lgb.Booster]

    def with_pair(self, pair: str, table: pd.DataFrame, label: LabelSpec) -> SharedModels:
        """Return the models with a scale that knows a pair outside of the context, too.

        Parameters
        ----------
        table
            The pair's `build_table`, or `shared_rows` of it.
        """
        return replace(self, scale=self.scale.with_pair(pair, table, label))

    def with_weights(self, pair: str, weights: NDArray[np.float64]) -> SharedModels:
        """Return the models with a scale that has these weights for a pair."""
        coefficients = {**self.scale.coefficients, pair: weights}
        return replace(self, scale=replace(self.scale, coefficients=coefficients))

    def pooled_z(
        self,
        table: pd.DataFrame,
        log_scale: NDArray[np.float64],
        side: Side,
        alpha: float,
    ) -> NDArray[np.float64] | None:
        """Return the pooled forecast of excursion / scale at a level, shape (n_rows,), or None.

        Parameters
        ----------
        alpha
            Any level whose neighbours (`pooled_weights`) were fitted.
        """
        if not self.pooled:
            return None
        x = _with_side(tree_features(table, log_scale, side), side)
        parts = [w * predict_trees(self.pooled[a], x) for a, w in pooled_weights(alpha).items()]
        between: NDArray[np.float64] = np.sum(parts, axis=0)
        return between


def _with_side(x: NDArray[np.float32], side: Side) -> NDArray[np.float32]:
    flag = np.full((len(x), 1), float(side == "short"), np.float32)
    return np.hstack([x, flag])


def shared_rows(table: pd.DataFrame, horizon: int, timeframe_s: int) -> pd.DataFrame:
    """Return the rows of a table that `fit_shared` can choose: a fifth of all at 30 candles.

    Rows are counted from the epoch, so it chooses the same ones from these as from all of them.
    """
    every = thinning(horizon)
    return keep_multiples(table, timeframe_s, every.scale, every.pooled)


def shared_context(market: FeatureContext) -> dict[str, pd.DataFrame]:
    """Return context pair -> `shared_rows` of its table; the other rows are never made."""
    thin = partial(shared_rows, horizon=market.horizon, timeframe_s=market.timeframe_s)
    return dict(market.build_context(thin))


def fit_shared(
    tables: Mapping[str, pd.DataFrame],
    cut_s: int,
    label: LabelSpec,
    alphas: Sequence[float] = POOLED_ALPHAS,
) -> SharedModels:
    """Return scale and pooled trees, fitted on all rows whose label ended by the cut.

    Parameters
    ----------
    tables
        Context pair -> `build_table`, or `shared_rows` of it.
    label
        Horizon and timeframe; the pooled trees learn both sides together.
    alphas
        Levels to fit pooled trees at, of `POOLED_ALPHAS`.
    """
    scale = fit_scale(tables, cut_s, label)
    dataset = pooled_dataset(tables, scale, label)
    if dataset is None:
        return SharedModels(cut_s, scale, {})
    return SharedModels(
        cut_s, scale, {alpha: fit_pooled(dataset, alpha, label.horizon) for alpha in alphas}
    )


def pooled_dataset(
    tables: Mapping[str, pd.DataFrame], scale: LabelScale, label: LabelSpec
) -> lgb.Dataset | None:
    """Return what the pooled trees of every level learn from; None where history is too short.

    Parameters
    ----------
    tables, label
        As for `fit_shared`.
    scale
        Of the cut: it decides which labels have ended, and is the unit of all.
    """
    if scale.is_fallback:
        return None
    parts = []
    for pair in sorted(tables):
        opens_s = open_seconds(tables[pair])
        rows = select_rows(
            opens_s,
            np.ones(len(opens_s), bool),
            start_s=0,
            stop_s=train_stop_s(scale.cut_s, label),
            timeframe_s=label.timeframe_s,
            every=thinning(label.horizon).pooled,
        )
        part = tables[pair].iloc[rows]
        log_scale = scale.log_scale(pair, part)  # once for both sides: it is most of the work here
        for side in SIDES:
            y = labels(part, side)
            known = np.isfinite(y)
            if known.any():
                x = _with_side(tree_features(part, log_scale, side)[known], side)
                parts.append((x, y[known] / np.exp(log_scale[known])))
    if not parts:
        return None
    return make_dataset(
        np.concatenate([x for x, _ in parts]), np.concatenate([z for _, z in parts])
    )


def fit_pooled(dataset: lgb.Dataset, alpha: float, horizon: int) -> lgb.Booster:
    """Return the pooled trees of one level, of `POOLED_ALPHAS`; levels do not depend on each other."""
    params = {**POOLED_PARAMS, "alpha": alpha, "seed": SERVED_SEED}
    return lgb.train(params, dataset, shared_trees(POOLED_TREES, horizon))


def pooled_weights(alpha: float) -> dict[float, float]:
    """Return fitted level -> its weight in the pooled forecast of level `alpha`: linear between two.

    Examples
    --------
    >>> pooled_weights(0.10), pooled_weights(0.125)
    ({0.1: 1.0}, {0.1: 0.5, 0.15: 0.5})
    """
    right = int(np.clip(np.searchsorted(POOLED_ALPHAS, alpha, "right"), 1, len(POOLED_ALPHAS) - 1))
    low, high = POOLED_ALPHAS[right - 1], POOLED_ALPHAS[right]
    # Rounded: 0.15 - 0.10 is 0.049999999999999996, which would give a level a weight of 1e-16.
    share = round((alpha - low) / (high - low), 12)
    return {level: w for level, w in ((low, 1.0 - share), (high, share)) if w}


def combine(
    own_z: NDArray[np.float64],
    pooled_z: NDArray[np.float64] | None,
    rule_z: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the served forecast of excursion / scale: the weighted mean of own, pooled and rule.

    Parameters
    ----------
    rule_z
        Forecast of the ATR rule / scale.
    """
    trees = own_z if pooled_z is None else OWN_WEIGHT * own_z + (1 - OWN_WEIGHT) * pooled_z
    return (1 - RULE_WEIGHT) * trees + RULE_WEIGHT * rule_z


@dataclass(frozen=True, slots=True)
class SafetyModel:
    """The model that serves a pair and side from a cut on; immutable once built.

    Attributes
    ----------
    own
        Booster of the pair's LGBMRegressor. Never trained further.
    rule_constant
        The ATR rule's c at this cut and level.
    ordinary
        Which candles are like those that it learned from.
    """

    pair: str
    side: Side
    alpha: float
    shared: SharedModels
    own: lgb.Booster
    rule_constant: float
    ordinary: OrdinaryRange

    def predict(self, table: pd.DataFrame) -> NDArray[np.float64]:
        """Return the excursion's quantile of every row before calibration: a ratio, negative = adverse.

        Parameters
        ----------
        table
            Rows of the pair's `market.features.build_table`.
        """
        if table.empty:
            return np.empty(0)
        log_scale = self.shared.scale.log_scale(self.pair, table)
        own = predict_trees(self.own, tree_features(table, log_scale, self.side))
        pooled = self.shared.pooled_z(table, log_scale, self.side, self.alpha)
        scale = np.exp(log_scale)
        # In units of the scale, where own trees and pooled trees speak; then back to a ratio.
        rule = self.rule_constant * table["atr_ratio"].to_numpy(np.float64)
        forecast: NDArray[np.float64] = combine(own, pooled, rule / scale) * scale
        return forecast


def fit_safety_model(
    pair: str,
    table: pd.DataFrame,
    label: LabelSpec,
    parameters: Mapping[str, float],
    shared: SharedModels,
    train_days: float,
) -> tuple[SafetyModel, NDArray[np.int64]]:
    """Return the model that serves a pair, and the table positions of the rows it learned from.

    Trained the same way everywhere: on `train_days` before the cut of `shared`, on labels that
    ended by then.

    Parameters
    ----------
    table
        The pair's `build_table`.

    Raises
    ------
    ModelError
        When fewer than `LEAST_ROWS` are there.
    """
    window = TrainingWindow(shared.cut_s, train_days)
    learned_from = make_training_set(pair, table, shared.scale, label, window)
    return fit_to(learned_from, parameters, shared), learned_from.trees.rows


def fit_to(
    learned_from: TrainingSet, parameters: Mapping[str, float], shared: SharedModels
) -> SafetyModel:
    """Return the model of a parameter set, trained on a pair's training set.

    Parameters
    ----------
    shared
        Of the training set's cut; its scale need not know the pair.
    """
    trees = learned_from.trees
    regressor = make_regressor(parameters, SERVED_SEED)
    regressor.fit(trees.x, trees.z, sample_weight=trees.weight)
    alpha = parameters["quantile_alpha"]
    if not shared.scale.is_fallback:
        shared = shared.with_weights(learned_from.pair, learned_from.scale_weights)
    return SafetyModel(
        learned_from.pair,
        learned_from.side,
        alpha,
        shared,
        regressor.booster_,
        rule_constant(learned_from.rule_ratios, alpha),
        learned_from.ordinary,
    )
