"""What a worker does with its tasks: a plan, a cut's shared models, a tuned pair."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from feeder_mixin.errors import CandleError, TuningError
from feeder_mixin.model import quantile, scale
from feeder_mixin.schema import default_parameters, hash48
from feeder_mixin.settings import LabelSpec
from feeder_mixin.tune.run import _tasks as tasks
from feeder_mixin.tune.run.journal import Journal
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
    context = {pair: candles[pair] for pair in (PAIR, CONTEXT)}
    return tasks.Market(context, LABEL, candles[PAIR].index[-1])


@pytest.fixture(scope="module")
def layout(market):
    """Give a pair's layout."""
    return tasks.plan_pair(market, PAIR, None, 180.0)


@pytest.fixture
def make_task(market, layout, tmp_path, monkeypatch):
    """Give a function that makes the task of one trial, begun in the journal."""
    monkeypatch.setattr(quantile, "POOLED_TREES", 4)
    path = tmp_path / "journal.sqlite"

    def make(pair=PAIR, **changes):
        with Journal(path) as journal:
            run = journal.begin({pair: {}}, {})[pair]
        task = tasks.PairTask(
            settings=StudySettings("test1", pair, LABEL, 0.01, 150.0, 0),
            layout=layout,
            candles=None,
            shared={cut_s: tasks.fit_cut(market, cut_s) for cut_s in layout.cuts_s},
            journal_path=path,
            run_id=run.run_id,
            budget=Budget(1),
            own=None,
            others=[],
            champion=None,
            provenance={"host": "h"},
            market_hash=7,
        )
        return replace(task, **changes)

    return make


def test_plan_ends_behind_the_newest_candle_with_a_label(layout, candles):
    """The test window is the newest; every fold lies before it."""
    newest_s = int(candles[PAIR].index[-1].timestamp())
    assert layout.test.end_s == newest_s - LABEL.horizon_s + LABEL.timeframe_s
    assert all(fold.end_s <= layout.test.cut_s for fold in layout.folds)
    assert layout.cuts_s[-1] == layout.test.cut_s


def test_plan_of_a_halted_pair_ends_with_its_market(market, layout, candles):
    """Three days of silence are no test window; a pair that never trades fails by name and count."""
    quiet = tasks.plan_pair(market, OUTSIDE, halted(candles[PAIR], 3 * 288), 180.0)
    hour = 12  # stands at the last close, as a hole does
    assert layout.test.end_s - quiet.test.end_s == (3 * 288 - hour) * 300
    with pytest.raises(
        CandleError, match=r"11520, \d+ of them missing or in a halt, give 0\.\d days"
    ):
        tasks.plan_pair(market, OUTSIDE, halted(candles[PAIR], 25 * 288), 180.0)


def test_plan_of_too_few_candles_says_how_many_are_needed(market, candles):
    """The number in the message is one with which a plan comes about."""
    short = candles[OUTSIDE].iloc[-15 * 288 :]
    with pytest.raises(CandleError, match=f"^{OUTSIDE}: too few candles: 4320 give") as caught:
        tasks.plan_pair(market, OUTSIDE, short, 180.0)
    needed = int(str(caught.value).split("that is ")[1].split()[0])
    assert tasks.plan_pair(market, OUTSIDE, candles[OUTSIDE].iloc[-needed - 288 :], 180.0).folds


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
    after = tasks.fit_cut(tasks.Market(changed, LABEL, candles[PAIR].index[-1]), cut_s)
    np.testing.assert_array_equal(after.scale.mean, before.scale.mean)
    assert not before.scale.is_fallback
    assert before.scale.coefficients.keys() == after.scale.coefficients.keys()
    for pair, weights in before.scale.coefficients.items():
        np.testing.assert_array_equal(after.scale.coefficients[pair], weights)
    assert before.pooled
    for level, trees in before.pooled.items():
        assert after.pooled[level].model_to_string() == trees.model_to_string()


def test_tuned_pair_is_kept_in_the_journal_as_it_is_returned(market, make_task, candles):
    """A run that is killed behind this has the result; its facts are those of the candles."""
    task = make_task(champion={**default_parameters(), "num_leaves": 31})
    result = tasks.tune_pair(market, task)
    with Journal(task.journal_path) as journal:
        assert journal.newest_results().results == {PAIR: (task.run_id, result)}
    assert list(result.scores) == ["ATR rule", "defaults", "running", "tuned"]
    metrics = result.metrics
    assert metrics["side"] == -1.0
    assert metrics["market_hash"] == 7.0
    assert metrics["context_hash"] == hash48(PAIR, CONTEXT)
    assert metrics["candles_to_s"] == candles[PAIR].index[-1].timestamp()
    assert result.provenance == {"host": "h"}


def test_error_of_a_pair_names_it_and_leaves_its_run_open(market, make_task, monkeypatch):
    """An error from deep inside names no pair; without one nobody knows which of ten failed."""

    def fail(*_arguments):
        raise TuningError("no trial came to an end")

    monkeypatch.setattr(tasks, "run_study", fail)
    task = make_task()
    with pytest.raises(TuningError, match=f"^{PAIR}: no trial came to an end$"):
        tasks.tune_pair(market, task)
    with Journal(task.journal_path) as journal:
        assert journal.newest_results().results == {}
        assert journal.begin({PAIR: {}}, {})[PAIR].state == "open"
