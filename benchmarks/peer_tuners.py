"""The contenders of `peers.py`: each tunes a cell within a budget and forecasts its test window.

LightGBMTunerCV and FLAML get our formulation: features, the label over the scale of the cut, the
thinned and weighted training rows, the purged walk-forward folds and every 5th row of them to be
scored. (The scale of the cut has seen the folds. That flatters what a peer reads on its folds by 36
linear coefficients, and touches no row of the test window.) What they choose is fitted on the
pair's training rows at the cut and multiplied back by the scale.

Ours is served as the bot serves it: with the pooled trees averaged in, which no peer has. Where
ours ends with the defaults, what it is ahead by is the recipe's, not the search's.

Traps, each of which made an earlier comparison unfair:

- LightGBMTunerCV names no tree count: it is the length of the winner's learning curve, time of the
  trial / time of an iteration in its record. Its budget is wall clock, per step of the search: a
  callback ends it instead. `feature_pre_filter` must be off from the start.
- FLAML shuffles the training rows of a splitter without a `shuffle` attribute, and all rows without
  a splitter: overlapping labels would leak. Quantile objective and level are constants of its search
  space. Its budget is wall clock, too, and cuts trees inside a fit: its clock is made to tick by CPU
  seconds, and its winner is fitted anew.
- Both run one thread.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

from common import (  # isort: skip - sets thread counts before numpy is imported
    TRAIN_DAYS,
    Setup,
    full,
    settings_of,
    tune,
)
from naive import ALPHA, Array, fold_rows, naive_forecast, naive_loop  # isort: skip
from peer_cells import DEFAULTS, FLAML, NAIVE, OURS, RULE, TUNER_CV, Result  # isort: skip

import lightgbm as lgb
import numpy as np
import optuna
from numpy.typing import NDArray

from feeder_mixin.market.features import labels, tree_features
from feeder_mixin.model.baseline import atr_rule_constant
from feeder_mixin.model.folds import Window
from feeder_mixin.model.metrics import day_block_sums, exceedance, pinball_loss, pinball_losses
from feeder_mixin.model.quantile import (
    fit_safety_model,
)
from feeder_mixin.model.rows import open_seconds, recency_weights, select_rows, thinning
from feeder_mixin.model.training_set import (
    PAIR_HALF_LIFE_DAYS,
    TrainingRows,
    TrainingWindow,
    training_rows,
)
from feeder_mixin.schema import default_parameters
from feeder_mixin.settings import Side

SEED = 0
EARLY_STOPPING_TREES = 50
MAX_TREES = 1000  # as the schema's range of n_estimators
MANY_TRIALS = 100_000  # the budget ends the search
QUANTILE = {"objective": "quantile", "alpha": ALPHA, "deterministic": True, "force_col_wise": True}
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Problem:
    """What LightGBMTunerCV and FLAML are given.

    Attributes
    ----------
    x, z, weight
        Inputs, label / scale and recency of the rows that any fold trains on or scores.
    folds
        Positions in them: training rows, scored rows.
    final
        The pair's training rows at the cut.
    test_x, test_scale
        Inputs and scale of the untouched window.
    """

    x: NDArray[np.float32]
    z: Array
    weight: Array
    folds: list[tuple[Rows, Rows]]
    final: TrainingRows
    test_x: NDArray[np.float32]
    test_scale: Array


def build_problem(setup: Setup, side: Side) -> Problem:
    """Return the tuning problem of a cell, nothing in it later than the cut but the test inputs."""
    table, cut_s, opens_s = setup.table, setup.layout.test.cut_s, open_seconds(setup.table)
    y = labels(table, side)
    pair, scale = full(setup.base), setup.shared[cut_s].scale
    log_scale = scale.log_scale(pair, table)
    x, z = tree_features(table, log_scale, side), y / np.exp(log_scale)

    def trained(window: Window) -> TrainingRows:
        return training_rows(
            pair,
            table,
            scale,
            setup.label(side),
            TrainingWindow(window.cut_s, TRAIN_DAYS),
        )

    def scored(window: Window) -> Rows:
        return select_rows(
            opens_s,
            np.isfinite(y),
            start_s=window.cut_s,
            stop_s=window.end_s,
            timeframe_s=setup.market.timeframe_s,
            every=thinning(setup.market.horizon).score,
        )

    folds = [(trained(window).rows, scored(window)) for window in setup.layout.folds]
    rows = np.unique(np.concatenate([part for fold in folds for part in fold]))
    _, test, _ = fold_rows(setup, side, setup.layout.test)
    return Problem(
        x=x[rows],
        z=z[rows],
        weight=recency_weights(opens_s[rows], cut_s, PAIR_HALF_LIFE_DAYS),
        folds=[
            (np.searchsorted(rows, train), np.searchsorted(rows, valid)) for train, valid in folds
        ],
        final=trained(setup.layout.test),
        test_x=x[test],
        test_scale=np.exp(log_scale[test]),
    )


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of the children that it waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@contextmanager
def cpu_clock() -> Iterator[None]:
    """Let `time.time` and `time.monotonic` tick by CPU seconds: budgets then are CPU seconds."""
    ahead = {name: getattr(time, name)() - cpu_seconds() for name in ("time", "monotonic")}
    with ExitStack() as stack:
        for name, seconds in ahead.items():
            clock = partial(_cpu_time, seconds)
            stack.enter_context(patch.object(time, name, clock))
        yield


def _cpu_time(ahead: float) -> float:
    return ahead + cpu_seconds()


@dataclass(frozen=True, slots=True)
class Found:
    """A contender's forecasts of the untouched window, and what its search took."""

    q: Array
    parameters: Mapping[str, Any]
    n_trials: int = 0
    cpu_s: float = 0.0


