"""The search for one pair: trials, redraws, winner, record.

The objective is the pinball loss of the served forecast over all folds together, relative to that of
the default parameters at the trial's own quantile level, minus one: below 0 is better than the
defaults. Plain skill over the ATR rule would drift to the lowest level, because it rises as the
level falls (8.4 % at 0.05, 6.8 at 0.10, 4.9 at 0.20, with the same model).

The best few of the search are then redrawn (other seed, other and twice as many rows of the
thinning, first day dropped) and compared with the defaults by blocks of a day.
Differences of a point are noise, so a winner must be better than the defaults beyond its standard
error; among near-ties the smaller model wins.

Everything is a function of (seed, feeder, pair, trial number) and the trials before: a killed run
goes on as if nothing had happened.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import optuna
import pandas as pd
from numpy.typing import NDArray

from feeder_mixin.model.folds import Layout
from feeder_mixin.model.metrics import day_block_sums, pinball_losses, ratio_with_error
from feeder_mixin.model.quantile import POOLED_ALPHAS, SharedModels
from feeder_mixin.schema import PARAMETER_BY_NAME, PARAMETERS, default_parameters
from feeder_mixin.settings import Side
from feeder_mixin.tune.journal import Journal
from feeder_mixin.tune.objective import (
    REDRAW_SHARE,
    SEARCH_SHARE,
    Curve,
    Draw,
    PrunedError,
    build_draw,
    build_fold_rows,
    grow,
)

Array = NDArray[np.float64]
ParameterSet = dict[str, float]

SEARCH: Final = "search"
REDRAW: Final = "redraw"

REDRAWS: Final = 2
CANDIDATES: Final = 2
"""Best trials of the search that are redrawn beside the defaults."""

WIN_ERRORS: Final = 1.0
"""Standard errors by which a winner must beat the defaults on the redraws.

Measured on 40 cells (ten pairs, both sides, test windows to 2025-11-16 and 2026-01-02, 60 trials):
the search's best trial taken as it is loses 0.14 points of test skill to the defaults (SE 0.11);
winners by 1.0, 1.5 and 2.0 errors, 22, 10 and 5 % of the cells, gain nothing and lose nothing.
"""

ALPHA_ERRORS: Final = 2.0
"""Standard errors of fewer unsafe candles that let `quantile_alpha` leave its default."""

MAX_WARM_STARTS: Final = 8
STARTUP_TRIALS: Final = 10
"""Random trials before TPE begins."""

PRUNE_PERCENTILE: Final = 33.0
"""A trial goes on past a checkpoint when it is among this percentage of the trials seen there."""

_ALPHA: Final = "quantile_alpha"
_LEAF_SHARE: Final = "num_leaves"
"""Searched as a share of the leaves that the depth allows, or many trials would be duplicates."""


def derive_seed(*parts: object) -> int:
    """Return a 31-bit seed that is a function of `parts`, the same in every process."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


@dataclass(frozen=True, slots=True)
class StudySettings:
    """What decides a pair's search, beside candles and store content.

    Attributes
    ----------
    fixes
        Parameter -> value that is not searched.
    """

    feeder_id: str
    pair: str
    side: Side
    horizon: int
    timeframe_s: int
    max_adverse_ratio: float
    train_days: float
    seed: int
    fixes: Mapping[str, float] = field(default_factory=dict)

    @property
    def start(self) -> ParameterSet:
        """Return the defaults with the fixes applied: trial 0, and what near-ties go to."""
        return {**default_parameters(), **self.fixes}

    @property
    def table_alpha(self) -> float:
        """Return the one quantile level of all comparisons."""
        return self.start[_ALPHA]


