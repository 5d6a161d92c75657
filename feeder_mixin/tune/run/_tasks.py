"""What runs on a worker: plan a pair, fit the shared models of a cut, tune a pair for some seconds.

A task is a function of its arguments. It opens no store, no journal and no file: what it returns is
all that comes of it. What all tasks of a run share is sent to a worker once (`Market`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Final

import numpy as np

from feeder_mixin.errors import CandleError, FeederError
from feeder_mixin.market.features import FEATURE_HASH, labels, warmup_candles
from feeder_mixin.market.holes import bridge
from feeder_mixin.model.folds import Layout, needed_labelled_days, plan_layout
from feeder_mixin.model.quantile import SharedModels, fit_shared
from feeder_mixin.model.rows import DAY_S, open_seconds
from feeder_mixin.schema import SIDE_NUMBERS, default_parameters, hash48
from feeder_mixin.tune.judge.comparison import chart, compare, decision_value
from feeder_mixin.tune.judge.contenders import DEFAULTS, RUNNING, TUNED, Contender
from feeder_mixin.tune.judge.evaluate import Evaluator, record_metrics
from feeder_mixin.tune.judge.result import (
    Evidence,
    MeasuredSet,
    PairResult,
    Redrawn,
    SearchFacts,
)
from feeder_mixin.tune.run._market import Market, PairCandles
from feeder_mixin.tune.search.kept import BatchOverError, KeptSearch, SearchLog
from feeder_mixin.tune.search.space import ParameterSet, StudySettings, warm_start_sets
from feeder_mixin.tune.search.study import Budget, PreparedPair, StudyResult, run_study

DECISIVE_PACKAGES: Final = ("feeder-mixin", "lightgbm", "optuna", "numpy", "pandas", "ta-lib")
"""Their versions decide what trees are grown."""

BATCH_S: Final = 2.0
"""Seconds of search after which a task hands back what it has: what a dead worker costs at most."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Wall seconds that workers spent on a pair: in all, and on search and redraws."""

    total_s: float = 0.0
    search_s: float = 0.0

    def __add__(self, more: Spent) -> Spent:
        """Return the sum."""
        return Spent(self.total_s + more.total_s, self.search_s + more.search_s)


