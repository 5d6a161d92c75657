"""The quantile model: names, equal trees, one prediction per row, no look-ahead."""

from dataclasses import replace

import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest

from feeder_mixin.errors import ModelError
from feeder_mixin.market.context import FeatureContext
from feeder_mixin.market.features import labels, tree_features
from feeder_mixin.market.labels import LABEL_COLUMNS
from feeder_mixin.model.baseline import atr_rule_constant
from feeder_mixin.model.metrics import exceedance, skill
from feeder_mixin.model.quantile import (
    POOLED_ALPHAS,
    POOLED_TREES,
    booster_params,
    combine,
    fit_safety_model,
    fit_shared,
    lightgbm_params,
    make_dataset,
    make_regressor,
    pooled_weights,
)
from feeder_mixin.model.rows import DAY_S, open_seconds, thinning
from feeder_mixin.model.training_set import TrainingWindow, training_rows
from feeder_mixin.schema import PARAMETERS, default_parameters
from feeder_mixin.settings import SIDES, LabelSpec

HORIZON, TIMEFRAME_S = 30, 300
ETH = "ETH/USDT:USDT"
SETS = {
    "defaults": default_parameters(),
    "lowest": {p.name: p.restore(p.low) for p in PARAMETERS},
    "highest": {p.name: p.restore(p.high) for p in PARAMETERS} | {"n_estimators": 150},
    "penalised": default_parameters()
    | {"reg_alpha": 0.7, "reg_lambda": 0.1, "num_leaves": 31, "max_depth": 8}
    | {"min_child_samples": 17, "feature_fraction": 0.83, "bagging_fraction": 0.91},
}
BY_SET = pytest.mark.parametrize("parameters", SETS.values(), ids=SETS)


def trees(booster):
    """Return the trees of a model as text, without its parameters."""
    text = booster.model_to_string()
    return text[text.index("Tree=0") : text.index("end of trees")]


def fit(market, side="long", parameters=None, shared=None, pair=ETH):
    """Return the model of a pair, fitted at the small market's cut."""
    model, _ = fit_safety_model(
        pair,
        market.tables[pair],
        LabelSpec(side, HORIZON, TIMEFRAME_S),
        parameters or default_parameters(),
        shared or market.shared,
        150.0,
    )
    return model


@pytest.fixture(scope="module")
def training(small_market):
    """Give the training rows of a pair."""
    return training_rows(
        ETH,
        small_market.tables[ETH],
        small_market.shared.scale,
        LabelSpec("long", HORIZON, TIMEFRAME_S),
        TrainingWindow(small_market.cut_s, 150.0),
    )


def test_lightgbm_params_of_a_set_hold_all_ten_and_what_makes_them_work():
    """Every parameter arrives under LightGBM's name; bagging is switched on; one thread."""
    parameters = {p.name: p.restore(p.high) for p in PARAMETERS}
    params = lightgbm_params(parameters, seed=7)
    assert {p.lightgbm_name: params[p.lightgbm_name] for p in PARAMETERS} == {
        p.lightgbm_name: parameters[p.name] for p in PARAMETERS
    }
    assert params["subsample_freq"] == 1
    assert (params["objective"], params["num_threads"]) == ("quantile", 1)
    assert params["random_state"] == 7
    assert type(params["num_leaves"]) is int


def test_lightgbm_params_of_stored_floats_are_whole():
    """A set that went through a store as floats gives the same LightGBM parameters."""
    floats = {name: float(value) for name, value in default_parameters().items()}
    assert lightgbm_params(floats, 1) == lightgbm_params(default_parameters(), 1)


@BY_SET
def test_booster_on_shared_dataset_and_regressor_grow_equal_trees(training, parameters):
    """What the search scores is what the bot runs: tree for tree."""
    regressor = make_regressor(parameters, seed=3)
    regressor.fit(training.x, training.z, sample_weight=training.weight)
    dataset = make_dataset(training.x, training.z, training.weight)
    booster = lgb.Booster(booster_params(parameters, seed=3), dataset)
    for _ in range(int(parameters["n_estimators"])):
        booster.update()
    assert trees(booster) == trees(regressor.booster_)
    assert booster.num_trees() == parameters["n_estimators"]


