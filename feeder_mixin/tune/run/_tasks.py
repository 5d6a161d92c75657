"""What runs in a worker process: plan a pair, fit the shared models of a cut, tune a pair.

All tasks of a run share the context's candles (`Market`), which a worker gets once; they carry only
what differs. No task touches the parameter store.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

from feeder_mixin.errors import CandleError, FeederError
from feeder_mixin.market.context import FeatureContext
from feeder_mixin.market.features import FEATURE_HASH, labels, warmup_candles
from feeder_mixin.market.holes import bridge
from feeder_mixin.model.folds import Layout, needed_labelled_days, plan_layout
from feeder_mixin.model.quantile import SharedModels, fit_shared, shared_context
from feeder_mixin.model.rows import DAY_S, open_seconds
from feeder_mixin.schema import SIDE_NUMBERS, default_parameters, hash48
from feeder_mixin.settings import LabelSpec
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
from feeder_mixin.tune.run.journal import Journal, RunTrials
from feeder_mixin.tune.search.space import ParameterSet, StudySettings, warm_start_sets
from feeder_mixin.tune.search.study import Budget, StudyResult, run_study


class Market:
    """What all tasks of a run share: the context's candles, and what is predicted.

    A worker gets it once. What is computed from it there stays with it.

    Parameters
    ----------
    context
        Context pair -> its candles.
    until
        Open of the newest candle of any pair.
    """

    def __init__(
        self, context: Mapping[str, pd.DataFrame], label: LabelSpec, until: pd.Timestamp
    ) -> None:
        self.label = label
        self._candles, self._until = dict(context), until

    def __reduce__(self) -> tuple[type[Market], tuple[object, ...]]:
        """Travel without what was computed."""
        return Market, (self._candles, self.label, self._until)

    @cached_property
    def _features(self) -> FeatureContext:
        return FeatureContext(
            self._candles, self.label.horizon, self.label.timeframe_s, self._until
        )

    @property
    def context_pairs(self) -> list[str]:
        """Return the pairs whose candles all tasks share."""
        return sorted(self._candles)

    @property
    def newest_candle_s(self) -> int:
        """Return the open of the context's newest candle, in s since the epoch."""
        return max(int(frame.index[-1].timestamp()) for frame in self._candles.values())

    @cached_property
    def context_tables(self) -> dict[str, pd.DataFrame]:
        """Return context pair -> rows that shared models learn from."""
        return shared_context(self._features)

    def frame(self, pair: str, candles: pd.DataFrame | None) -> pd.DataFrame:
        """Return a pair's candles: those of the task, or the context's where it brings none."""
        return self._candles[pair] if candles is None else candles

    def build_table(self, pair: str, candles: pd.DataFrame | None) -> pd.DataFrame:
        """Return a pair's features and labels."""
        return self._features.build(self.frame(pair, candles))


@dataclass(frozen=True, slots=True)
class PairTask:
    """Everything a worker needs to tune one pair.

    Attributes
    ----------
    candles
        The pair's candles, or None when it is a context pair and the worker has them.
    shared
        Model cut in seconds -> shared models of the context.
    own, others
        Parameters that stood in the store when the run began: the pair's, the other pairs'.
    champion
        The pair's, where a bot would take them; None where there is no such record.
    market_hash
        Identity of exchange and kind of candles.
    """

    settings: StudySettings
    layout: Layout
    candles: pd.DataFrame | None
    shared: Mapping[int, SharedModels]
    journal_path: Path
    run_id: int
    budget: Budget
    own: Mapping[str, float] | None
    others: Sequence[Mapping[str, float]]
    champion: Mapping[str, float] | None
    provenance: Mapping[str, object]
    market_hash: int


def plan_pair(market: Market, pair: str, candles: pd.DataFrame | None, days_back: float) -> Layout:
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


def tune_pair(market: Market, task: PairTask) -> PairResult:
    """Return what tuning a pair found, kept in the journal before it is returned."""
    s = task.settings
    started = time.monotonic()
    table = market.build_table(s.pair, task.candles)
    shared = {
        cut_s: models.with_pair(s.pair, table, s.label) for cut_s, models in task.shared.items()
    }
    with Journal(task.journal_path) as journal:
        try:
            study = run_study(
                s,
                table,
                task.layout,
                shared,
                warm_start_sets(s, task.own, task.others),
                RunTrials(journal, task.run_id),
                task.budget,
            )
            result = _evaluate_contenders(market, task, table, shared, study, started)
        except FeederError as error:
            message = str(error) if s.pair in str(error) else f"{s.pair}: {error}"
            raise type(error)(message) from error
        journal.finish(task.run_id, result)
    return result


def _evaluate_contenders(
    market: Market,
    task: PairTask,
    table: pd.DataFrame,
    shared: Mapping[int, SharedModels],
    study: StudyResult,
    started: float,
) -> PairResult:
    s = task.settings
    evaluator = Evaluator(s, table, shared)
    contenders: dict[Contender, ParameterSet] = {DEFAULTS: s.start}
    if task.champion:
        contenders[RUNNING] = dict(task.champion)
    contenders[TUNED] = study.parameters
    comparison = compare(evaluator, task.layout, contenders, s.table_alpha)
    facts = _run_facts(market, task, len(study.trials), time.monotonic() - started)
    walks = {name: evaluator.walk(task.layout, values) for name, values in contenders.items()}
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
        chart=chart(served, market.frame(s.pair, task.candles)),
        search=SearchFacts(
            n_pruned=sum(trial.pruned for trial in study.trials),
            importances=dict(study.importances),
            redrawn=tuple(Redrawn(e.trial.number, e.gain, e.error) for e in study.evidence),
            took_s=study.search_s,
        ),
        scale_is_fallback=shared[task.layout.test.cut_s].scale.is_fallback,
    )


def _run_facts(market: Market, task: PairTask, n_trials: int, took_s: float) -> dict[str, float]:
    """Return the metrics that all contenders of a run share: what it was made from, and how."""
    s, frame = task.settings, market.frame(task.settings.pair, task.candles)
    return {
        "optimization_trials": float(n_trials),
        "optimization_time": took_s,
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


def library_versions() -> dict[str, str]:
    """Return the versions that decide what trees are grown."""
    names = ("feeder-mixin", "lightgbm", "optuna", "numpy", "pandas", "ta-lib")
    return {name: version(name) for name in names}
