"""Example of a consumer: a bot of your own that enters only where a feeder calls it safe.

Copy it with ``config/consumer.json``, put your own entry in place of the moving average, and start
``freqtrade trade --config config/consumer.json``. The feeder's bot
needs its ``api_server`` enabled, with the same ``ws_token``.
"""

from typing import Any

import pandas as pd
import talib.abstract as ta
from freqtrade.strategy import IStrategy

COLUMNS = ["safety_q", "safe", "params_generation", "max_adverse_ratio"]
"""What is taken from the feeder: predicted excursion (a ratio), 0/1, generation of its parameters, and the
pair's tolerance (a ratio)."""


class ExampleConsumerStrategy(IStrategy):
    """Enters LONG above a moving average, only on candles that the feeder calls safe."""

    INTERFACE_VERSION = 3
    timeframe = "5m"  # the feeder's: candles are matched by their time
    # The feeder's columns arrive a moment after the candle: look at it again until they are there.
    process_only_new_candles = False
    startup_candle_count = 50
    minimal_roi = {"0": 0.02}  # noqa: RUF012  (freqtrade's form)
    stoploss = -0.03
    # For a SHORT feeder set can_short, and enter_short below.

    def populate_indicators(
        self, dataframe: pd.DataFrame, metadata: dict[str, Any]
    ) -> pd.DataFrame:
        """Add the average and, beside each candle, what the feeder said of that very candle."""
        dataframe["average"] = ta.SMA(dataframe, timeperiod=50)
        feeder = self.config["external_message_consumer"]["producers"][0]["name"]
        received, _ = self.dp.get_producer_df(metadata["pair"], producer_name=feeder)
        if received.empty:  # not connected yet, or not a pair of the feeder
            received = pd.DataFrame({"date": dataframe["date"].iloc[:0]}).reindex(
                columns=["date", *COLUMNS]
            )
        # By time, never "the last known": when the feeder is away, new candles are not safe.
        merged = dataframe.merge(received[["date", *COLUMNS]], on="date", how="left")
        merged["safe"] = merged["safe"].fillna(0).astype(int)
        return merged

    def populate_entry_trend(
        self,
        dataframe: pd.DataFrame,
        metadata: dict[str, Any],  # noqa: ARG002  (freqtrade's signature)
    ) -> pd.DataFrame:
        """Enter where the own signal and the feeder agree."""
        wanted = dataframe["close"] > dataframe["average"]
        dataframe.loc[wanted & (dataframe["safe"] == 1), "enter_long"] = 1
        return dataframe

    def populate_exit_trend(
        self,
        dataframe: pd.DataFrame,
        metadata: dict[str, Any],  # noqa: ARG002  (freqtrade's signature)
    ) -> pd.DataFrame:
        """Leave below the average, safe or not."""
        dataframe.loc[dataframe["close"] < dataframe["average"], "exit_long"] = 1
        return dataframe
