"""Models trained beside the running bot: one thread that plans, one worker process that fits.

The worker is a process of its own, niced, so that neither its LightGBM nor its pandas ever holds up
a candle; it is started when a fit is due and ended when none is left, so that an idle bot does not
carry its memory. Changed pairs and pairs without a model come first, then the oldest cut.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import filelock
import numpy as np
import pandas as pd

from feeder_mixin.errors import CandleError, FeederError, ModelError
from feeder_mixin.live.reload.loader import LoadedPair
from feeder_mixin.live.serve.candles import (
    DataFolder,
    LiveTails,
    Tail,
    forming_candle_s,
)
from feeder_mixin.live.serve.snapshot import PairSnapshot, ParameterCache
from feeder_mixin.live.train.models import ModelStore, TrainedModel, Trainer
from feeder_mixin.market.candles import CLOCK_SLACK_S
from feeder_mixin.market.history import download_newer, download_older, first_candle_s
from feeder_mixin.model.rows import DAY_S, SHORT_SHARE
from feeder_mixin.schema import open_text
from feeder_mixin.settings import FeederSettings
from feeder_mixin.workers import WorkerPool

logger = logging.getLogger(__name__)

_POLL_S: Final = 2.0
_RETRY_S: Final = 900.0
"""Pause before a fit that failed is tried again, where nothing about it changed."""

_GRACE_CANDLES: Final = 2
"""How long a cut waits for a pair's last candle before it goes without."""


