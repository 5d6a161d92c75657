"""The live side of one running bot: loads, reloads, trains, predicts, and says what it does.

Threads: the bot's main thread starts, stops and predicts; ``feeder-reload`` answers SIGUSR1;
``feeder-training`` keeps models up to date. What a candle reads is one snapshot of the
`ParameterCache`; everything else they share (candle tails, reload counts, errors) is replaced whole,
never changed in place.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pandas as pd

from feeder_mixin.errors import FeederError, ModelError, StateError
from feeder_mixin.live._messages import Messages
from feeder_mixin.live.announce import log_start
from feeder_mixin.live.reload.loader import (
    Loaded,
    LoadedPair,
    load_parameters,
    log_loaded,
)
from feeder_mixin.live.reload.watcher import SignalWatcher
from feeder_mixin.live.serve.calibration import Calibration
from feeder_mixin.live.serve.candles import (
    DataFolder,
    LiveTails,
    forming_candle_s,
)
from feeder_mixin.live.serve.columns import SafetyColumns, empty_columns
from feeder_mixin.live.serve.exceedance import Exceedance, realised_exceedance
from feeder_mixin.live.serve.predictor import Predictor
from feeder_mixin.live.serve.snapshot import (
    PairSnapshot,
    ParameterCache,
    ParameterSnapshot,
    Serving,
)
from feeder_mixin.live.state.describe import describe_pair
from feeder_mixin.live.state.files import read_checked, write_checked
from feeder_mixin.live.state.last_good import save_last_good
from feeder_mixin.live.state.lock import bot_lock
from feeder_mixin.live.state.status import (
    LoadStatus,
    ModelState,
    PairStatus,
    ReloadStatus,
    Status,
    keep_status,
)
from feeder_mixin.live.train.models import ModelStore, TrainedModel
from feeder_mixin.live.train.training import ModelTraining
from feeder_mixin.market.candles import CLOCK_SLACK_S
from feeder_mixin.market.features import FEATURE_HASH, tail_candles
from feeder_mixin.processes import ScratchFolder
from feeder_mixin.schema import LATEST_TIME_NS, NANOSECONDS, format_time_ns, open_text
from feeder_mixin.settings import FeederSettings
from feeder_mixin.stores.notes import some

logger = logging.getLogger(__name__)

FRAME_CANDLES: Final = 1_000
"""Candles for which schedule and calibration are kept at least: twice the host's usual frame."""

_CALIBRATION_PAUSE_S: Final = 60.0
"""Between two writes of the calibration; what a killed bot had not written is computed again."""

_STATUS_PAUSE_S: Final = 60.0
"""Between two writes of the status where nothing but the newest candle changed."""

_SCHEDULE_FORMAT: Final = 2
"""Raise it when the schedule's content changes: models are then trained anew."""

_generations: dict[str, int] = {}
_reloads: dict[str, ReloadStatus] = {}
"""Feeder -> generation and reload counts of this process: ``/reload_config`` does not start anew."""

_served: dict[str, tuple[dict[str, Any], Mapping[str, SafetyColumns]]] = {}
"""Feeder -> schedule identity and what its pairs were served, for ``/reload_config``.

With other context pairs the same candles would get other values: consumers would see the past change.
"""


def schedule_identity(settings: FeederSettings) -> dict[str, Any]:
    """Return what a model in force depends on beside its file: one of another can't go on serving.

    Context pairs and training window are not here: a model of others serves until the new one stands.
    """
    return {
        "format": _SCHEDULE_FORMAT,
        "side": settings.side,
        "horizon_candles": settings.horizon_candles,
        "timeframe": settings.timeframe,
        "feature_hash": FEATURE_HASH,
    }


def _changes(before: object, now: Mapping[str, Any]) -> str:
    """Return what differs in an identity, for example ``side=long, now short``."""
    known = before if isinstance(before, dict) else {}
    return ", ".join(
        f"{key}={known.get(key)}, now {value}"
        for key, value in now.items()
        if known.get(key) != value
    )


