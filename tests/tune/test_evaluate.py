"""A study on generated candles in this process: what it may look at, what its metrics mean."""

from __future__ import annotations

import numpy as np
import pytest

from feeder_mixin.market.context import Market
from feeder_mixin.market.features import labels
from feeder_mixin.market.labels import LABEL_COLUMNS
from feeder_mixin.model.folds import plan_layout
from feeder_mixin.model.quantile import fit_safety_model, fit_shared, shared_rows
from feeder_mixin.model.rows import open_seconds
from feeder_mixin.schema import default_parameters
from feeder_mixin.tune.evaluate import Evaluator, compare_on_test, record_metrics
from feeder_mixin.tune.journal import Journal
from feeder_mixin.tune.space import StudySettings, warm_start_sets
from feeder_mixin.tune.study import run_study
from tests.candle_factory import make_candles

PAIR, OTHER = "BTC/USDT:USDT", "ETH/USDT:USDT"
SETTINGS = StudySettings("f", PAIR, "short", 30, 300, 0.01, 150.0, 0)
CHANGED = {**default_parameters(), "num_leaves": 31, "max_depth": 6, "learning_rate": 0.05}


@pytest.fixture(scope="module")
def prepared():
    """Return table, layout and shared models of a pair with 46 days of candles."""
    frames = {PAIR: make_candles(46 * 288, 1), OTHER: make_candles(46 * 288, 2)}
    market = Market(frames, 30, 300)
    tables = dict(market.build_context())
    table = tables[PAIR]
    layout = plan_layout(
        int(open_seconds(table)[0]),
        int(frames[PAIR].index[-1].timestamp()),
        days_back=180,
        horizon=30,
        timeframe_s=300,
        needed_warmup_days=14,
    )
    shared = {c: fit_shared(tables, c, 30, 300) for c in layout.cuts_s}
    return tables, table, layout, shared


def search(table, layout, shared, path, n_trials=6):
    """Return a small study's result."""
    with Journal(path) as journal:
        run = journal.begin({PAIR: {}}, {})[PAIR]
        return run_study(
            SETTINGS,
            table,
            layout,
            shared,
            n_trials=n_trials,
            warm_start=warm_start_sets(SETTINGS, CHANGED, []),
            journal=journal,
            run_id=run.run_id,
        )


def test_search_never_looks_at_the_test_window(prepared, tmp_path):
    """Other labels behind the test cut: same trials, same evidence, same winner."""
    tables, table, layout, shared = prepared
    spoilt = table.copy()
    # Every label that reads a candle of the test window, also of rows that open before it.
    reads_test = open_seconds(table) + 31 * 300 > layout.test.cut_s
    for column in LABEL_COLUMNS.values():
        spoilt.loc[reads_test, column] *= 17.0
    spoilt_tables = {**tables, PAIR: spoilt}
    spoilt_shared = {c: fit_shared(spoilt_tables, c, 30, 300) for c in layout.cuts_s}
    first = search(table, layout, shared, tmp_path / "a.sqlite")
    second = search(spoilt, layout, spoilt_shared, tmp_path / "b.sqlite")
    assert first.trials == second.trials
    assert first.parameters == second.parameters
    assert first.evidence == second.evidence


def test_search_is_a_function_of_its_inputs(prepared, tmp_path):
    """Twice the same study, from scratch: equal trials and winner."""
    _, table, layout, shared = prepared
    first = search(table, layout, shared, tmp_path / "a.sqlite", n_trials=14)
    second = search(table, layout, shared, tmp_path / "b.sqlite", n_trials=14)
    assert first.trials == second.trials
    assert first.parameters == second.parameters


def test_search_goes_on_from_the_journal_as_if_never_interrupted(prepared, tmp_path):
    """Trials replayed and trials made end in the same study, also behind TPE's start-up trials."""
    _, table, layout, shared = prepared
    search(table, layout, shared, tmp_path / "a.sqlite", n_trials=12)
    resumed = search(table, layout, shared, tmp_path / "a.sqlite", n_trials=16)
    whole = search(table, layout, shared, tmp_path / "b.sqlite", n_trials=16)
    assert resumed.trials == whole.trials
    assert resumed.parameters == whole.parameters
    assert resumed.importances == whole.importances


