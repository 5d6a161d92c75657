"""A Dask cluster of real processes on the loopback, for tests that end some of them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from feeder_mixin.processes import tied
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
DASK = Path(sys.executable).parent / "dask"


def free_port() -> int:
    """Return a port of the loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class DaskCluster:
    """A scheduler and its workers; each worker with a nanny that starts it again."""

    def __init__(self, folder: Path, scheme: str = "tcp") -> None:
        self._folder, self._scheme, self._port = folder, scheme, free_port()
        self._scheduler: subprocess.Popen[bytes] | None = None
        self._workers: list[subprocess.Popen[bytes]] = []
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def address(self) -> str:
        """Return the scheduler's address."""
        return f"{self._scheme}://127.0.0.1:{self._port}"

    @property
    def nanny_pids(self) -> list[int]:
        """Return the processes that keep workers running."""
        return [process.pid for process in self._workers if process.poll() is None]

    def worker_processes(self) -> list[psutil.Process]:
        """Return the processes that do tasks, the nannies' children; wait for one."""
        return wait_until(self._find_worker_processes, "a worker process")

    def _find_worker_processes(self) -> list[psutil.Process]:
        found = []
        for pid in self.nanny_pids:
            with suppress(psutil.NoSuchProcess):
                children = psutil.Process(pid).children(recursive=True)
                found += [one for one in children if "spawn_main" in " ".join(one.cmdline())]
        return found

    def start_scheduler(self) -> None:
        """Start the scheduler and wait until it listens."""
        where = ("--protocol", self._scheme, "--host", "127.0.0.1", "--port", str(self._port))
        options = (*where, "--no-dashboard")
        self._scheduler = self._start("scheduler", "scheduler", options)
        wait_until(self._listens, "the scheduler", process=self._scheduler)

    def start_worker(self, *options: str, **environment: str) -> None:
        """Start one more worker."""
        name = f"worker-{len(self._workers)}"
        where = ("--protocol", self._scheme, "--host", "127.0.0.1")
        common = (*where, "--nthreads", "1", "--no-dashboard")
        folder = ("--local-directory", str(self._folder / name))
        arguments = (self.address, *common, *folder, *options)
        self._workers.append(self._start(name, "worker", arguments, **environment))

    def kill_scheduler(self) -> None:
        """End the scheduler as a machine that is lost does; again does nothing."""
        if self._scheduler is not None and self._scheduler.poll() is None:
            os.killpg(self._scheduler.pid, signal.SIGKILL)
            self._scheduler.wait()

    def close(self) -> None:
        """End all processes."""
        for process in (*self._workers, self._scheduler):
            if process is not None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._workers.clear()

    def logs(self) -> str:
        """Return what all processes said."""
        return "\n".join(path.read_text(errors="replace") for path in self._folder.glob("*.log"))

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def _start(
        self, name: str, command: str, options: Sequence[str], **environment: str
    ) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own arguments
                tied([str(DASK), command, *options]),  # no cluster outlives a killed test run
                env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


@contextmanager
def running_cluster(folder: Path, n_workers: int = 2, scheme: str = "tcp") -> Iterator[DaskCluster]:
    """Run a cluster with so many workers."""
    cluster = DaskCluster(folder, scheme)
    try:
        cluster.start_scheduler()
        for _ in range(n_workers):
            cluster.start_worker()
        yield cluster
    finally:
        cluster.close()
