"""What runs on a worker: plan a pair, fit the shared models of a cut, measure cells, judge a pair.

A task is a function of its arguments. It opens no store, no journal and no file: what it returns is
all that comes of it. What all tasks of a run share is sent to a worker once (`Market`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

import numpy as np
import pandas as pd

from feeder_mixin.errors import CandleError
from feeder_mixin.market.features import FEATURE_HASH, labels, warmup_candles
from feeder_mixin.market.holes import bridge
from feeder_mixin.model.folds import Layout, needed_labelled_days, plan_layout
from feeder_mixin.model.metrics import checked_reference
from feeder_mixin.model.quantile import SharedModels, fit_shared
from feeder_mixin.model.rows import DAY_S, open_seconds
from feeder_mixin.schema import SIDE_NUMBERS, hash48, is_default_set
from feeder_mixin.tune.judge.comparison import chart, compare, decision_value
from feeder_mixin.tune.judge.contenders import DEFAULTS, RUNNING, TUNED, Contender
from feeder_mixin.tune.judge.evaluate import Evaluator, record_metrics
from feeder_mixin.tune.judge.result import (
    ChosenLevel,
    Evidence,
    MeasuredSet,
    PairResult,
    RiskTable,
)
from feeder_mixin.tune.judge.risk import count_risk
from feeder_mixin.tune.run._market import Market, PairCandles
from feeder_mixin.tune.run.work import CellsAnswer, Found, named
from feeder_mixin.tune.search.cells import PreparedPair, measure
from feeder_mixin.tune.search.space import ParameterSet, StudySettings, key_of, set_of

DECISIVE_PACKAGES: Final = ("feeder-mixin", "lightgbm", "optuna", "numpy", "pandas", "ta-lib")
"""Their versions decide what trees are grown."""


@dataclass(frozen=True, slots=True)
class CellsTask:
    """Some cells of one pair, all of one draw.

    Attributes
    ----------
    wanted
        Fold and parameter set of each.
    """

    pair: str
    settings: StudySettings
    layout: Layout
    draw: int
    wanted: Sequence[tuple[int, tuple[float, ...]]]


@dataclass(frozen=True, slots=True)
class RiskTask:
    """What a worker needs to count what is called safe with a set, beside candles and models."""

    pair: str
    settings: StudySettings
    layout: Layout
    tuned: ParameterSet


@dataclass(frozen=True, slots=True)
class JudgeTask:
    """What a worker needs to say what a pair's tuned set is worth, beside candles and models.

    Attributes
    ----------
    market_hash
        Identity of exchange and kind of candles.
    provenance
        Of the record, complete.
    """

    pair: str
    settings: StudySettings
    layout: Layout
    found: Found
    market_hash: int
    provenance: Mapping[str, object]


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


def fit_cut(market: Market, cut_s: int, levels: Sequence[float]) -> SharedModels:
    """Return scale and pooled trees of the context pairs at a cut, at some of the fitted levels."""
    return fit_shared(market.context_tables, cut_s, market.label, levels)


def measure_cells(
    market: Market, candles: PairCandles | None, task: CellsTask, *shared: SharedModels
) -> CellsAnswer:
    """Return the losses of some cells of a pair, in the order in which they are wanted.

    Parameters
    ----------
    candles
        The pair's, or None when it is a context pair.
    shared
        Models of the context at each cut of the pair's layout.

    Raises
    ------
    ModelError
        When a set that is measured on all folds has next to no loss: the market did not move.
    """
    started, pair = time.monotonic(), task.pair
    with named(pair):
        prepared = market.prepared(
            pair, lambda: _prepare(market, candles, task.settings, pair, task.layout, shared)
        )
        folds = prepared.folds(task.draw)
        found = [measure(folds[fold], set_of(key)) for fold, key in task.wanted]
        for key in {key for _, key in task.wanted}:
            means = [m.mean for m, (_, k) in zip(found, task.wanted, strict=True) if k == key]
            if len(means) == len(folds):
                checked_reference(sum(means) / len(means))
    return CellsAnswer(found, time.monotonic() - started)


def count_pair_risk(
    market: Market, candles: PairCandles | None, task: RiskTask, *shared: SharedModels
) -> RiskTable:
    """Return what a pair's walk-forward says of levels and tolerances."""
    with named(task.pair):
        table = market.build_table(task.pair, candles)
        models = _with_pair(market, task.pair, table, shared)
        evaluator = Evaluator(task.pair, task.settings, table, models)
        return count_risk(evaluator.walk(task.layout, task.tuned))


