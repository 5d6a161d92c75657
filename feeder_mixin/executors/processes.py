"""Tasks on worker processes of this machine, each with one thread.

Why no library (2026-11): in the standard library's executor and in loky a dead process fails all
tasks in hand, and neither lets its processes be killed through a public name; pebble's workers share
one pipe under a lock, which a worker that is killed at a bad moment keeps. Here every process has a
pipe of its own: its death is seen at once, and costs its own task only.

Started by spawn, because a fork after OpenMP was used hangs.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait as wait_for
from typing import Any, Final, Self

from feeder_mixin.errors import WorkerError
from feeder_mixin.executors._queue import Task, TaskQueue
from feeder_mixin.executors._worker import run_worker, signals_for_parent
from feeder_mixin.executors.base import Shared

logger = logging.getLogger(__name__)

_TRIES: Final = 2
_POLL_S: Final = 0.5
_JOIN_S: Final = 5.0


def available_cores() -> int:
    """Return how many cores this process may use and that are idle, at least 1."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, round((usable or 1) - os.getloadavg()[0]))


class _DeadError(Exception):
    """A worker process has ended."""


class _Worker:
    """A process, the pipe to it, and what it was given."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=run_worker, args=(theirs,), daemon=True)
        with signals_for_parent():
            self._process.start()
        theirs.close()  # the worker's copy is the only one, so that its death closes the pipe
        self.task: Task | None = None
        self._is_ready = False
        self._held: set[str] = set()

    def give(self, task: Task, shared: dict[str, object]) -> None:
        """Begin a task, now or when the process is ready."""
        self.task = task
        if self._is_ready:
            self._send(task, shared)

    def _send(self, task: Task, shared: dict[str, object]) -> None:
        names = set(task.shared_names)
        add = {name: shared[name] for name in names - self._held}
        drop = self._held - shared.keys()
        self._held = (self._held | names) - drop
        try:
            self.pipe.send_bytes(pickle.dumps((drop, add)))
            self.pipe.send_bytes(pickle.dumps((task.function, task.arguments)))
        except OSError as error:
            raise _DeadError from error

    def receive(self, shared: dict[str, object]) -> tuple[str, Any] | None:
        """Return the key and outcome of the task that has ended; None where none has.

        Raises
        ------
        _DeadError
            When the process has ended instead.
        """
        try:
            message = self.pipe.recv_bytes()
        except (EOFError, OSError) as error:
            raise _DeadError from error
        task = self.task
        if task is None:
            raise ValueError("a worker answers a task only")
        if not message:
            self._is_ready = True
            self._send(task, shared)
            return None
        self.task = None
        return task.key, pickle.loads(message)  # noqa: S301  (written by a process of ours)

    def kill(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()

    def join(self) -> None:
        """Wait until a killed process is gone."""
        self._process.join(_JOIN_S)
        self.pipe.close()


class ProcessExecutor:
    """See `Executor`; processes are started as there are tasks for them, `jobs` at most."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._workers: list[_Worker] = []
        self._waiting: TaskQueue[_Worker] = TaskQueue()
        self._shared: dict[str, object] = {}
        self._n_shared = 0

    @property
    def n_workers(self) -> int:
        """See `Executor`."""
        return self._jobs

    def share(self, value: object) -> Shared:
        """See `Executor`."""
        self._n_shared += 1
        shared = Shared(str(self._n_shared))
        self._shared[shared.name] = value
        return shared

    def release(self, shared: Shared) -> None:
        """See `Executor`; workers are told with their next task."""
        del self._shared[shared.name]

    def submit(
        self, key: str, function: Callable[..., Any], *arguments: object, home: str = ""
    ) -> None:
        """See `Executor`."""
        self._waiting.add(Task(key, function, arguments, home))

    def outcomes(
        self, while_waiting: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[str, Any]]:
        """See `Executor`."""
        while self._hand_out():
            ready = wait_for([worker.pipe for worker in self._workers], _POLL_S)
            while_waiting()
            for worker in [worker for worker in self._workers if worker.pipe in ready]:
                try:
                    outcome = worker.receive(self._shared)
                except _DeadError:
                    outcome = self._bury(worker)
                if outcome is not None:
                    yield outcome

    def _hand_out(self) -> bool:
        """Give waiting tasks to workers that have none; return whether any task is in hand."""
        n_idle = sum(worker.task is None for worker in self._workers)
        for _ in range(min(len(self._waiting) - n_idle, self._jobs - len(self._workers))):
            self._workers.append(self._start_worker())
        for worker in [worker for worker in self._workers if worker.task is None]:
            if (task := self._waiting.take_for(worker)) is not None:
                try:
                    worker.give(task, self._shared)
                except _DeadError:  # while it was idle: its pipe says so at once
                    logger.debug("A worker process died before its task task=%s", task.key)
        return any(worker.task is not None for worker in self._workers)

    def _start_worker(self) -> _Worker:
        try:
            return _Worker()
        except OSError as error:
            raise WorkerError(
                f"a worker process can't be started: {error}. Free memory or processes, or ask for "
                "fewer with --jobs"
            ) from error

    def _bury(self, worker: _Worker) -> tuple[str, Any] | None:
        """Remove a dead worker; return its task's failure where it is not to be tried again."""
        worker.kill()
        worker.join()
        self._workers.remove(worker)
        self._waiting.forget(worker)
        if (task := worker.task) is None:
            return None
        is_tried = self._waiting.try_again(task, _TRIES)
        logger.warning("A worker process died task=%s death=%d", task.key, task.deaths)
        if is_tried:
            return None
        message = f"{task.key}: its worker process died {_TRIES} times (out of memory?)"
        return task.key, WorkerError(message)

    def close(self) -> None:
        """See `Executor`."""
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.join()
        self._workers.clear()
        self._waiting.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()
