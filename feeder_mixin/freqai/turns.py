"""Whose training is next: pairs with changed parameters come before FreqAI's own queue.

FreqAI's thread trains what is due by its clock; a second thread trains what a reload has changed. One
training at a time: FreqAI's waits while there is a changed pair, and one that has begun is not broken off.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

logger = logging.getLogger(__name__)

_POLL_S: Final = 0.5
_RETRY_S: Final = 300.0
"""After this long a changed pair whose training failed is tried again."""


class TrainingTurns:
    """Trains changed pairs on a thread of its own, and makes FreqAI's training wait meanwhile.

    Parameters
    ----------
    outdated
        Gives the pairs whose serving model was trained with other parameters than are loaded.
    train
        Trains one pair; what it raises is logged, and the pair tried again later.
    stop
        Set when the bot stops: nothing more is begun.
    """

    def __init__(
        self,
        outdated: Callable[[], Sequence[str]],
        train: Callable[[str], None],
        stop: threading.Event,
    ) -> None:
        self._outdated, self._train, self._stop = outdated, train, stop
        self._training = threading.RLock()
        self._wake = threading.Event()
        self._busy = threading.Event()
        self.thread = threading.Thread(target=self._run, name="feeder-training", daemon=True)

    def wake(self) -> None:
        """Look for changed pairs now."""
        if self._outdated():
            self._busy.set()
        self._wake.set()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Hold the right to train; FreqAI's thread gets it when no changed pair waits."""
        if threading.current_thread() is not self.thread:
            while self._busy.is_set() and self.thread.is_alive() and not self._stop.is_set():
                self._stop.wait(_POLL_S)
        with self._training:
            yield

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._wait():
                self._wake.clear()
                self._train_changed()

    def _wait(self) -> bool:
        """Return whether there is something to do; False when the bot stops."""
        waited_s = 0.0
        while waited_s < _RETRY_S:
            if self._stop.is_set():
                return False
            if self._wake.wait(_POLL_S):
                return True
            waited_s += _POLL_S
        return True

    def _train_changed(self) -> None:
        failed: set[str] = set()
        try:
            while left := [pair for pair in self._outdated() if pair not in failed]:
                self._busy.set()
                pair = left[0]
                try:
                    with self.turn():
                        if self._stop.is_set():
                            return
                        self._train(pair)
                except Exception:
                    # The boundary of this thread: the old model serves on.
                    failed.add(pair)
                    logger.exception("Training with changed parameters failed pair=%s", pair)
        finally:
            self._busy.clear()
