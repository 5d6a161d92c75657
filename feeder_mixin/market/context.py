"""A feeder's view of the market: its context pairs' candles and all that is built from them.

Features look across the feeder's context pairs, never across "the pairs at hand": tuning one pair
alone, a live bot and a backtest see the same context.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

import pandas as pd

from feeder_mixin.errors import CandleError
from feeder_mixin.market.features import build_table, context_features, own_features


class Market:
    """Context candles, and the tables built from them when first asked for.

    Parameters
    ----------
    context
        Context pair -> candles on a regular grid (`market.candles.Candles.frame`).
    horizon
        Candles the label looks ahead.
    timeframe_s
        Length of a candle in seconds.
    until
        Open of the newest candle of any pair: the clock goes on where the context ends earlier.
    """

    def __init__(
        self,
        context: Mapping[str, pd.DataFrame],
        horizon: int,
        timeframe_s: int,
        until: pd.Timestamp | None = None,
    ) -> None:
        if not context:
            raise CandleError("no context pair has usable candles")
        self.context = dict(context)
        self.horizon = horizon
        self.timeframe_s = timeframe_s
        self._until = until

    @cached_property
    def shared(self) -> pd.DataFrame:
        """Return `context_features` of all context pairs."""
        own = {pair: own_features(frame, self.horizon) for pair, frame in self.context.items()}
        return context_features(own, self.horizon, self.timeframe_s, self._until)

    def build_context(self) -> Iterator[tuple[str, pd.DataFrame]]:
        """Yield context pair and table, one at a time: a table takes about 33 MB."""
        for pair, frame in self.context.items():
            table = self.build(frame)
            if not table.empty:
                yield pair, table

    def build(self, candles: pd.DataFrame) -> pd.DataFrame:
        """Return the table of any pair's candles in this context."""
        own = own_features(candles, self.horizon)
        return build_table(own, self.shared, candles, self.horizon)
