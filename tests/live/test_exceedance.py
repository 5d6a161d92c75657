"""Realised exceedance: what was served against what then happened, counted one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeder_mixin.live.serve.candles import from_frame
from feeder_mixin.live.serve.columns import SafetyColumns, empty_columns
from feeder_mixin.live.serve.exceedance import WINDOW_S, realised_exceedance
from feeder_mixin.market.candles import COLUMNS
from tests.candle_factory import make_candles
from tests.live.conftest import ETH, HORIZON, STEP_S, LiveRun, loaded_pair, open_s
from tests.oracles.market import excursion
from tests.strategies import examples

CANDLES = make_candles(400, 5)[list(COLUMNS)]


def make_served(candles, rng, holes: int) -> SafetyColumns:
    """Return columns as served: forecasts near the labels, some missing, two levels."""
    served = empty_columns(np.array([open_s(candles, row) for row in range(len(candles))]))
    served.q[:] = -rng.uniform(0, 0.01, len(candles))
    served.q[rng.integers(0, len(candles), holes)] = np.nan
    served.alpha[:] = np.where(np.arange(len(candles)) < 300, 0.1, 0.2)
    return served


@given(st.integers(0, 2**32 - 1), st.integers(2, 400), st.integers(0, 60))
@pytest.mark.parametrize("side", ["long", "short"])
@examples(8)
def test_exceedance_is_that_of_counting_candle_by_candle(side, seed, n, holes):
    """Only candles of the last day whose horizon is over and known, with what was served there."""
    rng = np.random.default_rng(seed)
    candles = CANDLES.iloc[:n].copy()
    candles.iloc[rng.integers(0, n, holes // 10)] = np.nan
    candles.iloc[-1] = CANDLES.iloc[n - 1]  # a tail ends with a candle
    served = make_served(candles, rng, holes)
    worse, levels = [], []
    for row in range(n):
        is_recent = open_s(candles, -1) - WINDOW_S < open_s(candles, row) + HORIZON * STEP_S
        label = excursion(candles, row, HORIZON, side)
        if is_recent and not math.isnan(label) and not math.isnan(served.q[row]):
            worse.append(label < served.q[row])
            levels.append(served.alpha[row])
    found = realised_exceedance(served, from_frame(candles, STEP_S), HORIZON, side)
    if not worse:
        assert found is None
        return
    assert found is not None
    assert found.n_candles == len(worse)
    assert found.share == pytest.approx(np.mean(worse))
    assert found.nominal == pytest.approx(np.mean(levels))


def test_exceedance_is_unknown_without_candles_or_columns():
    """Not 0: nothing was seen."""
    tail = from_frame(CANDLES, STEP_S)
    assert realised_exceedance(None, tail, HORIZON, "long") is None
    served = empty_columns(np.array([open_s(CANDLES, row) for row in range(400)]))
    assert realised_exceedance(served, None, HORIZON, "long") is None
    assert realised_exceedance(served, tail, HORIZON, "long") is None


def test_exceedance_of_a_restarted_bot_is_that_of_the_one_before(world, cuts_s):
    """A new process serves the host's frame again as it was: the day behind it is known at once."""
    folder = world.folder()
    pairs = {ETH: world.serve(folder, loaded_pair(ETH), cuts_s)}
    last = len(world.candles[ETH]) - 1
    running = LiveRun(folder, world.candles, pairs)
    running.run(last - 3, last)
    again = LiveRun(folder, world.candles, pairs, calibration=running.calibration)
    again.candle(last)
    before, after = (
        realised_exceedance(run.predictor.served(ETH), run.tails.tails[ETH], HORIZON, "long")
        for run in (running, again)
    )
    assert before == after
    assert before is not None
    assert before.n_candles == WINDOW_S // STEP_S