def due_cut_s(now_s: float, retrain_hours: float) -> int:
    """Return the last point of the UTC grid at which models are due: multiples since the epoch."""
    grid_s = retrain_hours * 3600
    return int(now_s // grid_s * grid_s)


# ------------------------------------------------------------------ in the worker process

_setup: list[tuple[DataFolder, Mapping[str, Tail], Path, int]] = []
"""What this process's trainer is made from, set by `_prepare_worker`."""

_trainer: list[tuple[Trainer, tuple[str, ...]]] = []
"""This process's trainer and what it lacks; made by the first fit, so that an error is its answer."""


def make_trainer(
    folder: DataFolder, newer: Mapping[str, Tail], model_dir: Path, until_s: int
) -> tuple[Trainer, tuple[str, ...]]:
    """Return a trainer over all candles of the context pairs, and a text for each one without any.

    Parameters
    ----------
    newer
        Context pair -> candles that may not be on disk.
    until_s
        Open of the newest candle that is looked at, of any pair.

    Raises
    ------
    CandleError
        When a file is damaged: what serves was trained with that pair, and goes on serving.
    """
    s = folder.settings
    context, lacks = {}, []
    for pair in s.context_pairs:
        candles = folder.load_joined(pair, newer.get(pair))
        known = None if candles is None else candles.before(until_s + 1)
        if known is None:
            other = folder.describe_other_forms(pair)
            lacks.append(f"{pair}: no candles in {folder.datadir}, models go without it{other}")
        else:
            context[pair] = known.frame()
    until = pd.Timestamp(until_s, unit="s", tz="UTC")
    store = ModelStore(model_dir, s)
    return Trainer(s, folder.timeframe_s, context, until, store, folder.listed_s), tuple(lacks)


def _prepare_worker(
    folder: DataFolder, newer: Mapping[str, Tail], model_dir: Path, until_s: int
) -> None:
    # Its log lines reach no handler of the host: what matters comes back with the answer.
    logging.getLogger("feeder_mixin").addHandler(logging.NullHandler())
    logging.getLogger("feeder_mixin").propagate = False
    _setup[:] = [(folder, newer, model_dir, until_s)]
    _trainer.clear()


@dataclass(frozen=True, slots=True)
class Fit:
    """A fit that is due: which pair, with which values, at which cut."""

    pair: str
    parameters: Mapping[str, float]
    cut_s: int


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a fit gave: the model's name, and what it was trained without.

    Attributes
    ----------
    n_missing
        Candles missing in the pair's training window.
    lacks
        A text for each context pair without candles.
    took_s
        Wall time, candles and tables included.
    """

    name: str
    n_missing: int
    lacks: tuple[str, ...]
    took_s: float


def _fit(pair: str, parameters: Mapping[str, float], cut_s: int, newer: Tail | None) -> Fitted:
    started = time.monotonic()
    if not _trainer:
        _trainer.append(make_trainer(*_setup[0]))
    (trainer, lacks), folder = _trainer[0], _setup[0][0]
    candles = trainer.context.get(pair)
    if candles is None:
        joined = folder.load_joined(pair, newer)
        if joined is None:
            other = folder.describe_other_forms(pair)
            raise CandleError(
                f"{pair}: no candles in {folder.datadir} and none from the exchange{other}"
            )
        candles = joined.frame()
    table = trainer.market.build(candles)
    name = trainer.fit(pair, candles, table, parameters, cut_s)
    window = candles.iloc[-int(folder.settings.train_days * DAY_S / folder.timeframe_s) :]
    n_missing = int(np.isnan(window["close"].to_numpy()).sum())
    return Fitted(name, n_missing, lacks, time.monotonic() - started)


# ------------------------------------------------------------------ in the bot


class _StoppedError(Exception):
    """The bot is being cleaned up: leave the fit."""


class ModelTraining:
    """Keeps every pair's model as new as its parameters and the retraining grid ask.

    Parameters
    ----------
    cache
        Says what is loaded and what serves; gets the new models.
    seen_until_s
        Gives the open of the newest candle the bot has seen, 0 before the first.
    on_change
        Called on this thread after a model came into force or a state changed.
    on_poll
        Called on this thread every few seconds, whatever it is at.
    """

    def __init__(  # noqa: PLR0913 - three of them are callbacks, to be taken out
        self,
        folder: DataFolder,
        tails: LiveTails,
        cache: ParameterCache,
        store: ModelStore,
        model_dir: Path,
        seen_until_s: Callable[[], int],
        on_change: Callable[[], None],
        on_poll: Callable[[], None],
    ) -> None:
        self._settings: FeederSettings = folder.settings
        self._folder, self._tails, self._cache = folder, tails, cache
        self._store, self._model_dir = store, model_dir
        self._seen_until_s, self._on_change = seen_until_s, on_change
        self._on_poll = on_poll
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="feeder-training", daemon=True)
        self._failed: dict[str, tuple[Fit, float]] = {}
        self._stamps: dict[str, str] = {}
        self._first_on_disk: dict[str, tuple[str, int | None]] = {}
        self._retry_download: dict[str, float] = {}
        self._said_gaps: dict[str, str] = {}
        self._said_download: str | None = None
        self._said_lacks: frozenset[str] = frozenset()
        self._error: str | None = None
        self.errors: dict[str, str] = {}

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and its worker; a fit under way is given up."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def wake(self) -> None:
        """Look for due fits now: parameters changed."""
        self._wake.set()

    def due(self, pair: PairSnapshot, now_s: float) -> Fit | None:
        """Return the fit that a pair needs, or None when its model is as new as it can be."""
        cut_s = due_cut_s(now_s, self._settings.retrain_hours)
        newest, loaded = pair.newest, pair.loaded
        if newest is not None and self._is_current(newest.model, loaded, cut_s, now_s):
            return None
        return Fit(loaded.pair, loaded.parameters, cut_s)

    def _is_current(
        self, model: TrainedModel, loaded: LoadedPair, cut_s: int, now_s: float
    ) -> bool:
        return (
            model.parameters == loaded.parameters
            and cut_s <= model.cut_s <= now_s + CLOCK_SLACK_S
            and not model.misfits(self._settings)
            and not (self.is_short(model) and self._has_new_candles(model.pair))
        )

    def expected_rows(self, model: TrainedModel) -> int:
        """Return how many rows a model has where no candle is missing since the pair's listing."""
        return self._folder.expected_rows(model.pair, model.cut_s)

    def is_short(self, model: TrainedModel) -> bool:
        """Return whether a model learned from under half of what there should be.

        Measured (five pairs, both sides, three cuts, level 0.10; 9.4 % skill on 150 days and more):
        candles of pair and context from the last 75, 30, 15, 4 days alone give 8.4, 6.5, 3.4, -7.6 %.
        Half of 150 days costs a point, less is a model of another kind. The pair's own rows alone
        matter less: 200 give 9.3 %, 100 7.8 %.
        """
        is_thin = model.rows < SHORT_SHARE * self.expected_rows(model)
        return is_thin or model.context_share < SHORT_SHARE

    def _is_worse(self, model: TrainedModel, serving: TrainedModel) -> bool:
        """Return whether a model is on a short history where the serving one is on more."""
        is_less = model.rows < serving.rows or model.context_share < serving.context_share
        return is_less and self.is_short(model)

    def _stamp(self, pair: str) -> str:
        """Return what changes when candle files of a pair or of its context change."""
        return "|".join(self._folder.stamp(p) for p in (pair, *self._settings.context_pairs))

    def _has_new_candles(self, pair: str) -> bool:
        """Return whether candle files have changed since the pair's last fit."""
        return self._stamps.get(pair) != self._stamp(pair)

    def is_waiting(self, pair: PairSnapshot) -> bool:
        """Return whether a fit of this pair is due and not given up for now."""
        now_s = time.time()
        fit = self.due(pair, now_s)
        return fit is not None and not self._is_paused(fit)

    def error_of(self, pair: PairSnapshot) -> str | None:
        """Return why a pair has no newer model, or None where none is due."""
        if self.due(pair, time.time()) is None:
            return None
        return self.errors.get(pair.loaded.pair, self._error)

    def _is_paused(self, fit: Fit) -> bool:
        failed, until = self._failed.get(fit.pair, (None, 0.0))
        is_waiting = failed == fit and time.monotonic() < until
        return is_waiting and not self._has_new_candles(fit.pair)

    def _next(self) -> Fit | None:
        now_s = time.time()
        waiting = []
        for pair in self._cache.snapshot.pairs.values():
            fit = self.due(pair, now_s)
            if fit is None or self._is_paused(fit) or not self._has_candles(fit, now_s):
                continue
            newest = pair.newest
            is_changed = newest is None or newest.model.parameters != fit.parameters
            waiting.append((not is_changed, newest.model.cut_s if newest else 0, fit))
        return min(waiting, key=lambda item: item[:2])[2] if waiting else None

    def _has_candles(self, fit: Fit, now_s: float) -> bool:
        """Return whether the candles before the cut are there, or were waited for long enough."""
        timeframe_s, tails = self._folder.timeframe_s, self._tails.tails
        if fit.pair not in tails:
            return False  # the host has not come to this pair yet
        if now_s > fit.cut_s + _GRACE_CANDLES * timeframe_s:
            return True
        wanted = (fit.pair, *self._settings.context_pairs)
        return all(p in tails and tails[p].last_s >= fit.cut_s - timeframe_s for p in wanted)

    def _run(self) -> None:
        # Blocked here and so in every process this thread starts: a signal to the bot's whole
        # group must not end them.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        paused_until = -math.inf
        while not self._stopping:
            self._on_poll()
            try:
                if time.monotonic() >= paused_until:
                    self._close_gaps()
                    if self._next() is not None:
                        self._work()
                    self._error = None
            except _StoppedError:
                return
            except Exception as error:
                # The boundary of this thread: the bot goes on with the models it has.
                self._error = f"{type(error).__name__}: {error}"
                logger.error(  # noqa: TRY400
                    "Training failed, what serves goes on feeder=%s retry_s=%.0f error=%s",
                    self._settings.feeder_id,
                    _RETRY_S,
                    error,
                    # Ours say what to do; only a defect needs its place.
                    exc_info=None if isinstance(error, FeederError) else error,
                )
                self._on_change()
                paused_until = time.monotonic() + _RETRY_S
            if self._wake.wait(_POLL_S):
                paused_until = -math.inf
            self._wake.clear()

    def _work(self) -> None:
        """Fit what is due until nothing is, the cut moves on, or a gap comes to light."""
        cut_s = due_cut_s(time.time(), self._settings.retrain_hours)
        tails = self._tails.tails
        newer = {pair: tails[pair] for pair in self._settings.context_pairs if pair in tails}
        setup = (self._folder, newer, self._model_dir, self._seen_until_s())
        self._on_change()
        has_begun = False
        with WorkerPool(1, _prepare_worker, setup) as pool:
            while (fit := self._next()) is not None and fit.cut_s == cut_s:
                if self._gap(fit.pair) is not None:
                    break  # a pair that the host came to meanwhile: its gap is closed first
                if not has_begun:
                    self._say_begin(cut_s)
                    has_begun = True
                self._stamps[fit.pair] = self._stamp(fit.pair)
                task = (fit.pair, dict(fit.parameters), fit.cut_s, tails.get(fit.pair))
                for _, answer in pool.run(_fit, {fit.pair: task}, self._check_stopping):
                    self._take(fit, answer)
        self._store.keep_only(
            serving.model
            for pair in self._cache.snapshot.pairs.values()
            for serving in pair.servings
        )

    def _say_begin(self, cut_s: int) -> None:
        known = self._cache.snapshot.pairs.values()
        logger.info(
            "Training begins feeder=%s pairs=%d cut=%s",
            self._settings.feeder_id,
            sum(self.is_waiting(pair) for pair in known),
            open_text(cut_s),
        )

    def _check_stopping(self) -> None:
        """Go on waiting for a worker or a download, or leave it."""
        if self._stopping:
            raise _StoppedError
        self._on_poll()

    def _take(self, fit: Fit, answer: Any) -> None:  # noqa: ANN401  (a result or its exception)
        error: Exception | None = answer if isinstance(answer, Exception) else None
        model = None
        if error is None:
            try:
                model = self._store.load(answer.name)
                self._check_history(model)
            except ModelError as problem:
                error = problem
        if error is not None:
            self._failed[fit.pair] = (fit, time.monotonic() + _RETRY_S)
            self.errors[fit.pair] = str(error)
            pair = self._cache.snapshot.pairs[fit.pair]
            logger.error(
                "No new model for %s, %s cut=%s retry_s=%.0f error=%s",
                fit.pair,
                "what serves goes on" if pair.servings else "none serves: it is never safe",
                open_text(fit.cut_s),
                _RETRY_S,
                error,
            )
        elif model is not None:
            self._failed.pop(fit.pair, None)
            self.errors.pop(fit.pair, None)
            self._put(model, answer)
        self._on_change()

    def _check_history(self, model: TrainedModel) -> None:
        """Raise `ModelError` for a model on a fraction of what the serving one has learned from."""
        serving = self._cache.snapshot.pairs[model.pair].newest
        if serving is not None and self._is_worse(model, serving.model):
            raise ModelError(
                f"candles are missing: rows={model.rows} expected_rows={self.expected_rows(model)} "
                f"context_share={model.context_share:.2f}, the model that serves has "
                f"rows={serving.model.rows} context_share={serving.model.context_share:.2f}. It is "
                "trained again as soon as its candle files change"
            )

    def _put(self, model: TrainedModel, answer: Fitted) -> None:
        first_candle_s = forming_candle_s(self._folder.timeframe_s)
        newest = self._cache.snapshot.pairs[model.pair].newest
        if newest is not None and newest.model.name == model.name:
            return  # candle files were touched, their content before the cut is the same
        if not self._cache.put_model(model, first_candle_s):
            return
        expected = self.expected_rows(model)
        if self.is_short(model):
            logger.warning(
                "Model is on a short history, older candles are missing; it is trained again when "
                "they are there pair=%s rows=%d expected_rows=%d context_share=%.2f",
                model.pair,
                model.rows,
                expected,
                model.context_share,
            )
        for lack in answer.lacks:
            if lack not in self._said_lacks:  # not of every pair and every day anew
                logger.warning("Model was trained with a lack pair=%s lack=%s", model.pair, lack)
        self._said_lacks = frozenset(answer.lacks)
        if answer.n_missing:
            logger.warning(
                "Model was trained over a gap pair=%s missing_candles=%d",
                model.pair,
                answer.n_missing,
            )
        pair = self._cache.snapshot.pairs[model.pair]
        logger.info(
            "Model is ready for %s version=%s generation=%d trained_until=%s rows=%d "
            "expected_rows=%d first_candle=%s took_s=%.1f",
            model.pair,
            pair.loaded.version_text,
            pair.generation,
            open_text(model.cut_s),
            model.rows,
            expected,
            open_text(first_candle_s),
            answer.took_s,
        )

    def _gap(self, pair: str) -> str | None:
        """Return what a pair lacks between data folder and host, unless that was tried just now."""
        if time.monotonic() < self._retry_download.get(pair, 0.0):
            return None
        return self._tails.gap(pair)

    def _older_gap(self, pair: str, cut_s: int) -> str | None:
        """Return which older candles a pair's file lacks, unless they were asked for just now."""
        if time.monotonic() < self._retry_download.get(pair, 0.0) or pair not in self._tails.tails:
            return None
        if self._tails.disk_last_s.get(pair) is None:
            return None  # `_gap` tells that
        first_s = self._read_first_s(pair)
        wanted_s = self._folder.wanted_from_s(pair, cut_s)
        if first_s is None:
            return f"its candles are gone from {self._folder.datadir}"
        if first_s <= wanted_s + DAY_S:
            return None
        return f"candles from {open_text(wanted_s)} to {open_text(first_s)}"

    def _read_first_s(self, pair: str) -> int | None:
        """Return the open of the first candle on disk; read again only when the file changed."""
        stamp = self._folder.stamp(pair)
        known = self._first_on_disk.get(pair)
        if known is None or known[0] != stamp:
            known = stamp, first_candle_s(self._settings, pair, self._folder.datadir)
            self._first_on_disk[pair] = known
        return known[1]

    def _close_gaps(self) -> None:
        """Fill what is missing on disk by freqtrade's downloader: up to the host, and before.

        One bot of a user_data folder at a time: they share the data folder, mostly BTC as well, and
        freqtrade writes a file in place.
        """
        wanted = dict.fromkeys((*self._settings.pairs, *self._settings.context_pairs))
        cut_s = due_cut_s(time.time(), self._settings.retrain_hours)
        if not any(self._gap(pair) or self._older_gap(pair, cut_s) for pair in wanted):
            return
        lock = filelock.FileLock(self._settings.state_dir.parent / "download.lock", timeout=0)
        try:
            lock.acquire()
        except (filelock.Timeout, OSError):
            return  # a neighbour downloads: look again at the next turn
        try:
            for pair in wanted:
                if self._gap(pair):
                    self._tails.repair(pair)  # the neighbour may have filled it
            gaps = {pair: gap for pair in wanted if (gap := self._gap(pair))}
            older = {p: gap for p in wanted if (gap := self._older_gap(p, cut_s))}
            if gaps:
                self._download(gaps, download_newer)
            if older and self._download(older, download_older):
                self._note_listings(older, cut_s)
        finally:
            lock.release()

    def _download(self, gaps: Mapping[str, str], download: Callable[..., None]) -> bool:
        """Fill gaps and return whether the downloader met no error."""
        for pair, gap in gaps.items():
            self._retry_download[pair] = time.monotonic() + _RETRY_S
            if self._said_gaps.get(pair) != gap:
                self._said_gaps[pair] = gap
                logger.warning(
                    "Candles are missing between disk and exchange pair=%s gap=%s", pair, gap
                )
        is_done = True
        try:
            download(self._settings, list(gaps), self._folder.datadir, self._check_stopping)
        except CandleError as error:
            if (text := str(error)) != self._said_download:
                self._said_download = text
                logger.error("Gap is not filled: %s", text)  # noqa: TRY400
            is_done = False
        for pair in gaps:
            self._tails.repair(pair)
        return is_done

    def _note_listings(self, pairs: Iterable[str], cut_s: int) -> None:
        """Take a file's first candle for the listing where the exchange had nothing older to give."""
        listed_s = dict(self._folder.listed_s)
        for pair in pairs:
            first_s = self._read_first_s(pair)
            if first_s is not None and first_s > self._folder.wanted_from_s(pair, cut_s) + DAY_S:
                listed_s[pair] = first_s
                logger.info(
                    "The exchange has no older candles, expected rows count from the first one "
                    "pair=%s first_candle=%s",
                    pair,
                    open_text(first_s),
                )
        self._folder = replace(self._folder, listed_s=listed_s)
