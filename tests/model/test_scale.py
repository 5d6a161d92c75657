"""The label scale against plain least squares."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from feeder_mixin.market.features import SCALE_FEATURES
from feeder_mixin.model import scale as module
from feeder_mixin.model.rows import open_seconds
from feeder_mixin.model.scale import fit_scale

HORIZON, TIMEFRAME_S = 30, 300
ETH = "ETH/USDT:USDT"


def test_scale_of_one_pair_equals_sklearns_ridge(small_market, monkeypatch):
    """The normal equations of one pair are a weighted ridge regression with free intercept."""
    monkeypatch.setattr(module, "MIN_ROWS", 100)
    table, cut_s = small_market.tables[ETH], small_market.cut_s
    scale = fit_scale({ETH: table}, cut_s, HORIZON, TIMEFRAME_S)
    opens_s = open_seconds(table)
    known = (opens_s + (HORIZON + 1) * TIMEFRAME_S <= cut_s) & (opens_s // TIMEFRAME_S % 6 == 0)
    rows = table[known]
    unit = 0.3 * rows["atr_ratio"]
    logs = [np.log((-rows[f"excursion_{s}"]).clip(lower=0) + unit) for s in ("long", "short")]
    x = rows[list(SCALE_FEATURES)].to_numpy()
    mean, std = x.mean(axis=0), x.std(axis=0) + 1e-9
    weight = 0.5 ** ((cut_s - opens_s[known]) / (120 * 86_400))
    ridge = Ridge(alpha=1e-3 * weight.sum(), solver="cholesky")
    ridge.fit((x - mean) / std, (logs[0] + logs[1]) / 2, sample_weight=weight)
    expected = ridge.predict((table[list(SCALE_FEATURES)].to_numpy() - mean) / std)
    np.testing.assert_allclose(scale.log_scale(ETH, table), expected, rtol=1e-6)


def test_scale_of_pairs_in_another_order_is_bit_equal(small_market):
    """Neither the order of pairs nor a second fit changes a bit."""
    turned = dict(reversed(small_market.tables.items()))
    first = fit_scale(small_market.tables, small_market.cut_s, HORIZON, TIMEFRAME_S)
    second = fit_scale(turned, small_market.cut_s, HORIZON, TIMEFRAME_S)
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
    first = fit_scale(small_market.tables, cut_s, HORIZON, TIMEFRAME_S)
    second = fit_scale(changed, cut_s, HORIZON, TIMEFRAME_S)
    for pair in changed:
        assert np.array_equal(first.coefficients[pair], second.coefficients[pair])


def test_scale_of_short_history_is_atr(small_market):
    """Where history is short, ATR14 / close stands in."""
    early_s = int(open_seconds(small_market.tables[ETH])[0]) + 5 * 86_400
    scale = fit_scale(small_market.tables, early_s, HORIZON, TIMEFRAME_S)
    table = small_market.tables[ETH]
    assert scale.is_fallback
    np.testing.assert_allclose(np.exp(scale.log_scale(ETH, table)), table["atr_ratio"], rtol=1e-12)


def test_scale_of_a_pair_without_labels_is_the_pooled_one(small_market):
    """A pair that is new at the cut takes the fit of the others."""
    tables = dict(small_market.tables)
    new = tables[ETH].loc[tables[ETH].index[-1000:]]
    scale = fit_scale({**tables, "NEW/USDT:USDT": new}, small_market.cut_s, HORIZON, TIMEFRAME_S)
    assert np.isfinite(scale.log_scale("NEW/USDT:USDT", new)).all()


@pytest.mark.parametrize("n_rows", [1, 2, 7, 100])
def test_log_scale_of_any_batch_is_bit_equal(small_market, n_rows):
    """A row's scale does not depend on the rows it comes with."""
    table = small_market.tables[ETH].iloc[:700]
    scale = small_market.shared.scale
    parts = [scale.log_scale(ETH, table.iloc[i : i + n_rows]) for i in range(0, 700, n_rows)]
    assert np.array_equal(np.concatenate(parts), scale.log_scale(ETH, table))