class SearchSpace:
    """Maps Optuna's coordinates to parameter sets and back; fixed parameters have no coordinate."""

    def __init__(self, fixes: Mapping[str, float]) -> None:
        self._fixes = {
            name: PARAMETER_BY_NAME[name].restore(value) for name, value in fixes.items()
        }
        self.distributions: dict[str, optuna.distributions.BaseDistribution] = {}
        for p in PARAMETERS:
            if p.name in fixes or p.name == "n_estimators":  # the learning curve gives the trees
                continue
            if p.name == _LEAF_SHARE:
                self.distributions[p.name] = optuna.distributions.FloatDistribution(0.0, 1.0)
            elif p.is_integer:
                distribution = optuna.distributions.IntDistribution(int(p.low), int(p.high))
                self.distributions[p.name] = distribution
            else:
                self.distributions[p.name] = optuna.distributions.FloatDistribution(
                    p.low, p.high, log=p.is_log
                )

    def decode(self, coordinates: Mapping[str, float]) -> ParameterSet:
        """Return the parameter set of Optuna's coordinates, without a tree count of its own."""
        values = {**default_parameters(), **self._fixes, **coordinates}
        if _LEAF_SHARE in coordinates:
            low, high = _leaf_range(values["max_depth"])
            values[_LEAF_SHARE] = low + round(coordinates[_LEAF_SHARE] * (high - low))
        return {p.name: p.restore(values[p.name]) for p in PARAMETERS}

    def encode(self, parameters: Mapping[str, float]) -> dict[str, float]:
        """Return the coordinates of a parameter set; fixed parameters are left out."""
        coordinates = {name: parameters[name] for name in self.distributions}
        if _LEAF_SHARE in coordinates:
            low, high = _leaf_range(self._fixes.get("max_depth", parameters["max_depth"]))
            share = (parameters[_LEAF_SHARE] - low) / (high - low) if high > low else 0.0
            coordinates[_LEAF_SHARE] = min(max(share, 0.0), 1.0)
        return coordinates


def _leaf_range(max_depth: float) -> tuple[int, int]:
    leaves = PARAMETER_BY_NAME[_LEAF_SHARE]
    low = int(leaves.low)
    return low, max(low, min(int(leaves.high), 2 ** int(max_depth)))


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
        grow(draw, {**defaults, _ALPHA: level}, fixed_trees=trees).losses[-1] for level in alphas
    ]
    return Baseline(np.polyfit(alphas, losses, deg=len(alphas) - 1))


@dataclass(frozen=True, slots=True)
class Trial:
    """One finished or pruned trial."""

    number: int
    parameters: ParameterSet
    value: float
    pruned: bool


def warm_start_sets(
    settings: StudySettings, own: Mapping[str, float] | None, others: Sequence[Mapping[str, float]]
) -> list[ParameterSet]:
    """Return the first trials: defaults, the pair's own record, the other pairs' records.

    All with the fixes applied, without repeats, at most `MAX_WARM_STARTS`.
    """
    sets: list[ParameterSet] = []
    for values in (settings.start, *([own] if own else []), *others):
        candidate = {**values, **settings.fixes}
        # The tree count is not searched, so sets that differ only there are one trial.
        key = {name: value for name, value in candidate.items() if name != "n_estimators"}
        if all(key != {n: v for n, v in s.items() if n != "n_estimators"} for s in sets):
            sets.append(candidate)
    return sets[:MAX_WARM_STARTS]


