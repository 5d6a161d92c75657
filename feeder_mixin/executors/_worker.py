"""What runs in a worker process of `ProcessExecutor`: settle, then one task after the other."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from typing import Final

from feeder_mixin.executors._answer import answer

_NICENESS: Final = 10
_ONE_THREAD: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# Ctrl-C and a closed terminal go to the whole group, as may a bot's reload signal: only the parent
# answers them.
_FOR_PARENT: Final = [
    signal.Signals[name]
    for name in ("SIGINT", "SIGHUP", "SIGUSR1")
    if hasattr(signal, name)  # not all on Windows
]


@contextmanager
def signals_for_parent() -> Iterator[None]:
    """Block the signals that only the parent answers, here and in a process that is started here.

    multiprocessing's bookkeeper is started here, too: ended before us, it would be replaced by one
    that prints a traceback for everything that it was not told.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows has no such bookkeeper, either
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_PARENT)
    try:
        resource_tracker.ensure_running()  # leaves SIGINT unblocked
        signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_PARENT)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_worker(pipe: Connection) -> None:
    """Do tasks until the parent closes the pipe.

    Each comes as two pickles, what is to be held (names to drop, name -> value to add) and the
    task; the answer is one. An empty message says that the first may come.
    """
    _settle()
    held: dict[str, object] = {}
    pipe.send_bytes(b"")
    while True:
        try:
            changes, task = pipe.recv_bytes(), pipe.recv_bytes()
        except EOFError:
            return
        drop, add = pickle.loads(changes)  # noqa: S301  (written by the parent)
        for name in drop:
            del held[name]
        held.update(add)
        del changes, add
        pipe.send_bytes(answer(task, held))


def _settle() -> None:
    for number in _FOR_PARENT:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _FOR_PARENT)
    os.nice(_NICENESS)  # a bot on the same host goes first
    limit_threads()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def limit_threads() -> None:
    """Give numerical libraries of this process one thread each: tasks are what goes parallel."""
    from threadpoolctl import threadpool_limits

    for name in _ONE_THREAD:  # read by libraries that are imported later
        os.environ[name] = "1"
    threadpool_limits(1)  # those that are there already


def _end_with_parent() -> None:
    # Killed parents can't stop their workers; an orphan would tune on beside the next run.
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)
