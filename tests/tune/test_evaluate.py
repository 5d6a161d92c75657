"""A set judged on generated candles: what it may look at, what its metrics mean."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest

from feeder_mixin.market.blackouts import Blackout, Blackouts
from feeder_mixin.market.context import FeatureContext
from feeder_mixin.market.features import labels
from feeder_mixin.model import metrics as definitions
from feeder_mixin.model.baseline import atr_rule_constant
from feeder_mixin.model.calibration import calibrate
from feeder_mixin.model.folds import plan_layout
from feeder_mixin.model.quantile import fit_safety_model, fit_shared, shared_rows
from feeder_mixin.model.rows import open_seconds
from feeder_mixin.model.tolerance import measure_tolerance
from feeder_mixin.schema import default_parameters
from feeder_mixin.settings import LabelSpec
from feeder_mixin.tune.judge.comparison import chart, compare, decision_value
from feeder_mixin.tune.judge.evaluate import Evaluator, record_metrics
from feeder_mixin.tune.judge.result import DecisionValue
from feeder_mixin.tune.search.space import StudySettings
from tests.candle_factory import make_candles
from tests.oracles import metrics as oracle

PAIR, OTHER = "BTC/USDT:USDT", "ETH/USDT:USDT"
SETTINGS = StudySettings("f", LabelSpec("short", 30, 300), 0.01, 150.0, 0)
CHANGED = {**default_parameters(), "num_leaves": 31, "max_depth": 6, "learning_rate": 0.05}


@pytest.fixture(scope="module")
def prepared():
    """Return table, layout and shared models of a pair with 39 days of candles."""
    frames = {PAIR: make_candles(39 * 288, 1), OTHER: make_candles(39 * 288, 2)}
    market = FeatureContext(frames, 30, 300)
    tables = dict(market.build_context())
    table = tables[PAIR]
    layout = plan_layout(
        int(open_seconds(table)[0]),
        int(frames[PAIR].index[-1].timestamp()),
        LabelSpec("long", 30, 300),
        newest_candle_s=int(frames[PAIR].index[-1].timestamp()),
        days_back=180,
        needed_warmup_days=14,
    )
    shared = {c: fit_shared(tables, c, LabelSpec("long", 30, 300)) for c in layout.cuts_s}
    return tables, table, layout, shared


def test_record_metrics_are_the_definitions(prepared):
    """Every metric again by plain loops over what a bot would have served."""
    _, table, layout, shared = prepared
    evaluator = Evaluator(PAIR, SETTINGS, table, shared)
    metrics = record_metrics(evaluator, evaluator.walk(layout, CHANGED))
    opens, y = open_seconds(table), labels(table, "short")
    raw, rows_of = [], []
    for window in (*layout.folds, layout.test):
        model, trained = fit_safety_model(
            PAIR,
            table,
            LabelSpec("short", 30, 300),
            CHANGED,
            shared[window.cut_s],
            150.0,
        )
        assert (opens[trained] + 31 * 300 <= window.cut_s).all()
        rows = [
            i
            for i in range(len(table))
            if window.cut_s <= opens[i] < window.end_s and np.isfinite(y[i])
        ]
        raw.append(model.predict(table.iloc[rows]))
        rows_of.append(rows)
    every = np.concatenate(rows_of)
    # One theta over the whole walk, 0 at the first fold; what a fold lacks moves nothing.
    served, _ = calibrate(np.concatenate(raw), y[every], opens[every], alpha=0.1, label_s=9000)
    q_of = dict(zip(every, served, strict=True))
    errors = [[abs(y[i] - q_of[i]) for i in rows] for rows in rows_of]
    test_q, test_y = np.array([q_of[i] for i in rows]), y[rows]
    assert not np.allclose(test_q, raw[-1])
    assert metrics["validation_mae"] == pytest.approx(np.mean([np.mean(e) for e in errors[:-1]]))
    assert metrics["backtested_mae"] == pytest.approx(np.mean(np.concatenate(errors[:-1])))
    assert metrics["test_mae"] == pytest.approx(np.mean(errors[-1]))
    assert metrics["training_samples"] == len(trained)
    fitted = model.predict(table.iloc[trained])
    assert metrics["train_mae"] == pytest.approx(np.mean(np.abs(y[trained] - fitted)))
    called, safe = test_q >= -0.01, test_y >= -0.01
    called &= model.ordinary.contains(table.iloc[rows])
    assert metrics["safety_accuracy"] == pytest.approx(np.mean(called == safe))
    assert metrics["predicted_safe_share"] == pytest.approx(np.mean(called))
    assert metrics["realised_safe_share"] == pytest.approx(np.mean(safe))
    assert metrics["exceedance"] == pytest.approx(np.mean(test_y < test_q))
    assert metrics["false_positive_rate"] == pytest.approx(np.mean(called[~safe]))
    assert metrics["false_negative_rate"] == pytest.approx(np.mean(~called[safe]))
    misses = np.array([y[i] < q_of[i] for i in rows if opens[i] // 300 % 30 == 0])
    assert metrics["kupiec_p"] == definitions.kupiec_p(misses, 0.1)
    assert metrics["christoffersen_p"] == definitions.christoffersen_p(misses)


def test_walk_fits_a_set_once_per_level_whoever_asks(prepared, monkeypatch):
    """Metrics, comparison and decision value share the fits; equal sets are one contender."""
    _, table, layout, shared = prepared
    fits = []

    def fit(*arguments, **named):
        fits.append(arguments)
        return fit_safety_model(*arguments, **named)

    monkeypatch.setattr("feeder_mixin.tune.judge.evaluate.fit_safety_model", fit)
    evaluator = Evaluator(PAIR, SETTINGS, table, shared)
    contenders = {"defaults": default_parameters(), "running": dict(CHANGED), "tuned": CHANGED}
    compare(evaluator, layout, contenders, 0.1)
    for parameters in contenders.values():
        record_metrics(evaluator, evaluator.walk(layout, parameters))
    assert len(fits) == 2 * (len(layout.folds) + 1)


def test_compare_holds_every_contender_to_one_level(prepared):
    """A set tuned at another level is compared at the table's."""
    _, table, layout, shared = prepared
    evaluator = Evaluator(PAIR, SETTINGS, table, shared)
    same = {**CHANGED, "quantile_alpha": 0.2}
    comparison = compare(evaluator, layout, {"defaults": CHANGED, "tuned": same}, 0.1)
    scores = comparison.scores
    assert comparison.tuned_gain == 0.0
    assert scores["defaults"] == scores["tuned"]
    assert scores["ATR rule"].skill == 0.0


