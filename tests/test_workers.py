"""Worker processes: results, failures, deaths."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from feeder_mixin.errors import CandleError, TuningError
from feeder_mixin.workers import WorkerPool, available_cores
from tests.waiting import wait_until

_state: list[str] = []


def set_up(text: str) -> None:
    """Keep what the pool hands over."""
    _state.append(text)


def double(value: int) -> int:
    """Return twice the value."""
    return 2 * value


def read_state(_ignored: int) -> str:
    """Return what this worker was set up with."""
    return _state[0] + os.environ["OMP_NUM_THREADS"]


def refuse(_ignored: int) -> None:
    """Fail with an error of ours."""
    raise CandleError("BTC: no candles")


def die_once(path: str) -> str:
    """Kill this worker on the first call only."""
    if not Path(path).exists():
        Path(path).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def die_or_double(value: int) -> int:
    """Kill this worker for a negative value."""
    if value < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * value


def wait_for_ever(path: str) -> None:
    """Say which process this is, then block."""
    Path(path).write_text(str(os.getpid()), encoding="utf-8")
    signal.pause()


def collect(jobs, function, tasks):
    """Return the outcome of every task."""
    with WorkerPool(jobs, set_up, ("state",)) as pool:
        return dict(pool.run(function, tasks))


def test_run_more_tasks_than_jobs_returns_every_result():
    """Tasks queue up behind the workers there are."""
    outcome = collect(2, double, {str(i): (i,) for i in range(7)})
    assert outcome == {str(i): 2 * i for i in range(7)}


def test_workers_are_set_up_once_and_single_threaded():
    """The initializer ran, and numerical libraries get one thread each."""
    assert collect(1, read_state, {"a": (0,), "b": (0,)}) == {"a": "state1", "b": "state1"}


def test_task_that_raises_yields_the_error_and_stops_no_other():
    """Our own errors travel back as they are."""
    error = collect(1, refuse, {"a": (0,)})["a"]
    assert isinstance(error, CandleError)
    assert str(error) == "BTC: no candles"


def test_worker_that_dies_once_is_replaced_and_its_task_tried_again(tmp_path):
    """`kill -9` of a worker costs its task one more try."""
    assert collect(1, die_once, {"a": (str(tmp_path / "died"),)}) == {"a": "done"}


def test_worker_that_keeps_dying_fails_its_task_only():
    """A task that kills every worker is given up; the others end well."""
    outcome = collect(2, die_or_double, {"bad": (-1,), "a": (1,), "b": (2,), "c": (3,)})
    error = outcome.pop("bad")
    assert isinstance(error, TuningError)
    assert "bad" in str(error)
    assert outcome == {"a": 2, "b": 4, "c": 6}


def test_leaving_the_pool_ends_busy_workers(tmp_path):
    """Ctrl-C must not leave workers behind."""
    path = tmp_path / "pid"

    def stop_when_running() -> None:
        if path.exists() and path.read_text(encoding="utf-8"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), WorkerPool(1, set_up, ("state",)) as pool:
        list(pool.run(wait_for_ever, {"a": (str(path),)}, stop_when_running))
    pid = int(path.read_text(encoding="utf-8"))
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the worker's end")


def test_available_cores_is_at_least_one_and_at_most_what_there_is():
    """A busy machine still gets one worker."""
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
