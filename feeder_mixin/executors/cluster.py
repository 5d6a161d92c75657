"""Tasks on a Dask cluster: the extra `cluster`, imported when one is asked for.

Workers need this package and nothing else. A task travels as bytes, with the versions that the
command has: what another version made would be another result. Shared values are tasks of their own
that Dask keeps in memory, so it brings each to every worker that needs it, and makes it anew when the
workers that had it are gone. Each worker that has had one keeps it by a further task, which is of that
worker alone: of several copies of a value Dask drops all but one as soon as no task waits for them
(``ReduceReplicas``, every 2 s), and what a worker had computed from a copy is gone with it.

Which worker does what is decided by `TaskQueue`, as with processes: Dask would send a pair's next task to any
worker, and leaves a task that prefers a worker alone for ever once all workers were lost (2026.8). What
Dask does for one task costs 6 CPU-ms in all processes together, so quick tasks go out in bundles.
"""

from __future__ import annotations

import contextlib
import logging
import math
import pickle
import queue
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

from feeder_mixin.errors import ClusterError, SettingsError, WorkerError
from feeder_mixin.executors._cluster_worker import (
    arrive,
    check_versions,
    do_tasks,
    keep,
    versions_here,
)
from feeder_mixin.executors._queue import Task, TaskQueue
from feeder_mixin.executors.base import Shared

if TYPE_CHECKING:
    from distributed import Client, Future

logger = logging.getLogger(__name__)

SCHEMES: Final = ("tcp", "tls")
CONNECT_S: Final = 10.0
"""How long a scheduler may take to answer."""

PATIENCE_S: Final = 60.0
"""How long the command waits for the first worker, and for another one when all are gone."""

_TRIES: Final = 4
"""As often as Dask itself would: on a cluster, a worker may be gone for reasons of its own."""

_BUNDLE_S: Final = 0.1
_MOST_IN_BUNDLE: Final = 100
_SAY_EVERY_S: Final = 10.0
_LOOK_EVERY_S: Final = 2.0
_POLL_S: Final = 0.5
_ANSWER_S: Final = 5.0
_NOT_FAILED: Final = ("finished", "pending", "lost")
"""A task whose answer was lost with its worker is to be done again, so Dask calls it pending or lost."""

_CLOSE_S: Final = 3.0


def check_address(address: str) -> None:
    """Raise `SettingsError` for an address that no Dask scheduler has, or without Dask."""
    try:
        parts = urlsplit(address)
        is_usable = parts.scheme in SCHEMES and bool(parts.hostname) and bool(parts.port)
    except ValueError:  # a port that is no number
        is_usable = False
    if not is_usable:
        raise SettingsError(
            f"--scheduler {address}: expected tcp://HOST:PORT or tls://HOST:PORT, such as "
            "tcp://10.0.0.1:8786"
        )
    try:
        import distributed  # noqa: F401  (asked whether it is there)
    except ImportError as error:
        raise SettingsError(
            f"--scheduler {address}: Dask is not installed: pip install 'feeder-mixin[cluster]'"
        ) from error


@dataclass(frozen=True, slots=True)
class _Bundle:
    """Tasks that a worker has in hand as one task of Dask's."""

    tasks: Sequence[Task]
    worker: str
    future: Future[Any]


