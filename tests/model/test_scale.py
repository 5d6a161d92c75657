"""The label scale against plain least squares."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from feeder_mixin.market.features import SCALE_FEATURES
from feeder_mixin.model import scale as module
from feeder_mixin.model.rows import open_seconds
from feeder_mixin.model.scale import fit_scale
from feeder_mixin.settings import LabelSpec

HORIZON, TIMEFRAME_S = 30, 300
ETH = "ETH/USDT:USDT"


def by_hand(table):
    """Return the regressors by their definition: columns, squares, products with the clock."""
    squares = [("vol_close_24", "vol_close_2016"), ("atr14", "vol_close_288")]
    squares += [("vol_close_288", "vol_close_2016")]
    columns = [table[name] for name in SCALE_FEATURES]
    columns += [(table[low] - table[high]) ** 2 for low, high in squares]
    for clock in ("ny_sin", "ny_cos"):
        columns += [
            table[name] * table[clock] for name in ("atr14", "vol_close_96", "vol_close_2016")
        ]
    return np.column_stack(columns)


def test_scale_of_one_pair_equals_sklearns_ridge(small_market, monkeypatch):
    """The normal equations of one pair are a weighted ridge regression with free intercept."""
    monkeypatch.setattr(module, "MIN_ROWS", 100)
    table, cut_s = small_market.tables[ETH], small_market.cut_s
    scale = fit_scale({ETH: table}, cut_s, LabelSpec("long", HORIZON, TIMEFRAME_S))
    opens_s = open_seconds(table)
    known = (opens_s + (HORIZON + 1) * TIMEFRAME_S <= cut_s) & (opens_s // TIMEFRAME_S % 6 == 0)
    rows = table[known]
    unit = 0.3 * rows["atr_ratio"]
    logs = [np.log((-rows[f"excursion_{s}"]).clip(lower=0) + unit) for s in ("long", "short")]
    x = by_hand(rows)
    mean, std = x.mean(axis=0), x.std(axis=0) + 1e-9
    weight = 0.5 ** ((cut_s - opens_s[known]) / (120 * 86_400))
    ridge = Ridge(alpha=1e-3 * weight.sum(), solver="cholesky")
    ridge.fit((x - mean) / std, (logs[0] + logs[1]) / 2, sample_weight=weight)
    expected = 0.8 * ridge.predict((by_hand(table) - mean) / std) + 0.2 * np.log(table["atr_ratio"])
    np.testing.assert_allclose(scale.log_scale(ETH, table), expected, rtol=1e-6)


def test_scale_of_pairs_in_another_order_is_bit_equal(small_market):
    """Neither the order of pairs nor a second fit changes a bit."""
    turned = dict(reversed(small_market.tables.items()))
    first = fit_scale(
        small_market.tables, small_market.cut_s, LabelSpec("long", HORIZON, TIMEFRAME_S)
    )
    second = fit_scale(turned, small_market.cut_s, LabelSpec("long", HORIZON, TIMEFRAME_S))
    assert not first.is_fallback
    for pair in turned:
        assert np.array_equal(first.coefficients[pair], second.coefficients[pair])


def test_scale_when_later_rows_change_is_bit_equal(small_market):
    """No label that ends after the cut is used."""
    cut_s = small_market.cut_s
    changed = {}
    for pair, table in small_market.tables.items():
        late = open_seconds(table) + (HORIZON + 1) * TIMEFRAME_S > cut_s
        changed[pair] = table.copy()
        changed[pair].loc[late] *= 3.0
    first = fit_scale(small_market.tables, cut_s, LabelSpec("long", HORIZON, TIMEFRAME_S))
    second = fit_scale(changed, cut_s, LabelSpec("long", HORIZON, TIMEFRAME_S))
    for pair in changed:
        assert np.array_equal(first.coefficients[pair], second.coefficients[pair])


def test_scale_of_short_history_is_atr(small_market):
    """Where history is short, ATR14 / close stands in."""
    early_s = int(open_seconds(small_market.tables[ETH])[0]) + 5 * 86_400
    scale = fit_scale(small_market.tables, early_s, LabelSpec("long", HORIZON, TIMEFRAME_S))
    table = small_market.tables[ETH]
    assert scale.is_fallback
    np.testing.assert_allclose(np.exp(scale.log_scale(ETH, table)), table["atr_ratio"], rtol=1e-12)


def test_scale_of_a_pair_without_labels_is_the_pooled_one(small_market):
    """A pair that is new at the cut takes the fit of the others."""
    tables = dict(small_market.tables)
    new = tables[ETH].loc[tables[ETH].index[-1000:]]
    scale = fit_scale(
        {**tables, "NEW/USDT:USDT": new},
        small_market.cut_s,
        LabelSpec("long", HORIZON, TIMEFRAME_S),
    )
    assert np.isfinite(scale.log_scale("NEW/USDT:USDT", new)).all()


LABEL = LabelSpec("long", HORIZON, TIMEFRAME_S)


def test_scale_of_a_pair_outside_with_the_candles_of_one_inside_is_that_pairs(small_market):
    """Its own equations are mixed in as those of a context pair are; the context's bits stay."""
    scale, table = small_market.shared.scale, small_market.tables[ETH]
    with_outsider = scale.with_pair("COPY/USDT:USDT", table, LABEL)
    for pair in small_market.tables:
        assert np.array_equal(with_outsider.coefficients[pair], scale.coefficients[pair])
    np.testing.assert_allclose(
        with_outsider.log_scale("COPY/USDT:USDT", table), scale.log_scale(ETH, table), rtol=1e-9
    )
    assert scale.with_pair(ETH, table.iloc[:0], LABEL) is scale


