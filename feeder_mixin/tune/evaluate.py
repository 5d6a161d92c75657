"""What a winner is worth: the untouched test window, and the walk-forward behind it.

Every contender (ATR rule, defaults, running record, tuned) is fitted at the test window's cut on
labels that ended by then and compared on the same candles at one quantile level. The record's own
metrics are those of the tuned parameters at their own level.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from feeder_mixin.errors import CandleError
from feeder_mixin.market.features import labels
from feeder_mixin.model.baseline import atr_rule_constant
from feeder_mixin.model.folds import Layout, Window
from feeder_mixin.model.metrics import (
    day_block_sums,
    exceedance,
    mean_absolute_error,
    pinball_losses,
    ratio_with_error,
    safety_rates,
    skill,
    skill_with_error,
)
from feeder_mixin.model.quantile import SharedModels, fit_safety_model
from feeder_mixin.model.rows import open_seconds, select_rows
from feeder_mixin.tune.space import ParameterSet, StudySettings

Array = NDArray[np.float64]

ATR_RULE: Final = "ATR rule"
DEFAULTS: Final = "defaults"
RUNNING: Final = "running"
TUNED: Final = "tuned"


@dataclass(frozen=True, slots=True)
class Score:
    """One contender on the test window; shares in 0 to 1, None where a denominator is empty."""

    skill: float
    skill_se: float
    mae: float
    exceedance: float
    safety_accuracy: float
    predicted_safe_share: float
    realised_safe_share: float
    false_positive_rate: float | None
    false_negative_rate: float | None

    def to_dict(self) -> dict[str, float | None]:
        """Return the fields by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Forecast:
    """Forecasts of one window beside the truth and the ATR rule, arrays of shape (n_rows,)."""

    excursion: Array
    q: Array
    rule: Array
    opens_s: NDArray[np.int64]
    train_mae: float
    n_training: int


