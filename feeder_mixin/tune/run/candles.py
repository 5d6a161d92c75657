"""The candles of a run: its pairs and their context, with a word on what is missing or old."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from feeder_mixin.errors import CandleError, MissingCandlesError
from feeder_mixin.market.candles import load_candles
from feeder_mixin.market.history import download_command
from feeder_mixin.model.rows import DAY_S
from feeder_mixin.settings import FeederSettings
from feeder_mixin.stores.notes import some
from feeder_mixin.tune.run._market import CandleFile, PairCandles
from feeder_mixin.tune.run.options import STALE_DAYS, Progress, RunOptions

logger = logging.getLogger(__name__)

_CONTEXT_LAG_DAYS: Final = 1.0

_M_MMAP_THRESHOLD: Final = -3
"""Of glibc's ``mallopt``."""

_LARGE_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class RunCandles:
    """The candles of one pair, with what the command itself asks of them.

    Attributes
    ----------
    content_hash
        Of dates and values.
    last_s
        Open of the last candle, in s since the epoch.
    """

    candles: PairCandles
    content_hash: str
    last_s: int


def load_run_candles(
    settings: FeederSettings, options: RunOptions, pairs: Sequence[str], progress: Progress
) -> tuple[dict[str, RunCandles], dict[str, CandleError]]:
    """Return pair -> candles of pairs and context, and pair -> why a pair of the run has none."""
    return_freed_arrays()
    wanted = [*pairs, *(p for p in settings.context_pairs if p not in pairs)]
    loaded: dict[str, RunCandles] = {}
    failures: dict[str, CandleError] = {}
    missing: list[str] = []
    file = CandleFile()
    for number, pair in enumerate(wanted):
        progress.stage("loading candles", number, len(wanted))
        try:
            found = load_candles(
                options.datadir or settings.default_datadir,
                pair,
                settings.timeframe,
                settings.candle_type,
                settings.data_format,
            )
            packed = PairCandles(found.frame, file)
            loaded[pair] = RunCandles(packed, found.content_hash(), found.last_s)
        except CandleError as problem:
            error = problem
            if isinstance(problem, MissingCandlesError):
                if pair in options.lacking:
                    error = CandleError(f"{pair}: {options.lacking[pair]}")
                else:
                    missing.append(pair)
            if pair in pairs:
                failures[pair] = error
            else:
                logger.warning("Context pair is missing, features are built without it: %s", error)
    progress.stage("loading candles", len(wanted), len(wanted))
    if missing:
        days = options.days_back + settings.train_days
        command = download_command(settings, missing, days, options.datadir)
        logger.warning("Candles of %d pairs are missing; get them with: %s", len(missing), command)
    _say_stale(settings, pairs, loaded)
    return loaded, failures


def return_freed_arrays() -> None:
    """Let this process give freed arrays back to the system at once; where it can't be told to, do nothing.

    Candles are loaded, packed and freed pair by pair. After the first freed array glibc keeps such sizes on its
    heap, and Arrow's allocator keeps them, too; the packed candles, 0.5 MB a pair, then lie among them. Memory
    of the command with the candles of 20, 60, 100 pairs (2026-11): 402, 418, 455 MB; without 445, 528, 548.
    """
    pa.set_memory_pool(pa.system_memory_pool())
    with contextlib.suppress(AttributeError, OSError, TypeError):  # no glibc
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def _say_stale(
    settings: FeederSettings, pairs: Sequence[str], loaded: Mapping[str, RunCandles]
) -> None:
    ages = {p: (time.time() - loaded[p].last_s) / DAY_S for p in pairs if p in loaded}
    old = {pair: days for pair, days in ages.items() if days > STALE_DAYS}
    if old:
        logger.warning(
            "Candles are old, records will describe an older market pairs=%s oldest_days=%.1f",
            some(old),
            max(old.values()),
        )
    newest = max((c.last_s for c in loaded.values()), default=0)
    for pair in settings.context_pairs:
        if pair in loaded and newest - loaded[pair].last_s > _CONTEXT_LAG_DAYS * DAY_S:
            logger.warning(
                "Context pair is stale, later features are built without it pair=%s lag_days=%.1f",
                pair,
                (newest - loaded[pair].last_s) / DAY_S,
            )
