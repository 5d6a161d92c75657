"""What a tuned pair hands to the decision and the report: losses by day, safe calls, last candles.

Everything is plain JSON: a result document is kept in the journal, and goes on from there after an
interruption. All contenders are compared on the same rows at one quantile level.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from feeder_mixin.model.folds import Layout
from feeder_mixin.model.metrics import day_block_sums, pinball_losses, ratio_with_error
from feeder_mixin.model.rows import DAY_S
from feeder_mixin.tune.judge.evaluate import (
    ATR_RULE,
    DEFAULTS,
    TUNED,
    Evaluator,
    Forecast,
    Score,
    ServedForecasts,
    finite,
)
from feeder_mixin.tune.search.space import ALPHA, ParameterSet

Array = NDArray[np.float64]

CHART_DAYS: Final = 2
"""Candles of a chart: more would not be told apart on a page."""


def compare(
    evaluator: Evaluator,
    layout: Layout,
    contenders: Mapping[str, ParameterSet],
    alpha: float,
) -> dict[str, Any]:
    """Return how contenders, defaults and tuned among them, compare at one quantile level.

    Scores and day losses of the test window; day losses of the whole walk; skill of the tuned set
    minus that of the defaults, with its standard error, paired by day.
    """
    walks = {
        name: evaluator.walk(layout, {**parameters, ALPHA: alpha})
        for name, parameters in contenders.items()
    }
    any_walk = walks[DEFAULTS]
    scores = {ATR_RULE: evaluator.score(any_walk.test, any_walk.test.rule, alpha)}
    scores |= {name: evaluator.score(w.test, w.test.q, alpha) for name, w in walks.items()}
    judged = {ATR_RULE: _day_losses(any_walk.test, any_walk.test.rule, alpha)}
    judged |= {name: _day_losses(w.test, w.test.q, alpha) for name, w in walks.items()}
    rows = any_walk.everything
    walk = {"rule": _day_losses(rows, rows.rule, alpha)}
    walk |= {name: _day_losses(w.everything, w.everything.q, alpha) for name, w in walks.items()}
    gain, error = ratio_with_error(judged[DEFAULTS] - judged[TUNED], judged[ATR_RULE])
    return {
        "scores": {name: _score_to_json(score) for name, score in scores.items()},
        "judged": {
            "days": _days(any_walk.test),
            "losses": {name: losses.tolist() for name, losses in judged.items()},
        },
        "walk": {
            "days": _days(rows),
            **{name: losses.tolist() for name, losses in walk.items()},
        },
        "tuned_gain": gain,
        "tuned_gain_se": finite(error),
    }


def _day_losses(rows: Forecast, q: Array, alpha: float) -> Array:
    return day_block_sums(pinball_losses(rows.excursion, q, alpha), rows.opens_s)


def _days(rows: Forecast) -> list[int]:
    """Return the days that `day_block_sums` has sums of."""
    days: list[int] = np.unique(rows.opens_s // DAY_S).tolist()
    return days


def _score_to_json(score: Score) -> dict[str, float | None]:
    """Return the fields; a standard error of one day only is None."""
    return {name: finite(value) for name, value in score.to_dict().items()}


def decision_value(walk: ServedForecasts, max_adverse_ratio: float) -> dict[str, float]:
    """Return how many unsafe candles the set takes, and the ATR rule where it takes as many."""
    rows = walk.everything
    called = rows.q >= -max_adverse_ratio
    n_safe = int(called.sum())
    by_rule = np.argsort(-rows.rule, kind="stable")[:n_safe]
    unsafe = rows.excursion < -max_adverse_ratio
    return {
        "n_rows": len(rows.q),
        "n_safe": n_safe,
        "unsafe_model": int(unsafe[called].sum()),
        "unsafe_rule": int(unsafe[by_rule].sum()),
        "tolerance": max_adverse_ratio,
    }


def chart(walk: ServedForecasts, frame: pd.DataFrame) -> dict[str, list[float]]:
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
    columns: dict[str, list[float]] = {"opens_s": opens_s.tolist()}
    columns |= {name: candles[name].tolist() for name in ("open", "high", "low", "close")}
    return {**columns, "q": test.q[last].tolist(), "excursion": test.excursion[last].tolist()}