class LiveFeeder:
    """One feeder in one running bot.

    Parameters
    ----------
    folder
        Candles on disk.
    host_frame
        Gives the host's candles of a context pair; called on the main thread only.
    frame_candles
        The most candles that the host's frames will have.
    send
        Queues a message to the operator, from any thread; nothing is sent by default.
    """

    def __init__(
        self,
        folder: DataFolder,
        host_frame: Callable[[str], pd.DataFrame],
        frame_candles: int = FRAME_CANDLES,
        send: Callable[[str], None] = lambda _message: None,
    ) -> None:
        self.settings: FeederSettings = folder.settings
        self._timeframe_s = folder.timeframe_s
        self._cache = ParameterCache()
        self._frame_candles = max(frame_candles, FRAME_CANDLES)
        keep = tail_candles(self.settings.horizon_candles) + self._frame_candles
        self._tails = LiveTails(folder, keep)
        self._calibration = Calibration(self.settings, self._timeframe_s, self._frame_candles)
        self._predictor = Predictor(folder, self._tails, self._calibration, host_frame)
        self._lock = bot_lock(self.settings)
        self._temporary: ScratchFolder | None = None
        model_dir = self._take_state_folder()
        self._models = ModelStore(model_dir, self.settings)
        self._training = ModelTraining(
            folder,
            self._tails,
            self._cache,
            self._models,
            model_dir,
            lambda: self._predictor.until_s,
            self._keep_state,
            self._look_around,
        )
        self._watcher = SignalWatcher(self.reload)
        self._writing = threading.Lock()
        self._status_until_s, self._status_at = 0, 0.0
        self._said: dict[str, str] = {}
        self._exceedances: Mapping[str, Exceedance | None] = {}
        self._messages = Messages(self.settings.feeder_id, send)
        self._rebuilt = self.settings.feeder_id in _reloads
        self._reload = _reloads.get(self.settings.feeder_id) or ReloadStatus(
            requested=0,
            completed=0,
            last_attempt_at=None,
            last_success_at=None,
            last_error=None,
            loads=LoadStatus(succeeded=0, failed=0, last_success_at=None, last_duration_s=None),
        )

    # -------------------------------------------------------------- main thread

    def start(self) -> None:
        """Take over the signal, load parameters and what served before, start the threads.

        The signal first, its answer last: one that comes during the load makes a reload after it.
        """
        self._watcher.install()
        attempt, began = format_time_ns(time.time_ns()), time.perf_counter()
        loaded = load_parameters(self.settings, os.environ, self._timeframe_s, None)
        log_start(self.settings, loaded, os.environ)
        took_s = self._put_in_force(loaded, began)
        self._reload = {**self._reload, "last_error": loaded.error}
        self._count_load(attempt, loaded.error, took_s)
        if self._rebuilt:  # this load answers a signal that came while the bot was rebuilt
            self._count_reload(attempt, loaded.error, self._reload["requested"] + 1)
        _reloads[self.settings.feeder_id] = self._reload
        self._messages.started(loaded)
        self._restore_schedule()
        identity, columns = _served.get(self.settings.feeder_id, ({}, {}))
        if identity == schedule_identity(self.settings):
            self._predictor.restore(columns)
        if self._temporary is None:
            self._calibration.restore(self._calibration_path)
        self._training.start()
        self._keep_state()
        self._watcher.start()

    def stop(self) -> None:
        """End the threads, ignore the signal, free the lock; what served is on disk."""
        _served[self.settings.feeder_id] = (
            schedule_identity(self.settings),
            self._predictor.columns,
        )
        try:
            self._watcher.stop()
            self._training.stop()
            self._keep_calibration(pause_s=0.0)
            self._messages.send_due(pause_s=0.0)
        finally:
            self._lock.release()
            if self._temporary is not None:
                self._temporary.remove()

    def predict(self, pair: str, frame: pd.DataFrame) -> SafetyColumns:
        """Return the columns of the host's frame; a pair that is not this feeder's is never safe."""
        snapshot = self._cache.snapshot.pairs.get(pair)  # the one look at what is in force
        if snapshot is None:
            self._say_once(
                f"pair {pair}",
                f"{pair} is not in the config's pair_whitelist: no model, never safe",
            )
            return empty_columns(pd.DatetimeIndex(frame["date"]).as_unit("s").asi8)
        return self._predictor.predict(pair, frame, snapshot)

    @property
    def snapshot(self) -> ParameterSnapshot:
        """Return what is in force now."""
        return self._cache.snapshot

    # -------------------------------------------------------------- reload thread

    def reload(self) -> None:
        """Load anew and swap; whatever fails, what runs goes on and the reason is said."""
        attempt, began = format_time_ns(time.time_ns()), time.perf_counter()
        self._reload = {**self._reload, "requested": self._reload["requested"] + 1}
        self._keep_status()  # a slow store can be seen at work
        running = {p: known.loaded for p, known in self._cache.snapshot.pairs.items()}
        error, took_s = None, 0.0
        try:
            loaded = load_parameters(self.settings, os.environ, self._timeframe_s, running)
            took_s = self._put_in_force(loaded, began)
            self._messages.reloaded(running, loaded, self._cache.snapshot.generation, took_s)
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
        self._count_load(attempt, error, took_s)
        self._count_reload(attempt, error, self._reload["requested"])
        self._training.wake()
        self._keep_state()

    def _count_load(self, attempt: str, error: str | None, took_s: float) -> None:
        before = self._reload["loads"]
        loads = LoadStatus({**before, "failed": before["failed"] + 1})
        if error is None:
            loads = LoadStatus(
                succeeded=before["succeeded"] + 1,
                failed=before["failed"],
                last_success_at=attempt,
                last_duration_s=took_s,
            )
        self._reload = {**self._reload, "loads": loads}

    def _count_reload(self, attempt: str, error: str | None, requested: int) -> None:
        self._reload = ReloadStatus(
            requested=requested,
            completed=requested,
            last_attempt_at=attempt,
            last_success_at=self._reload["last_success_at"] if error else attempt,
            last_error=error,
            loads=self._reload["loads"],
        )
        _reloads[self.settings.feeder_id] = self._reload

    def _put_in_force(self, loaded: Loaded, began: float) -> float:
        """Swap, say and keep what was loaded; return the seconds from `began` to the swap."""
        generation = _generations.get(self.settings.feeder_id, 0) + 1
        _generations[self.settings.feeder_id] = generation
        self._cache.swap_parameters(
            loaded.pairs, generation, time.time_ns(), forming_candle_s(self._timeframe_s)
        )
        took_s = time.perf_counter() - began
        log_loaded(self.settings, loaded, generation)
        if loaded.records and self._temporary is None:
            try:
                save_last_good(self.settings, list(loaded.records.values()))
            except StateError as error:
                self._say_once("last good", f"Last good copy is not kept: {error}")
        return took_s

    # -------------------------------------------------------------- state folder

    def _take_state_folder(self) -> Path:
        """Take the bot lock and return where models are kept; elsewhere when it can't be written."""
        try:
            self._lock.acquire()
            error = self._lock.problem
        except StateError as problem:
            error = problem
        if error is None:
            return self.settings.model_dir
        try:
            self._temporary = ScratchFolder("models")
        except OSError as problem:  # one full disk for all: what is on it can still serve
            logger.error(  # noqa: TRY400
                "State folder can't be written, nor a temporary one: what it holds serves, nothing "
                "is kept until there is space feeder=%s error=%s temporary=%s",
                self.settings.feeder_id,
                error,
                problem,
            )
            return self.settings.model_dir
        logger.error(
            "State folder can't be used: no last good copy, and models and calibration last as long "
            "as this process feeder=%s models=%s error=%s",
            self.settings.feeder_id,
            self._temporary.path,
            error,
        )
        return self._temporary.path

    def _keep_state(self) -> None:
        """Write schedule and status; any thread."""
        oldest_s = int(time.time()) - self._frame_candles * self._timeframe_s
        for pair in self._cache.snapshot.pairs:
            self._cache.forget_before(pair, oldest_s)
        # Before the status: a model that it calls ready is there after a restart.
        self._write(
            "schedule",
            lambda: write_checked(self._schedule_path, self._build_schedule(self._cache.snapshot)),
        )
        self._keep_status()

    def _look_around(self) -> None:
        """Do what is due beside the training; on its thread, once in a while."""
        self._keep_calibration()
        self._messages.send_due()
        self._say_ages()
        is_later = self._predictor.until_s > self._status_until_s
        if is_later and time.monotonic() - self._status_at >= _STATUS_PAUSE_S:
            self._keep_status()

    def _say_ages(self) -> None:
        for pair, known in self._cache.snapshot.pairs.items():
            about = f"age {pair}"
            if known.newest is None or not self._is_too_old(known):
                self._said.pop(about, None)
                continue
            self._say_once(
                about,
                f"Model of {pair} is too old, no candle is safe: "
                f"trained_until={open_text(known.newest.model.cut_s)} "
                f"feeder.model_max_age_hours={self.settings.model_max_age_hours:g}",
            )

    def _keep_calibration(self, pause_s: float = _CALIBRATION_PAUSE_S) -> None:
        """Write what candles did to the calibration since the last time; off the candle's path."""
        if self._temporary is None and self._calibration.is_due(pause_s):
            self._exceedances = {pair: self._exceedance(pair) for pair in self.settings.pairs}
            self._write("calibration", lambda: self._calibration.save(self._calibration_path))
            self._keep_status()

    def _exceedance(self, pair: str) -> Exceedance | None:
        s, tail = self.settings, self._tails.tails.get(pair)
        return realised_exceedance(self._predictor.served(pair), tail, s.horizon_candles, s.side)

    def _keep_status(self) -> None:
        """Write the status file, whatever else can't be written; any thread."""
        self._status_until_s, self._status_at = self._predictor.until_s, time.monotonic()
        with self._writing:
            try:
                problem = keep_status(self.settings, self._build_status(self._cache.snapshot))
            except StateError as error:
                problem = str(error)
            if problem is not None:
                self._say_once("status", f"The status file is not written: {problem}")
            elif self._said.pop("status", None) is not None:
                logger.info("The status file is written again path=%s", self.settings.status_path)

    def _write(self, what: str, write: Callable[[], None]) -> None:
        """Write a file of the state folder; a failure is said once and costs nothing else."""
        if self._temporary is not None:
            return
        with self._writing:
            try:
                write()
            except StateError as error:
                self._say_once(what, f"The {what} file is not written: {error}")
            else:
                self._said.pop(what, None)

    def _say_once(self, about: str, message: str) -> None:
        """Log a warning, not again while it stays the same."""
        if self._said.get(about) != message:
            self._said[about] = message
            logger.warning("%s", message)

    def _build_status(self, snapshot: ParameterSnapshot) -> Status:
        return Status(
            feeder_id=self.settings.feeder_id,
            pid=os.getpid(),
            generation=snapshot.generation,
            loaded_at=format_time_ns(snapshot.loaded_at_ns),
            reload=self._reload,
            pairs={pair: self._build_pair(known) for pair, known in snapshot.pairs.items()},
        )

    def _build_pair(self, pair: PairSnapshot) -> PairStatus:
        name = pair.loaded.pair
        return describe_pair(
            pair,
            self._model_state(pair),
            error=self._training.error_of(pair),
            expected_rows=None
            if pair.newest is None
            else self._training.expected_rows(pair.newest.model),
            served=self._predictor.served(name),
            factor=self._calibration.factor(name),
            exceedance=self._exceedances.get(name),
        )

    def _model_state(self, pair: PairSnapshot) -> ModelState:
        if self._training.is_waiting(pair):
            return "training"
        if pair.newest is None:
            return "none"
        is_stale = self._is_too_old(pair) or self._training.due(pair, time.time()) is not None
        return "stale" if is_stale else "ready"

    def _is_too_old(self, pair: PairSnapshot) -> bool:
        """Return whether the newest candles of a pair are never safe, for the age of its model."""
        max_age_s = self.settings.model_max_age_hours * 3600
        return pair.newest is not None and time.time() >= pair.newest.model.cut_s + max_age_s

    @property
    def _schedule_path(self) -> Path:
        return self.settings.state_dir / "schedule.json"

    @property
    def _calibration_path(self) -> Path:
        return self.settings.state_dir / "calibration.json"

    def _build_schedule(self, snapshot: ParameterSnapshot) -> dict[str, Any]:
        return {
            "identity": schedule_identity(self.settings),
            "pairs": {
                pair: [
                    {
                        "model": serving.model.name,
                        "first_candle_s": serving.first_candle_s,
                        "source": serving.loaded.source,
                        "version": serving.loaded.version,
                        "beats_rule": serving.loaded.beats_rule,
                    }
                    for serving in known.servings
                ]
                for pair, known in snapshot.pairs.items()
            },
        }

    def _restore_schedule(self) -> None:
        """Put back in force what served before this process, as far as its files are whole."""
        if self._temporary is not None:
            return
        try:
            document = read_checked(self._schedule_path)
        except StateError as error:
            logger.error("Schedule of models is lost, models are trained anew: %s", error)  # noqa: TRY400
            return
        if document is None:
            return
        if document.get("identity") != (now := schedule_identity(self.settings)):
            logger.warning(
                "Saved models do not match this config, new ones are trained: %s",
                _changes(document.get("identity"), now),
            )
            return
        ahead: dict[str, int] = {}
        for pair, known in self._cache.snapshot.pairs.items():
            try:
                entries = document["pairs"].get(pair, [])
                restored = [self._restore(known, entry, ahead) for entry in entries]
            except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
                logger.error(  # noqa: TRY400
                    "Schedule of models is lost, models of %s are trained anew: %s is whole but not "
                    "what a bot writes: %r",
                    pair,
                    self._schedule_path,
                    error,
                )
                continue
            servings = [serving for serving in restored if serving is not None]
            if not servings:
                continue
            self._cache.put_servings(pair, servings, forming_candle_s(self._timeframe_s))
            newest = servings[-1]
            if keys := newest.model.misfits(self.settings):
                logger.warning(
                    "Model was trained with other %s, it serves until the new one stands pair=%s",
                    " and ".join(keys),
                    pair,
                )
            logger.info(
                "Model goes on serving %s version=%s trained_until=%s first_candle=%s",
                pair,
                newest.loaded.version_text,
                open_text(newest.model.cut_s),
                open_text(newest.first_candle_s),
            )
        if ahead:  # the clock's fault, not a pair's: said once for all
            logger.error(
                "Model of before can't serve %s: it was put in force at %s, which is still to come "
                "(was the clock wrong?); a new one is trained",
                some(ahead),
                open_text(max(ahead.values())),
            )

    def _restore(
        self, pair: PairSnapshot, entry: Mapping[str, Any], ahead: dict[str, int]
    ) -> Serving | None:
        """Return what an entry of the schedule says, or None; what is still to come is noted."""
        if not 0 <= entry["first_candle_s"] <= LATEST_TIME_NS // NANOSECONDS:
            raise ValueError(f"first_candle_s={entry['first_candle_s']!r} is no time")
        if entry["first_candle_s"] > time.time() + CLOCK_SLACK_S:
            name = pair.loaded.pair
            ahead[name] = max(entry["first_candle_s"], ahead.get(name, 0))
            return None
        try:
            model: TrainedModel = self._models.load(entry["model"])
        except ModelError as error:
            logger.error("Model of before can't serve %s: %s", pair.loaded.pair, error)  # noqa: TRY400
            return None
        is_loaded = entry["version"] == pair.loaded.version and (
            model.parameters == pair.loaded.parameters
        )
        loaded = (
            pair.loaded
            if is_loaded
            else LoadedPair(
                pair.loaded.pair,
                model.parameters,
                entry["source"],
                entry["version"],
                beats_rule=entry["beats_rule"],
            )
        )
        return Serving(loaded, model, entry["first_candle_s"], pair.generation if is_loaded else 0)
