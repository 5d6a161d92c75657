"""Labels against a loop."""

import numpy as np
import pytest

from feeder_mixin.market.labels import LABEL_COLUMNS, adverse_excursions
from tests.oracles import market as oracle


@pytest.mark.parametrize("side", ["long", "short"])
@pytest.mark.parametrize("horizon", [1, 2, 30])
def test_excursions_of_candles_with_a_gap_equal_the_oracle(make_candles, side, horizon):
    """Every label is the loop's, NaN where the horizon is not over or spans a gap."""
    candles = make_candles(150, 1)
    candles.iloc[60:63] = np.nan
    found = adverse_excursions(candles, horizon)[LABEL_COLUMNS[side]].to_numpy()
    expected = [oracle.excursion(candles, i, horizon, side) for i in range(len(candles))]
    np.testing.assert_array_equal(found, expected)
    assert np.isnan(found[60 - horizon : 63]).all()
    assert np.isnan(found[-horizon:]).all()
    assert np.isfinite(found[: 60 - horizon]).all()


def test_excursions_computed_by_hand_have_the_right_sign(make_candles):
    """Against the position is negative on both sides; beyond the close it is positive."""
    candles = make_candles(3, 1)
    candles["close"] = [100.0, 100.0, 100.0]
    candles["low"] = [90.0, 98.0, 97.0]
    candles["high"] = [110.0, 101.0, 103.0]
    first = adverse_excursions(candles, 2).iloc[0]
    assert first["excursion_long"] == pytest.approx(-0.03)
    assert first["excursion_short"] == pytest.approx(-0.03)
    candles["low"] = [90.0, 101.0, 102.0]
    assert adverse_excursions(candles, 2)["excursion_long"].iloc[0] == pytest.approx(0.01)


def test_excursions_of_mirrored_prices_swap_sides(make_candles):
    """What threatens a long position in a mirrored market threatens a short one here."""
    candles = make_candles(200, 2)
    mirrored = candles.assign(
        close=200 - candles["close"], high=200 - candles["low"], low=200 - candles["high"]
    )
    here, there = adverse_excursions(candles, 5), adverse_excursions(mirrored, 5)
    scale = candles["close"] / mirrored["close"]
    np.testing.assert_allclose(
        here["excursion_short"] * scale, there["excursion_long"], rtol=1e-6, atol=1e-12
    )
