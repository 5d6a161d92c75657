"""What a worker is sent once: the context's candles for all tasks, a pair's own for its tasks."""

from __future__ import annotations

import io
import tempfile
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial

import pandas as pd

from feeder_mixin.errors import TuningError
from feeder_mixin.market.context import FeatureContext
from feeder_mixin.market.packed import pack_candles, unpack_candles
from feeder_mixin.model.quantile import shared_context
from feeder_mixin.settings import LabelSpec
from feeder_mixin.tune.search.cells import PreparedPair
from feeder_mixin.tune.search.study import MOST_PAIRS


class CandleFile:
    """An unnamed file in the system's temporary folder; it goes with the process that made it.

    The command sends the candles of every pair several times, to whichever worker is free. They take 0.5 MB a
    pair: in memory, those of thousands of pairs would be what breaks it first.

    Raises
    ------
    TuningError
        When the folder has no room, also by `keep`.
    """

    def __init__(self) -> None:
        with _no_room():
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  (open as long as candles are read)
        weakref.finalize(self, self._file.close)

    def keep(self, packed: bytes) -> Callable[[], bytes]:
        """Write bytes, and return what reads them."""
        with _no_room():
            position = self._file.seek(0, io.SEEK_END)
            left = memoryview(packed)
            while left:  # where the folder is about to be full, a part is written, then none
                left = left[self._file.write(left) :]
        return partial(self._read, position, len(packed))

    def _read(self, position: int, length: int) -> bytes:
        self._file.seek(position)
        return self._file.read(length)


@contextmanager
def _no_room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TuningError(
            f"candles can't be kept in a temporary file: {error}. Free space in the temporary folder, or "
            "name another one in the environment: TMPDIR=FOLDER"
        ) from error


class PairCandles:
    """The candles of a pair, packed for their way to workers.

    Parameters
    ----------
    file
        Where they lie meanwhile; without one, in memory.
    """

    def __init__(self, frame: pd.DataFrame, file: CandleFile | None = None) -> None:
        packed = pack_candles(frame)
        self._read = partial(bytes, packed) if file is None else file.keep(packed)

    def __getstate__(self) -> bytes:
        """Travel packed."""
        return self._read()

    def __setstate__(self, packed: bytes) -> None:
        self._read = partial(bytes, packed)

    @property
    def frame(self) -> pd.DataFrame:
        """Return the candles as they were given."""
        return unpack_candles(self._read())


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
        self._prepared: OrderedDict[str, PreparedPair] = OrderedDict()
        self._table: tuple[str, PairCandles | None, pd.DataFrame] | None = None

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
        """Return a pair's features and labels; those asked for last are not built again."""
        kept = self._table
        if kept is None or kept[0] != pair or kept[1] is not candles:
            self._table = kept = None  # freed before the next is made
            # Not read again below: a worker with several threads has them all here.
            kept = self._table = pair, candles, self._features.build(self.frame(pair, candles))
        return kept[2]

    def prepared(self, pair: str, prepare: Callable[[], PreparedPair]) -> PreparedPair:
        """Return what `prepare` gave for a pair, one of the last `MOST_PAIRS`, or gives now.

        So many trials race over; with all pairs of a feeder a worker's memory would grow.
        """
        kept = self._prepared.pop(pair, None)
        if kept is None:
            while len(self._prepared) >= MOST_PAIRS:
                self._prepared.popitem(last=False)
            kept = prepare()
        self._prepared[pair] = kept
        return kept