def run_rule(setup: Setup, side: Side, _budget_s: float) -> Found:
    """Return the ATR rule's forecasts."""
    test = setup.layout.test
    _, rows, _ = fold_rows(setup, side, test)
    constant = atr_rule_constant(setup.table, setup.label(side), test.cut_s, ALPHA)
    return Found(
        constant * setup.table["atr_ratio"].to_numpy(np.float64)[rows], {"constant": constant}
    )


def serve(setup: Setup, side: Side, parameters: Mapping[str, float]) -> Array:
    """Return what the bot would serve in the untouched window with a parameter set."""
    _, rows, _ = fold_rows(setup, side, setup.layout.test)
    model, _ = fit_safety_model(
        full(setup.base),
        setup.table,
        setup.label(side),
        parameters,
        setup.shared[setup.layout.test.cut_s],
        TRAIN_DAYS,
    )
    return model.predict(setup.table.iloc[rows])


def run_defaults(setup: Setup, side: Side, _budget_s: float) -> Found:
    """Return the forecasts of the default parameters."""
    parameters = {**default_parameters(), "quantile_alpha": ALPHA}
    return Found(serve(setup, side, parameters), parameters)


def run_ours(setup: Setup, side: Side, budget_s: float) -> Found:
    """Return the forecasts of the real tuner's winner, served as the bot serves it."""
    started = cpu_seconds()
    fixes = {"quantile_alpha": ALPHA}
    with cpu_clock():
        result, _ = tune(
            [setup], settings_of(setup.label(side), SEED, fixes), MANY_TRIALS, budget_s
        )
    cpu_s = cpu_seconds() - started
    q = serve(setup, side, result.winner.parameters)
    return Found(q, result.winner.parameters, len(result.trials), cpu_s)


def run_naive(setup: Setup, side: Side, budget_s: float) -> Found:
    """Return the forecasts of the naive loop's winner, fitted on all rows and the raw label."""
    search = naive_loop(setup, side, budget_s=budget_s)
    _, q = naive_forecast(setup, side, setup.layout.test, search.parameters)
    return Found(q, search.parameters, search.n_trials, search.cpu_s)


class _SpentError(Exception):
    """Ends LightGBMTunerCV from a callback: a step's own `Study.stop` would begin the next step."""


