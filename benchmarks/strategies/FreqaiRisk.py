"""A FreqAI strategy that predicts how far price may go against a position: what `freqai.py` tunes.

Kinds of features and periods are those of freqtrade's own FreqAI example; the target is the worst excursion of
the coming candles, for either side.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import talib
from freqtrade.strategy import IStrategy


class FreqaiRiskLong(IStrategy):  # type: ignore[misc]
    """Predicts the lowest low of the horizon, against the close."""

    can_short = True
    timeframe, stoploss = "5m", -0.5
    minimal_roi = {"0": 9.0}  # noqa: RUF012  (freqtrade's own form)
    process_only_new_candles = True
    startup_candle_count = 60

    def feature_engineering_expand_all(
        self, dataframe: pd.DataFrame, period: int, metadata: dict[str, Any], **_kwargs: Any
    ) -> pd.DataFrame:
        """Add what is built for every period, timeframe and shift."""
        high, low, close, volume = (
            dataframe[name].to_numpy(float) for name in ("high", "low", "close", "volume")
        )
        upper, middle, lower = talib.BBANDS(close, period, 2.2, 2.2)
        made = {
            "rsi": talib.RSI(close, period),
            "mfi": talib.MFI(high, low, close, volume, period),
            "adx": talib.ADX(high, low, close, period),
            "sma": close / talib.SMA(close, period) - 1,
            "ema": close / talib.EMA(close, period) - 1,
            "band_width": (upper - lower) / middle,
            "close_to_band": close / lower,
            "roc": talib.ROC(close, period),
            "relative_volume": volume / talib.SMA(volume, period),
            "atr": talib.ATR(high, low, close, period) / close,
        }
        columns = {f"%-{name}-period": values for name, values in made.items()}
        return dataframe.assign(**columns)

    def feature_engineering_expand_basic(
        self, dataframe: pd.DataFrame, metadata: dict[str, Any], **_kwargs: Any
    ) -> pd.DataFrame:
        """Add what is built for every timeframe and shift."""
        return dataframe.assign(**{"%-pct-change": dataframe["close"].pct_change()})

    def feature_engineering_standard(
        self, dataframe: pd.DataFrame, metadata: dict[str, Any], **_kwargs: Any
    ) -> pd.DataFrame:
        """Add what is built once."""
        dates = dataframe["date"].dt
        clock = {"%-day_of_week": (dates.dayofweek + 1) / 7, "%-hour_of_day": (dates.hour + 1) / 25}
        return dataframe.assign(**clock)

    def set_freqai_targets(
        self, dataframe: pd.DataFrame, metadata: dict[str, Any], **_kwargs: Any
    ) -> pd.DataFrame:
        """Set the worst excursion of a position that is opened at the close."""
        return dataframe.assign(**{"&-excursion": self.excursion(dataframe)})

    def excursion(self, dataframe: pd.DataFrame) -> pd.Series:
        """Return how far price goes against the position, as a ratio; negative is adverse."""
        horizon = self.freqai_info["feature_parameters"]["label_period_candles"]
        lowest = dataframe["low"].rolling(horizon).min().shift(-horizon)
        return lowest / dataframe["close"] - 1

    def populate_indicators(
        self, dataframe: pd.DataFrame, metadata: dict[str, Any]
    ) -> pd.DataFrame:
        """Ask FreqAI."""
        predicted: pd.DataFrame = self.freqai.start(dataframe, metadata, self)
        return predicted

    def populate_entry_trend(
        self, dataframe: pd.DataFrame, metadata: dict[str, Any]
    ) -> pd.DataFrame:
        """Enter never: predictions are what is judged."""
        return dataframe

    def populate_exit_trend(
        self, dataframe: pd.DataFrame, metadata: dict[str, Any]
    ) -> pd.DataFrame:
        """Leave never."""
        return dataframe


class FreqaiRiskShort(FreqaiRiskLong):
    """Predicts the highest high of the horizon, against the close."""

    def excursion(self, dataframe: pd.DataFrame) -> pd.Series:
        """Return how far price goes against the position, as a ratio; negative is adverse."""
        horizon = self.freqai_info["feature_parameters"]["label_period_candles"]
        highest = dataframe["high"].rolling(horizon).max().shift(-horizon)
        return 1 - highest / dataframe["close"]


class FreqaiDual(FreqaiRiskLong):
    """Predicts where price will be, and how low it falls on the way."""

    def set_freqai_targets(
        self, dataframe: pd.DataFrame, metadata: dict[str, Any], **_kwargs: Any
    ) -> pd.DataFrame:
        """Set both."""
        horizon = self.freqai_info["feature_parameters"]["label_period_candles"]
        close = dataframe["close"].shift(-horizon) / dataframe["close"] - 1
        return dataframe.assign(**{"&-min_low": self.excursion(dataframe), "&-future_close": close})


class FreqaiNull(FreqaiRiskLong):
    """Predicts what nothing tells: the excursions of other times, in blocks of a horizon."""

    def excursion(self, dataframe: pd.DataFrame) -> pd.Series:
        """Return the excursions with their blocks in another order, by ``freqai.null_seed``."""
        true = super().excursion(dataframe).to_numpy()
        horizon = self.freqai_info["feature_parameters"]["label_period_candles"]
        n_blocks = (len(true) - horizon) // horizon  # the last have no label yet
        order = np.random.default_rng(self.freqai_info["null_seed"]).permutation(n_blocks)
        n_moved = n_blocks * horizon
        moved = true.copy()
        moved[:n_moved] = true[:n_moved].reshape(n_blocks, horizon)[order].ravel()
        return pd.Series(moved, dataframe.index)
