"""What a worker does with its tasks: a plan, a cut's shared models, a tuned pair."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from feeder_mixin.errors import CandleError, ModelError
from feeder_mixin.model import quantile, scale
from feeder_mixin.schema import default_parameters, hash48
from feeder_mixin.settings import LabelSpec
from feeder_mixin.tune.run import _tasks as tasks
from feeder_mixin.tune.run._market import Market, PairCandles
from feeder_mixin.tune.search.space import StudySettings
from feeder_mixin.tune.search.study import Budget
from tests.candle_factory import halted, make_candles

PAIR, CONTEXT, OUTSIDE = "BTC/USDT:USDT", "ETH/USDT:USDT", "XRP/USDT:USDT"
LABEL = LabelSpec("short", 30, 300)
N = 40 * 288


@pytest.fixture(scope="module")
def candles():
    """Give the candles of three pairs; the last is outside the context."""
    return {pair: make_candles(N, seed) for seed, pair in enumerate((PAIR, CONTEXT, OUTSIDE), 1)}


@pytest.fixture(scope="module")
def market(candles):
    """Give what all tasks share: the candles of the context pairs."""
    context = {pair: PairCandles(candles[pair]) for pair in (PAIR, CONTEXT)}
    return Market(context, LABEL, candles[PAIR].index[-1])


@pytest.fixture(scope="module")
def layout(market):
    """Give a pair's layout."""
    return tasks.plan_pair(market, PAIR, None, 180.0)


@pytest.fixture
def models(market, layout, monkeypatch):
    """Give the shared models of every cut, with few trees."""
    monkeypatch.setattr(quantile, "POOLED_TREES", 4)
    return [tasks.fit_cut(market, cut_s) for cut_s in layout.cuts_s]


@pytest.fixture
def task(layout):
    """Give the task of one trial."""
    return tasks.PairTask(
        settings=StudySettings("test1", PAIR, LABEL, 0.01, 150.0, 0),
        layout=layout,
        budget=Budget(1),
        own=None,
        others=[],
        champion={**default_parameters(), "num_leaves": 31},
        provenance={"host": "h"},
        market_hash=7,
    )


def test_plan_ends_behind_the_newest_candle_with_a_label(layout, candles):
    """The test window is the newest; every fold lies before it."""
    newest_s = int(candles[PAIR].index[-1].timestamp())
    assert layout.test.end_s == newest_s - LABEL.horizon_s + LABEL.timeframe_s
    assert all(fold.end_s <= layout.test.cut_s for fold in layout.folds)
    assert layout.cuts_s[-1] == layout.test.cut_s


def test_plan_of_a_halted_pair_ends_with_its_market(market, layout, candles):
    """Three days of silence are no test window; a pair that never trades fails by name and count."""
    quiet = tasks.plan_pair(market, OUTSIDE, PairCandles(halted(candles[PAIR], 3 * 288)), 180.0)
    hour = 12  # stands at the last close, as a hole does
    assert layout.test.end_s - quiet.test.end_s == (3 * 288 - hour) * 300
    with pytest.raises(
        CandleError, match=r"11520, \d+ of them missing or in a halt, give 0\.\d days"
    ):
        tasks.plan_pair(market, OUTSIDE, PairCandles(halted(candles[PAIR], 25 * 288)), 180.0)


def test_plan_of_too_few_candles_says_how_many_are_needed(market, candles):
    """The number in the message is one with which a plan comes about."""
    short = PairCandles(candles[OUTSIDE].iloc[-15 * 288 :])
    with pytest.raises(CandleError, match=f"^{OUTSIDE}: too few candles: 4320 give") as caught:
        tasks.plan_pair(market, OUTSIDE, short, 180.0)
    needed = int(str(caught.value).split("that is ")[1].split()[0])
    enough = PairCandles(candles[OUTSIDE].iloc[-needed - 288 :])
    assert tasks.plan_pair(market, OUTSIDE, enough, 180.0).folds


def test_plan_of_too_few_days_asked_for_names_the_pair(market):
    """`--days-back` is the operator's: the message says whose plan failed."""
    with pytest.raises(CandleError, match=f"^{PAIR}: "):
        tasks.plan_pair(market, PAIR, None, 1.0)


