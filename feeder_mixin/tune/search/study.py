"""The search for one pair: trials, redraws, winner.

The objective is the pinball loss of the served forecast over all folds together, relative to that of
the default parameters at the trial's own quantile level, minus one: below 0 is better than the
defaults. Plain skill over the ATR rule would drift to the lowest level, because it rises as the
level falls (8.4 % at 0.05, 6.8 at 0.10, 4.9 at 0.20, with the same model).

The best few of the search are then redrawn (other seed, other and twice as many rows of the
thinning, first day dropped) and compared with the defaults by blocks of a day.
Differences of a point are noise, so a winner must be better than the defaults beyond its standard
error; among near-ties the smaller model wins.

Everything is a function of (seed, feeder, pair, trial number) and the trials before: a search that
is cut into batches, or killed, goes on as if nothing had happened.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import optuna
import pandas as pd
from numpy.typing import NDArray

from feeder_mixin.model.folds import Layout
from feeder_mixin.model.metrics import checked_reference
from feeder_mixin.model.quantile import POOLED_ALPHAS, SharedModels
from feeder_mixin.model.rows import thinning
from feeder_mixin.schema import PARAMETER_BY_NAME, default_parameters
from feeder_mixin.tune.search._finalists import RedrawGain, Redraws, alpha_pays, choose_winner
from feeder_mixin.tune.search._objective import (
    REDRAW_SHARE,
    SEARCH_SHARE,
    Draw,
    PrunedError,
    Sampling,
    build_draw,
    build_fold_rows,
    grow,
)
from feeder_mixin.tune.search.kept import KeptTrial, SearchLog
from feeder_mixin.tune.search.space import ALPHA, ParameterSet, SearchSpace, StudySettings, Trial

Array = NDArray[np.float64]

REDRAWS: Final = 2
N_FINALISTS: Final = 2
"""Best trials of the search that are redrawn beside the defaults."""

STARTUP_TRIALS: Final = 10
"""Random trials before TPE begins."""

PRUNE_PERCENTILE: Final = 10.0
"""A trial goes on past a checkpoint when it is among this percentage of the finished trials there.

A third instead costs up to twice as much and finds winners that redraws can't tell apart.
"""


def derive_seed(*parts: object) -> int:
    """Return a 31-bit seed that is a function of `parts`, the same in every process."""
    # Not `hash`, which differs from process to process; 31 bits, because LightGBM's seed is an int32.
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


@dataclass(frozen=True, slots=True)
class Baseline:
    """The defaults' loss on the search draw as a curve over the quantile level.

    Exact at the fitted levels, a polynomial through them between: the loss is smooth in the level.
    """

    coefficients: Array

    def loss(self, alpha: float) -> float:
        """Return the defaults' mean pinball loss at a level."""
        return float(np.polyval(self.coefficients, alpha))


def fit_baseline(draw: Draw, alpha: float | None = None) -> Baseline:
    """Return the defaults' curve over alpha, or its one point when the level is fixed."""
    alphas = POOLED_ALPHAS if alpha is None else (alpha,)
    defaults = default_parameters()
    trees = int(defaults["n_estimators"])
    losses = [
        grow(draw, {**defaults, ALPHA: level}, fixed_trees=trees).losses[-1] for level in alphas
    ]
    # As many coefficients as levels: the polynomial goes through every fitted point.
    return Baseline(np.polyfit(alphas, losses, deg=len(alphas) - 1))


class PreparedPair:
    """A pair's folds, ready for fits: the same for every trial, so a worker keeps it between batches.

    Parameters
    ----------
    table
        The pair's rows (`market.features.build_table`).
    shared
        Model cut in seconds -> scale and pooled trees, for every fold.
    """

    def __init__(
        self,
        settings: StudySettings,
        table: pd.DataFrame,
        layout: Layout,
        shared: Mapping[int, SharedModels],
    ) -> None:
        self.settings, self.table, self.shared = settings, table, shared
        self.rows = build_fold_rows(settings.pair, table, settings.label, layout.folds, shared)
        self.redraw_forecasts: dict[str, Array] = {}
        self._draws: dict[int, Draw] = {}

    def draw(self, number: int) -> Draw:
        """Return a draw of the folds, made when it is first asked for; 0 is the search's own."""
        s = self.settings
        if number not in self._draws:
            sampling = Sampling(
                seed=derive_seed(s.seed, s.feeder_id, s.pair, "draw", number),
                share=REDRAW_SHARE if number else SEARCH_SHARE,
                # The search's own draw keeps every day. Redraws learn from rows that the search and
                # each other have not seen, where the thinning leaves three such sets (7 candles and more).
                drop_days=min(number, 1),
                offset=number * max(1, round(0.3 * thinning(s.label.horizon).own)),
            )
            self._draws[number] = build_draw(
                s.pair, self.table, s.label, self.rows, s.train_days, sampling
            )
        return self._draws[number]

    @cached_property
    def baseline(self) -> Baseline:
        """Return the defaults' loss on the search's draw."""
        return fit_baseline(self.draw(0), self.settings.fixes.get(ALPHA))


