"""From SIGUSR1, or the clock, to a reload: a handler that does nothing, a file descriptor, a thread.

The handler stays empty because whatever it does may be interrupted by the next signal: an event or
a lock in it ends in a RecursionError under a storm (seen). Python writes a byte for every signal
into the wake-up descriptor, at once and whatever the main thread is in; the watcher reads it.
Bytes that come during a reload, or a check of the store, make one more afterwards, so bursts coalesce
and no request is lost.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Final

logger = logging.getLogger(__name__)

RELOAD_SIGNAL: Final[int | None] = getattr(signal, "SIGUSR1", None)
"""None on Windows: there only `check_every_s` and the bot's own ``/reload_config`` bring new parameters."""
_WAKE = 0
"""Byte of a request from inside the process; no signal has this number."""

_LEAST_WAIT_S = 0.001
"""For a check that is overdue: no wait at all would make the socket non-blocking."""


def _do_nothing(_number: int, _frame: FrameType | None) -> None:
    """Be there: without a handler the signal would end the process."""


class SignalWatcher:
    """Calls `reload` on its own thread after each burst of SIGUSR1, and `check` every so often.

    What they raise is logged and ends nothing. `install` takes the
    signal over, before the bot's first load; `start` answers, after it: what came meanwhile waits.
    `stop` leaves the signal ignored: one that comes while the bot is rebuilt (``/reload_config``)
    must not end it, and the new bot loads anyway.
    """

    def __init__(
        self,
        reload: Callable[[], None],
        check: Callable[[], None] = lambda: None,
        check_every_s: float | None = None,
    ) -> None:
        self._reload, self._check, self._check_every_s = reload, check, check_every_s
        self._thread = threading.Thread(target=self._watch, name="feeder-reload", daemon=True)
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._stopping = False
        self._previous_fd: int | None = None

    def install(self) -> None:
        """Take the signal over, where there is one; on the main thread only."""
        if RELOAD_SIGNAL is None:
            return
        # The descriptor first: after the handler alone, a signal would be taken and lost.
        self._previous_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        signal.signal(RELOAD_SIGNAL, _do_nothing)

    def start(self) -> None:
        """Answer from now on, and what came since `install`."""
        self._thread.start()

    def stop(self) -> None:
        """Ignore the signal from now on and end the thread; a reload under way is waited for.

        Works at any moment, also when `install` or `start` was never called.
        """
        if RELOAD_SIGNAL is not None and self._previous_fd is not None:
            signal.signal(RELOAD_SIGNAL, signal.SIG_IGN)
            signal.set_wakeup_fd(self._previous_fd)
        self._stopping = True
        self._wake()  # recv waits for ever otherwise
        if self._thread.is_alive():
            self._thread.join()
        self._reader.close()
        self._writer.close()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full of requests: the thread wakes anyway
            self._writer.send(bytes([_WAKE]))

    def _watch(self) -> None:
        # Other signals (SIGTERM, SIGINT) come through the same descriptor: they are not ours.
        check_at = self._next_check()
        while True:
            received = self._receive(check_at)
            if self._stopping or received == b"":
                return
            if received is None:
                self._run(self._check)
            elif RELOAD_SIGNAL is not None and RELOAD_SIGNAL in received:
                self._run(self._reload)
            else:
                continue
            check_at = self._next_check()  # a reload has asked the store, too

    def _next_check(self) -> float | None:
        every_s = self._check_every_s
        return None if every_s is None else time.monotonic() + every_s

    def _receive(self, check_at: float | None) -> bytes | None:
        """Return all that came meanwhile, so that a storm is one reload; None when a check is due."""
        if check_at is not None:
            self._reader.settimeout(max(_LEAST_WAIT_S, check_at - time.monotonic()))
        try:
            return self._reader.recv(65_536)
        except TimeoutError:
            return None

    def _run(self, answer: Callable[[], None]) -> None:
        try:
            answer()
        except Exception:
            logger.exception("Reload failed, the bot keeps its parameters")
