"""The live side of one running bot, put together; what the strategy's callbacks call.

Threads: the bot's main thread starts, stops and predicts; ``feeder-reload`` answers SIGUSR1 and, where
the config says so, asks the store for newer records; ``feeder-training`` keeps models up to date;
``feeder-state`` writes the state folder. What a candle reads is one snapshot of the `ParameterCache`;
everything else they share (candle tails, reload counts, errors) is replaced whole, never changed in
place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pandas as pd

from feeder_mixin.live.memory import memory_of
from feeder_mixin.live.messages import Messages
from feeder_mixin.live.once import OnceLog
from feeder_mixin.live.reload.feeder_reader import FeederReader
from feeder_mixin.live.reload.reloader import Reloader
from feeder_mixin.live.reload.watcher import SignalWatcher
from feeder_mixin.live.serve.calibration import Calibration
from feeder_mixin.live.serve.candles import DataFolder, LiveTails
from feeder_mixin.live.serve.columns import SafetyColumns, empty_columns
from feeder_mixin.live.serve.predictor import Predictor
from feeder_mixin.live.serve.snapshot import ParameterCache, ParameterSnapshot
from feeder_mixin.live.state.describe import StatusBuilder
from feeder_mixin.live.state.folder import StateFolder
from feeder_mixin.live.state.keeper import StateKeeper
from feeder_mixin.live.state.schedule import Schedule, schedule_identity
from feeder_mixin.live.train.due import DueFits
from feeder_mixin.live.train.history import TrainingHistory
from feeder_mixin.live.train.models import ModelStore
from feeder_mixin.live.train.training import ModelTraining
from feeder_mixin.market.features import tail_candles
from feeder_mixin.settings import FeederSettings

FRAME_CANDLES: Final = 1_000
"""Candles for which schedule and calibration are kept at least: twice the host's usual frame."""


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
        n_kept, timeframe_s = max(frame_candles, FRAME_CANDLES), folder.timeframe_s
        self._memory = memory_of(self.settings.feeder_id)
        self._once = OnceLog()
        # What a candle needs.
        self._cache = ParameterCache()
        tails = LiveTails(folder, tail_candles(self.settings.horizon_candles) + n_kept)
        self._calibration = Calibration(self.settings, timeframe_s, n_kept)
        self._predictor = Predictor(folder, tails, self._calibration, host_frame)
        # What is kept.
        self._state_folder = StateFolder(self.settings)
        self._models = ModelStore(self._state_folder.model_dir, self.settings)
        self._schedule = Schedule(
            self._state_folder, self.settings, self._cache, timeframe_s, n_kept * timeframe_s
        )
        history = TrainingHistory(folder, tails)
        due = DueFits(history, self._cache)
        status = StatusBuilder(
            self.settings, self._cache, self._predictor, due, self._memory.reloads
        )
        messages = Messages(self.settings.feeder_id, send)
        self._keeper = StateKeeper(
            self._state_folder, self._schedule, self._calibration, status, messages
        )
        # What changes what serves.
        self._training = ModelTraining(
            history, due, self._cache, self._models, self._keeper.changed
        )
        self._reloader = Reloader(
            FeederReader(self.settings, timeframe_s),
            timeframe_s,
            self._cache,
            self._keeper,
            messages,
            self._memory,
        )
        minutes = self.settings.check_store_minutes
        self._watcher = SignalWatcher(
            self.reload, self.check_store, None if minutes is None else minutes * 60
        )

    def start(self) -> None:
        """Take over the signal, load parameters and what served before, start the threads.

        The signal first, its answer last: one that comes during the load makes a reload after it.
        """
        self._watcher.install()
        self._reloader.load_first()
        self._schedule.restore(self._models)
        if self._memory.served_identity == schedule_identity(self.settings):
            self._predictor.restore(self._memory.served)
        if self._state_folder.is_kept:
            self._calibration.restore(self._state_folder.calibration_path)
        self._training.start()
        self._keeper.keep_all()
        self._keeper.start()
        self._watcher.start()

    def stop(self) -> None:
        """End the threads, ignore the signal, free the lock; what served is on disk."""
        self._memory.served = self._predictor.columns
        self._memory.served_identity = schedule_identity(self.settings)
        try:
            self._watcher.stop()
            self._training.stop()
            self._keeper.stop()
        finally:
            self._state_folder.release()

    def predict(self, pair: str, frame: pd.DataFrame) -> SafetyColumns:
        """Return the columns of the host's frame; a pair that is not this feeder's is never safe."""
        in_force = self._cache.snapshot  # the one look at it
        snapshot = in_force.pairs.get(pair)
        if snapshot is None:
            self._once.warn(
                f"pair {pair}",
                f"{pair} is not in the config's pair_whitelist: no model, never safe",
            )
            return empty_columns(pd.DatetimeIndex(frame["date"]).as_unit("s").asi8)
        return self._predictor.predict(pair, frame, snapshot, in_force.blackouts)

    def reload(self) -> None:
        """Load anew and train what that changed; on the reload thread."""
        self._reloader.reload()
        self._training.wake()

    def check_store(self) -> None:
        """Load anew when the store has newer records than were loaded; on the reload thread."""
        if self._reloader.check_store():
            self._training.wake()

    @property
    def snapshot(self) -> ParameterSnapshot:
        """Return what is in force now."""
        return self._cache.snapshot