def test_search_fix_n_estimators_is_exact_in_every_finished_trial(prepared, tmp_path):
    """`--fix n_estimators=150` fits 150 trees, no more, no fewer."""
    from dataclasses import replace

    _, table, layout, shared = prepared
    settings = replace(SETTINGS, fixes={"n_estimators": 150.0})
    with Journal(tmp_path / "j.sqlite") as journal:
        run = journal.begin({PAIR: {}}, {})[PAIR]
        result = run_study(
            settings,
            table,
            layout,
            shared,
            n_trials=5,
            warm_start=warm_start_sets(settings, None, []),
            journal=journal,
            run_id=run.run_id,
        )
    assert all(t.parameters["n_estimators"] == 150 for t in result.trials if not t.pruned)
    assert result.parameters["n_estimators"] == 150


def test_record_metrics_are_the_definitions(prepared):
    """Every metric again by plain loops over what a bot would have served."""
    _, table, layout, shared = prepared
    metrics = record_metrics(
        Evaluator(SETTINGS, table, shared), layout, CHANGED, default_parameters()
    )
    opens, y = open_seconds(table), labels(table, "short")
    errors = []
    for window in (*layout.folds, layout.test):
        model, trained = fit_safety_model(
            PAIR,
            table,
            "short",
            CHANGED,
            shared[window.cut_s],
            train_days=150.0,
            horizon=30,
            timeframe_s=300,
        )
        assert (opens[trained] + 31 * 300 <= window.cut_s).all()
        rows = [
            i
            for i in range(len(table))
            if window.cut_s <= opens[i] < window.end_s and np.isfinite(y[i])
        ]
        q = model.predict(table.iloc[rows])
        errors.append([abs(y[i] - value) for i, value in zip(rows, q, strict=True)])
    test_q, test_y = q, y[rows]
    assert metrics["validation_mae"] == pytest.approx(np.mean([np.mean(e) for e in errors[:-1]]))
    assert metrics["backtested_mae"] == pytest.approx(np.mean(np.concatenate(errors[:-1])))
    assert metrics["test_mae"] == pytest.approx(np.mean(errors[-1]))
    assert metrics["training_samples"] == len(trained)
    fitted = model.predict(table.iloc[trained])
    assert metrics["train_mae"] == pytest.approx(np.mean(np.abs(y[trained] - fitted)))
    called, safe = test_q >= -0.01, test_y >= -0.01
    assert metrics["safety_accuracy"] == pytest.approx(np.mean(called == safe))
    assert metrics["predicted_safe_share"] == pytest.approx(np.mean(called))
    assert metrics["realised_safe_share"] == pytest.approx(np.mean(safe))
    assert metrics["exceedance"] == pytest.approx(np.mean(test_y < test_q))
    assert metrics["false_positive_rate"] == pytest.approx(np.mean(called[~safe]))
    assert metrics["false_negative_rate"] == pytest.approx(np.mean(~called[safe]))


def test_compare_on_test_holds_every_contender_to_one_level(prepared):
    """A set tuned at another level is compared at the table's."""
    _, table, layout, shared = prepared
    evaluator = Evaluator(SETTINGS, table, shared)
    same = {**CHANGED, "quantile_alpha": 0.2}
    comparison = compare_on_test(evaluator, layout, {"defaults": CHANGED, "tuned": same}, 0.1)
    scores = comparison.scores
    assert comparison.tuned_gain == 0.0
    assert scores["defaults"] == scores["tuned"]
    assert scores["ATR rule"].skill == 0.0


def test_shared_models_of_the_thinned_tables_are_those_of_the_whole(prepared):
    """A worker keeps a fifth of the context's rows; the models are the same to the last digit."""
    tables, table, layout, shared = prepared
    thinned = {pair: shared_rows(t, 300) for pair, t in tables.items()}
    assert len(thinned[PAIR]) < 0.25 * len(table)
    cut_s = layout.test.cut_s
    again, whole = fit_shared(thinned, cut_s, 30, 300), shared[cut_s]
    log_scale = whole.scale.log_scale(PAIR, table)
    np.testing.assert_array_equal(again.scale.log_scale(PAIR, table), log_scale)
    np.testing.assert_array_equal(
        again.pooled_z(table, log_scale, "short"), whole.pooled_z(table, log_scale, "short")
    )
