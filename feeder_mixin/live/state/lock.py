"""One bot at a time on a state folder: the bot lock, who has it, and how others see that.

The kernel's lock says whether a bot runs, and `/proc` which process that is: files of the state folder
may be missing (full disk) or of a process before (``kill -9``). What must stay true: no second bot
starts beside one that runs; and whoever asks does not hinder one from starting.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

import filelock

from feeder_mixin.errors import BusyError, StateError
from feeder_mixin.live.state.files import write_private
from feeder_mixin.live.state.stand_in import find_stand_in, make_stand_in, remove_stand_in
from feeder_mixin.settings import BotSettings

LOCK_NAME: Final = "bot.lock"
PID_NAME: Final = "bot.pid"

_LOCK_PATIENCE_S: Final = 0.5
"""How long a bot tries for its lock: a probe by `is_bot_running` holds it for microseconds."""
PID_PATIENCE_S: Final = 1.0
"""How long the holder of a lock may take to write its pid."""
_POLL_S: Final = 0.05


class BotLock:
    """The right to be this feeder's one bot on this machine: ``bot.lock``, and who has it: ``bot.pid``.

    The kernel frees the lock when the process ends, however it ends. Where the state folder can't be
    locked, its stand-in is (`live.state.stand_in`), so that the bot is found and alone there, too. Within a
    process every `acquire` counts and wants one `release`: freqtrade builds a new strategy on
    ``/reload_config`` while the old one still stands. Any thread may release. Get it from `bot_lock`.

    Attributes
    ----------
    problem
        Why the state folder can't be written, as seen when the lock was taken; None when it can.
    """

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._place = state_dir
        self._lock = _make_lock(state_dir)
        self.problem: StateError | None = None

    @property
    def is_held(self) -> bool:
        """Return whether this process has the lock."""
        return self._lock.is_locked

    def acquire(self) -> None:
        """Take the lock and say who has it; wait no longer than a probe may take (0.5 s).

        Raises
        ------
        BusyError
            When another process has it; it names the pid.
        StateError
            When neither the state folder nor its stand-in can be locked.
        """
        if self.is_held:
            self._lock.acquire()
            if self.problem is not None and self._place == self._state_dir:
                self.problem = self._say_pid()  # there may be space again
            return
        stand_in = find_stand_in(self._state_dir)
        if stand_in is not None and _is_locked(stand_in / LOCK_NAME):
            raise self._busy(stand_in)
        problem = None
        try:
            self._take(self._state_dir)
        except StateError as error:
            problem = error
            self._take_stand_in(error)
        unsaid = self._say_pid()
        self.problem = problem or unsaid
        self._remove_leftovers()

    def check(self) -> None:
        """Raise `BusyError` when another process has the lock and keeps it for 0.5 s; take nothing.

        Raises
        ------
        StateError
            When the lock file can't be read.
        """
        if self.is_held:
            return
        deadline = time.monotonic() + _LOCK_PATIENCE_S
        while (place := self._locked_place()) is not None:
            if time.monotonic() > deadline:
                raise self._busy(place)
            time.sleep(_POLL_S)

    def _locked_place(self) -> Path | None:
        for place in (self._state_dir, find_stand_in(self._state_dir)):
            if place is not None and _is_locked(place / LOCK_NAME):
                return place
        return None

    def release(self) -> None:
        """Give back one `acquire`; the last one frees the lock. Without the lock it does nothing."""
        if self._lock.lock_counter == 1:
            # A pid file that can't be removed misleads nobody: the lock decides.
            with suppress(OSError):
                (self._place / PID_NAME).unlink(missing_ok=True)
            remove_stand_in(self._state_dir)
        self._lock.release()

    def _take(self, place: Path) -> None:
        lock = _make_lock(place)
        try:
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock.acquire(timeout=_LOCK_PATIENCE_S, poll_interval=_POLL_S)
        except filelock.Timeout as error:
            raise self._busy(place) from error
        except (OSError, NotImplementedError) as error:
            raise StateError(
                f"{place / LOCK_NAME} can't be locked: {error}. Make the folder writable for the user "
                "who runs the bot"
            ) from error
        self._place, self._lock = place, lock

    def _take_stand_in(self, problem: StateError) -> None:
        """Take the lock in the stand-in of a state folder that can't be locked."""
        with suppress(StateError):  # the disk became read-only after another bot had started
            if _is_locked(self._state_dir / LOCK_NAME):
                raise self._busy(self._state_dir) from problem
        try:
            self._take(make_stand_in(self._state_dir))
        except StateError as error:
            raise StateError(
                f"{problem}; {error}. Until then nothing prevents a second bot, and `feeder status` and "
                "`feeder reload` can't find this one"
            ) from error

    def _say_pid(self) -> StateError | None:
        """Write the pid file; return the error, if any: the kernel still knows who has the lock."""
        try:
            write_private(self._place / PID_NAME, f"{os.getpid()}\n")
        except StateError as error:
            return error
        return None

    def _busy(self, place: Path) -> BusyError:
        pid = _read_pid(place) or _listed_pid(place / LOCK_NAME)
        return BusyError(
            f"another bot{'' if pid is None else f' (pid {pid})'} runs on {self._state_dir}. Stop "
            "it first, or give this bot a bot_name or user_data folder of its own"
        )

    def _remove_leftovers(self) -> None:
        """Remove temporary files of a killed bot: whoever has the lock is the only writer there.

        Backtests write beside it, into a folder of their own.
        """
        for folder in (self._state_dir, self._state_dir / "models"):
            for path in folder.glob(".*.tmp"):
                with suppress(OSError):
                    path.unlink(missing_ok=True)