@pytest.mark.parametrize("name", ["bagging_fraction", "feature_fraction", "reg_alpha"])
def test_parameter_changed_alone_changes_the_trees(training, name):
    """No parameter is silently without effect, as bagging is without a frequency."""
    found = []
    for value in (0.6, 1.0):
        regressor = make_regressor({**default_parameters(), name: value}, seed=3)
        found.append(trees(regressor.fit(training.x, training.z * 10).booster_))
    assert found[0] != found[1]


def test_dataset_shared_by_many_sets_is_built_once(training, monkeypatch):
    """Trials of any leaf size, depth or level reuse one Dataset; its raw data is gone."""
    builds = []
    build = lgb.Dataset._lazy_init

    def count(self, *args, **kwargs):
        builds.append(self)
        return build(self, *args, **kwargs)

    monkeypatch.setattr(lgb.Dataset, "_lazy_init", count)
    dataset = make_dataset(training.x, training.z)
    for parameters in SETS.values():
        lgb.Booster(booster_params(parameters, 1), dataset).update()
    assert len(builds) == 1
    assert dataset.data is None


def test_restored_booster_predicts_the_same(small_market):
    """A restart loads the Booster's text and serves the same bits."""
    model = fit(small_market)
    text = model.own.model_to_string()
    again = replace(model, own=lgb.Booster(model_str=text))
    table = small_market.tables[ETH].iloc[-500:]
    assert np.array_equal(again.predict(table), model.predict(table))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("pair", ["BTC/USDT:USDT", "SOL/USDT:USDT"])
def test_prediction_of_any_split_equals_the_batch(small_market, side, pair):
    """A row's safety_q is the same alone, in a small batch and in the whole table."""
    model = fit(small_market, side, pair=pair)
    table = small_market.tables[pair].iloc[-60:]
    whole = model.predict(small_market.tables[pair])[-60:]
    assert np.isfinite(whole).all()
    assert (whole < 0).all()
    for size in (1, 2, 13):
        parts = [model.predict(table.iloc[i : i + size]) for i in range(0, 60, size)]
        np.testing.assert_allclose(np.concatenate(parts), whole, rtol=0, atol=1e-12)


def test_prediction_of_no_rows_is_empty(small_market):
    """A pair without complete rows has no prediction, and no error."""
    assert fit(small_market).predict(small_market.tables[ETH].iloc[:0]).shape == (0,)


def test_models_fitted_twice_are_identical(small_market):
    """A restart gives the same scale, pooled trees and own trees, whatever the pairs' order."""
    turned = dict(reversed(small_market.tables.items()))
    shared = fit_shared(turned, small_market.cut_s, LabelSpec("long", HORIZON, TIMEFRAME_S))
    assert set(shared.pooled) == set(POOLED_ALPHAS)
    for alpha, booster in shared.pooled.items():
        assert trees(booster) == trees(small_market.shared.pooled[alpha])
        assert booster.num_trees() == POOLED_TREES
    assert trees(fit(small_market, shared=shared).own) == trees(fit(small_market).own)


def test_models_when_later_rows_change_are_identical(small_market):
    """Nothing that was not known at the cut is in a model."""
    changed = {}
    for pair, table in small_market.tables.items():
        late = open_seconds(table) + (HORIZON + 1) * TIMEFRAME_S > small_market.cut_s
        changed[pair] = table.copy()
        changed[pair].loc[late] *= 2.0
    shared = fit_shared(changed, small_market.cut_s, LabelSpec("long", HORIZON, TIMEFRAME_S))
    model, rows = fit_safety_model(
        ETH,
        changed[ETH],
        LabelSpec("long", HORIZON, TIMEFRAME_S),
        default_parameters(),
        shared,
        150.0,
    )
    for alpha, booster in shared.pooled.items():
        assert trees(booster) == trees(small_market.shared.pooled[alpha])
    assert trees(model.own) == trees(fit(small_market).own)
    last_s = open_seconds(changed[ETH])[rows[-1]]
    assert last_s + (HORIZON + 1) * TIMEFRAME_S <= small_market.cut_s


