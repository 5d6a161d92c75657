"""Models trained beside the running bot: one thread that runs what is due in a worker process.

What serves is changed by the `ParameterCache` alone; this thread writes no file of
the bot's state and calls nobody: it sets an event, on which the state keeper waits.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from typing import Final

from feeder_mixin.errors import FeederError, ModelError
from feeder_mixin.live.serve.candles import forming_candle_s
from feeder_mixin.live.serve.snapshot import ParameterCache
from feeder_mixin.live.train._process import FitProcess
from feeder_mixin.live.train._worker import Fit, Fitted
from feeder_mixin.live.train.due import DueFits
from feeder_mixin.live.train.history import RETRY_S, TrainingHistory
from feeder_mixin.live.train.models import ModelStore, TrainedModel
from feeder_mixin.schema import open_text

logger = logging.getLogger(__name__)

POLL_S: Final = 2.0


class _StoppedError(Exception):
    """The bot is being cleaned up: leave the fit."""


class ModelTraining:
    """Keeps every pair's model as new as its parameters and the retraining grid ask.

    Parameters
    ----------
    history
        The candles to learn from.
    due
        Says which fit is next, and is told how each went.
    cache
        Gets the new models.
    changed
        Set after a model came into force or a pair's state changed.
    """

    def __init__(
        self,
        history: TrainingHistory,
        due: DueFits,
        cache: ParameterCache,
        store: ModelStore,
        changed: threading.Event,
    ) -> None:
        self._history, self._due, self._cache = history, due, cache
        self._store, self._changed = store, changed
        self._process = FitProcess(history, store)
        self._may_have_old_files = False
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="feeder-training", daemon=True)
        self._said_lacks: frozenset[str] = frozenset()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and its worker; a fit under way is abandoned."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def wake(self) -> None:
        """Look for due fits now: parameters changed."""
        self._wake.set()

    def _run(self) -> None:
        # Blocked here and so in every process this thread starts: a signal to the bot's whole
        # group must not end them.
        if hasattr(signal, "pthread_sigmask"):  # Windows has no such signals, either
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        try:
            self._look_until_stopped()
        except _StoppedError:
            return
        finally:
            self._process.close()

    def _look_until_stopped(self) -> None:
        paused_until = -math.inf
        while not self._stopping:
            try:
                if time.monotonic() >= paused_until:
                    self._look()
            except _StoppedError:
                raise
            except Exception as error:  # noqa: BLE001  (it is logged)
                # The boundary of this thread: the bot goes on with the models it has.
                self._say_failed(error)
                paused_until = time.monotonic() + RETRY_S
            if self._wake.wait(POLL_S):
                paused_until = -math.inf
            self._wake.clear()

    def _look(self) -> None:
        """Download what is missing, fit what is due, and free what no fit needs any more."""
        self._history.close_gaps(self._due.cut_s(), self._check_stopping)
        if self._due.next() is not None:
            self._work()
        if self._process.close_idle() and self._may_have_old_files:
            # Not before: the process may hold what has no file any more for written.
            self._keep_only_serving()
            self._may_have_old_files = False
        self._due.thread_error = None

    def _say_failed(self, error: Exception) -> None:
        self._due.thread_error = f"{type(error).__name__}: {error}"
        logger.error(
            "Training failed, current models stay in use feeder=%s retry_s=%.0f error=%s",
            self._history.settings.feeder_id,
            RETRY_S,
            error,
            # Ours say what to do; only a defect needs its place.
            exc_info=None if isinstance(error, FeederError) else error,
        )
        self._changed.set()

    def _work(self) -> None:
        """Fit what is due until nothing is, the cut moves on, or a gap comes to light."""
        cut_s = self._due.cut_s()
        self._changed.set()
        self._may_have_old_files = True
        has_begun = False
        while (fit := self._due.next()) is not None and fit.cut_s == cut_s:
            if self._history.gap(fit.pair) is not None:
                break  # a pair that the host came to meanwhile: its gap is closed first
            if not has_begun:
                self._say_begin(cut_s)
                has_begun = True
            self._due.note_begun(fit)
            self._take(fit, self._process.run(fit, self._check_stopping))

    def _keep_only_serving(self) -> None:
        self._store.keep_only(
            serving.model
            for pair in self._cache.snapshot.pairs.values()
            for serving in pair.servings
        )

    def _say_begin(self, cut_s: int) -> None:
        logger.info(
            "Training begins feeder=%s pairs=%d cut=%s",
            self._history.settings.feeder_id,
            self._due.n_waiting(),
            open_text(cut_s),
        )

    def _check_stopping(self) -> None:
        """Raise when the bot stops: called while waiting for a worker or a download."""
        if self._stopping:
            raise _StoppedError

    def _take(self, fit: Fit, answer: Fitted | Exception) -> None:
        if isinstance(answer, Exception):
            self._give_up(fit, answer)
        else:
            self._accept(fit, answer)
        self._changed.set()

    def _accept(self, fit: Fit, answer: Fitted) -> None:
        """Put a fitted model in force, unless it is worse than the one that serves."""
        try:
            model = self._store.load(answer.name)
            self._due.check_history(model)
        except ModelError as error:
            self._give_up(fit, error)
            return
        if self._put(model, answer):
            self._due.note_done(fit)
        else:
            self._due.note_outdated(fit)

    def _give_up(self, fit: Fit, error: Exception) -> None:
        pair = self._cache.snapshot.pairs[fit.pair]
        logger.error(
            "No new model for %s, %s cut=%s retry_s=%.0f error=%s",
            fit.pair,
            "the current one stays in use" if pair.servings else "it has none and is never safe",
            open_text(fit.cut_s),
            RETRY_S,
            error,
        )
        self._due.note_failed(fit, error)  # last: who sees it finds the line in the log

    def _put(self, model: TrainedModel, answer: Fitted) -> bool:
        """Return whether the model serves now; it does not where its values were replaced meanwhile."""
        first_candle_s = forming_candle_s(self._history.folder.timeframe_s)
        newest = self._cache.snapshot.pairs[model.pair].newest
        if newest is not None and newest.model.name == model.name:
            return True  # candle files were touched, their content before the cut is the same
        if not self._cache.put_model(model, first_candle_s):
            logger.debug("Model is not used, its parameters were replaced pair=%s", model.pair)
            return False
        self._warn_of_lacks(model, answer)
        pair = self._cache.snapshot.pairs[model.pair]
        logger.info(
            "Model is ready for %s version=%s generation=%d trained_until=%s rows=%d "
            "expected_rows=%d first_candle=%s took_s=%.1f",
            model.pair,
            pair.loaded.version_text,
            pair.generation,
            open_text(model.cut_s),
            model.rows,
            self._due.expected_rows(model),
            open_text(first_candle_s),
            answer.took_s,
        )
        return True

    def _warn_of_lacks(self, model: TrainedModel, answer: Fitted) -> None:
        """Say what a model that now serves had to be trained without."""
        if self._due.is_short(model):
            logger.warning(
                "Model has a short history, older candles are missing; it is trained again when "
                "they arrive pair=%s rows=%d expected_rows=%d context_share=%.2f",
                model.pair,
                model.rows,
                self._due.expected_rows(model),
                model.context_share,
            )
        for lack in answer.lacks:
            if lack not in self._said_lacks:  # not of every pair and every day anew
                logger.warning("Model lacks a context pair pair=%s lack=%s", model.pair, lack)
        self._said_lacks = frozenset(answer.lacks)
        if answer.n_missing:
            logger.warning(
                "Model was trained over a gap pair=%s missing_candles=%d",
                model.pair,
                answer.n_missing,
            )
