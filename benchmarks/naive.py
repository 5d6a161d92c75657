"""The naive loop: what one would write first, measured beside the real tuner.

An LGBMRegressor per fold on all rows and the raw label, parameters drawn by TPE over the schema's
ranges with `n_estimators` as drawn, no pruning, nothing shared, same features and folds.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from common import (  # isort: skip - sets thread counts before numpy is imported
    TRAIN_DAYS,
    Setup,
    full,
)

import lightgbm as lgb
import numpy as np
import optuna
from numpy.typing import NDArray

from feeder_mixin.market.features import labels, tree_features
from feeder_mixin.model.folds import Window
from feeder_mixin.model.metrics import pinball_loss
from feeder_mixin.model.quantile import lightgbm_params
from feeder_mixin.model.rows import DAY_S, open_seconds, select_rows, train_stop_s
from feeder_mixin.schema import PARAMETERS
from feeder_mixin.settings import Side

ALPHA = 0.10
Array = NDArray[np.float64]
Parameters = dict[str, float]


class Search(NamedTuple):
    """What a naive search found, and what it cost."""

    parameters: Parameters
    n_trials: int
    cpu_s: float


def fold_rows(
    setup: Setup, side: Side, window: Window, drop_days: float = 0.0
) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
    """Return all training rows, all scored rows and the label."""
    label = setup.label(side)
    y, opens_s = labels(setup.table, side), open_seconds(setup.table)
    finite = np.isfinite(y)
    train = select_rows(
        opens_s,
        finite,
        start_s=int(window.cut_s - (TRAIN_DAYS - drop_days) * DAY_S),
        stop_s=train_stop_s(window.cut_s, label),
        timeframe_s=label.timeframe_s,
    )
    test = select_rows(
        opens_s, finite, start_s=window.cut_s, stop_s=window.end_s, timeframe_s=label.timeframe_s
    )
    return train, test, y


def naive_forecast(
    setup: Setup,
    side: Side,
    window: Window,
    parameters: Parameters,
    seed: int = 1,
    drop_days: float = 0.0,
) -> tuple[Array, Array]:
    """Return excursion and forecast of a fold: sklearn regressor, all rows, raw label."""
    train, test, y = fold_rows(setup, side, window, drop_days)
    log_scale = setup.shared[window.cut_s].scale.log_scale(full(setup.base), setup.table)
    x = tree_features(setup.table, log_scale, side)
    params = {**lightgbm_params(parameters, seed), "max_bin": 255, "n_jobs": 1}
    del params["num_threads"]
    model = lgb.LGBMRegressor(**params).fit(x[train], y[train])
    return y[test], model.predict(x[test])


def naive_loop(
    setup: Setup, side: Side, *, n_trials: int | None = None, budget_s: float = float("inf")
) -> Search:
    """Return the naive search's winner.

    Parameters
    ----------
    n_trials, budget_s
        The search ends with this trial, or with the one in which its CPU seconds reach the budget.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    started = time.process_time()

    def objective(trial: optuna.Trial) -> float:
        parameters: Parameters = {}
        for p in PARAMETERS:
            if p.name == "quantile_alpha":
                parameters[p.name] = ALPHA
            elif p.is_integer:
                parameters[p.name] = trial.suggest_int(p.name, int(p.low), int(p.high))
            else:
                parameters[p.name] = trial.suggest_float(p.name, p.low, p.high, log=p.is_log)
        trial.set_user_attr("parameters", parameters)
        folds = [naive_forecast(setup, side, window, parameters) for window in setup.layout.folds]
        y, q = (np.concatenate(part) for part in zip(*folds, strict=True))
        return pinball_loss(y, q, ALPHA)

    def stop_when_spent(study: optuna.Study, _trial: optuna.trial.FrozenTrial) -> None:
        if time.process_time() - started >= budget_s:
            study.stop()

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(objective, n_trials=n_trials, callbacks=[stop_when_spent])
    return Search(
        study.best_trial.user_attrs["parameters"],
        len(study.trials),
        time.process_time() - started,
    )