def test_shared_models_of_a_cut_learn_nothing_behind_it(market, layout, candles, monkeypatch):
    """Candles behind a cut move no number of its models."""
    monkeypatch.setattr(quantile, "POOLED_TREES", 4)
    monkeypatch.setattr(scale, "MIN_ROWS", 100)
    cut_s = layout.test.cut_s
    before = tasks.fit_cut(market, cut_s)
    changed = {}
    for pair in (PAIR, CONTEXT):
        changed[pair] = candles[pair].copy()
        is_behind = changed[pair].index >= pd.Timestamp(cut_s, unit="s", tz="UTC")
        changed[pair].loc[is_behind, ["open", "high", "low", "close"]] *= 1.5
    packed = {pair: PairCandles(frame) for pair, frame in changed.items()}
    after = tasks.fit_cut(Market(packed, LABEL, candles[PAIR].index[-1]), cut_s)
    np.testing.assert_array_equal(after.scale.mean, before.scale.mean)
    assert not before.scale.is_fallback
    assert before.scale.coefficients.keys() == after.scale.coefficients.keys()
    for pair, weights in before.scale.coefficients.items():
        np.testing.assert_array_equal(after.scale.coefficients[pair], weights)
    assert before.pooled
    for level, trees in before.pooled.items():
        assert after.pooled[level].model_to_string() == trees.model_to_string()


def test_task_that_arrives_elsewhere_gives_the_same(market, models, candles, task, layout):
    """Context, candles, task and models travel; what a worker computed stays behind."""
    plan = tasks.plan_pair(market, OUTSIDE, PairCandles(candles[OUTSIDE]), 180.0)
    parcel = pickle.dumps((market, PairCandles(candles[OUTSIDE]), task, models))
    assert len(parcel) < 2e6
    there = pickle.loads(parcel)  # noqa: S301 - made above
    assert tasks.plan_pair(there[0], OUTSIDE, there[1], 180.0) == plan
    batch = tasks.tune_pair(there[0], None, there[2], *there[3])
    assert batch.added == tasks.tune_pair(market, None, task, *models).added


def test_batches_end_with_the_result_of_one(market, models, task, monkeypatch):
    """Whatever a batch leaves off, the next one takes up; times add up."""
    task = replace(task, budget=Budget(3, seconds=1000.0))
    whole = tasks.tune_pair(market, None, task, *models)
    monkeypatch.setattr(tasks, "BATCH_S", 0.0)
    batch = tasks.tune_pair(market, None, task, *models)
    n_batches = 1
    while batch.outcome is None:
        task = task.after(batch)
        assert task.budget.seconds < 1000.0
        batch = tasks.tune_pair(market, None, task, *models)
        n_batches += 1
    assert n_batches >= 3
    assert task.kept.joined(batch.added) == whole.added
    assert batch.outcome.evidence.comparison == whole.outcome.evidence.comparison
    assert batch.outcome.search.took_s > batch.spent.search_s


def test_tuned_pair_has_the_facts_of_its_candles(market, models, task, candles):
    """Its scores are those of all contenders, its facts say what it was made from."""
    result = tasks.tune_pair(market, None, task, *models).outcome
    assert list(result.scores) == ["ATR rule", "defaults", "running", "tuned"]
    metrics = result.metrics
    assert metrics["side"] == -1.0
    assert metrics["market_hash"] == 7.0
    assert metrics["context_hash"] == hash48(PAIR, CONTEXT)
    assert metrics["candles_to_s"] == candles[PAIR].index[-1].timestamp()
    assert result.provenance == {"host": "h"}


def test_error_of_a_pair_names_it_and_keeps_its_trials(market, models, task, monkeypatch):
    """An error from deep inside names no pair; without one nobody knows which of ten failed."""

    def fail(*_arguments):
        raise ModelError("no rows to compare")

    monkeypatch.setattr(tasks, "compare", fail)
    batch = tasks.tune_pair(market, None, task, *models)
    assert isinstance(batch.outcome, ModelError)
    assert str(batch.outcome) == f"{PAIR}: no rows to compare"
    assert list(batch.added.trials) == [0]


def test_pair_that_another_thread_prepares_meanwhile_is_not_mixed_up():
    """A Dask worker may have several threads: each gets the pair that it asked for."""
    market = Market({}, LABEL, pd.Timestamp(0, tz="UTC"))

    def prepare_slowly():
        assert market.prepared(CONTEXT, lambda: "other") == "other"
        return "own"

    assert market.prepared(PAIR, prepare_slowly) == "own"
    assert market.prepared(PAIR, lambda: "again") == "own"