def test_model_of_short_history_is_atr_scaled_and_own_only(small_market):
    """Before the scale can be fitted, the pair's own trees on ATR14 / close serve."""
    early_s = int(open_seconds(small_market.tables[ETH])[0]) + 6 * DAY_S
    shared = fit_shared(small_market.tables, early_s, LabelSpec("long", HORIZON, TIMEFRAME_S))
    assert shared.scale.is_fallback
    assert not shared.pooled
    q = fit(small_market, shared=shared).predict(small_market.tables[ETH])
    assert np.isfinite(q).all()


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("alpha", [0.05, 0.13, 0.20])
def test_forecasts_of_training_rows_have_about_the_nominal_exceedance(small_market, side, alpha):
    """About alpha of the excursions that were learned from are worse than forecast."""
    table = small_market.tables[ETH]
    known = open_seconds(table) + (HORIZON + 1) * TIMEFRAME_S <= small_market.cut_s
    model = fit(small_market, side, default_parameters() | {"quantile_alpha": alpha})
    q = model.predict(table[known])
    assert exceedance(labels(table[known], side), q) == pytest.approx(alpha, abs=0.03)


def test_training_rows_of_a_window_are_thinned_weighted_and_purged(small_market, training):
    """Rows are every tenth from the epoch, their labels end by the cut, the newest weigh most."""
    opens_s = open_seconds(small_market.tables[ETH])[training.rows]
    assert set(opens_s // TIMEFRAME_S % thinning(HORIZON).own) == {0}
    assert opens_s[-1] + (HORIZON + 1) * TIMEFRAME_S <= small_market.cut_s
    assert (np.diff(training.weight) > 0).all()
    assert training.weight[-1] == pytest.approx(1.0, abs=0.01)
    assert len(training.x) == len(training.z) == len(training.rows)


def test_training_rows_of_a_redraw_are_others_and_fewer(small_market):
    """A redraw takes other rows and leaves out the window's first days."""
    table, scale = small_market.tables[ETH], small_market.shared.scale
    label, window = (
        LabelSpec("long", HORIZON, TIMEFRAME_S),
        TrainingWindow(small_market.cut_s, 10.0),
    )
    first = training_rows(ETH, table, scale, label, window)
    redraw = training_rows(ETH, table, scale, label, replace(window, drop_days=2.0, offset=3))
    assert not set(first.rows) & set(redraw.rows)
    opens_s = open_seconds(table)
    assert small_market.cut_s - 8 * DAY_S <= opens_s[redraw.rows[0]]
    assert opens_s[first.rows[0]] < small_market.cut_s - 9.9 * DAY_S


def test_training_rows_without_finished_label_are_refused(small_market):
    """A cut before all labels is an error that names it."""
    table = small_market.tables[ETH]
    with pytest.raises(
        ModelError, match=r"^0 rows to learn from in the 150 days before 20\S+Z, minimum 100"
    ):
        training_rows(
            ETH,
            table,
            small_market.shared.scale,
            LabelSpec("long", HORIZON, TIMEFRAME_S),
            TrainingWindow(int(open_seconds(table)[0]), 150.0),
        )


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_sampled_rows_of_a_share_follow_the_weights(training, share):
    """Thinning by recency keeps each part of the window in proportion to its weight."""
    kept = training.sampled_by_weight(share)
    assert (kept.weight == 1).all()
    assert len(kept.rows) == pytest.approx(share * training.weight.sum(), rel=0.03)
    half = len(training.rows) // 2
    older = np.isin(kept.rows, training.rows[:half]).sum()
    assert older == pytest.approx(share * training.weight[:half].sum(), rel=0.06)
    positions = np.searchsorted(training.rows, kept.rows)
    assert np.array_equal(kept.x, training.x[positions])
    assert np.array_equal(kept.z, training.z[positions])


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        pytest.param(0.05, 1.0, id="lowest"),
        pytest.param(0.075, 1.5, id="between"),
        pytest.param(0.10, 2.0, id="fitted"),
        pytest.param(0.19, 4.6, id="high"),
        pytest.param(0.20, 5.0, id="highest"),
    ],
)
def test_interpolation_at_any_level_is_linear(alpha, expected):
    """Between fitted levels the pooled forecast is a straight line, exact at the levels."""
    by_alpha = dict(zip(POOLED_ALPHAS, (1.0, 2.0, 3.0, 5.0), strict=True))
    weights = pooled_weights(alpha)
    assert sum(w * by_alpha[level] for level, w in weights.items()) == pytest.approx(expected)
    assert sum(weights.values()) == pytest.approx(1.0)
    assert sum(level * weight for level, weight in weights.items()) == pytest.approx(alpha)
    assert all(weight > 0 for weight in weights.values())


