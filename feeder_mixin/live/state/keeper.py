"""Keeps the state folder up to date: its own thread, and what start and reload write at once.

The thread waits on `changed`, which training sets; once in a while it writes what candles have moved.
It never holds up a candle: what it reads is replaced whole by others, and its lock is taken by writers
alone. A file that can't be written is said once and costs nothing else.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from feeder_mixin.errors import StateError
from feeder_mixin.live.messages import Messages
from feeder_mixin.live.once import OnceLog
from feeder_mixin.live.serve.calibration import Calibration
from feeder_mixin.live.state.folder import StateFolder
from feeder_mixin.live.state.last_good import save_last_good
from feeder_mixin.live.state.status import Status, keep_status
from feeder_mixin.schema import ParameterRecord

logger = logging.getLogger(__name__)

POLL_S: Final = 2.0

_CHANGE_PAUSE_S: Final = 2.0
"""Between two writes of schedule and status while models come one after the other, of all pairs each."""

_CALIBRATION_PAUSE_S: Final = 60.0
"""Between two writes of the calibration; what a killed bot had not written is computed again."""

_STATUS_PAUSE_S: Final = 60.0
"""Between two writes of the status where nothing but the newest candle changed."""


class StatusSource(Protocol):
    """Says what the status file gets; reads only, on any thread."""

    @property
    def until_s(self) -> int:
        """Return the open of the newest candle that the host has asked about, 0 before the first."""

    def build(self) -> Status:
        """Return the whole status."""

    def count_exceedances(self) -> None:
        """Count anew how often candles went worse than served, where that is known."""

    def age_warnings(self) -> Mapping[str, str | None]:
        """Return pair -> what to warn of for its model's age, None where it is young enough."""


class KeptSchedule(Protocol):
    """What serves, as it is kept for a restart."""

    def forget_old(self) -> None:
        """Drop what no candle can ask for."""

    def save(self) -> None:
        """Write what serves now; raise `StateError` when that fails."""


class StateKeeper:
    """Writes ``status.json``, ``schedule.json``, ``calibration.json`` and the last good copy.

    Parameters
    ----------
    calibration
        None where forecasts are not calibrated.
    status
        Says what the status file gets.
    messages
        What waits in there is sent on the keeper's thread.

    Attributes
    ----------
    changed
        To be set by whoever changed what serves or is trained: schedule and status are written then.
    """

    def __init__(
        self,
        folder: StateFolder,
        schedule: KeptSchedule,
        calibration: Calibration | None,
        status: StatusSource,
        messages: Messages,
    ) -> None:
        self._folder, self._settings = folder, folder.settings
        self._schedule, self._calibration = schedule, calibration
        self._status, self.messages = status, messages
        self.changed = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feeder-state", daemon=True)
        self._writing = threading.Lock()
        self._once = OnceLog()
        self._status_until_s, self._status_at = 0, 0.0
        self._written_at = -math.inf

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, then write and send what is left."""
        self._stop.set()
        is_changed = self.changed.is_set()
        self.changed.set()
        if self._thread.is_alive():
            self._thread.join()
        if is_changed:
            self.keep_all()
        self.keep_calibration(pause_s=0.0)
        self.messages.send_due(pause_s=0.0)

    # -------------------------------------------------------------- the keeper's thread

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._look_around()
            except Exception as error:
                # The boundary of this thread: the bot trades on, the next turn tries again.
                if self._once.is_new("defect", repr(error)):
                    logger.exception("State is not kept feeder=%s", self._settings.feeder_id)
            if self.changed.wait(POLL_S):
                left_s = self._written_at + _CHANGE_PAUSE_S - time.monotonic()
                self._stop.wait(max(0.0, left_s))  # what changes meanwhile is in the same write

    def _look_around(self) -> None:
        """Write and send what is due."""
        if self.changed.is_set():
            self.changed.clear()
            self.keep_all()
            self._written_at = time.monotonic()
        self.keep_calibration()
        self.messages.send_due()
        self._warn_of_ages()
        is_later = self._status.until_s > self._status_until_s
        if is_later and time.monotonic() - self._status_at >= _STATUS_PAUSE_S:
            self.keep_status()

    def _warn_of_ages(self) -> None:
        """Say once of each pair whose model is too old, and again when that has come back."""
        for pair, warning in self._status.age_warnings().items():
            about = f"age {pair}"
            if warning is None:
                self._once.forget(about)
            else:
                self._once.warn(about, warning)

    # -------------------------------------------------------------- any thread

    def keep_all(self) -> None:
        """Write schedule and status."""
        self._schedule.forget_old()
        # Before the status: a model that it calls ready is there after a restart.
        self._write("schedule", self._schedule.save)
        self.keep_status()

    def keep_status(self) -> None:
        """Write the status file, whatever else can't be written."""
        self._status_until_s, self._status_at = self._status.until_s, time.monotonic()
        with self._writing:
            try:
                problem = keep_status(self._settings, self._status.build())
            except StateError as error:
                problem = str(error)
            if problem is not None:
                self._once.warn("status", f"The status file is not written: {problem}")
            elif self._once.forget("status"):
                logger.info("The status file is written again path=%s", self._settings.status_path)

    def keep_calibration(self, pause_s: float = _CALIBRATION_PAUSE_S) -> None:
        """Write what candles did to the calibration since the last time; off the candle's path."""
        calibration = self._calibration
        if calibration is not None and self._folder.is_kept and calibration.is_due(pause_s):
            self._status.count_exceedances()
            self._write("calibration", lambda: calibration.save(self._folder.calibration_path))
            self.keep_status()

    def keep_last_good(self, records: Mapping[str, ParameterRecord]) -> None:
        """Write what the store gave, for a start without it."""
        if not records or not self._folder.is_kept:
            return
        try:
            save_last_good(self._settings, list(records.values()))
        except StateError as error:
            self._once.warn("last good", f"Last good copy is not saved: {error}")

    def _write(self, what: str, write: Callable[[], None]) -> None:
        """Write a file of the state folder; a failure is said once and costs nothing else."""
        if not self._folder.is_kept:
            return
        with self._writing:
            try:
                write()
            except StateError as error:
                self._once.warn(what, f"The {what} file is not written: {error}")
            else:
                self._once.forget(what)