def test_scale_of_a_pair_outside_when_later_rows_change_is_bit_equal(small_market):
    """No label of its own that ends after the cut is used."""
    scale, changed = small_market.shared.scale, small_market.tables[ETH].copy()
    changed.loc[open_seconds(changed) + (HORIZON + 1) * TIMEFRAME_S > small_market.cut_s] *= 3.0
    weights = [
        scale.with_pair("NEW", table, LABEL).coefficients["NEW"]
        for table in (small_market.tables[ETH], changed)
    ]
    assert np.array_equal(*weights)


def test_scale_of_a_young_pair_outside_is_the_pooled_one(small_market):
    """Without a label that ended by the cut it takes the context's fit."""
    scale, table = small_market.shared.scale, small_market.tables[ETH]
    young = table[open_seconds(table) >= small_market.cut_s]
    weights = scale.with_pair("NEW", young, LABEL).coefficients["NEW"]
    # Weights and intercept of the context's mean equations, solved here once more.
    ridge = 1e-3 * np.diag([1.0] * (len(weights) - 1) + [0.0])
    expected = np.linalg.solve(scale.equations[:, :-1] + ridge, scale.equations[:, -1])
    np.testing.assert_allclose(weights, expected, rtol=1e-9)


@pytest.mark.parametrize("n_rows", [1, 2, 7, 100])
def test_log_scale_of_any_batch_is_bit_equal(small_market, n_rows):
    """A row's scale does not depend on the rows it comes with."""
    table = small_market.tables[ETH].iloc[:700]
    scale = small_market.shared.scale
    parts = [scale.log_scale(ETH, table.iloc[i : i + n_rows]) for i in range(0, 700, n_rows)]
    assert np.array_equal(np.concatenate(parts), scale.log_scale(ETH, table))


@pytest.fixture(scope="module")
def with_trees(small_market):
    """Give a scale that has trees, however short the history."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MIN_TREE_ROWS", 1_000)
        return fit_scale(
            small_market.tables, small_market.cut_s, LabelSpec("long", HORIZON, TIMEFRAME_S)
        )


def test_scale_trees_of_a_nonlinear_market_lower_the_error(small_market):
    """What the regression can't say, the trees do: an excursion that doubles at odd volumes."""
    tables, cut_s = {}, small_market.cut_s
    for pair, table in small_market.tables.items():
        tables[pair] = table.copy()
        loud = np.sin(6 * table["volume_12"]) > 0
        for side in ("long", "short"):
            tables[pair].loc[loud, f"excursion_{side}"] *= 4.0
    linear = fit_scale(tables, cut_s, LabelSpec("long", HORIZON, TIMEFRAME_S))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MIN_TREE_ROWS", 1_000)
        bent = fit_scale(tables, cut_s, LabelSpec("long", HORIZON, TIMEFRAME_S))
    assert linear.trees is None
    later = tables[ETH][open_seconds(tables[ETH]) >= cut_s].dropna()
    target = np.log(-later[["excursion_long", "excursion_short"]].clip(upper=-1e-5)).mean(axis=1)
    errors = [np.std(target - scale.log_scale(ETH, later)) for scale in (linear, bent)]
    assert errors[1] < 0.9 * errors[0]


def test_scale_trees_in_any_batch_are_bit_equal(small_market, with_trees):
    """A row's scale does not depend on the rows it comes with, trees or not."""
    table = small_market.tables[ETH].iloc[:300]
    parts = [with_trees.log_scale(ETH, table.iloc[i : i + 7]) for i in range(0, 300, 7)]
    assert np.array_equal(np.concatenate(parts), with_trees.log_scale(ETH, table))


def test_scale_trees_when_later_rows_change_are_identical(small_market, with_trees):
    """The trees, too, use no label that ends after the cut, and no order of pairs."""
    changed = {}
    for pair, table in reversed(small_market.tables.items()):
        late = open_seconds(table) + (HORIZON + 1) * TIMEFRAME_S > small_market.cut_s
        changed[pair] = table.copy()
        changed[pair].loc[late] *= 3.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MIN_TREE_ROWS", 1_000)
        again = fit_scale(changed, small_market.cut_s, LabelSpec("long", HORIZON, TIMEFRAME_S))
    assert again.trees.model_to_string() == with_trees.trees.model_to_string()
