"""Where a running bot keeps its state: its feeder's folder, under the bot lock, or a stand-in.

Where the folder can't be written the bot trades on: models last as long as the process, in a
temporary folder, and calibration, schedule and last good copy are not kept.
"""

from __future__ import annotations

import logging
from pathlib import Path

from feeder_mixin.errors import StateError
from feeder_mixin.live.state.lock import BotLock, bot_lock
from feeder_mixin.processes import ScratchFolder
from feeder_mixin.settings import BotSettings

logger = logging.getLogger(__name__)


class StateFolder:
    """The state folder of one running bot, locked until `release`.

    Raises
    ------
    BusyError
        When another bot of this feeder runs.

    Attributes
    ----------
    model_dir
        Where model files are.
    """

    def __init__(self, settings: BotSettings) -> None:
        self.settings = settings
        self._lock: BotLock = bot_lock(settings)
        self._temporary: ScratchFolder | None = None
        self.model_dir: Path = self._take()

    @property
    def is_kept(self) -> bool:
        """Return whether what is written here is there after a restart."""
        return self._temporary is None

    @property
    def schedule_path(self) -> Path:
        """Return where the models in force are listed."""
        return self.settings.state_dir / "schedule.json"

    @property
    def calibration_path(self) -> Path:
        """Return where theta of every pair is."""
        return self.settings.state_dir / "calibration.json"

    def release(self) -> None:
        """Free the lock, and remove the temporary folder if there is one."""
        self._lock.release()
        if self._temporary is not None:
            self._temporary.remove()

    def _take(self) -> Path:
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
                "State folder can't be written, nor a temporary one: its files are still used, nothing "
                "is saved until there is space feeder=%s error=%s temporary=%s",
                self.settings.feeder_id,
                error,
                problem,
            )
            return self.settings.model_dir
        logger.error(
            "State folder can't be used: no last good copy, models and calibration are lost when this "
            "process ends feeder=%s models=%s error=%s",
            self.settings.feeder_id,
            self._temporary.path,
            error,
        )
        return self._temporary.path
