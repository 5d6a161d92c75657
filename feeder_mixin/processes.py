"""How processes end, and how the remains of a killed one are removed.

Ctrl-C, SIGTERM and the end of a terminal (SIGHUP) end a command alike, unless whoever started it had
them ignored (``nohup``, ``&`` in a script). ``kill -9`` can't be answered: child processes end with
their parent by themselves (`tied`), and the next process that makes a temporary folder removes what
others left (`ScratchFolder`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

import filelock

_LOCK_NAME: Final = "in-use.lock"

_TIE: Final = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, int(signal.SIGTERM), 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""Asks the kernel for SIGTERM when the parent dies (PR_SET_PDEATHSIG), then becomes the command."""


def ending_signals() -> list[signal.Signals]:
    """Return the signals that ask this process to end: those that it was not told to ignore."""
    names = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
    numbers = [signal.Signals[name] for name in names if hasattr(signal, name)]
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]


def end_like_ctrl_c() -> None:
    """Make SIGTERM and SIGHUP raise KeyboardInterrupt; once, so that none cuts a clean-up short."""
    numbers = [number for number in ending_signals() if number != signal.SIGINT]

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in numbers:
        signal.signal(number, interrupt)


def tied(command: Sequence[str]) -> list[str]:
    """Return a command that gets SIGTERM when the thread that starts it ends, killed or not.

    Elsewhere than on Linux it is the command itself.
    """
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _TIE, str(os.getpid()), *command]


class ScratchFolder:
    """A temporary folder of this process, ``feeder-KIND-...``, gone when it ends.

    The kernel frees its lock however the process ends. Making one removes those of the same kind
    that nobody holds any more; folders without a lock file are not touched.

    Raises
    ------
    OSError
        When none can be made: no temporary folder, or a full one.
    """

    def __init__(self, kind: str) -> None:
        self.path, lock = _make_locked(f"feeder-{kind}-")
        self._lock = lock
        self._remove = weakref.finalize(self, _remove, self.path, lock)

    def remove(self) -> None:
        """Remove it with all that is in it; calling again does nothing."""
        self._remove()

    def keep(self) -> None:
        """Leave it to the user: neither this process nor a later one removes it."""
        self._remove.detach()
        (self.path / _LOCK_NAME).unlink(missing_ok=True)
        self._lock.release()


def _lock_of(folder: Path) -> filelock.BaseFileLock:
    return filelock.FileLock(folder / _LOCK_NAME, mode=0o600, thread_local=False)


def _make_locked(prefix: str) -> tuple[Path, filelock.BaseFileLock]:
    _sweep(Path(tempfile.gettempdir()), prefix)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix))
        lock = _lock_of(folder)
        try:
            lock.acquire()
        except OSError:
            if folder.exists():
                shutil.rmtree(folder, ignore_errors=True)
                raise
        else:
            if (folder / _LOCK_NAME).exists():
                return folder, lock
            lock.release()
        # Another process found it between its making and its lock, and swept it: the next one.


def _sweep(parent: Path, prefix: str) -> None:
    """Remove the folders that a killed process left; what can't be looked into is another user's."""
    for folder in parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError, filelock.Timeout):
            if (folder / _LOCK_NAME).exists():
                lock = _lock_of(folder)
                lock.acquire(timeout=0)
                _remove(folder, lock)


def _remove(folder: Path, lock: filelock.BaseFileLock) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock.release()
