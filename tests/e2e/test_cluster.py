"""`feeder optimize --scheduler` on a real Dask cluster: whatever dies, the records are the same."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.conftest import PATIENCE_S, Project, comparable, make_project
from tests.executors.dask_cluster import DaskCluster, running_cluster
from tests.waiting import wait_until

pytestmark = pytest.mark.slow
N_TRIALS = 40
N_KILLS = 20


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Give a run on this machine's processes that nobody disturbed."""
    project = make_project(tmp_path_factory.mktemp("undisturbed") / "project")
    done = project.run(project.optimize("--n-trials", N_TRIALS, "--jobs", 2))
    assert done.returncode == 0, done.stderr
    return project


@pytest.fixture(scope="module")
def undisturbed(calm: Project) -> list[dict[str, Any]]:
    """Give its records."""
    return [comparable(record) for record in calm.records()]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[DaskCluster]:
    """Give a scheduler with two workers."""
    with running_cluster(tmp_path / "cluster") as cluster:
        yield cluster


def command_on(project: Project, cluster: DaskCluster) -> list[str]:
    """Return the command line of the run on a cluster."""
    return project.optimize("--n-trials", N_TRIALS, "--scheduler", cluster.address)


def records_of(project: Project) -> list[dict[str, Any]]:
    """Return a project's records without the clock."""
    return [comparable(record) for record in project.records()]


def kill_workers_while_it_runs(
    project: Project, cluster: DaskCluster, process: subprocess.Popen[str], dice: random.Random
) -> int:
    """Kill a worker soon after each answer that comes back; return how many were killed."""
    n_kills = 0
    while process.poll() is None:
        kept = project.cells_kept()
        wait_until(
            lambda: project.cells_kept() != kept or process.poll() is not None,  # noqa: B023
            "another answer",
            PATIENCE_S,
        )
        time.sleep(dice.uniform(0.0, 2.5))
        with suppress(psutil.NoSuchProcess):
            dice.choice(cluster.worker_processes()).kill()
            n_kills += 1
        for _ in range(2 - len(cluster.nanny_pids)):  # one whose worker dies at start gives up
            cluster.start_worker()
    return n_kills


def test_run_whose_workers_are_killed_again_and_again_ends_undisturbed(
    other_project, cluster, undisturbed
):
    """`kill -9` of a worker at 20 random moments costs the cells in hand, and nothing else."""
    dice = random.Random(7)  # noqa: S311 - for a test's moments
    n_kills = n_runs = 0
    while n_kills < N_KILLS:
        project = other_project(f"run {n_runs}")
        process = project.start(command_on(project, cluster))
        n_kills += kill_workers_while_it_runs(project, cluster, process, dice)
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
        assert records_of(project) == undisturbed
        n_runs += 1


def test_run_whose_scheduler_is_killed_exits_1_and_the_same_command_goes_on(
    project, cluster, undisturbed
):
    """What came back is kept; with the scheduler there again the rest is done."""
    command = command_on(project, cluster)
    process = project.start(command)
    project.wait_for_cells(process, N_TRIALS + 1)
    cluster.kill_scheduler()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1, errors
    assert "is lost" in errors
    assert "the same command goes on" in errors
    assert "Traceback" not in errors
    kept = project.cells_kept()
    cluster.start_scheduler()  # the nannies' workers come back to it, or new ones
    cluster.start_worker()
    cluster.start_worker()
    done = project.run(command)
    assert done.returncode == 0, done.stderr
    assert N_TRIALS < kept <= project.cells_kept()
    assert records_of(project) == undisturbed


def test_run_that_is_killed_goes_on_and_ends_undisturbed(project, cluster, calm, undisturbed):
    """The workers of a killed command are free for the next one at once."""
    command = command_on(project, cluster)
    for n_cells in (1, 3 * N_TRIALS):
        process = project.start(command)
        project.wait_for_cells(process, n_cells)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    done = project.run(command)
    assert done.returncode == 0, done.stderr
    assert project.cells_kept() == calm.cells_kept()
    assert records_of(project) == undisturbed


def test_run_that_gets_ctrl_c_decides_what_is_finished_and_frees_the_cluster(
    project, cluster, undisturbed
):
    """Exit 130, finished pairs written; the same command decides over all."""
    command = command_on(project, cluster)
    process = project.start(command)
    project.wait_for_results(process, 1)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Decided without the unfinished pairs" in errors
    assert "Traceback" not in errors
    assert project.records()
    done = project.run(command)
    assert done.returncode == 0, done.stderr
    assert records_of(project) == undisturbed


def test_run_goes_to_the_scheduler_of_the_environment(project, cluster, undisturbed):
    """`FEEDER_SCHEDULER` for a host that always tunes on its cluster; workers get no store token."""
    secret = "a-token-that-no-worker-needs"  # noqa: S105 - of a test
    done = subprocess.run(  # noqa: S603 - our own script
        project.optimize("--n-trials", N_TRIALS),
        cwd=project.root,
        env={
            **project.environment,
            "FEEDER_SCHEDULER": cluster.address,
            "FEEDER_STORE_TOKEN": secret,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert cluster.address in done.stderr
    assert records_of(project) == undisturbed
    assert secret not in cluster.logs()
