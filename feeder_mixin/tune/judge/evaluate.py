"""What a parameter set is worth: the walk over all folds, and the untouched test window behind them.

Forecasts are what a bot would have served: a model fitted at each window's cut on labels that ended
by then, its quantiles calibrated along the walk (`model.calibration`). The ATR rule is not calibrated:
its constant is refitted at each cut, nothing else. A set is fitted once per level, whoever asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from feeder_mixin.errors import CandleError
from feeder_mixin.market.features import labels
from feeder_mixin.model.calibration import calibrate
from feeder_mixin.model.decision import called_safe
from feeder_mixin.model.folds import Layout, Window
from feeder_mixin.model.metrics import (
    christoffersen_p,
    exceedance,
    kupiec_p,
    mean_absolute_error,
    safety_rates,
    skill_with_error,
    thinned_misses,
)
from feeder_mixin.model.quantile import SafetyModel, SharedModels, fit_safety_model
from feeder_mixin.model.rows import open_seconds, select_rows
from feeder_mixin.model.tolerance import measure_tolerance
from feeder_mixin.schema import open_text
from feeder_mixin.tolerance import tolerance_of
from feeder_mixin.tune.judge.result import Score
from feeder_mixin.tune.search.space import ALPHA, StudySettings

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Forecast:
    """Forecasts of one window beside the truth and the ATR rule, arrays of shape (n_rows,).

    Attributes
    ----------
    tolerance
        In force at each candle: where it is measured, that of the window's cut.
    is_ordinary
        Which candles are like those that the window's model learned from (`model.ordinary`).
    is_allowed
        Which candles may be called safe at all (`model.decision`).
    """

    excursion: Array
    q: Array
    rule: Array
    opens_s: NDArray[np.int64]
    tolerance: Array
    is_ordinary: NDArray[np.bool_]
    is_allowed: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ServedForecasts:
    """What a parameter set served at one quantile level, window after window.

    Attributes
    ----------
    folds, test
        Calibrated forecasts of every window.
    everything
        The same rows in one piece.
    train_mae, n_training
        Of the test window's model, on the rows that it learned from. As fitted: its quantiles are
        calibrated later, on what it serves.
    """

    alpha: float
    folds: tuple[Forecast, ...]
    test: Forecast
    everything: Forecast
    train_mae: float
    n_training: int


class Evaluator:
    """Fits parameter sets of one pair at given cuts and scores them."""

    def __init__(
        self,
        pair: str,
        settings: StudySettings,
        table: pd.DataFrame,
        shared: Mapping[int, SharedModels],
    ) -> None:
        self._pair, self._settings, self._table, self._shared = pair, settings, table, shared
        self._excursion = labels(table, settings.label.side)
        self._opens_s = open_seconds(table)
        self._atr_ratio = table["atr_ratio"].to_numpy(np.float64)
        self._walks: dict[tuple[object, ...], ServedForecasts] = {}

    def walk(self, layout: Layout, parameters: Mapping[str, float]) -> ServedForecasts:
        """Return what the bot would have served in folds and test window, calibrated on the way.

        Theta is 0 at the first fold. Rows purged between two windows move nothing.
        """
        key = (layout.cuts_s, tuple(sorted(parameters.items())))
        if key not in self._walks:
            self._walks[key] = self._walk(layout, parameters)
        return self._walks[key]

    def measured_tolerance(self, cut_s: int) -> float:
        """Return the pair's own tolerance as it is measured at a cut."""
        return measure_tolerance(self._table, self._settings.label, cut_s)

    def tolerance(self, cut_s: int) -> float:
        """Return the tolerance in force in the window of a cut."""
        measured = self.measured_tolerance(cut_s)
        return tolerance_of(self._settings.max_adverse_ratio, self._pair, measured).ratio

    def _walk(self, layout: Layout, parameters: Mapping[str, float]) -> ServedForecasts:
        folds = [self.forecast(window, parameters) for window in layout.folds]
        model, trained = self._fit(layout.test, parameters)
        raw = [*folds, self._apply(model, layout.test)]
        everything = Forecast(
            *(np.concatenate([getattr(one, f.name) for one in raw]) for f in fields(Forecast))
        )
        alpha, label_s = parameters[ALPHA], self._settings.label.horizon_s
        # In one piece: theta goes on from fold to fold, as it does in a bot from model to model.
        served, _theta = calibrate(
            everything.q, everything.excursion, everything.opens_s, alpha=alpha, label_s=label_s
        )
        ends = np.cumsum([len(one.q) for one in raw])[:-1]
        parts = [
            replace(one, q=part) for one, part in zip(raw, np.split(served, ends), strict=True)
        ]
        return ServedForecasts(
            alpha,
            tuple(parts[:-1]),
            parts[-1],
            everything=replace(everything, q=served),
            train_mae=mean_absolute_error(
                self._excursion[trained], model.predict(self._table.iloc[trained])
            ),
            n_training=len(trained),
        )

    def forecast(self, window: Window, parameters: Mapping[str, float]) -> Forecast:
        """Return the model's own quantiles in a window, not calibrated, fitted at its cut."""
        return self._apply(self._fit(window, parameters)[0], window)

    def _fit(
        self, window: Window, parameters: Mapping[str, float]
    ) -> tuple[SafetyModel, NDArray[np.int64]]:
        """Return the model of a window's cut, and the positions of the rows it learned from."""
        s, shared = self._settings, self._shared[window.cut_s]
        return fit_safety_model(self._pair, self._table, s.label, parameters, shared, s.train_days)

    def _apply(self, model: SafetyModel, window: Window) -> Forecast:
        s = self._settings
        rows = select_rows(
            self._opens_s,
            np.isfinite(self._excursion),
            start_s=window.cut_s,
            stop_s=window.end_s,
            timeframe_s=s.label.timeframe_s,
        )
        if not len(rows):
            raise CandleError(
                f"{self._pair}: no candle with features and label after {open_text(window.cut_s)} (gaps?)"
            )
        table, opens_s = self._table.iloc[rows], self._opens_s[rows]
        is_ordinary = model.ordinary.contains(table)
        return Forecast(
            excursion=self._excursion[rows],
            q=model.predict(table),
            rule=model.rule_constant * self._atr_ratio[rows],
            opens_s=opens_s,
            tolerance=np.full(len(rows), self.tolerance(window.cut_s)),
            is_ordinary=is_ordinary,
            is_allowed=is_ordinary & ~s.blackouts.cover(opens_s, s.label.timeframe_s),
        )

    def score(self, forecast: Forecast, q: Array, alpha: float) -> Score:
        """Return how `q` does on a forecast's rows against the ATR rule."""
        gain, error = skill_with_error(
            forecast.excursion, q, forecast.rule, alpha, forecast.opens_s
        )
        called = called_safe(q, forecast.tolerance, forecast.is_allowed)
        rates = safety_rates(called, forecast.excursion >= -forecast.tolerance)
        misses = thinned_misses(forecast.excursion, q, forecast.opens_s, self._settings.label)
        return Score(
            skill=gain,
            skill_se=finite(error),
            mae=mean_absolute_error(forecast.excursion, q),
            exceedance=exceedance(forecast.excursion, q),
            safety_accuracy=rates.accuracy,
            predicted_safe_share=rates.predicted_safe_share,
            realised_safe_share=rates.realised_safe_share,
            false_positive_rate=rates.false_positive_rate,
            false_negative_rate=rates.false_negative_rate,
            kupiec_p=kupiec_p(misses, alpha),
            christoffersen_p=christoffersen_p(misses),
        )