class ClusterExecutor:
    """See `Executor`; each thread of the cluster's workers does one task at a time.

    Parameters
    ----------
    address
        Of the scheduler.
    packages
        What must be of one version here and on the workers, beside Python, Dask and this package.

    Raises
    ------
    ClusterError
        When there is no scheduler, no worker, or one of another version. All methods raise it, too,
        when the scheduler is lost.
    """

    def __init__(self, address: str, packages: Sequence[str] = ()) -> None:
        self._address = address
        names = ("feeder-mixin", "distributed", "cloudpickle", *packages)
        self._versions = versions_here(tuple(dict.fromkeys(names)))
        self._client = _connect(address)
        self._name, self._n_names = f"feeder-{uuid.uuid4().hex}", 0
        self._shared: dict[str, object] = {}
        self._arrived: dict[str, Future[Any]] = {}
        # Name -> worker -> the future of the shared value that is of this worker alone.
        self._kept: defaultdict[str, dict[str, Future[Any]]] = defaultdict(dict)
        self._waiting: TaskQueue[str] = TaskQueue()
        self._in_hand: dict[str, _Bundle] = {}
        self._ended: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        self._late: list[Future[Any]] = []  # ended, but their answers did not arrive
        self._mean_s = math.inf
        self._threads: dict[str, int] = {}
        self._next_look_s = self._said_s = -math.inf
        self._without_since: float | None = None
        try:
            while not self._threads:
                list(self._look())
                time.sleep(0.0 if self._threads else _POLL_S)
        except BaseException:
            self.close()
            raise

    @property
    def n_workers(self) -> int:
        """See `Executor`."""
        return sum(self._threads.values())

    def share(self, value: object) -> Shared:
        """See `Executor`; it travels with the first task that names it."""
        shared = Shared(self._new_name())
        self._shared[shared.name] = value
        return shared

    def release(self, shared: Shared) -> None:
        """See `Executor`."""
        del self._shared[shared.name]
        if (future := self._arrived.pop(shared.name, None)) is not None:
            future.release()
        for kept in self._kept.pop(shared.name, {}).values():
            kept.release()

    def submit(
        self, key: str, function: Callable[..., Any], *arguments: object, home: str = ""
    ) -> None:
        """See `Executor`."""
        self._waiting.add(Task(key, function, arguments, home))

    def outcomes(
        self, while_waiting: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[str, Any]]:
        """See `Executor`."""
        while self._waiting or self._in_hand:
            yield from self._look()
            self._send()
            ended = self._wait()
            while_waiting()
            yield from self._take(ended)

    def _send(self) -> None:
        """Give waiting tasks to threads that have none."""
        busy = Counter(bundle.worker for bundle in self._in_hand.values())
        for worker, n_threads in self._threads.items():
            for _ in range(n_threads - busy[worker]):
                if tasks := self._next_tasks(worker):
                    with self._errors():
                        self._send_bundle(tasks, worker)

    def _next_tasks(self, worker: str) -> list[Task]:
        """Return what an idle thread is to do: one task, several where they are quick."""
        share = math.ceil(len(self._waiting) / self.n_workers)
        most = min(max(1, int(_BUNDLE_S / self._mean_s)), _MOST_IN_BUNDLE, share)
        tasks: list[Task] = []
        while len(tasks) < most and (task := self._waiting.take_for(worker)) is not None:
            tasks.append(task)
            if task.deaths:  # it may be what kills workers: alone
                break
        return tasks

    def _send_bundle(self, tasks: Sequence[Task], worker: str) -> None:
        names = list(dict.fromkeys(name for task in tasks for name in task.shared_names))
        packed = [pickle.dumps((task.function, task.arguments)) for task in tasks]
        values = [self._kept_by(worker, name) for name in names]
        future = self._submit(do_tasks, self._versions, packed, names, *values, worker=worker)
        self._in_hand[future.key] = _Bundle(tasks, worker, future)
        future.add_done_callback(self._ended.put)

    def _kept_by(self, worker: str, name: str) -> Future[Any]:
        """Return a shared value as a worker keeps it until it is released."""
        if name not in self._arrived:
            packed = pickle.dumps(self._shared[name])
            self._arrived[name] = self._submit(arrive, self._versions, packed)
        kept = self._kept[name]
        if worker not in kept:
            kept[worker] = self._submit(keep, self._arrived[name], worker=worker)
        return kept[worker]

    def _submit(
        self, function: Callable[..., Any], *arguments: object, worker: str | None = None
    ) -> Future[Any]:
        import dask

        # Dask warns of more than 10 MB at once; a shared value is as large as it is, and sent once.
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "10GB"}):
            return self._client.submit(
                function, *arguments, key=self._new_name(), pure=False, workers=worker
            )

    def _new_name(self) -> str:
        self._n_names += 1
        return f"{self._name}-{self._n_names}"

    def _wait(self) -> list[Future[Any]]:
        """Return the futures that have ended; after a while without one, none."""
        ended, self._late = self._late, []
        with contextlib.suppress(queue.Empty):
            ended.append(self._ended.get(timeout=_POLL_S))
            while True:
                ended.append(self._ended.get_nowait())
        return ended

    def _take(self, ended: Sequence[Future[Any]]) -> Iterator[tuple[str, Any]]:
        """Yield keys and outcomes of tasks that have ended; Dask is asked once for all of them."""
        ended = [future for future in ended if future.key in self._in_hand]  # not of a lost worker
        answers = self._answers([future for future in ended if future.status == "finished"])
        for future in ended:
            if future not in answers and future.status in _NOT_FAILED:
                self._late.append(future)
                continue
            bundle = self._in_hand.pop(future.key)
            if future not in answers:
                yield from self._failures(bundle)
                continue
            took_s, outcomes = answers[future]
            self._mean_s = max(took_s / len(bundle.tasks), 1e-6)  # a clock may stand still
            for task, outcome in zip(bundle.tasks, outcomes, strict=True):
                yield task.key, pickle.loads(outcome)  # noqa: S301  (of a worker of this version)

    def _answers(self, finished: Sequence[Future[Any]]) -> dict[Future[Any], Any]:
        """Return what finished tasks gave; nothing where that does not arrive in time.

        An answer stays on its worker until it is asked for. When the worker dies before, Dask waits for
        that worker to do the task again: for ever. `_look` then finds the worker gone.
        """
        if not finished:  # asked for nothing, Dask would still wait for a lost scheduler
            return {}

        wanted = {future.key: future for future in finished}

        async def gather() -> dict[str, Any]:
            # None of those that fail meanwhile; else the wait, when it is broken off, leaves errors behind.
            return dict(await self._client.gather(wanted, errors="skip", asynchronous=True))

        with self._errors():
            try:
                answers = self._client.sync(gather, callback_timeout=_ANSWER_S)
            except TimeoutError:
                return {}
        return {one: answers[one.key] for one in finished if answers[one.key] is not None}

    def _failures(self, bundle: _Bundle) -> Iterator[tuple[str, WorkerError]]:
        """Yield the failures of tasks that are given up; raise what concerns all tasks."""
        from distributed import KilledWorker

        if bundle.future.cancelled():
            raise self._lost()
        with self._errors():
            error = bundle.future.exception()
        if isinstance(error, ClusterError):  # another version
            raise ClusterError(f"worker {bundle.worker} {error}")
        if not isinstance(error, KilledWorker):
            raise ClusterError(
                f"worker {bundle.worker} can't do its tasks: {type(error).__name__}: {error}"
            ) from error
        yield from self._try_again(bundle)

    def _try_again(self, bundle: _Bundle) -> Iterator[tuple[str, WorkerError]]:
        """Queue the tasks of a dead worker again; yield the failures of those that are given up."""
        for task in reversed(bundle.tasks):
            is_tried = self._waiting.try_again(task, _TRIES)
            logger.warning("A worker died task=%s death=%d", task.key, task.deaths)
            if not is_tried:
                yield (
                    task.key,
                    WorkerError(
                        f"{task.key}: its worker died {_TRIES} times (out of memory?), the last one "
                        f"was {bundle.worker}"
                    ),
                )

    def _look(self) -> Iterator[tuple[str, WorkerError]]:
        """Ask from time to time which workers there are; yield failures of tasks of those gone."""
        if self._client.status != "running":
            raise self._lost()
        now = time.monotonic()
        if now < self._next_look_s:
            return
        self._next_look_s = now + _LOOK_EVERY_S
        with self._errors():
            threads = dict(self._client.nthreads())
            if new := sorted(threads.keys() - self._threads.keys()):
                self._check_versions(new)
        gone = self._threads.keys() - threads.keys()
        self._threads = threads
        for worker in gone:
            self._waiting.forget(worker)
            for kept in self._kept.values():
                if (future := kept.pop(worker, None)) is not None:
                    future.release()
        for bundle in [one for one in self._in_hand.values() if one.worker in gone]:
            del self._in_hand[bundle.future.key]
            bundle.future.release()
            yield from self._try_again(bundle)
        self._say_without_workers(now)

    def _check_versions(self, workers: list[str]) -> None:
        found = self._client.run(check_versions, self._versions, workers=workers, on_error="return")
        for worker, problem in sorted(found.items()):
            if isinstance(problem, ClusterError):
                raise ClusterError(f"worker {worker} {problem}")
            if isinstance(problem, Exception) and not isinstance(problem, OSError):
                raise ClusterError(
                    f"worker {worker} can't do this command's tasks: {type(problem).__name__}: "
                    f"{problem}. Install the same feeder-mixin there as here "
                    f"({self._versions['feeder-mixin']})"
                ) from problem

    def _say_without_workers(self, now: float) -> None:
        if self._threads:
            self._without_since = None
            return
        if self._without_since is None:
            self._without_since = now
        waited_s = now - self._without_since
        if waited_s > PATIENCE_S:
            raise ClusterError(
                f"scheduler {self._address} has had no worker for {PATIENCE_S:.0f} s. Start one: "
                f"dask worker {self._address} --nthreads 1"
            )
        if now - self._said_s >= _SAY_EVERY_S:
            self._said_s = now
            logger.warning(
                "Waiting for a worker scheduler=%s waited_s=%.0f patience_s=%.0f",
                self._address,
                waited_s,
                PATIENCE_S,
            )

    def _lost(self) -> ClusterError:
        return ClusterError(
            f"the scheduler {self._address} is lost. What came back is kept; when it is there again, "
            "the same command goes on"
        )

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what Dask raises when the scheduler is gone into our error."""
        from concurrent.futures import CancelledError

        try:
            yield
        except (OSError, CancelledError) as error:
            raise self._lost() from error

    def close(self) -> None:
        """See `Executor`."""
        futures = [bundle.future for bundle in self._in_hand.values()]
        self._in_hand.clear()
        self._arrived.clear()
        self._kept.clear()
        self._waiting.clear()
        with contextlib.suppress(Exception):  # the scheduler may be gone, or forget them by itself
            if futures and self._client.status == "running":
                self._client.cancel(futures, force=True)
            self._client.close(_CLOSE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def _connect(address: str) -> Client:
    from distributed import Client

    # What they say of lost connections, this command says itself.
    for name in ("distributed", "distributed.client", "distributed.comm"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        return Client(address, timeout=CONNECT_S, name="feeder", set_as_default=False)
    except (
        OSError,
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:  # the last three of TLS settings
        raise ClusterError(
            f"no scheduler answers at {address}: {error}. Start one (dask scheduler), or correct "
            "the address"
        ) from error