class Search:
    """The trials of one run: an in-memory study, made anew from what is kept."""

    def __init__(
        self, prepared: PreparedPair, warm_start: Sequence[ParameterSet], log: SearchLog
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # runs in a worker process of ours only
        self._settings, self._draw, self._warm = prepared.settings, prepared.draw(0), warm_start
        self._log = log
        self._space = SearchSpace(prepared.settings.fixes)
        self._baseline = prepared.baseline
        # A percentile of what other trials had at the same tree count; in the first trials none.
        pruner = optuna.pruners.PercentilePruner(PRUNE_PERCENTILE, n_startup_trials=5)
        self._study = optuna.create_study(direction="minimize", pruner=pruner)
        self.trials: list[Trial] = []
        for trial in log.kept.trials.values():
            self._replay(trial)

    def run(self, n_trials: int, out_of_time: Callable[[], bool]) -> None:
        """Make trials until there are `n_trials`, or time is up; trial 0 is always made."""
        while len(self.trials) < n_trials and not (self.trials and out_of_time()):
            self._one(len(self.trials))

    def _one(self, number: int) -> None:
        s = self._settings
        # Seeded by trial number: a reopened study would draw its first trials again.
        seed = derive_seed(s.seed, s.feeder_id, s.pair, number)
        self._study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
        if number < len(self._warm):
            self._study.enqueue_trial(self._space.encode(self._warm[number]))
        trial = self._study.ask(self._space.distributions)
        parameters = self._space.decode(trial.params)
        reference = checked_reference(self._baseline.loss(parameters[ALPHA]))
        reported: dict[int, float] = {}

        def report(trees: int, loss: float) -> bool:
            reported[trees] = loss / reference - 1.0
            trial.report(reported[trees], trees)
            return number >= len(self._warm) and trial.should_prune()

        fixed = s.fixes.get("n_estimators")
        try:
            curve = grow(
                self._draw,
                parameters,
                fixed_trees=None if fixed is None else int(fixed),
                report=report,
            )
            trees, loss = (int(fixed), curve.losses[-1]) if fixed is not None else curve.best()
            pruned, value = False, loss / reference - 1.0
            self._study.tell(trial, value)
        except PrunedError as stop:
            trees, pruned, value = stop.trees, True, stop.loss / reference - 1.0
            self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        kept = KeptTrial(
            coordinates=dict(trial.params),
            parameters={**parameters, "n_estimators": trees},
            value=value,
            pruned=pruned,
            reported=reported,
        )
        self._remember(kept)
        self._log.add_trial(number, kept)

    def _remember(self, kept: KeptTrial) -> None:
        parameters = {
            name: PARAMETER_BY_NAME[name].restore(value) if name != "n_estimators" else int(value)
            for name, value in kept.parameters.items()
        }
        self.trials.append(Trial(len(self.trials), parameters, kept.value, kept.pruned))

    def _replay(self, kept: KeptTrial) -> None:
        states = optuna.trial.TrialState
        self._study.add_trial(
            optuna.trial.create_trial(
                state=states.PRUNED if kept.pruned else states.COMPLETE,
                value=kept.value,
                params=dict(kept.coordinates),
                distributions=self._space.distributions,
                intermediate_values=dict(kept.reported),
            )
        )
        self._remember(kept)

    def importances(self) -> dict[str, float]:
        """Return Optuna's importance of each searched parameter, empty with too few trials."""
        complete = [t for t in self.trials if not t.pruned]
        if len(complete) < STARTUP_TRIALS or len({t.value for t in complete}) < 2:
            return {}
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        return dict(optuna.importance.get_param_importances(self._study, evaluator=evaluator))


@dataclass(frozen=True, slots=True)
class StudyResult:
    """What the search of one pair gave.

    Attributes
    ----------
    parameters
        The winning set, quantile level included.
    evidence
        Comparison of every redrawn candidate with the start set.
    """

    parameters: ParameterSet
    winner: Trial
    trials: tuple[Trial, ...]
    evidence: tuple[RedrawGain, ...]
    importances: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Budget:
    """When a search ends.

    Attributes
    ----------
    n_trials
        Trials in total, those of an interrupted run included.
    seconds
        Wall seconds; trial 0 is made in any case.
    """

    n_trials: int
    seconds: float = math.inf


def run_study(
    prepared: PreparedPair,
    warm_start: Sequence[ParameterSet],
    log: SearchLog,
    budget: Budget,
) -> StudyResult:
    """Return the winner of a pair's search, gone on with from what is kept.

    Parameters
    ----------
    warm_start
        Sets that the first trials try.
    log
        What is kept, and what is added here.

    Raises
    ------
    BatchOverError
        When the batch's time is over before the search is; the next one goes on from its log.
    """
    started, settings = time.monotonic(), prepared.settings
    search = Search(prepared, warm_start, log)
    search.run(budget.n_trials, lambda: budget.seconds < time.monotonic() - started)
    start = Trial(0, settings.start, search.trials[0].value, pruned=False)
    # Below 0: better than the defaults on the search's draw. Worse ones can't win the redraws.
    finished = [t for t in search.trials[1:] if not t.pruned and t.value < 0.0]
    candidates = sorted(finished, key=lambda t: (t.value, t.number))[:N_FINALISTS]
    redraws = Redraws(prepared.rows, prepared.draw, REDRAWS, log, prepared.redraw_forecasts)
    evidence = [redraws.compare(t, start.parameters, settings.table_alpha) for t in candidates]
    winner = choose_winner(evidence, start)
    parameters = winner.parameters
    if not alpha_pays(redraws, parameters, settings.table_alpha, settings.max_adverse_ratio):
        parameters = {**parameters, ALPHA: settings.table_alpha}
    return StudyResult(
        parameters,
        winner,
        tuple(search.trials),
        tuple(evidence),
        search.importances(),
    )