def record_metrics(evaluator: Evaluator, walk: ServedForecasts) -> dict[str, float]:
    """Return the metrics of a parameter set at its own level, as the schema names them.

    Parameters
    ----------
    walk
        Of the set at its own quantile level.
    """
    score = evaluator.score(walk.test, walk.test.q, walk.alpha)
    maes = [mean_absolute_error(fold.excursion, fold.q) for fold in walk.folds]
    rows = [len(fold.q) for fold in walk.folds]
    metrics: dict[str, float | None] = {
        "backtested_mae": float(np.average(maes, weights=rows)),
        "validation_mae": float(np.mean(maes)),
        "train_mae": walk.train_mae,
        "test_mae": score.mae,
        "safety_accuracy": score.safety_accuracy,
        "false_positive_rate": score.false_positive_rate,
        "false_negative_rate": score.false_negative_rate,
        "training_samples": float(walk.n_training),
        "skill": score.skill,
        "skill_se": score.skill_se,
        "exceedance": score.exceedance,
        "kupiec_p": score.kupiec_p,
        "christoffersen_p": score.christoffersen_p,
        "predicted_safe_share": score.predicted_safe_share,
        "realised_safe_share": score.realised_safe_share,
        "unusual_share": float(np.mean(~walk.test.is_ordinary)),
    }
    return {name: value for name, value in metrics.items() if value is not None}


def finite(value: float | None) -> float | None:
    """Return a number, or None for infinity and NaN: JSON has neither."""
    return value if value is not None and np.isfinite(value) else None