def judge_pair(
    market: Market, candles: PairCandles | None, task: JudgeTask, *shared: SharedModels
) -> PairResult:
    """Compare what the search gives a pair with the other contenders, and return what came of it."""
    with named(task.pair):
        table = market.build_table(task.pair, candles)
        models = _with_pair(market, task.pair, table, shared)
        return _judge(market, candles, task, table, models)


def _with_pair(
    market: Market, pair: str, table: pd.DataFrame, shared: Sequence[SharedModels]
) -> dict[int, SharedModels]:
    return {one.cut_s: one.with_pair(pair, table, market.label) for one in shared}


def _prepare(
    market: Market,
    candles: PairCandles | None,
    settings: StudySettings,
    pair: str,
    layout: Layout,
    shared: Sequence[SharedModels],
) -> PreparedPair:
    def make_table() -> pd.DataFrame:
        return market.build_table(pair, candles)

    models = _with_pair(market, pair, make_table(), shared)
    return PreparedPair(pair, settings, layout, make_table, models)


def _judge(
    market: Market,
    candles: PairCandles | None,
    task: JudgeTask,
    table: pd.DataFrame,
    shared: Mapping[int, SharedModels],
) -> PairResult:
    """Compare the tuned set with the other contenders, and return what came of the pair."""
    s, found, frame = task.settings, task.found, market.frame(task.pair, candles)
    evaluator = Evaluator(task.pair, s, table, shared)
    contenders: dict[Contender, ParameterSet] = {DEFAULTS: s.start}
    if found.champion:
        contenders[RUNNING] = dict(found.champion)
    contenders[TUNED] = found.tuned
    comparison = compare(evaluator, task.layout, contenders, s.table_alpha)
    walks = {name: evaluator.walk(task.layout, values) for name, values in contenders.items()}
    test_cut_s = task.layout.test.cut_s
    facts = {
        "optimization_trials": float(found.study.n_trials),
        "optimization_time": found.spent_s,
        "side": SIDE_NUMBERS[s.label.side],
        "horizon_candles": float(s.label.horizon),
        "timeframe_s": float(s.label.timeframe_s),
        "candles_from_s": frame.index[0].timestamp(),
        "candles_to_s": frame.index[-1].timestamp(),
        "context_hash": float(hash48(*market.context_pairs)),
        "feature_hash": float(FEATURE_HASH),
        "market_hash": float(task.market_hash),
        "max_adverse_ratio": evaluator.tolerance(test_cut_s),
        "auto_tolerance": evaluator.measured_tolerance(test_cut_s),
        **_level_metrics(found.chosen_level),
    }
    best_trial: dict[Contender, dict[str, float]] = {
        DEFAULTS: {"best_trial": 0.0},
        TUNED: {"best_trial": float(found.own.winner)},
    }
    sets = {
        name: MeasuredSet(
            parameters,
            {
                **record_metrics(evaluator, walks[name]),
                **facts,
                **best_trial.get(name, {}),
                "defaults_won": float(is_default_set(parameters)),
                "feeder_won": float(key_of(parameters) == key_of(found.study.parameters)),
            },
        )
        for name, parameters in contenders.items()
    }
    served = walks[TUNED]
    return PairResult(
        pair=task.pair,
        time_ns=time.time_ns(),
        evidence=Evidence(
            sets,
            comparison,
            n_independent=len(served.test.q) / s.label.horizon,
            is_feeders=found.own.winner == found.study.winner,
        ),
        provenance=dict(task.provenance),
        alpha=s.table_alpha,
        max_adverse_ratio=facts["max_adverse_ratio"],
        labelled_days=task.layout.labelled_days,
        decision_value=decision_value(served),
        chart=chart(served, frame),
        study=found.study,
        own=found.own,
        scale_is_fallback=shared[test_cut_s].scale.is_fallback,
        risk=count_risk(served),
        chosen_level=found.chosen_level,
    )


def _level_metrics(chosen: ChosenLevel | None) -> dict[str, float]:
    """Return what records say of the level's choice; nothing where it was not chosen, or not proven."""
    if chosen is None:
        return {}
    told = {"unsafe_share": chosen.share, "unsafe_share_upper": chosen.upper}
    return {name: value for name, value in told.items() if value is not None}


def library_versions() -> dict[str, str]:
    """Return the versions that decide what trees are grown."""
    return {name: version(name) for name in DECISIVE_PACKAGES}