def test_compare_day_losses_are_those_of_the_calibrated_forecasts_by_day(prepared):
    """Losses of the test window and of the walk, again row by row; skill follows from them."""
    _, table, layout, shared = prepared
    evaluator = Evaluator(PAIR, SETTINGS, table, shared)
    comparison = compare(evaluator, layout, {"defaults": CHANGED, "tuned": CHANGED}, 0.1)
    walk = evaluator.walk(layout, CHANGED)
    test, walked = comparison.test, comparison.walk
    for rows, days, q, shown in (
        (walk.test, test.days, walk.test.q, test.losses["tuned"]),
        (walk.test, test.days, walk.test.rule, test.losses["ATR rule"]),
        (walk.everything, walked.days, walk.everything.q, walked.losses["tuned"]),
        (walk.everything, walked.days, walk.everything.rule, walked.losses["ATR rule"]),
    ):
        losses = [
            oracle.pinball([y], [value], 0.1) for y, value in zip(rows.excursion, q, strict=True)
        ]
        assert shown == pytest.approx(oracle.sums_by_day(losses, rows.opens_s.tolist()))
        assert list(days) == sorted({int(o) // 86_400 for o in rows.opens_s})
    tuned, rule = (sum(test.losses[name]) for name in ("tuned", "ATR rule"))
    assert comparison.scores["tuned"].skill == pytest.approx(1 - tuned / rule)


def test_walk_leaves_the_atr_rule_as_it_is(prepared):
    """The rule's constant is refitted at each cut; nothing calibrates it."""
    _, table, layout, shared = prepared
    test = Evaluator(PAIR, SETTINGS, table, shared).walk(layout, CHANGED).test
    constant = atr_rule_constant(table, LabelSpec("short", 30, 300), layout.test.cut_s, 0.1)
    at = np.searchsorted(open_seconds(table), test.opens_s)
    np.testing.assert_allclose(test.rule, constant * table["atr_ratio"].to_numpy()[at])


def test_decision_value_takes_as_many_candles_by_either_ranking(prepared):
    """Unsafe ones among those called safe, and among as many that the rule ranks highest."""
    _, table, layout, shared = prepared
    walk = Evaluator(PAIR, SETTINGS, table, shared).walk(layout, CHANGED)
    tolerance = float(-np.median(walk.everything.q))
    settings = replace(SETTINGS, max_adverse_ratio=tolerance)
    walk = Evaluator(PAIR, settings, table, shared).walk(layout, CHANGED)
    value = decision_value(walk)
    allowed = walk.everything.is_ordinary
    rows = list(
        zip(
            walk.everything.excursion[allowed],
            walk.everything.q[allowed],
            walk.everything.rule[allowed],
            strict=True,
        )
    )
    called = [row for row in rows if row[1] >= -tolerance]
    ranked = sorted(rows, key=lambda row: -row[2])[: len(called)]
    assert value == DecisionValue(
        n_rows=len(allowed),
        n_safe=len(called),
        unsafe_model=sum(row[0] < -tolerance for row in called),
        unsafe_rule=sum(row[0] < -tolerance for row in ranked),
        tolerance=tolerance,
    )


def test_safety_metrics_call_nothing_safe_in_a_blackout(prepared):
    """As the bot will serve it; forecasts and all that is judged by them stay."""
    _, table, layout, shared = prepared
    plain = Evaluator(PAIR, SETTINGS, table, shared)
    opens_s = plain.walk(layout, CHANGED).test.opens_s
    window = Blackout(opens_s[100] + 300, opens_s[299] + 300)
    settings = replace(SETTINGS, max_adverse_ratio=0.9, blackouts=Blackouts((window,)))
    evaluator = Evaluator(PAIR, settings, table, shared)
    walk = evaluator.walk(layout, CHANGED)
    metrics = record_metrics(evaluator, walk)
    expected = record_metrics(plain, plain.walk(layout, CHANGED))
    ordinary = walk.test.is_ordinary
    assert metrics["predicted_safe_share"] == pytest.approx(
        (ordinary.sum() - ordinary[100:300].sum()) / len(opens_s)
    )
    assert metrics["skill"] == expected["skill"]
    assert metrics["test_mae"] == expected["test_mae"]
    assert metrics["unusual_share"] == pytest.approx(1 - ordinary.mean())
    n_ordinary = int(walk.everything.is_ordinary.sum())
    assert decision_value(walk).n_safe == n_ordinary - ordinary[100:300].sum()


def test_auto_tolerance_of_a_window_is_what_was_measured_at_its_cut(prepared):
    """No window is judged by what was measured later; safety metrics and records say the test window's."""
    _, table, layout, shared = prepared
    evaluator = Evaluator(PAIR, replace(SETTINGS, max_adverse_ratio="auto"), table, shared)
    walk = evaluator.walk(layout, CHANGED)
    for window, rows in zip((*layout.folds, layout.test), (*walk.folds, walk.test), strict=True):
        expected = measure_tolerance(table, SETTINGS.label, window.cut_s)
        assert set(rows.tolerance) == {expected}
    metrics = record_metrics(evaluator, walk)
    tolerance = walk.test.tolerance[0]
    called = (walk.test.q >= -tolerance) & walk.test.is_ordinary
    assert metrics["predicted_safe_share"] == pytest.approx(np.mean(called))
    assert metrics["realised_safe_share"] == pytest.approx(
        np.mean(walk.test.excursion >= -tolerance)
    )
    assert decision_value(walk).tolerance == tolerance


def test_chart_shows_the_last_two_days_beside_their_candles(prepared):
    """Every point is a candle of the pair, with what was served at it."""
    _, table, layout, shared = prepared
    walk = Evaluator(PAIR, SETTINGS, table, shared).walk(layout, CHANGED)
    frame = make_candles(39 * 288, 1)
    shown = chart(walk, frame)
    assert {len(column) for column in asdict(shown).values()} == {2 * 288}
    assert shown.opens_s[-1] == walk.test.opens_s[-1]
    assert list(shown.q) == walk.test.q[-576:].tolist()
    for position in (0, 300, 575):
        candle = frame.loc[pd.Timestamp(shown.opens_s[position], unit="s", tz="UTC")]
        told = (shown.open, shown.high, shown.low, shown.close)
        assert [column[position] for column in told] == [
            candle[n] for n in ("open", "high", "low", "close")
        ]


def test_shared_models_of_the_thinned_tables_are_those_of_the_whole(prepared):
    """A worker keeps a fifth of the context's rows; the models are the same to the last digit."""
    tables, table, layout, shared = prepared
    thinned = {pair: shared_rows(t, 30, 300) for pair, t in tables.items()}
    assert len(thinned[PAIR]) < 0.25 * len(table)
    cut_s = layout.test.cut_s
    again, whole = fit_shared(thinned, cut_s, LabelSpec("long", 30, 300)), shared[cut_s]
    log_scale = whole.scale.log_scale(PAIR, table)
    np.testing.assert_array_equal(again.scale.log_scale(PAIR, table), log_scale)
    np.testing.assert_array_equal(
        again.pooled_z(table, log_scale, "short", 0.13),
        whole.pooled_z(table, log_scale, "short", 0.13),
    )