class Evaluator:
    """Fits parameter sets of one pair at given cuts and scores them."""

    def __init__(
        self, settings: StudySettings, table: pd.DataFrame, shared: Mapping[int, SharedModels]
    ) -> None:
        self._settings, self._table, self._shared = settings, table, shared
        self._excursion = labels(table, settings.side)
        self._opens_s = open_seconds(table)
        self._atr_ratio = table["atr_ratio"].to_numpy(np.float64)

    def forecast(self, window: Window, parameters: Mapping[str, float]) -> Forecast:
        """Return what the bot would have served in a window, with a model fitted at its cut."""
        s = self._settings
        rows = select_rows(
            self._opens_s,
            np.isfinite(self._excursion),
            start_s=window.cut_s,
            stop_s=window.end_s,
            timeframe_s=s.timeframe_s,
        )
        if not len(rows):
            raise CandleError(
                f"{s.pair}: no candle with features and label after the cut {window.cut_s} (gaps?)"
            )
        model, trained = fit_safety_model(
            s.pair,
            self._table,
            s.side,
            parameters,
            self._shared[window.cut_s],
            train_days=s.train_days,
            horizon=s.horizon,
            timeframe_s=s.timeframe_s,
        )
        constant = atr_rule_constant(
            self._table, s.side, window.cut_s, model.alpha, s.horizon, s.timeframe_s
        )
        fitted = model.predict(self._table.iloc[trained])
        return Forecast(
            excursion=self._excursion[rows],
            q=model.predict(self._table.iloc[rows]),
            rule=constant * self._atr_ratio[rows],
            opens_s=self._opens_s[rows],
            train_mae=mean_absolute_error(self._excursion[trained], fitted),
            n_training=len(trained),
        )

    def score(self, forecast: Forecast, q: Array, alpha: float) -> Score:
        """Return how `q` does on a forecast's rows against the ATR rule."""
        gain, error = skill_with_error(
            forecast.excursion, q, forecast.rule, alpha, forecast.opens_s
        )
        rates = safety_rates(forecast.excursion, q, self._settings.max_adverse_ratio)
        return Score(
            skill=gain,
            skill_se=error,
            mae=mean_absolute_error(forecast.excursion, q),
            exceedance=exceedance(forecast.excursion, q),
            safety_accuracy=rates.accuracy,
            predicted_safe_share=rates.predicted_safe_share,
            realised_safe_share=rates.realised_safe_share,
            false_positive_rate=rates.false_positive_rate,
            false_negative_rate=rates.false_negative_rate,
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """Every contender on the test window.

    Attributes
    ----------
    scores
        Contender -> score, the ATR rule first.
    tuned_gain, tuned_gain_se
        Skill of the tuned set minus that of the defaults, and its standard error, paired by day.
    """

    scores: Mapping[str, Score]
    tuned_gain: float
    tuned_gain_se: float


def compare_on_test(
    evaluator: Evaluator, layout: Layout, contenders: Mapping[str, ParameterSet], alpha: float
) -> Comparison:
    """Return how contenders, defaults and tuned among them, compare at one level."""
    forecasts = {
        name: evaluator.forecast(layout.test, {**parameters, "quantile_alpha": alpha})
        for name, parameters in contenders.items()
    }
    truth = forecasts[DEFAULTS]
    scores = {ATR_RULE: evaluator.score(truth, truth.rule, alpha)}
    scores |= {name: evaluator.score(f, f.q, alpha) for name, f in forecasts.items()}
    rule, defaults, tuned = (
        day_block_sums(pinball_losses(truth.excursion, q, alpha), truth.opens_s)
        for q in (truth.rule, truth.q, forecasts[TUNED].q)
    )
    return Comparison(scores, *ratio_with_error(defaults - tuned, rule))


def record_metrics(
    evaluator: Evaluator,
    layout: Layout,
    parameters: ParameterSet,
    start: ParameterSet,
) -> dict[str, float]:
    """Return the metrics of a parameter set at its own level, as the schema names them.

    ``beats_rule`` is judged on all out-of-sample candles together, folds and test window: 0 when
    neither the set nor the defaults `start` are better than the ATR rule there.
    """
    alpha = parameters["quantile_alpha"]
    test = evaluator.forecast(layout.test, parameters)
    score = evaluator.score(test, test.q, alpha)
    walk = [evaluator.forecast(fold, parameters) for fold in layout.folds]
    beats_rule = _pooled_skill([*walk, test], alpha) > 0.0
    if not beats_rule and parameters != start:
        windows = (*layout.folds, layout.test)
        defaults = [evaluator.forecast(window, start) for window in windows]
        beats_rule = _pooled_skill(defaults, start["quantile_alpha"]) > 0.0
    metrics: dict[str, float | None] = {
        "backtested_mae": mean_absolute_error(
            np.concatenate([f.excursion for f in walk]), np.concatenate([f.q for f in walk])
        ),
        "validation_mae": float(np.mean([mean_absolute_error(f.excursion, f.q) for f in walk])),
        "train_mae": test.train_mae,
        "test_mae": score.mae,
        "safety_accuracy": score.safety_accuracy,
        "false_positive_rate": score.false_positive_rate,
        "false_negative_rate": score.false_negative_rate,
        "training_samples": float(test.n_training),
        "beats_rule": float(beats_rule),
        "skill": score.skill,
        "skill_se": score.skill_se if np.isfinite(score.skill_se) else None,
        "exceedance": score.exceedance,
        "predicted_safe_share": score.predicted_safe_share,
        "realised_safe_share": score.realised_safe_share,
    }
    return {name: value for name, value in metrics.items() if value is not None}


def _pooled_skill(windows: list[Forecast], alpha: float) -> float:
    excursion, q, rule = (
        np.concatenate([getattr(forecast, name) for forecast in windows])
        for name in ("excursion", "q", "rule")
    )
    return skill(excursion, q, rule, alpha)


def finite(value: float | None) -> float | None:
    """Return a number, or None for infinity and NaN: JSON has neither."""
    return value if value is not None and np.isfinite(value) else None


def scores_to_json(scores: Mapping[str, Score]) -> dict[str, Any]:
    """Return contender -> fields; a standard error of one day only is None."""
    return {
        name: {key: finite(value) for key, value in score.to_dict().items()}
        for name, score in scores.items()
    }
