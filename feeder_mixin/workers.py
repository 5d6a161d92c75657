"""Worker processes: pairs in parallel, one thread each; a dead worker costs only its own task.

One single-process executor per job: when a process dies, only its own executor breaks, and only
its task is tried again, once. Started by spawn, because a fork after OpenMP was used hangs.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any, Final, Self

from feeder_mixin.errors import TuningError
from feeder_mixin.processes import ScratchFolder

logger = logging.getLogger(__name__)

_TRIES: Final = 2
_POLL_S: Final = 0.5
_JOIN_S: Final = 5.0
_ONE_THREAD: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_NICENESS: Final = 10


def available_cores() -> int:
    """Return how many cores this process may use and that are idle, at least 1."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, round((usable or 1) - os.getloadavg()[0]))


def _start_worker(setup: Path) -> None:
    # Ctrl-C and a closed terminal go to the whole group, as may a bot's reload signal: only the
    # parent answers them.
    for name in ("SIGINT", "SIGHUP", "SIGUSR1"):
        if hasattr(signal, name):  # not all on Windows
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    os.nice(_NICENESS)  # a bot on the same host goes first
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with setup.open("rb") as file:
        initializer, arguments = pickle.load(file)  # noqa: S301  (written by the parent)
    initializer(*arguments)


def _start_tracker() -> None:
    """Start multiprocessing's bookkeeper so that a closed terminal does not end it before us.

    Another one would take over, and print a traceback for everything that it was not told.
    """
    if not hasattr(signal, "SIGHUP"):  # Windows has no such process, either
        return
    from multiprocessing import resource_tracker

    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        resource_tracker.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    # Killed parents can't stop their workers; an orphan would tune on beside the next run.
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


class WorkerPool:
    """Runs tasks on `jobs` worker processes, each set up once by `initializer`.

    Raises
    ------
    TuningError
        When there is no temporary folder, or no space in it.
    """

    def __init__(
        self, jobs: int, initializer: Callable[..., None], arguments: tuple[Any, ...]
    ) -> None:
        for name in _ONE_THREAD:  # read by the libraries at import, in the worker
            os.environ[name] = "1"
        # In a file, not in the process's start-up pipe: that holds 64 KB, and writing more to a
        # worker that died in its first moment would block for ever.
        try:
            self._folder = ScratchFolder("workers")
            self._setup = self._folder.path / "setup.pickle"
            self._setup.write_bytes(pickle.dumps((initializer, arguments)))
        except OSError as error:
            raise TuningError(
                f"a temporary folder can't be written: {error.strerror or error}. Free space in "
                f"{error.filename or 'it'}, or name another one with TMPDIR"
            ) from error
        _start_tracker()
        self._idle = [self._make_executor() for _ in range(jobs)]
        self._busy: dict[Future[Any], tuple[ProcessPoolExecutor, str]] = {}

    @property
    def n_workers(self) -> int:
        """Return how many workers there are."""
        return len(self._idle) + len(self._busy)

    @property
    def in_hand(self) -> tuple[str, ...]:
        """Return the keys of the tasks that workers have, the longest in hand first."""
        return tuple(key for _, key in self._busy.values())

    def _make_executor(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            max_workers=1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(self._setup,),
        )

    def run(
        self,
        function: Callable[..., Any],
        tasks: Mapping[str, tuple[Any, ...]],
        while_waiting: Callable[[], None] = lambda: None,
    ) -> Iterator[tuple[str, Any]]:
        """Yield task key and result, or the exception raised instead, as tasks end.

        Parameters
        ----------
        function
            Importable by name; called in a worker with the task's arguments.
        while_waiting
            Called about twice a second.
        """
        waiting = deque(tasks)
        deaths = dict.fromkeys(tasks, 0)
        while waiting or self._busy:
            while waiting and self._idle:
                key, executor = waiting.popleft(), self._idle.pop()
                self._busy[executor.submit(function, *tasks[key])] = executor, key
            done, _ = wait(self._busy, timeout=_POLL_S, return_when=FIRST_COMPLETED)
            while_waiting()
            for future in done:
                executor, key = self._busy.pop(future)
                error = future.exception()
                if not isinstance(error, BrokenProcessPool):
                    self._idle.append(executor)
                    yield key, error if error is not None else future.result()
                    continue
                executor.shutdown(wait=False)
                self._idle.append(self._make_executor())
                deaths[key] += 1
                logger.warning("A worker process died task=%s death=%d", key, deaths[key])
                if deaths[key] < _TRIES:
                    waiting.append(key)
                else:
                    yield (
                        key,
                        TuningError(
                            f"{key}: its worker process died {_TRIES} times (out of memory?)"
                        ),
                    )

    def kill(self) -> None:
        """End all workers at once; what they finished is in the journal."""
        executors = [*self._idle, *(executor for executor, _ in self._busy.values())]
        # Threads, whatever typeshed says.
        watchers: list[Any] = [executor._executor_manager_thread for executor in executors]
        for executor in executors:
            for process in list((executor._processes or {}).values()):
                process.kill()
            executor.shutdown(wait=False, cancel_futures=True)
        for watcher in watchers:  # one still at work when Python exits writes into a closed pipe
            if watcher is not None:
                watcher.join(_JOIN_S)
        self._busy.clear()
        self._idle.clear()
        self._folder.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.kill()