def _make_lock(place: Path) -> filelock.BaseFileLock:
    # Not per thread: freqtrade's callbacks and the end of the process differ in that.
    return filelock.FileLock(place / LOCK_NAME, mode=0o600, thread_local=False)


@cache
def _lock_in(state_dir: Path) -> BotLock:
    return BotLock(state_dir)


def bot_lock(settings: BotSettings) -> BotLock:
    """Return this process's lock of a feeder: always the same one, not yet acquired."""
    return _lock_in(settings.state_dir.absolute())


def is_bot_running(settings: BotSettings) -> bool:
    """Return whether a process, this one included, has the feeder's bot lock.

    The bot is not disturbed, and one that is about to start waits out the probe.

    Raises
    ------
    StateError
        When the lock file can't be read.
    """
    return _held_lock(settings) is not None


def _held_lock(settings: BotSettings) -> Path | None:
    """Return the lock file that a bot holds: the state folder's or its stand-in's."""
    problem = None
    try:
        if _is_locked(settings.state_dir / LOCK_NAME):
            return settings.state_dir / LOCK_NAME
    except StateError as error:
        problem = error
    stand_in = find_stand_in(settings.state_dir)
    if stand_in is not None and _is_locked(stand_in / LOCK_NAME):
        return stand_in / LOCK_NAME
    if problem is not None:
        raise problem
    return None


def _is_locked(path: Path) -> bool:
    import fcntl  # not on Windows, where there is no SIGUSR1, either

    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        # Shared, so that two probes don't take each other for a bot.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in {errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES}:
            return True
        raise _unreadable(path, error) from error
    finally:
        os.close(descriptor)
    return False


def running_bot_pid(settings: BotSettings) -> int | None:
    """Return the pid of the process that has the feeder's bot lock, None when no bot runs.

    The pid file alone is not believed (a killed bot leaves it, and its pid may belong to another
    process by now): where there is ``/proc``, that process must have the lock. Without the file, the
    process that the kernel lists is taken.

    Raises
    ------
    StateError
        When a bot has the lock, but which process that is can't be seen from here.
    """
    deadline = time.monotonic() + PID_PATIENCE_S
    while (lock := _held_lock(settings)) is not None:
        pid = _read_pid(lock.parent)
        if pid is not None and _holds(pid, lock):
            return pid
        if (listed := _listed_pid(lock)) is not None:
            return listed
        if time.monotonic() > deadline:
            said = "there is no" if pid is None else f"pid {pid} in"
            raise StateError(
                f"a bot has {lock}, but its process can't be seen from here ({said} {PID_NAME}): it "
                "runs in another container or as another user. Run this there"
            )
        time.sleep(_POLL_S)
    return None


def bot_started_s(settings: BotSettings, pid: int) -> float:
    """Return when a running bot took its lock, in s since the epoch; else when its process began."""
    lock = _held_lock(settings)
    for path in () if lock is None else (lock.parent / PID_NAME,):
        if _read_pid(path.parent) == pid:
            return path.stat().st_mtime
    return Path(f"/proc/{pid}").stat().st_mtime


def _unreadable(path: Path, error: OSError) -> StateError:
    return StateError(
        f"{path} can't be read: {error.strerror or error}. Run this as the user who runs the bot"
    )


def _read_pid(state_dir: Path) -> int | None:
    try:
        pid = int((state_dir / PID_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return pid if pid > 0 else None


def _holds(pid: int, lock: Path) -> bool:
    """Return whether a living process has the lock; without ``/proc`` whether it lives."""
    if not Path("/proc/self/fd").is_dir():
        try:
            os.kill(pid, 0)
        except OSError:
            return False
        return True
    try:
        wanted = lock.stat()
    except OSError:
        return False
    # Two ways: sandboxed services of one user may not look into each other's descriptors, and on
    # some file systems the list of locks has other inode numbers.
    return _is_listed(pid, wanted) or _has_open(pid, wanted)


def _is_listed(pid: int, wanted: os.stat_result) -> bool:
    """Return whether the kernel lists the process as holder of a lock on that file."""
    return pid in listed_pids(wanted)


def listed_pids(wanted: os.stat_result) -> list[int]:
    """Return the processes that the kernel lists with a lock on a file of that number."""
    try:
        lines = Path("/proc/locks").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    # "1: FLOCK  ADVISORY  WRITE 4711 08:01:1234 0 EOF"; one who waits has "->" before FLOCK.
    return [
        int(owner)
        for _number, kind, _mode, access, owner, file, *_range in map(str.split, lines)
        if (kind, access) == ("FLOCK", "WRITE") and file.endswith(f":{wanted.st_ino}")
    ]


def _listed_pid(lock: Path) -> int | None:
    """Return the one process that has the lock by the kernel's list, and the file open.

    Both, as other disks have files of the same number.
    """
    try:
        wanted = lock.stat()
    except OSError:
        return None
    pids = [pid for pid in listed_pids(wanted) if pid > 0 and _has_open(pid, wanted)]
    return pids[0] if len(pids) == 1 else None


def _has_open(pid: int, wanted: os.stat_result) -> bool:
    try:
        descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False
    for descriptor in descriptors:
        with suppress(OSError):  # closed meanwhile, or not to be looked into
            if os.path.samestat(descriptor.stat(), wanted):
                return True
    return False
