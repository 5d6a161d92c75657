"""How contenders compare on the same rows: scores, losses by day, safe calls, last candles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from feeder_mixin.model.decision import called_safe
from feeder_mixin.model.folds import Layout
from feeder_mixin.model.metrics import day_block_sums, pinball_losses, ratio_with_error
from feeder_mixin.model.rows import DAY_S
from feeder_mixin.tune.judge.contenders import ATR_RULE, DEFAULTS, TUNED, Contender
from feeder_mixin.tune.judge.evaluate import Evaluator, Forecast, ServedForecasts, finite
from feeder_mixin.tune.judge.result import Chart, Comparison, DayTable, DecisionValue
from feeder_mixin.tune.search.space import ALPHA, ParameterSet

Array = NDArray[np.float64]

CHART_DAYS: Final = 2
"""Candles of a chart: more would not be told apart on a page."""


def compare(
    evaluator: Evaluator,
    layout: Layout,
    contenders: Mapping[Contender, ParameterSet],
    alpha: float,
) -> Comparison:
    """Return how contenders, defaults and tuned among them, compare at one quantile level."""
    walks = {
        name: evaluator.walk(layout, {**parameters, ALPHA: alpha})
        for name, parameters in contenders.items()
    }
    any_walk = walks[DEFAULTS]
    test, everything = any_walk.test, any_walk.everything
    # Contender -> its forecasts on the rows of the test window, and on those of the whole walk.
    of_test: dict[str, Array] = {ATR_RULE: test.rule}
    of_test |= {name: walk.test.q for name, walk in walks.items()}
    of_walk: dict[str, Array] = {ATR_RULE: everything.rule}
    of_walk |= {name: walk.everything.q for name, walk in walks.items()}
    tested = {name: _day_losses(test, q, alpha) for name, q in of_test.items()}
    walked = {name: _day_losses(everything, q, alpha) for name, q in of_walk.items()}
    gain, error = ratio_with_error(tested[DEFAULTS] - tested[TUNED], tested[ATR_RULE])
    return Comparison(
        scores={name: evaluator.score(test, q, alpha) for name, q in of_test.items()},
        test=day_table(test.opens_s, tested),
        walk=day_table(everything.opens_s, walked),
        tuned_gain=gain,
        tuned_gain_se=finite(error),
    )


def _day_losses(rows: Forecast, q: Array, alpha: float) -> Array:
    return day_block_sums(pinball_losses(rows.excursion, q, alpha), rows.opens_s)


def day_table(opens_s: NDArray[np.int64], losses: Mapping[str, Array]) -> DayTable:
    """Return losses beside the days that `day_block_sums` has sums of."""
    days = np.unique(opens_s // DAY_S)
    return DayTable(
        tuple(days.tolist()), {name: tuple(values.tolist()) for name, values in losses.items()}
    )


def decision_value(walk: ServedForecasts) -> DecisionValue:
    """Return how many unsafe candles the set takes, and the ATR rule where it takes as many."""
    rows = walk.everything
    called = called_safe(rows.q, rows.tolerance, rows.is_allowed)
    n_safe = int(called.sum())
    # By its share of the tolerance: a candle's own where tolerances change from window to window.
    ranked = rows.rule / rows.tolerance
    ranked[~rows.is_allowed] = -np.inf  # the rule enters in no blackout either
    by_rule = np.argsort(-ranked, kind="stable")[:n_safe]
    unsafe = rows.excursion < -rows.tolerance
    return DecisionValue(
        n_rows=len(rows.q),
        n_safe=n_safe,
        unsafe_model=int(unsafe[called].sum()),
        unsafe_rule=int(unsafe[by_rule].sum()),
        tolerance=float(walk.test.tolerance[-1]),
    )


def chart(walk: ServedForecasts, frame: pd.DataFrame) -> Chart:
    """Return the last days of the test window: candles, served quantile, excursion.

    Parameters
    ----------
    frame
        The pair's candles, indexed by their open.
    """
    test = walk.test
    last = test.opens_s > test.opens_s[-1] - CHART_DAYS * DAY_S
    opens_s = test.opens_s[last]
    candles = frame.loc[pd.to_datetime(opens_s, unit="s", utc=True)]
    return Chart(
        opens_s=tuple(opens_s.tolist()),
        open=tuple(candles["open"].tolist()),
        high=tuple(candles["high"].tolist()),
        low=tuple(candles["low"].tolist()),
        close=tuple(candles["close"].tolist()),
        q=tuple(test.q[last].tolist()),
        excursion=tuple(test.excursion[last].tolist()),
    )
