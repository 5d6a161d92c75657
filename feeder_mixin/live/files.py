"""Files of a feeder's state folder: written whole or not at all, damage noticed, one bot at a time.

The bot writes here; ``feeder status`` and ``feeder reload`` read. What must stay true: a reader sees
the old content or the new, never a part, whatever dies in between; a file that was cut or edited is
refused, not half believed; and whoever asks whether a bot runs does not hinder one from starting.

A file's content is flushed to the disk before its name is taken; the name itself is not, so a power
cut may bring back the previous content, whole.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final

import filelock

from feeder_mixin.errors import BusyError, StateError
from feeder_mixin.settings import FeederSettings

LOCK_NAME: Final = "bot.lock"
PID_NAME: Final = "bot.pid"

_LOCK_PATIENCE_S: Final = 0.5
"""How long a bot tries for its lock: a probe by `is_bot_running` holds it for microseconds."""
_PID_PATIENCE_S: Final = 1.0
"""How long the holder of a lock may take to write its pid."""
_POLL_S: Final = 0.05

_HEAD: Final = re.compile(rb'\{"sha256":"([0-9a-f]{64})","document":')
_TAIL: Final = b"}\n"


def write_private(path: Path, text: str, *, durable: bool = True) -> None:
    """Write `text` to `path`, whole or not at all, readable by the owner only.

    Not `durable`: a power cut may leave the file empty. For what is written anew at once anyway.

    The folder is made (mode 0700) where it is missing. On failure the previous file stands and no
    temporary file is left; only a kill can leave one, which the next bot's `BotLock` removes.

    Raises
    ------
    StateError
        When the disk is full, the folder is read-only, or `text` has no UTF-8 form.
    """
    try:
        content = text.encode()
    except UnicodeEncodeError as error:
        raise StateError(
            f"{path} is not written: its content has no UTF-8 form: {error}"
        ) from error
    _write(path, content, durable=durable)


def _write(path: Path, content: bytes, *, durable: bool = True) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StateError(
            f"{path} can't be written: {error.strerror or error}. Free disk space or make the folder "
            "writable for the user who runs the bot"
        ) from error


def write_checked(path: Path, document: Mapping[str, object]) -> None:
    """Write `document` as JSON with a SHA-256 over its text, so that `read_checked` sees damage.

    Raises
    ------
    StateError
        When it can't be written, or holds something that JSON does not (NaN, infinity, an object).
    """
    try:
        body = json.dumps(document, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise StateError(f"{path} is not written: its content is not JSON: {error}") from error
    digest = hashlib.sha256(body).hexdigest().encode()
    _write(path, b'{"sha256":"%b","document":%b%b' % (digest, body, _TAIL))


def read_checked(path: Path) -> dict[str, Any] | None:
    """Return the document that `write_checked` wrote, or None when there is no such file.

    Raises
    ------
    StateError
        When the file is empty, cut or edited, or can't be read; it names the file.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateError(
            f"{path} can't be read: {error.strerror or error}. Make it readable for the user who "
            "runs this, or move it away"
        ) from error
    head = _HEAD.match(content)
    if head is None or not content.endswith(_TAIL):
        problem = "was cut short or is no file of this kind" if content else "is empty"
        raise _damaged(path, problem)
    # A view: a file may hold megabytes of model text.
    body = memoryview(content)[head.end() : -len(_TAIL)]
    if hashlib.sha256(body).hexdigest().encode() != head[1]:
        raise _damaged(path, "was cut, edited or damaged: its SHA-256 does not fit its content")
    try:
        document = json.loads(bytes(body))
    except (ValueError, RecursionError) as error:  # only where the digest was made to fit
        raise _damaged(path, f"is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise _damaged(path, "holds no JSON object")
    return document


def _damaged(path: Path, problem: str) -> StateError:
    return StateError(f"{path} {problem}. Delete it, the bot writes it anew; or restore a copy")


class BotLock:
    """The right to be this feeder's one bot on this machine: ``bot.lock``, and who has it: ``bot.pid``.

    The kernel frees the lock when the process ends, however it ends. Within a process every
    `acquire` counts and wants one `release`: freqtrade builds a new strategy on ``/reload_config``
    while the old one still stands. Any thread may release. Get it from `bot_lock`.
    """

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        # Not per thread: freqtrade's callbacks and the end of the process differ in that.
        self._lock = filelock.FileLock(state_dir / LOCK_NAME, mode=0o600, thread_local=False)

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
            When the state folder can't be written.
        """
        if self.is_held:
            self._lock.acquire()
            return
        try:
            self._state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock.acquire(timeout=_LOCK_PATIENCE_S, poll_interval=_POLL_S)
        except filelock.Timeout as error:
            pid = _read_pid(self._state_dir)
            raise BusyError(
                f"another bot{'' if pid is None else f' (pid {pid})'} runs on {self._state_dir}. Stop "
                "it first, or give this bot a bot_name or user_data folder of its own"
            ) from error
        except (OSError, NotImplementedError) as error:
            raise StateError(
                f"{self._state_dir / LOCK_NAME} can't be locked: {error}. Make the folder writable "
                "for the user who runs the bot; until then nothing keeps a second bot away, and "
                "`feeder status` and `feeder reload` can't find this one"
            ) from error
        try:
            write_private(self._state_dir / PID_NAME, f"{os.getpid()}\n")
            self._remove_leftovers()
        except BaseException:
            self._lock.release()
            raise

    def release(self) -> None:
        """Give back one `acquire`; the last one frees the lock. Without the lock it does nothing."""
        if self._lock.lock_counter == 1:
            # A pid file that can't be removed misleads nobody: the lock decides.
            with suppress(OSError):
                (self._state_dir / PID_NAME).unlink(missing_ok=True)
        self._lock.release()

    def _remove_leftovers(self) -> None:
        """Remove temporary files of a killed bot: whoever has the lock is the only writer there.

        Backtests write beside it, into a folder of their own.
        """
        for folder in (self._state_dir, self._state_dir / "models"):
            for path in folder.glob(".*.tmp"):
                path.unlink(missing_ok=True)


@cache
def _lock_in(state_dir: Path) -> BotLock:
    return BotLock(state_dir)


def bot_lock(settings: FeederSettings) -> BotLock:
    """Return this process's lock of a feeder: always the same one, not yet acquired."""
    return _lock_in(settings.state_dir.absolute())


def is_bot_running(settings: FeederSettings) -> bool:
    """Return whether a process, this one included, has the feeder's bot lock.

    The bot is not disturbed, and one that is about to start waits out the probe.

    Raises
    ------
    StateError
        When the lock file can't be read.
    """
    import fcntl  # not on Windows, where there is no SIGUSR1, either

    path = settings.state_dir / LOCK_NAME
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


def running_bot_pid(settings: FeederSettings) -> int | None:
    """Return the pid of the process that has the feeder's bot lock, None when no bot runs.

    The pid file alone is not believed (a killed bot leaves it, and its pid may belong to another
    process by now): where there is ``/proc``, that process must have the lock.

    Raises
    ------
    StateError
        When a bot has the lock, but which process that is can't be seen from here.
    """
    lock = settings.state_dir / LOCK_NAME
    deadline = time.monotonic() + _PID_PATIENCE_S
    while is_bot_running(settings):
        pid = _read_pid(settings.state_dir)
        if pid is not None and _holds(pid, lock):
            return pid
        if time.monotonic() > deadline:
            said = "there is no" if pid is None else f"pid {pid} in"
            raise StateError(
                f"a bot has {lock}, but its process can't be seen from here ({said} {PID_NAME}): it "
                "runs in another container or as another user. Ask from there"
            )
        time.sleep(_POLL_S)
    return None


def _unreadable(path: Path, error: OSError) -> StateError:
    return StateError(
        f"{path} can't be read: {error.strerror or error}. Ask as the user who runs the bot"
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
    try:
        lines = Path("/proc/locks").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    # "1: FLOCK  ADVISORY  WRITE 4711 08:01:1234 0 EOF"; one who waits has "->" before FLOCK.
    return any(
        kind == "FLOCK" and owner == str(pid) and file.endswith(f":{wanted.st_ino}")
        for _number, kind, _mode, _access, owner, file, *_range in map(str.split, lines)
    )


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