def run_tuner_cv(setup: Setup, side: Side, budget_s: float) -> Found:
    """Return the forecasts of the winner of Optuna's stepwise LightGBM tuner."""
    from optuna_integration.lightgbm import LightGBMTunerCV

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    problem = build_problem(setup, side)
    fixed = {"metric": "quantile", "num_threads": 1, "seed": SEED, "verbosity": -1}
    started = cpu_seconds()

    def stop_when_spent(_study: optuna.Study, _trial: optuna.trial.FrozenTrial) -> None:
        if cpu_seconds() - started >= budget_s:
            raise _SpentError

    tuner = LightGBMTunerCV(
        {**QUANTILE, **fixed, "feature_pre_filter": False},
        lgb.Dataset(
            problem.x, problem.z, weight=problem.weight, params={"feature_pre_filter": False}
        ),
        num_boost_round=MAX_TREES,
        folds=problem.folds,
        callbacks=[lgb.early_stopping(EARLY_STOPPING_TREES, verbose=False)],
        optuna_callbacks=[stop_when_spent],
        show_progress_bar=False,
        optuna_seed=SEED,
    )
    with suppress(_SpentError):
        tuner.run()
    cpu_s = cpu_seconds() - started
    seconds = tuner.study.best_trial.system_attrs
    n_trees = round(
        seconds["lightgbm_tuner:elapsed_secs"] / seconds["lightgbm_tuner:average_iteration_time"]
    )
    final = problem.final
    model = lgb.train(
        dict(tuner.best_params), lgb.Dataset(final.x, final.z, weight=final.weight), n_trees
    )
    return Found(
        model.predict(problem.test_x, num_threads=1) * problem.test_scale,
        {**tuner.best_params, "n_estimators": n_trees},
        len(tuner.study.trials),
        cpu_s,
    )


@dataclass(frozen=True, slots=True)
class Splitter:
    """The folds as FLAML takes them; `shuffle` keeps it from permuting the training rows."""

    folds: list[tuple[Rows, Rows]]
    shuffle: bool = False

    def get_n_splits(self, *_arguments: object) -> int:
        """Return how many folds there are."""
        return len(self.folds)

    def split(self, *_arguments: object) -> Iterator[tuple[Rows, Rows]]:
        """Yield training rows and scored rows."""
        return iter(self.folds)


def run_flaml(setup: Setup, side: Side, budget_s: float) -> Found:
    """Return the forecasts of the winner of FLAML's AutoML over LightGBM."""
    from flaml.automl.automl import AutoML

    problem = build_problem(setup, side)
    n_scored = 0

    def pinball(
        x: Array, z: Array, estimator: Any, *_others: Any
    ) -> tuple[float, dict[str, float]]:
        nonlocal n_scored
        n_scored += 1
        loss = pinball_loss(z, estimator.predict(x), ALPHA)
        return loss, {"pinball": loss}

    started = cpu_seconds()
    automl = AutoML()
    with cpu_clock():
        automl.fit(
            problem.x,
            problem.z,
            sample_weight=problem.weight,
            task="regression",
            metric=pinball,
            estimator_list=["lgbm"],
            custom_hp={"lgbm": {name: {"domain": value} for name, value in QUANTILE.items()}},
            eval_method="cv",
            split_type=Splitter(problem.folds),
            time_budget=budget_s,
            n_jobs=1,
            seed=SEED,
            skip_transform=True,
            retrain_full=False,
            verbose=0,
        )
    cpu_s = cpu_seconds() - started
    parameters = automl.model.config2params(dict(automl.best_config))
    final = problem.final
    model = lgb.LGBMRegressor(**{**parameters, "n_jobs": 1, "random_state": SEED, "verbose": -1})
    model.fit(final.x, final.z, sample_weight=final.weight)
    return Found(
        model.booster_.predict(problem.test_x, num_threads=1) * problem.test_scale,
        {name: getattr(value, "item", lambda v=value: v)() for name, value in parameters.items()},
        n_scored // len(problem.folds),
        cpu_s,
    )


CONTENDERS: dict[str, Callable[[Setup, Side, float], Found]] = {
    RULE: run_rule,
    DEFAULTS: run_defaults,
    NAIVE: run_naive,
    TUNER_CV: run_tuner_cv,
    FLAML: run_flaml,
    OURS: run_ours,
}


def measure(setup: Setup, side: Side, contender: str, budget_s: float) -> Result:
    """Return what a contender did on the cell's untouched window, every row of it."""
    found = CONTENDERS[contender](setup, side, budget_s)
    _, rows, y = fold_rows(setup, side, setup.layout.test)
    losses = pinball_losses(y[rows], found.q, ALPHA)
    return Result(
        day_losses=day_block_sums(losses, open_seconds(setup.table)[rows]).tolist(),
        exceedance=exceedance(y[rows], found.q),
        cpu_s=found.cpu_s,
        n_trials=found.n_trials,
        parameters=dict(found.parameters),
    )
