"""Worker processes of this machine: what they inherit, and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from feeder_mixin.errors import WorkerError
from feeder_mixin.executors import processes
from feeder_mixin.executors.base import run_tasks
from feeder_mixin.executors.processes import ProcessExecutor, available_cores
from tests.executors import work
from tests.waiting import wait_until


def pid_in(path: Path) -> int:
    """Return the process id in a file, 0 before there is one."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return int(text or 0)


def has_ended(pid: int) -> bool:
    """Return whether a process is gone, or a zombie that nobody reaps."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return True
    return text.rpartition(")")[2].split()[0] == "Z"


def threads_and_niceness() -> tuple[set[int], int, str | None]:
    """Return how many threads numerical libraries take, niceness, and the libraries' own variable."""
    import numpy as np  # noqa: F401 - loaded, so that its threads count
    from threadpoolctl import threadpool_info

    counts = {pool["num_threads"] for pool in threadpool_info()}
    return counts, os.nice(0), os.environ.get("OMP_NUM_THREADS")


def test_workers_have_one_thread_and_step_back_and_this_process_is_as_it_was(monkeypatch):
    """The host's environment is the host's: a bot's own numerical libraries read it."""
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    monkeypatch.delenv("MKL_NUM_THREADS")
    before, n_threads = dict(os.environ), threading.active_count()
    with ProcessExecutor(1) as executor:
        ((_, found),) = run_tasks(executor, threads_and_niceness, {"a": ()})
        assert threading.active_count() == n_threads
    assert found == ({1}, min(os.nice(0) + 10, 19), "1")
    assert dict(os.environ) == before


def test_signals_to_the_group_reach_the_parent_alone(tmp_path):
    """Ctrl-C, a closed terminal and a bot's reload signal end no worker."""
    path = tmp_path / "pid"
    with ProcessExecutor(1) as executor:
        executor.submit("a", work.wait_for_ever, path)

        def check() -> None:
            if pid := pid_in(path):
                for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
                    os.kill(pid, number)
                os.kill(pid, signal.SIGTERM)
                raise InterruptedError

        with pytest.raises(InterruptedError):
            list(executor.outcomes(check))
        executor.submit("b", work.double, 1)
        wait_until(lambda: has_ended(pid_in(path)), "the end by SIGTERM, not by the others")


def test_leaving_the_executor_ends_busy_workers(tmp_path):
    """Ctrl-C must not leave workers behind."""
    path = tmp_path / "pid"

    def stop_when_running() -> None:
        if pid_in(path):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), ProcessExecutor(1) as executor:
        list(run_tasks(executor, work.wait_for_ever, {"a": (path,)}, stop_when_running))
    assert has_ended(pid_in(path))


def test_workers_of_a_killed_process_end(tmp_path):
    """An orphan would tune on beside the next run."""
    path = tmp_path / "pid"
    code = (
        "import sys; from pathlib import Path\n"
        "from feeder_mixin.executors.base import run_tasks\n"
        "from feeder_mixin.executors.processes import ProcessExecutor\n"
        "from tests.executors import work\n"
        "if __name__ == '__main__':\n"
        "    list(run_tasks(ProcessExecutor(1), work.wait_for_ever, {'a': (Path(sys.argv[1]),)}))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)]) as process:  # noqa: S603
        wait_until(lambda: pid_in(path), "the worker", process=process)
        process.kill()
    wait_until(lambda: has_ended(pid_in(path)), "the worker's end")


def test_idle_worker_that_was_killed_is_replaced():
    """Between two searches as within one."""
    with ProcessExecutor(1) as executor:
        ((_, first),) = run_tasks(executor, work.where, {"a": ()})
        os.kill(first, signal.SIGKILL)
        ((_, second),) = run_tasks(executor, work.where, {"a": ()})
    assert second != first


def test_process_that_can_not_be_started_says_what_to_do(monkeypatch):
    """Out of processes or memory: an error of its own, with the system's word."""

    def fail() -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(processes, "_Worker", fail)
    with (
        ProcessExecutor(1) as executor,
        pytest.raises(WorkerError, match=r"temporarily unavailable.*--jobs"),
    ):
        list(run_tasks(executor, work.double, {"a": (1,)}))


def test_available_cores_is_at_least_one_and_at_most_what_there_is():
    """A busy machine still gets one worker."""
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