@dataclass(frozen=True, slots=True)
class PairTask:
    """What a worker needs to go on with the tuning of a pair, beside candles and shared models.

    Attributes
    ----------
    own, others
        Parameters that stood in the store when the run began: the pair's, the other pairs'.
    champion
        The pair's, where a bot would take them; None where there is no such record.
    market_hash
        Identity of exchange and kind of candles.
    kept, spent
        What earlier batches gave and took.
    """

    settings: StudySettings
    layout: Layout
    budget: Budget
    own: Mapping[str, float] | None
    others: Sequence[Mapping[str, float]]
    champion: Mapping[str, float] | None
    provenance: Mapping[str, object]
    market_hash: int
    kept: KeptSearch = field(default_factory=KeptSearch)
    spent: Spent = field(default_factory=Spent)

    def after(self, batch: Batch) -> PairTask:
        """Return the task that goes on behind a batch."""
        seconds = self.budget.seconds - batch.spent.search_s
        return replace(
            self,
            kept=self.kept.joined(batch.added),
            spent=self.spent + batch.spent,
            budget=replace(self.budget, seconds=seconds),
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """What some seconds of a pair's tuning gave.

    Attributes
    ----------
    added
        Trials and redraws that ended.
    outcome
        The pair's result, or why it has none; None while it is to be gone on with.
    """

    added: KeptSearch
    outcome: PairResult | FeederError | None
    spent: Spent


def plan_pair(market: Market, pair: str, candles: PairCandles | None, days_back: float) -> Layout:
    """Return the walk-forward layout of a pair.

    Raises
    ------
    CandleError
        When too few rows with complete features and label remain, naming how many are needed.
    """
    label = market.label
    table, frame = market.build_table(pair, candles), market.frame(pair, candles)
    warmup_days = warmup_candles(label.horizon) * label.timeframe_s / DAY_S
    labelled = table.index[np.isfinite(labels(table, "long"))]
    usable_days = len(labelled) * label.timeframe_s / DAY_S
    needed = needed_labelled_days(label)
    if usable_days < needed:
        n_lost = int(np.isnan(bridge(frame).close).sum())
        lost = f", {n_lost} of them missing or in a halt," if n_lost else ""
        raise CandleError(
            f"{pair}: too few candles: {len(frame)}{lost} give {usable_days:.1f} days with features and "
            f"label, minimum {needed:.4g} beside {warmup_days:.1f} days of warm-up, that "
            f"is {int((needed + warmup_days) * DAY_S / label.timeframe_s)} candles "
            "without gaps"
        )
    try:
        return plan_layout(
            int(open_seconds(table)[0]),
            # Of the last label, not of the frame: behind it may be a halt, which is no market.
            int(labelled[-1].timestamp()) + label.horizon_s,
            label,
            newest_candle_s=market.newest_candle_s,
            days_back=days_back,
            needed_warmup_days=warmup_days,
        )
    except CandleError as error:
        raise CandleError(f"{pair}: {error}") from error


def fit_cut(market: Market, cut_s: int) -> SharedModels:
    """Return scale and pooled trees of the context pairs at a cut."""
    return fit_shared(market.context_tables, cut_s, market.label)


def tune_pair(
    market: Market, candles: PairCandles | None, task: PairTask, *shared: SharedModels
) -> Batch:
    """Go on with the tuning of a pair for about `BATCH_S`, and return what that gave.

    Parameters
    ----------
    candles
        The pair's, or None when it is a context pair.
    shared
        Models of the context at each cut of the pair's layout.
    """
    s, started = task.settings, time.monotonic()
    log = SearchLog(task.kept, BATCH_S)
    outcome: PairResult | FeederError | None = None

    def prepare() -> PreparedPair:
        table = market.build_table(s.pair, candles)
        models = {one.cut_s: one.with_pair(s.pair, table, s.label) for one in shared}
        return PreparedPair(s, table, task.layout, models)

    search_s = 0.0
    try:
        prepared = market.prepared(s.pair, prepare)
        searching_since = time.monotonic()
        try:
            warm_start = warm_start_sets(s, task.own, task.others)
            study = run_study(prepared, warm_start, log, task.budget)
        finally:
            search_s = time.monotonic() - searching_since
        spent = task.spent + Spent(time.monotonic() - started, search_s)
        outcome = _judge(market, candles, task, prepared, study, spent)
    except BatchOverError:
        pass
    except FeederError as error:
        outcome = type(error)(str(error) if s.pair in str(error) else f"{s.pair}: {error}")
    return Batch(log.added, outcome, Spent(time.monotonic() - started, search_s))


def _judge(
    market: Market,
    candles: PairCandles | None,
    task: PairTask,
    prepared: PreparedPair,
    study: StudyResult,
    spent: Spent,
) -> PairResult:
    """Compare the winner with the other contenders, and return what came of the pair."""
    s, frame = task.settings, market.frame(task.settings.pair, candles)
    evaluator = Evaluator(s, prepared.table, prepared.shared)
    contenders: dict[Contender, ParameterSet] = {DEFAULTS: s.start}
    if task.champion:
        contenders[RUNNING] = dict(task.champion)
    contenders[TUNED] = study.parameters
    comparison = compare(evaluator, task.layout, contenders, s.table_alpha)
    walks = {name: evaluator.walk(task.layout, values) for name, values in contenders.items()}
    facts = {
        "optimization_trials": float(len(study.trials)),
        "optimization_time": spent.total_s,
        "side": SIDE_NUMBERS[s.label.side],
        "horizon_candles": float(s.label.horizon),
        "timeframe_s": float(s.label.timeframe_s),
        "candles_from_s": frame.index[0].timestamp(),
        "candles_to_s": frame.index[-1].timestamp(),
        "context_hash": float(hash48(*market.context_pairs)),
        "feature_hash": float(FEATURE_HASH),
        "market_hash": float(task.market_hash),
        "max_adverse_ratio": s.max_adverse_ratio,
    }
    best_trial: dict[Contender, dict[str, float]] = {
        DEFAULTS: {"best_trial": 0.0},
        TUNED: {"best_trial": float(study.winner.number)},
    }
    sets = {
        name: MeasuredSet(
            parameters,
            {
                **record_metrics(evaluator, walks[name]),
                **facts,
                **best_trial.get(name, {}),
                "defaults_won": float(parameters == default_parameters()),
            },
        )
        for name, parameters in contenders.items()
    }
    served = walks[TUNED]
    return PairResult(
        pair=s.pair,
        time_ns=time.time_ns(),
        evidence=Evidence(sets, comparison, n_independent=len(served.test.q) / s.label.horizon),
        provenance=dict(task.provenance),
        alpha=s.table_alpha,
        max_adverse_ratio=s.max_adverse_ratio,
        labelled_days=task.layout.labelled_days,
        decision_value=decision_value(served, s.max_adverse_ratio),
        chart=chart(served, frame),
        search=SearchFacts(
            n_pruned=sum(trial.pruned for trial in study.trials),
            importances=dict(study.importances),
            redrawn=tuple(Redrawn(e.trial.number, e.gain, e.error) for e in study.evidence),
            took_s=spent.search_s,
        ),
        scale_is_fallback=prepared.shared[task.layout.test.cut_s].scale.is_fallback,
    )


def library_versions() -> dict[str, str]:
    """Return the versions that decide what trees are grown."""
    return {name: version(name) for name in DECISIVE_PACKAGES}
