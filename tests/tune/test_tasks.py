"""What a worker does with its tasks: a plan, a cut's shared models, measured cells, a judged pair."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from feeder_mixin.errors import CandleError, ModelError, TuningError
from feeder_mixin.model import metrics, quantile, scale
from feeder_mixin.model.tolerance import measure_tolerance
from feeder_mixin.schema import default_parameters, hash48
from feeder_mixin.settings import LabelSpec
from feeder_mixin.tune.run import _tasks as tasks
from feeder_mixin.tune.run._market import CandleFile, Market, PairCandles
from feeder_mixin.tune.run.work import Found
from feeder_mixin.tune.search.kept import SEARCHED_DRAW
from feeder_mixin.tune.search.space import StudySettings, key_of
from tests.candle_factory import halted, make_candles
from tests.faults.server import no_space
from tests.reports import builder

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
    return [tasks.fit_cut(market, cut_s, [0.10]) for cut_s in layout.cuts_s]


SETTINGS = StudySettings("test1", LABEL, 0.01, 150.0, 0)
DEFAULTS = default_parameters()
OTHER = {**DEFAULTS, "num_leaves": 31, "max_depth": 6}


def cells_of(layout, *parameters, pair=PAIR, draw=SEARCHED_DRAW):
    """Return the task of some sets on all folds."""
    wanted = [(fold, key_of(one)) for one in parameters for fold in range(len(layout.folds))]
    return tasks.CellsTask(pair, SETTINGS, layout, draw, wanted)


@pytest.fixture
def task(layout):
    """Give the task of judging a pair for which the search found another set."""
    found = Found(
        tuned=OTHER,
        champion={**DEFAULTS, "num_leaves": 20},
        study=builder.make_study(parameters=OTHER),
        own=builder.make_result(seed=1).own,
        provenance={},
        spent_s=3.0,
    )
    return tasks.JudgeTask(PAIR, SETTINGS, layout, found, market_hash=7, provenance={"host": "h"})


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
    before = tasks.fit_cut(market, cut_s, [0.10])
    changed = {}
    for pair in (PAIR, CONTEXT):
        changed[pair] = candles[pair].copy()
        is_behind = changed[pair].index >= pd.Timestamp(cut_s, unit="s", tz="UTC")
        changed[pair].loc[is_behind, ["open", "high", "low", "close"]] *= 1.5
    packed = {pair: PairCandles(frame) for pair, frame in changed.items()}
    after = tasks.fit_cut(Market(packed, LABEL, candles[PAIR].index[-1]), cut_s, [0.10])
    np.testing.assert_array_equal(after.scale.mean, before.scale.mean)
    assert not before.scale.is_fallback
    assert before.scale.coefficients.keys() == after.scale.coefficients.keys()
    for pair, weights in before.scale.coefficients.items():
        np.testing.assert_array_equal(after.scale.coefficients[pair], weights)
    assert before.pooled
    for level, trees in before.pooled.items():
        assert after.pooled[level].model_to_string() == trees.model_to_string()


def test_task_that_arrives_elsewhere_gives_the_same(market, models, candles, layout):
    """Context, candles, task and models travel; what a worker computed stays behind."""
    task = cells_of(layout, DEFAULTS)
    here = tasks.measure_cells(market, None, task, *models)
    plan = tasks.plan_pair(market, OUTSIDE, PairCandles(candles[OUTSIDE]), 180.0)
    parcel = pickle.dumps((market, PairCandles(candles[OUTSIDE]), task, models))
    assert len(parcel) < 2e6
    there = pickle.loads(parcel)  # noqa: S301 - made above
    assert tasks.plan_pair(there[0], OUTSIDE, there[1], 180.0) == plan
    answer = tasks.measure_cells(there[0], None, there[2], *there[3])
    assert answer.measured == here.measured


def test_candles_in_the_file_are_those_that_were_put_there(candles):
    """In any order, here and behind a journey; the command holds none of them in memory."""
    file = CandleFile()
    kept = {pair: PairCandles(frame, file) for pair, frame in candles.items()}
    for pair in reversed(kept):
        pd.testing.assert_frame_equal(kept[pair].frame, candles[pair])
        there = pickle.loads(pickle.dumps(kept[pair]))  # noqa: S301 - made above
        pd.testing.assert_frame_equal(there.frame, candles[pair])


def test_temporary_folder_without_room_is_named_with_what_to_do(candles):
    """The run ends with one sentence, not with a traceback or with damaged candles."""
    file = CandleFile()
    with no_space(), pytest.raises(TuningError, match=r"temporary file: .*large.*TMPDIR=FOLDER"):
        PairCandles(candles[PAIR], file)


def test_cells_are_the_same_whatever_else_is_asked_for_beside_them(market, models, layout):
    """One by one, in any order, on any draw before: a cell is a function of itself."""
    whole = cells_of(layout, DEFAULTS, OTHER)
    at_once = tasks.measure_cells(market, None, whole, *models).measured
    again = Market({p: PairCandles(market.frame(p, None)) for p in (PAIR, CONTEXT)}, LABEL,
                   market.frame(PAIR, None).index[-1])  # fmt: skip
    tasks.measure_cells(again, None, cells_of(layout, OTHER, draw=2), *models)
    for position in reversed(range(len(whole.wanted))):
        one = replace(whole, wanted=[whole.wanted[position]])
        (found,) = tasks.measure_cells(again, None, one, *models).measured
        assert found == at_once[position]


def test_redraws_are_other_rows_and_seeds_on_the_same_scored_days(market, models, layout):
    """Another loss from the same days: no new evidence, another fit."""
    first, *redraws = (
        tasks.measure_cells(market, None, cells_of(layout, DEFAULTS, draw=draw), *models).measured
        for draw in range(3)
    )
    for redraw in redraws:
        assert [one.days for one in redraw] == [one.days for one in first]
        assert [one.n_rows for one in redraw] == [one.n_rows for one in first]
        assert [one.sums for one in redraw] != [one.sums for one in first]
    assert redraws[0] != redraws[1]


def test_cells_never_look_at_the_test_window(market, models, layout, candles):
    """Other candles behind the test cut, known from there on: the same cells."""
    task = cells_of(layout, DEFAULTS, OTHER)
    before = tasks.measure_cells(market, None, task, *models).measured
    spoilt = candles[PAIR].copy()
    # A label reads the horizon behind it: the last fold's end is purged, so none reads these.
    is_behind = spoilt.index >= pd.Timestamp(layout.test.cut_s, unit="s", tz="UTC")
    spoilt.loc[is_behind, ["open", "high", "low", "close"]] *= 1.7
    other = Market(
        {PAIR: PairCandles(spoilt), CONTEXT: PairCandles(candles[CONTEXT])}, LABEL, spoilt.index[-1]
    )
    assert tasks.measure_cells(other, None, task, *models).measured == before


def test_judged_pair_has_the_facts_of_its_candles(market, models, task, candles):
    """Its scores are those of all contenders, its facts say what it was made from."""
    result = tasks.judge_pair(market, None, task, *models)
    assert list(result.scores) == ["ATR rule", "defaults", "running", "tuned"]
    told = result.metrics
    assert told["side"] == -1.0
    assert told["market_hash"] == 7.0
    assert told["context_hash"] == hash48(PAIR, CONTEXT)
    assert told["candles_to_s"] == candles[PAIR].index[-1].timestamp()
    assert told["optimization_trials"] == task.found.study.n_trials
    assert told["optimization_time"] == 3.0
    assert told["best_trial"] == task.found.own.winner
    assert (told["feeder_won"], told["defaults_won"]) == (1.0, 0.0)
    assert result.evidence.sets["defaults"].metrics["feeder_won"] == 0.0
    assert result.evidence.is_feeders
    assert result.provenance == {"host": "h"}
    assert told["max_adverse_ratio"] == 0.01
    table = market.build_table(PAIR, None)
    assert told["auto_tolerance"] == measure_tolerance(table, LABEL, task.layout.test.cut_s)


def test_error_of_a_pair_names_it(market, models, task, monkeypatch):
    """An error from deep inside names no pair; without one nobody knows which of ten failed."""

    def fail(*_arguments):
        raise ModelError("no rows to compare")

    monkeypatch.setattr(tasks, "compare", fail)
    with pytest.raises(ModelError, match=f"^{PAIR}: no rows to compare$"):
        tasks.judge_pair(market, None, task, *models)


def test_pair_whose_market_did_not_move_can_not_be_searched(market, models, layout, monkeypatch):
    """Nothing is divided by next to nothing: it fails by name, before a trial is compared with it."""
    monkeypatch.setattr(metrics, "SMALLEST_LOSS", 1.0)
    with pytest.raises(ModelError, match=f"^{PAIR}: .*did not move"):
        tasks.measure_cells(market, None, cells_of(layout, DEFAULTS), *models)


def test_pair_that_another_thread_prepares_meanwhile_is_not_mixed_up():
    """A Dask worker may have several threads: each gets the pair that it asked for."""
    market = Market({}, LABEL, pd.Timestamp(0, tz="UTC"))

    def prepare_slowly():
        assert market.prepared(CONTEXT, lambda: "other") == "other"
        return "own"

    assert market.prepared(PAIR, prepare_slowly) == "own"
    assert market.prepared(PAIR, lambda: "again") == "own"