class Search:
    """The trials of one run: an in-memory study whose finished trials are in the journal."""

    def __init__(
        self,
        settings: StudySettings,
        draw: Draw,
        warm_start: Sequence[ParameterSet],
        journal: Journal,
        run_id: int,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # runs in a worker process of ours only
        self._settings, self._draw, self._warm = settings, draw, warm_start
        self._journal, self._run_id = journal, run_id
        self._space = SearchSpace(settings.fixes)
        self._baseline = fit_baseline(draw, settings.fixes.get(_ALPHA))
        # A percentile of what other trials had at the same tree count; in the first trials none.
        pruner = optuna.pruners.PercentilePruner(PRUNE_PERCENTILE, n_startup_trials=5)
        self._study = optuna.create_study(direction="minimize", pruner=pruner)
        self.trials: list[Trial] = []
        for document in journal.trials(run_id, SEARCH).values():
            self._replay(document)

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
        reference = self._baseline.loss(parameters[_ALPHA])
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
        document = {
            "coordinates": dict(trial.params),
            "parameters": {**parameters, "n_estimators": trees},
            "value": value,
            "pruned": pruned,
            "reported": {str(step): x for step, x in reported.items()},
        }
        # Saved before it counts: a trial that the search knows is never lost.
        self._journal.save_trial(self._run_id, SEARCH, number, document)
        self._remember(document)

    def _remember(self, document: Mapping[str, Any]) -> None:
        number = len(self.trials)
        parameters = {
            name: PARAMETER_BY_NAME[name].restore(value) if name != "n_estimators" else int(value)
            for name, value in document["parameters"].items()
        }
        self.trials.append(Trial(number, parameters, document["value"], document["pruned"]))

    def _replay(self, document: Mapping[str, Any]) -> None:
        state = optuna.trial.TrialState.PRUNED if document["pruned"] else None
        self._study.add_trial(
            optuna.trial.create_trial(
                state=state or optuna.trial.TrialState.COMPLETE,
                value=document["value"],
                params=document["coordinates"],
                distributions=self._space.distributions,
                intermediate_values={int(k): x for k, x in document["reported"].items()},
            )
        )
        self._remember(document)

    def importances(self) -> dict[str, float]:
        """Return Optuna's importance of each searched parameter, empty with too few trials."""
        complete = [t for t in self.trials if not t.pruned]
        if len(complete) < STARTUP_TRIALS or len({t.value for t in complete}) < 2:
            return {}
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        return dict(optuna.importance.get_param_importances(self._study, evaluator=evaluator))


@dataclass(frozen=True, slots=True)
class Evidence:
    """How a parameter set compares with the start set on the redraws.

    Attributes
    ----------
    gain, error
        Relative loss saved against the start set, and its standard error by blocks of a day.
    """

    trial: Trial
    gain: float
    error: float

    @property
    def beats_start(self) -> bool:
        """Return whether the gain is beyond noise."""
        return self.gain > WIN_ERRORS * self.error


def choose_winner(evidence: Sequence[Evidence], start: Trial) -> Trial:
    """Return the trial that wins: the start set unless a candidate beats it beyond noise.

    Among candidates within one standard error of the best, the one with the fewest leaves in all
    (trees x leaves) wins.
    """
    better = [e for e in evidence if e.beats_start]
    if not better:
        return start
    best = max(better, key=lambda e: e.gain)
    near = [e for e in better if e.gain >= best.gain - best.error]
    return min(near, key=lambda e: (_size(e.trial.parameters), -e.gain, e.trial.number)).trial


def _size(parameters: Mapping[str, float]) -> float:
    return parameters["n_estimators"] * parameters["num_leaves"]


class Redraws:
    """Losses of parameter sets on the redrawn folds, kept in the journal as they are computed."""

    def __init__(self, draws: Sequence[Draw], journal: Journal, run_id: int) -> None:
        self._draws, self._journal, self._run_id = draws, journal, run_id
        self._kept = {d["key"]: d for d in journal.trials(run_id, REDRAW).values()}
        self.excursion = np.concatenate([f.scored.excursion for f in draws[0].folds])
        self.opens_s = np.concatenate([f.scored.opens_s for f in draws[0].folds])

    def day_losses(self, parameters: Mapping[str, float]) -> Array:
        """Return the pinball loss summed by day, over all redraws together, shape (n_days,)."""
        key = json.dumps(dict(parameters), sort_keys=True)
        if key not in self._kept:
            forecasts = self.forecasts(parameters)
            losses = sum(pinball_losses(self.excursion, q, parameters[_ALPHA]) for q in forecasts)
            sums = day_block_sums(np.asarray(losses), self.opens_s)
            document = {"key": key, "day_losses": sums.tolist()}
            self._journal.save_trial(self._run_id, REDRAW, len(self._kept), document)
            self._kept[key] = document
        return np.asarray(self._kept[key]["day_losses"])

    def forecasts(self, parameters: Mapping[str, float]) -> list[Array]:
        """Return the served forecasts of every redraw, folds joined."""
        trees = int(parameters["n_estimators"])
        curves: list[Curve] = [grow(d, parameters, fixed_trees=trees) for d in self._draws]
        return [curve.forecasts for curve in curves]

    def compare(self, trial: Trial, start: Mapping[str, float], alpha: float) -> Evidence:
        """Return the evidence for a trial against the start set, both at one level."""
        reference = self.day_losses({**start, _ALPHA: alpha})
        losses = self.day_losses({**trial.parameters, _ALPHA: alpha})
        gain, error = ratio_with_error(reference - losses, reference)
        return Evidence(trial, gain, error)


def alpha_pays(
    redraws: Redraws, parameters: Mapping[str, float], alpha: float, max_adverse_ratio: float
) -> bool:
    """Return whether the set's own quantile level makes better decisions than the default level.

    As many candles as the default level calls safe are taken by either level's ranking; the own
    level must hold fewer realised-unsafe ones, beyond `ALPHA_ERRORS` standard errors by day.
    """
    if parameters[_ALPHA] == alpha:
        return True
    own = np.mean(redraws.forecasts(parameters), axis=0)
    default = np.mean(redraws.forecasts({**parameters, _ALPHA: alpha}), axis=0)
    n_safe = int(np.sum(default >= -max_adverse_ratio))
    if not n_safe:
        return False
    unsafe = redraws.excursion < -max_adverse_ratio
    difference = np.zeros(len(unsafe))
    for forecasts, sign in ((default, 1.0), (own, -1.0)):
        taken = np.argsort(-forecasts, kind="stable")[:n_safe]
        difference[taken] += sign * unsafe[taken]
    by_day = day_block_sums(difference, redraws.opens_s)
    error = float(np.std(by_day, ddof=1)) * len(by_day) ** 0.5 if len(by_day) > 1 else np.inf
    return bool(by_day.sum() > ALPHA_ERRORS * error)


@dataclass(frozen=True, slots=True)
class StudyResult:
    """What the search of one pair gave.

    Attributes
    ----------
    parameters
        The winning set, quantile level included.
    evidence
        Comparison of every redrawn candidate with the start set.
    search_s
        Wall seconds of search and redraws in this process.
    """

    parameters: ParameterSet
    winner: Trial
    trials: tuple[Trial, ...]
    evidence: tuple[Evidence, ...]
    importances: Mapping[str, float]
    search_s: float


def run_study(
    settings: StudySettings,
    table: pd.DataFrame,
    layout: Layout,
    shared: Mapping[int, SharedModels],
    *,
    n_trials: int,
    warm_start: Sequence[ParameterSet],
    journal: Journal,
    run_id: int,
    budget_s: float | None = None,
) -> StudyResult:
    """Return the winner of a pair's search; finished trials are taken from the journal.

    Parameters
    ----------
    table
        The pair's rows (`market.features.build_table`).
    shared
        Model cut in seconds -> scale and pooled trees, for every fold.
    budget_s
        Wall seconds for the search; trial 0 is made in any case.
    """
    started = time.monotonic()

    rows = build_fold_rows(
        settings.pair, table, settings.side, layout.folds, shared, settings.timeframe_s
    )

    def draw(number: int) -> Draw:
        return build_draw(
            table,
            settings.side,
            rows,
            train_days=settings.train_days,
            horizon=settings.horizon,
            timeframe_s=settings.timeframe_s,
            seed=derive_seed(settings.seed, settings.feeder_id, settings.pair, "draw", number),
            share=REDRAW_SHARE if number else SEARCH_SHARE,
            drop_days=min(number, 1),
            offset=3 * number,
        )

    search = Search(settings, draw(0), warm_start, journal, run_id)
    search.run(n_trials, lambda: budget_s is not None and time.monotonic() - started > budget_s)
    start = Trial(0, settings.start, search.trials[0].value, pruned=False)
    finished = [t for t in search.trials[1:] if not t.pruned and t.value < 0.0]
    candidates = sorted(finished, key=lambda t: (t.value, t.number))[:CANDIDATES]
    redraws = Redraws([draw(number) for number in range(1, REDRAWS + 1)], journal, run_id)
    evidence = [redraws.compare(t, start.parameters, settings.table_alpha) for t in candidates]
    winner = choose_winner(evidence, start)
    parameters = winner.parameters
    if not alpha_pays(redraws, parameters, settings.table_alpha, settings.max_adverse_ratio):
        parameters = {**parameters, _ALPHA: settings.table_alpha}
    return StudyResult(
        parameters,
        winner,
        tuple(search.trials),
        tuple(evidence),
        search.importances(),
        time.monotonic() - started,
    )
