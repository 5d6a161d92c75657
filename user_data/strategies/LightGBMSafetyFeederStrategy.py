"""Trading rules of the feeders: when to want an entry, when to leave.

What is predicted and whether a candle is safe comes from `OptunaParamsMixin`: an entry needs this
trigger and a safe candle. To trade by rules of your own, override `entry_trigger` and
`exit_trigger` in a class that derives from this one or from the mixin.

A live bot predicts candle by candle: ``safety_q`` is NaN on all candles before its very first model. A
rule that rolls over it waits for as many candles as it looks back, or takes ``min_periods``.
"""

from typing import Any

import pandas as pd
import talib.abstract as ta
from freqtrade.strategy import IntParameter

from feeder_mixin.mixin import OptunaParamsMixin


class LightGBMSafetyFeederStrategy(OptunaParamsMixin):
    """Buys dips (LONG) or sells rallies (SHORT) where the coming adverse excursion is small."""

    timeframe = "5m"
    startup_candle_count = 200  # RSI14 forgets its start by then; the safety columns need none
    minimal_roi = {"0": 0.02, "150": 0.0}  # noqa: RUF012  (freqtrade's form)
    stoploss = -0.06  # the last resort; the stop in force follows the predicted quantile
    use_custom_stoploss = True
    # Leverage stays at freqtrade's 1; override `leverage` to change that.

    pullback_rsi = IntParameter(20, 50, default=42, space="buy")
    """RSI14 below which a LONG feeder wants to enter; a SHORT one above 100 minus this."""
    exit_rsi = IntParameter(55, 85, default=68, space="sell")
    """RSI14 above which a LONG feeder leaves; a SHORT one below 100 minus this."""

    plot_config = {  # noqa: RUF012  (freqtrade's form)
        "main_plot": {
            "safety_band": {"color": "#d62728"},
            "tolerance_band": {"color": "#7f7f7f"},
        },
        "subplots": {
            "predicted excursion": {"safety_q": {"color": "#d62728"}},
            "safe": {"safe": {"color": "#2ca02c", "type": "bar"}},
            "RSI": {"rsi": {"color": "#1f77b4"}},
        },
    }

    def populate_indicators(
        self, dataframe: pd.DataFrame, metadata: dict[str, Any]
    ) -> pd.DataFrame:
        """Add the safety columns and what the rules below look at."""
        dataframe = super().populate_indicators(dataframe, metadata)
        # On the feeder's own side: high is stretched in its favour, low against it.
        rsi = ta.RSI(dataframe, timeperiod=14)
        dataframe["rsi"] = 100 - rsi if self.feeder.side == "short" else rsi
        return dataframe

    def entry_trigger(self, dataframe: pd.DataFrame, metadata: dict[str, Any]) -> pd.Series:  # noqa: ARG002
        """Want an entry after a move against the side, with volume."""
        return (dataframe["rsi"] < self.pullback_rsi.value) & (dataframe["volume"] > 0)

    def exit_trigger(self, dataframe: pd.DataFrame, metadata: dict[str, Any]) -> pd.Series:  # noqa: ARG002
        """Leave after a move in favour."""
        return dataframe["rsi"] > self.exit_rsi.value
