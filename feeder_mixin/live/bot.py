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
    """One feeder in one running bot: makes its parts, starts and stops them, and hands on to them.

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
        self.memory = memory_of(self.settings.feeder_id)
        self.once = OnceLog()
        # What a candle needs.
        self.cache = ParameterCache()
        tails = LiveTails(folder, tail_candles(self.settings.horizon_candles) + n_kept)
        self.calibration = Calibration(self.settings, timeframe_s, n_kept)
        self.predictor = Predictor(folder, tails, self.calibration, host_frame)
        # What is kept.
        self.state_folder = StateFolder(self.settings)
        self.models = ModelStore(self.state_folder.model_dir, self.settings)
        self.schedule = Schedule(
            self.state_folder, self.settings, self.cache, timeframe_s, n_kept * timeframe_s
        )
        history = TrainingHistory(folder, tails)
        due = DueFits(history, self.cache)
        status = StatusBuilder(self.settings, self.cache, self.predictor, due, self.memory.reloads)
        messages = Messages(self.settings.feeder_id, send)
        self.keeper = StateKeeper(
            self.state_folder, self.schedule, self.calibration, status, messages
        )
        # What changes what serves.
        self.training = ModelTraining(history, due, self.cache, self.models, self.keeper.changed)
        self.reloader = Reloader(
            FeederReader(self.settings, timeframe_s),
            timeframe_s,
            self.cache,
            self.keeper,
            messages,
            self.memory,
        )
        minutes = self.settings.check_store_minutes
        self.watcher = SignalWatcher(
            self.reload, self.check_store, None if minutes is None else minutes * 60
        )

    def start(self) -> None:
        """Take over the signal, load parameters and what served before, start the threads.

        The signal first, its answer last: one that comes during the load makes a reload after it.
        """
        self.watcher.install()
        self.reloader.load_first()
        self.schedule.restore(self.models)
        if self.memory.served_identity == schedule_identity(self.settings):
            self.predictor.restore(self.memory.served)
        if self.state_folder.is_kept:
            self.calibration.restore(self.state_folder.calibration_path)
        self.training.start()
        self.keeper.keep_all()
        self.keeper.start()
        self.watcher.start()

    def stop(self) -> None:
        """End the threads, ignore the signal, free the lock; what served is on disk."""
        self.memory.served = self.predictor.columns
        self.memory.served_identity = schedule_identity(self.settings)
        try:
            self.watcher.stop()
            self.training.stop()
            self.keeper.stop()
        finally:
            self.state_folder.release()

    def predict(self, pair: str, frame: pd.DataFrame) -> SafetyColumns:
        """Return the columns of the host's frame; a pair that is not this feeder's is never safe."""
        in_force = self.cache.snapshot  # the one look at it
        snapshot = in_force.pairs.get(pair)
        if snapshot is None:
            self.once.warn(
                f"pair {pair}",
                f"{pair} is not in the config's pair_whitelist: no model, never safe",
            )
            return empty_columns(pd.DatetimeIndex(frame["date"]).as_unit("s").asi8)
        return self.predictor.predict(pair, frame, snapshot, in_force.blackouts)

    def reload(self) -> None:
        """Load anew and train what that changed; on the reload thread."""
        self.reloader.reload()
        self.training.wake()

    def check_store(self) -> None:
        """Load anew when the store has newer records than were loaded; on the reload thread."""
        if self.reloader.check_store():
            self.training.wake()

    @property
    def snapshot(self) -> ParameterSnapshot:
        """Return what is in force now."""
        return self.cache.snapshot
