"""Loads at start, at every signal, and when the store has moved: ask it, swap, keep a copy, say it.

The start's load runs on the main thread before the signal is answered, reloads and checks on the
watcher's thread: never two at once.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from typing import Final

from feeder_mixin.errors import FeederError
from feeder_mixin.live.announce import log_blackouts, log_loaded
from feeder_mixin.live.memory import FeederMemory
from feeder_mixin.live.messages import Messages
from feeder_mixin.live.once import OnceLog
from feeder_mixin.live.reload.loader import (
    Loaded,
    LoadedPair,
    RecordReader,
    load_parameters,
    load_times,
)
from feeder_mixin.live.serve.candles import forming_candle_s
from feeder_mixin.live.serve.snapshot import ParameterCache
from feeder_mixin.live.state.keeper import StateKeeper
from feeder_mixin.schema import format_time_ns

logger = logging.getLogger(__name__)

SLOW_S: Final = 0.25
"""A load that takes longer is seen at work: the status has its request while the store is waited for.
Not each one: the status of 100 pairs takes half as long as their load."""


class Reloader:
    """Puts what the store says in force.

    Parameters
    ----------
    reader
        Says which records can serve.
    timeframe_s
        Length of a candle.
    keeper
        Keeps the last good copy, and writes the state around a reload.
    memory
        Generation and reload counts of this process.
    """

    def __init__(
        self,
        reader: RecordReader,
        timeframe_s: int,
        cache: ParameterCache,
        keeper: StateKeeper,
        messages: Messages,
        memory: FeederMemory,
    ) -> None:
        self._reader, self._settings, self._timeframe_s = reader, reader.settings, timeframe_s
        self._cache, self._keeper, self._messages = cache, keeper, messages
        self._memory, self._counts = memory, memory.reloads
        self._times: Mapping[str, int] = {}
        """Pair -> time of the newest record that the store had of it at the last load."""
        self._once = OnceLog()

    def load_first(self) -> None:
        """Load at start: the store, the last good copy or the defaults."""
        attempt, began = format_time_ns(time.time_ns()), time.perf_counter()
        loaded = load_parameters(self._reader, os.environ, None)
        self._reader.log_start(loaded)
        took_s = self._put_in_force(loaded, began)
        is_rebuilt = self._counts.has_loaded
        self._counts.note_error(loaded.error)
        self._counts.count_load(attempt, loaded.error, took_s)
        if is_rebuilt:  # this load answers a signal that came while the bot was rebuilt
            self._counts.count_request()
            self._counts.complete(attempt, loaded.error)
        self._messages.started(loaded)

    def check_store(self) -> bool:
        """Load again when the store's newest times have moved; return whether they have."""
        try:
            times = load_times(self._settings, os.environ)
        except FeederError as error:
            # Only the first time: what a store that is down says may differ from check to check.
            if self._once.is_new("store", "down"):
                logger.warning(
                    "Store can't be asked for newer records, said once feeder=%s error=%s",
                    self._settings.feeder_id,
                    error,
                )
            return False
        if self._once.forget("store"):
            logger.info("Store answers again feeder=%s", self._settings.feeder_id)
        moved = [pair for pair, time_ns in times.items() if time_ns != self._times.get(pair)]
        gone = self._times.keys() - times.keys()
        if not moved and not gone:
            logger.debug("Store has no newer records feeder=%s", self._settings.feeder_id)
            return False
        logger.info(
            "Store has moved, reloading feeder=%s trigger=check_store_minutes pairs=%d newest=%s",
            self._settings.feeder_id,
            len(moved) + len(gone),
            format_time_ns(max(times.values())) if times else "none",
        )
        self.reload()
        return True

    def reload(self) -> None:
        """Load again and swap; after a failure the bot keeps its parameters, the reason is logged."""
        attempt, began = format_time_ns(time.time_ns()), time.perf_counter()
        self._counts.count_request()
        slow = threading.Timer(SLOW_S, self._keeper.keep_status)
        slow.daemon = True
        error, took_s = None, 0.0
        try:
            slow.start()
            took_s = self._load_anew(began)
        except FeederError as problem:
            error = f"{type(problem).__name__}: {problem}"
            generation = self._cache.snapshot.generation
            logger.error(  # noqa: TRY400
                "Reload failed, generation kept generation=%d error=%s", generation, error
            )
            self._messages.failed(generation, error)
        except Exception as problem:
            # The reload boundary: nothing may end the bot from here.
            error = f"{type(problem).__name__}: {problem}"
            generation = self._cache.snapshot.generation
            logger.exception("Reload failed, generation kept generation=%d", generation)
            # Its text is not ours: what it holds stays on this host.
            self._messages.failed(generation, f"{type(problem).__name__}, see the bot's log")
        finally:
            slow.cancel()
        self._counts.count_load(attempt, error, took_s)
        self._counts.complete(attempt, error)
        self._keeper.keep_all()

    def _load_anew(self, began: float) -> float:
        running: dict[str, LoadedPair] = {
            pair: known.loaded for pair, known in self._cache.snapshot.pairs.items()
        }
        loaded = load_parameters(self._reader, os.environ, running)
        took_s = self._put_in_force(loaded, began)
        self._messages.reloaded(running, loaded, self._cache.snapshot.generation, took_s)
        return took_s

    def _put_in_force(self, loaded: Loaded, began: float) -> float:
        """Swap, say and keep what was loaded; return the seconds from `began` to the swap."""
        self._times = loaded.times
        self._memory.generation += 1
        generation = self._memory.generation
        self._cache.swap_parameters(
            loaded.pairs,
            generation,
            time.time_ns(),
            forming_candle_s(self._timeframe_s),
            loaded.blackouts,
        )
        took_s = time.perf_counter() - began
        log_loaded(self._settings, loaded, generation)
        log_blackouts(self._settings, loaded.blackouts, time.time())
        self._keeper.keep_last_good(loaded.records)
        return took_s
