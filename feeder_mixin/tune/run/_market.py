"""What a worker is sent once: the context's candles for all tasks, a pair's own for its tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

import pandas as pd

from feeder_mixin.market.context import FeatureContext
from feeder_mixin.market.packed import pack_candles, unpack_candles
from feeder_mixin.model.quantile import shared_context
from feeder_mixin.settings import LabelSpec
from feeder_mixin.tune.search.study import PreparedPair


class PairCandles:
    """The candles of a pair, packed until they are looked at: the command holds those of all pairs."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self._packed = pack_candles(frame)

    def __getstate__(self) -> bytes:
        """Travel packed."""
        return self._packed

    def __setstate__(self, packed: bytes) -> None:
        self._packed = packed

    @cached_property
    def frame(self) -> pd.DataFrame:
        """Return the candles as they were given."""
        return unpack_candles(self._packed)


class Market:
    """What all tasks of a run share: the context's candles, and what is predicted.

    A worker gets it once. What is computed from it there stays with it.

    Parameters
    ----------
    context
        Context pair -> its candles.
    until
        Open of the newest candle of any pair.
    """

    def __init__(
        self, context: Mapping[str, PairCandles], label: LabelSpec, until: pd.Timestamp
    ) -> None:
        self.label = label
        self._candles, self._until = dict(context), until
        self._prepared: tuple[str, PreparedPair] | None = None

    def __reduce__(self) -> tuple[Callable[..., Market], tuple[object, ...]]:
        """Travel without what was computed."""
        return Market, (self._candles, self.label, self._until)

    @cached_property
    def _features(self) -> FeatureContext:
        context = {pair: candles.frame for pair, candles in self._candles.items()}
        return FeatureContext(context, self.label.horizon, self.label.timeframe_s, self._until)

    @property
    def context_pairs(self) -> list[str]:
        """Return the pairs whose candles all tasks share."""
        return sorted(self._candles)

    @property
    def newest_candle_s(self) -> int:
        """Return the open of the context's newest candle, in s since the epoch."""
        return max(int(one.frame.index[-1].timestamp()) for one in self._candles.values())

    @cached_property
    def context_tables(self) -> dict[str, pd.DataFrame]:
        """Return context pair -> rows that shared models learn from."""
        return shared_context(self._features)

    def frame(self, pair: str, candles: PairCandles | None) -> pd.DataFrame:
        """Return a pair's candles: those of the task, or the context's where it brings none."""
        return (self._candles[pair] if candles is None else candles).frame

    def build_table(self, pair: str, candles: PairCandles | None) -> pd.DataFrame:
        """Return a pair's features and labels."""
        return self._features.build(self.frame(pair, candles))

    def prepared(self, pair: str, prepare: Callable[[], PreparedPair]) -> PreparedPair:
        """Return what `prepare` gives for a pair, the last pair's without asking.

        Of one pair only: its table and draws are most of what a worker has in memory.
        """
        kept = self._prepared
        if kept is None or kept[0] != pair:
            self._prepared = kept = None  # freed before the next is made
            # Not read again below: a worker with several threads has them all here.
            kept = self._prepared = pair, prepare()
        return kept[1]
