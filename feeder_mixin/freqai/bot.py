"""The live side of one running FreqAI bot: load, swap on SIGUSR1, say what runs.

`OptunaLightGBMRegressor` starts and stops it. Cache, loader, reloader, watcher, status file and last good
copy are the feeders'; FreqAI predicts, keeps its models and expires them as ever.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from feeder_mixin.errors import StateError
from feeder_mixin.freqai.parameters import same_training
from feeder_mixin.freqai.reader import FreqaiReader
from feeder_mixin.freqai.settings import FreqaiSettings
from feeder_mixin.freqai.status import FreqaiStatus
from feeder_mixin.freqai.targets import TunedOn
from feeder_mixin.freqai.trained import FILE_NAME, TrainedModels, TrainedWith
from feeder_mixin.live.announce import log_refused
from feeder_mixin.live.memory import memory_of
from feeder_mixin.live.messages import Messages
from feeder_mixin.live.once import OnceLog
from feeder_mixin.live.reload.loader import LoadedPair
from feeder_mixin.live.reload.reloader import Reloader
from feeder_mixin.live.reload.watcher import SignalWatcher
from feeder_mixin.live.serve.snapshot import ParameterCache
from feeder_mixin.live.state.folder import StateFolder
from feeder_mixin.live.state.keeper import StateKeeper

logger = logging.getLogger(__name__)


class FreqaiFeeder:
    """One FreqAI bot's parameters in one process.

    Parameters
    ----------
    timeframe_s
        Length of a candle.
    served
        Pair -> FreqAI's name of the model that it serves, at start.

    Raises
    ------
    BusyError
        When another bot of this id runs.

    Attributes
    ----------
    models
        What the serving models were trained with.
    """

    def __init__(
        self, settings: FreqaiSettings, timeframe_s: int, served: Mapping[str, str]
    ) -> None:
        self.settings = settings
        self._served_at_start = dict(served)
        self._memory = memory_of(settings.feeder_id)
        self._once = OnceLog()
        self._reader = FreqaiReader(settings)
        self._cache = ParameterCache()
        self._folder = StateFolder(settings)
        self.models = TrainedModels(settings.state_dir / FILE_NAME)
        self._status = FreqaiStatus(
            settings, self._cache, self.models, self._memory.reloads, self.outdated
        )
        self._sending = threading.Lock()
        self._send: Callable[[str], None] | None = None
        self._unsent: list[str] = []
        messages = Messages(settings.feeder_id, self._send_message)
        self._keeper = StateKeeper(self._folder, self.models, None, self._status, messages)
        self._reloader = Reloader(
            self._reader, timeframe_s, self._cache, self._keeper, messages, self._memory
        )
        minutes = settings.check_store_minutes
        self._watcher = SignalWatcher(
            self._reload, self._check_store, None if minutes is None else minutes * 60
        )
        self._swapped: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Take over the signal, load, and answer; on the main thread, before the first candle."""
        self._watcher.install()
        self._restore_models()
        self._reloader.load_first()
        self._keeper.keep_all()
        self._keeper.start()
        self._watcher.start()

    def stop(self) -> None:
        """End the threads, ignore the signal, free the lock."""
        try:
            self._watcher.stop()
            self._keeper.stop()
        finally:
            self._folder.release()

    def connect(self, send: Callable[[str], None], swapped: Callable[[], None]) -> None:
        """Hand over what there is from the first candle on: the operator's line, and who trains.

        Parameters
        ----------
        send
            Queues a message to the operator; what was to be said before is sent now.
        swapped
            Called after every load that may have changed parameters.
        """
        with self._sending:
            self._send, unsent, self._unsent = send, self._unsent, []
        for message in unsent:
            send(message)
        self._swapped = swapped
        swapped()

    def parameters_for(self, pair: str, tuned_on: TunedOn) -> tuple[LoadedPair, int]:
        """Return what a pair trains with now, and its generation; refuse a record of other features.

        Parameters
        ----------
        tuned_on
            What this training is on: from now on loads know it, too.
        """
        self._reader.known[pair] = tuned_on
        snapshot = self._cache.snapshot
        known = snapshot.pairs.get(pair)
        if known is None:
            self._once.warn(
                f"pair {pair}",
                f"{pair} is not in the config's pair_whitelist: it trains with the config's own values",
            )
            return self._reader.fallback(pair), snapshot.generation
        reason = tuned_on.refusal(pair, known.loaded.tuned_on)
        if reason is None:
            return known.loaded, known.generation
        instead = replace(self._reader.fallback(pair), rejected=reason)
        self._cache.replace_loaded(instead)
        log_refused(instead)
        self._keeper.changed.set()
        return instead, known.generation

    def is_current(self, pair: str, used: LoadedPair) -> bool:
        """Return whether a pair still trains with what a fit was begun with."""
        known = self._cache.snapshot.pairs.get(pair)
        return known is None or same_training(known.loaded, used)

    def outdated(self) -> Sequence[str]:
        """Return the pairs whose serving model was not trained with what is loaded, the oldest first."""
        models, served = self.models.pairs, self._served_at_start
        found = []
        for pair, known in self._cache.snapshot.pairs.items():
            model = models.get(pair)
            if model is None and pair in served:
                found.append((0, pair))  # FreqAI serves one of which nothing is known
            elif model is not None and not same_training(known.loaded, model):
                found.append((model.until_s, pair))
        return [pair for _, pair in sorted(found)]

    def note_trained(self, pair: str, model: TrainedWith) -> None:
        """Note what FreqAI serves a pair with from now on."""
        self.models.put(pair, model)
        self._status.errors.pop(pair, None)
        self._keeper.changed.set()

    def note_failed(self, pair: str, error: Exception) -> None:
        """Note why a training failed; what served before serves on."""
        self._status.errors[pair] = f"{type(error).__name__}: {error}"
        self._keeper.changed.set()

    def note_candle(self, pair: str, open_s: int, *, is_served: bool) -> None:
        """Note that the host asked about a candle."""
        self._status.seen.note(pair, open_s, is_served=is_served)

    def _restore_models(self) -> None:
        try:
            self.models.restore(self._served_at_start)
        except StateError as error:
            logger.error(  # noqa: TRY400
                "What saved models were trained with is lost, they are trained anew: %s", error
            )
        self._reader.known.update({p: m.tuned_on for p, m in self.models.pairs.items()})

    def _reload(self) -> None:
        self._reloader.reload()
        self._swapped()

    def _check_store(self) -> None:
        if self._reloader.check_store():
            self._swapped()

    def _send_message(self, message: str) -> None:
        with self._sending:
            send = self._send
            if send is None:
                self._unsent.append(message)
                return
        send(message)