def test_combination_with_and_without_pooled_forecasts_is_the_mean_or_own():
    """The rule counts 0.05; of the rest own trees 0.4, pooled 0.6; own alone without pooled ones."""
    own, rule = np.array([1.0, 2.0]), np.array([4.0, 2.0])
    assert combine(own, np.array([3.0, 2.0]), rule) == pytest.approx([0.95 * 2.2 + 0.2, 2.0])
    assert combine(own, None, rule) == pytest.approx([0.95 + 0.2, 2.0])


def test_prediction_equals_the_search_formula(small_market):
    """What a bot serves is the combination that a search scores, at a level between two fitted ones."""
    table = small_market.tables[ETH].iloc[-300:]
    model = fit(small_market, parameters=default_parameters() | {"quantile_alpha": 0.13})
    log_scale = small_market.shared.scale.log_scale(ETH, table)
    pooled = small_market.shared.pooled_z(table, log_scale, "long", 0.13)
    own = model.own.predict(tree_features(table, log_scale, "long"))
    constant = atr_rule_constant(
        small_market.tables[ETH], LabelSpec("long", 30, 300), small_market.cut_s, 0.13
    )
    rule_z = constant * table["atr_ratio"].to_numpy() / np.exp(log_scale)
    expected = combine(own, pooled, rule_z) * np.exp(log_scale)
    np.testing.assert_allclose(model.predict(table), expected, rtol=1e-12)


@pytest.mark.parametrize("side", SIDES)
def test_prediction_of_one_row_is_that_rows_of_the_table(small_market, side):
    """The bot predicts row by row what a backtest predicts at once, to the bit."""
    table = small_market.tables[ETH].iloc[-40:]
    model = fit(small_market, side)
    bare = table.drop(columns=list(LABEL_COLUMNS.values()))
    one_by_one = [model.predict(bare.iloc[i : i + 1])[0] for i in range(len(bare))]
    assert list(model.predict(table)) == one_by_one


@pytest.mark.slow
@pytest.mark.parametrize("pair", ["BTC/USDT:USDT", ETH])
def test_defaults_on_real_candles_beat_the_rule(real_candles, pair):
    """On two untouched weeks of real candles, the defaults have skill on both sides together."""
    names = ("BTC", "ETH", "SOL", "XRP", "BNB")
    context = {f"{name}/USDT:USDT": real_candles(f"{name}/USDT:USDT") for name in names}
    tables = dict(FeatureContext(context, HORIZON, TIMEFRAME_S).build_context())
    cut_s = int(pd.Timestamp("2026-02-03", tz="UTC").timestamp())
    shared = fit_shared(tables, cut_s, LabelSpec("long", HORIZON, TIMEFRAME_S))
    found = []
    for side in SIDES:
        model, _ = fit_safety_model(
            pair,
            tables[pair],
            LabelSpec(side, HORIZON, TIMEFRAME_S),
            default_parameters(),
            shared,
            150.0,
        )
        y, opens_s = labels(tables[pair], side), open_seconds(tables[pair])
        rows = (opens_s >= cut_s) & np.isfinite(y)
        constant = atr_rule_constant(
            tables[pair], LabelSpec(side, HORIZON, TIMEFRAME_S), cut_s, 0.10
        )
        rule = constant * tables[pair]["atr_ratio"].to_numpy()[rows]
        found.append(skill(y[rows], model.predict(tables[pair][rows]), rule, 0.10))
    assert np.mean(found) > 0.02
