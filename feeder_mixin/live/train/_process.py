"""The worker process of a bot's fits: started by the first, kept for a while behind the last.

A storm of reloads must not start a process and load the context anew for every one of them; an idle
bot does not carry its memory. Used by the training thread alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from feeder_mixin.executors.base import Shared, run_tasks
from feeder_mixin.executors.processes import ProcessExecutor
from feeder_mixin.live.train._worker import Fit, Fitted, WorkerSetup, run_fit
from feeder_mixin.live.train.history import TrainingHistory
from feeder_mixin.live.train.models import ModelStore

LINGER_S: Final = 30.0
"""How long the process waits for another fit: its start and the context cost some five seconds."""


class FitProcess:
    """Runs fits one after the other; what they share is sent once per cut and state of the candles.

    Parameters
    ----------
    history
        The candles to learn from.
    store
        Where models are written.
    """

    def __init__(self, history: TrainingHistory, store: ModelStore) -> None:
        self._history, self._store = history, store
        self._executor: ProcessExecutor | None = None
        self._shared: Shared | None = None
        self._made_for: object = None
        self._idle_since = 0.0

    def run(self, fit: Fit, while_waiting: Callable[[], None]) -> Fitted | Exception:
        """Return what a fit gave, or its error; what `while_waiting` raises ends the process."""
        self._executor = executor = self._executor or ProcessExecutor(1)
        shared = self._share(executor, fit.cut_s)
        task = {fit.pair: (shared, fit, self._history.tails.tails.get(fit.pair))}
        try:
            ((_, answer),) = run_tasks(executor, run_fit, task, while_waiting)
        except BaseException:
            self.close()
            raise
        self._idle_since = time.monotonic()
        outcome: Fitted | Exception = answer
        return outcome

    def _share(self, executor: ProcessExecutor, cut_s: int) -> Shared:
        """Return what all fits of a cut share; made anew where the context's candles have changed."""
        history = self._history
        context, tails = history.settings.context_pairs, history.tails
        made_for = cut_s, history.folder, tuple(map(history.folder.stamp, context))
        if self._shared is None or self._made_for != made_for:
            if self._shared is not None:
                executor.release(self._shared)
            newer = {pair: tails.tails[pair] for pair in context if pair in tails.tails}
            setup = WorkerSetup(history.folder, newer, self._store.folder, tails.until_s)
            self._shared, self._made_for = executor.share(setup), made_for
        return self._shared

    def close_idle(self) -> bool:
        """End the process when its last fit is long ago; return whether there is none any more."""
        if self._executor is not None and time.monotonic() - self._idle_since >= LINGER_S:
            self.close()
        return self._executor is None

    def close(self) -> None:
        """End the process, whatever it does."""
        if self._executor is not None:
            self._executor.close()
        self._executor = self._shared = None
