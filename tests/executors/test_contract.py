"""What every executor holds: results, errors, shared values, homes, deaths."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from feeder_mixin.errors import CandleError, WorkerError
from feeder_mixin.executors.base import Executor, run_tasks
from feeder_mixin.executors.cluster import ClusterExecutor
from feeder_mixin.executors.processes import ProcessExecutor
from tests.executors import work
from tests.executors.dask_cluster import running_cluster


@pytest.fixture(
    scope="module", params=["processes", pytest.param("cluster", marks=pytest.mark.slow)]
)
def executor(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Executor]:
    """Give an executor with two workers; a test leaves no task in it."""
    if request.param == "processes":
        with ProcessExecutor(2) as executor:
            yield executor
        return
    with (
        running_cluster(tmp_path_factory.mktemp("cluster")) as cluster,
        ClusterExecutor(cluster.address) as executor,
    ):
        while executor.n_workers < 2:
            list(run_tasks(executor, work.sleep, {"a": (0.5,)}))
        yield executor


def test_more_tasks_than_workers_all_come_back(executor):
    """Tasks queue up behind the workers there are."""
    tasks = {str(i): (i,) for i in range(7)}
    assert dict(run_tasks(executor, work.double, tasks)) == {str(i): 2 * i for i in range(7)}


def test_tasks_are_added_while_results_come_in(executor):
    """What is next may depend on what came back."""
    executor.submit("1", work.double, 1)
    came = []
    for key, value in executor.outcomes():
        came.append((key, value))
        if value < 16:
            executor.submit(str(value), work.double, value)
    assert came == [("1", 2), ("2", 4), ("4", 8), ("8", 16)]


def test_task_that_raises_yields_the_error_and_stops_no_other(executor):
    """Our own errors travel back as they are, with where they came from."""
    executor.submit("bad", work.refuse)
    executor.submit("good", work.double, 1)
    outcomes = dict(executor.outcomes())
    assert outcomes["good"] == 2
    assert isinstance(outcomes["bad"], CandleError)
    assert str(outcomes["bad"]) == "BTC: no candles"


@pytest.mark.parametrize(
    ("function", "said"),
    [
        pytest.param(work.fail_oddly, "OddError: 1 is not 2", id="error that can't travel"),
        pytest.param(work.run_out_of_memory, "out of memory", id="out of memory"),
    ],
)
def test_error_without_words_or_form_gets_them(executor, function, said):
    """What can't be read back is told in words, and the worker lives on."""
    ((_, error),) = run_tasks(executor, function, {"a": ()})
    assert isinstance(error, WorkerError)
    assert said in str(error)


def test_shared_value_travels_to_a_worker_once(executor, tmp_path):
    """Hundreds of tasks, one copy per worker."""
    big = executor.share(work.Big(tmp_path))
    outcomes = run_tasks(executor, work.use, {str(i): (big, 0.02) for i in range(20)})
    used = {pid for _, pid in outcomes}
    executor.release(big)
    assert sorted(path.name.split("-")[0] for path in tmp_path.iterdir()) == sorted(
        str(pid) for pid in used
    )


def test_shared_value_stays_with_each_worker_while_none_needs_it(executor, tmp_path):
    """What a worker computed from it may be kept on it; Dask drops idle copies every 2 s."""
    big = executor.share(work.Big(tmp_path))
    for turn in range(2):
        pids = {pid for _, pid in run_tasks(executor, work.use, dict.fromkeys("abcd", (big, 0.3)))}
        assert len(pids) == 2
        if turn == 0:
            list(run_tasks(executor, work.sleep, {"a": (5.0,)}))
    executor.release(big)
    assert sorted(path.name.split("-")[0] for path in tmp_path.iterdir()) == sorted(map(str, pids))


def test_tasks_of_a_home_stay_with_its_worker(executor):
    """What an earlier task of a pair prepared is still in memory there."""
    for pair in ("BTC", "ETH"):
        executor.submit(f"{pair} 0", work.use, None, 0.02, home=pair)
    seen: dict[str, set[int]] = {"BTC": set(), "ETH": set()}
    for key, pid in executor.outcomes():
        pair, number = key.split()
        seen[pair].add(pid)
        if int(number) < 5:
            executor.submit(f"{pair} {int(number) + 1}", work.use, None, 0.02, home=pair)
    assert [len(pids) for pids in seen.values()] == [1, 1]
    assert not seen["BTC"] & seen["ETH"]


def test_home_that_is_busy_costs_no_waiting(executor):
    """A task of a home goes elsewhere when its worker has something else to do."""
    ((_, home),) = run_tasks(executor, work.use, {"first": (None,)})
    for number in range(4):
        executor.submit(str(number), work.use, None, 0.3, home="BTC")
    assert len({pid for _, pid in executor.outcomes()}) == 2
    assert home


def test_worker_that_dies_once_is_replaced_and_its_task_tried_again(executor, tmp_path):
    """`kill -9` of a worker costs its task one more try."""
    outcomes = run_tasks(executor, work.die_once, {"a": (tmp_path / "died",)})
    assert dict(outcomes) == {"a": "done"}


def test_shared_value_outlives_the_workers_that_had_it(executor, tmp_path):
    """A worker that comes later gets it, too."""
    big = executor.share(work.Big(tmp_path))
    first = {pid for _, pid in run_tasks(executor, work.use, {str(i): (big, 0.1) for i in "ab"})}
    dict(run_tasks(executor, work.die_once, {str(i): (tmp_path / f"died {i}",) for i in "abcd"}))
    later = {pid for _, pid in run_tasks(executor, work.use, {str(i): (big, 0.1) for i in "ab"})}
    executor.release(big)
    assert later - first


def test_task_that_kills_every_worker_fails_by_name_and_alone(executor):
    """It is given up; the others end well."""
    executor.submit("bad", work.die)
    for value in (1, 2, 3):
        executor.submit(str(value), work.double, value)
    outcomes = dict(executor.outcomes())
    error = outcomes.pop("bad")
    assert isinstance(error, WorkerError)
    assert "bad" in str(error)
    assert outcomes == {"1": 2, "2": 4, "3": 6}


def test_wait_may_be_ended_and_gone_on_with(executor):
    """A bot that stops, or Ctrl-C, does not wait for a task's end."""

    def stop() -> None:
        raise KeyboardInterrupt

    executor.submit("a", work.sleep, 0.5)
    with pytest.raises(KeyboardInterrupt):
        list(executor.outcomes(stop))
    assert dict(executor.outcomes()) == {"a": 0.5}


def test_workers_do_not_share_this_process(executor):
    """Nothing that a task does to its process can harm a bot."""
    ((_, pid),) = run_tasks(executor, work.where, {"a": ()})
    assert Path(f"/proc/{pid}").exists()
    assert pid != work.where()
