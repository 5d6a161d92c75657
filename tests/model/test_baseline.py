"""The ATR rule."""

import numpy as np
import pytest

from feeder_mixin.errors import ModelError
from feeder_mixin.model.baseline import atr_rule_constant
from feeder_mixin.model.metrics import exceedance
from feeder_mixin.model.rows import open_seconds
from feeder_mixin.schema import open_text
from feeder_mixin.settings import LabelSpec

ETH = "ETH/USDT:USDT"


@pytest.mark.parametrize("side", ["long", "short"])
@pytest.mark.parametrize("alpha", [0.05, 0.10, 0.20])
def test_rule_on_its_own_rows_has_the_nominal_exceedance(small_market, side, alpha):
    """The constant is the alpha-quantile of excursion / ATR of the labels known at the cut."""
    table, cut_s = small_market.tables[ETH], small_market.cut_s
    constant = atr_rule_constant(table, LabelSpec(side, 30, 300), cut_s, alpha)
    known = table[open_seconds(table) + 31 * 300 <= cut_s]
    y, q = known[f"excursion_{side}"], constant * known["atr_ratio"]
    assert constant < 0
    assert exceedance(y.to_numpy(), q.to_numpy()) == pytest.approx(alpha, abs=2e-3)


def test_rule_when_older_or_later_rows_change_is_the_same(small_market):
    """Only the last 90 days before the cut count."""
    table = small_market.tables[ETH]
    cut_s = small_market.cut_s
    before = atr_rule_constant(table, LabelSpec("long", 30, 300), cut_s, 0.1)
    late = open_seconds(table) + 31 * 300 > cut_s
    changed = table.copy()
    changed.loc[late, "excursion_long"] = -0.9
    assert atr_rule_constant(changed, LabelSpec("long", 30, 300), cut_s, 0.1) == before


def test_rule_without_finished_label_is_refused(small_market):
    """A cut before all labels is an error that names it."""
    first_s = int(open_seconds(small_market.tables[ETH])[0])
    with pytest.raises(ModelError, match=f"before {open_text(first_s)}"):
        atr_rule_constant(small_market.tables[ETH], LabelSpec("long", 30, 300), first_s, 0.1)


def test_rule_of_a_flat_market_is_zero(small_market):
    """No movement gives a constant of 0, not NaN."""
    flat = small_market.tables[ETH].assign(excursion_long=0.0, atr_ratio=1e-7)
    constant = atr_rule_constant(flat, LabelSpec("long", 30, 300), small_market.cut_s, 0.1)
    assert np.isfinite(constant)
    assert constant == 0
