"""A Dask cluster that can't be used, or does what clusters do: one clear error, nothing lost."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from feeder_mixin.errors import ClusterError, SettingsError, WorkerError
from feeder_mixin.executors import cluster as module
from feeder_mixin.executors.base import run_tasks
from feeder_mixin.executors.cluster import ClusterExecutor, check_address
from tests.executors import work
from tests.executors.dask_cluster import DaskCluster, free_port, running_cluster


@pytest.fixture
def cluster(tmp_path):
    """Give a scheduler without workers."""
    with running_cluster(tmp_path / "cluster", n_workers=0) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def _loud_dask():
    """Put back how loud Dask is: a command makes it quiet."""
    names = ("distributed", "distributed.client", "distributed.comm")
    before = {name: logging.getLogger(name).level for name in names}
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


@pytest.mark.parametrize(
    "address",
    ["http://10.0.0.1:8786", "10.0.0.1:8786", "tcp://10.0.0.1", "tcp://:8786", "tcp://a:b", ""],
)
def test_address_that_no_scheduler_has_is_refused_with_what_was_expected(address):
    """A wrong scheme is a usage error, found before anything is begun."""
    with pytest.raises(SettingsError, match=r"--scheduler .*expected tcp://HOST:PORT"):
        check_address(address)


def test_without_the_extra_the_error_says_which_to_install(monkeypatch):
    """Dask is no dependency of a bot's."""
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(SettingsError, match=r"pip install 'feeder-mixin\[cluster\]'"):
        check_address("tcp://10.0.0.1:8786")


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_nobody_at_the_address_is_an_error_within_bounds(host, monkeypatch):
    """A scheduler that is not there, or a name that nobody knows."""
    monkeypatch.setattr(module, "CONNECT_S", 0.5)
    address = f"tcp://{host}:{free_port()}"
    with pytest.raises(ClusterError, match=rf"no scheduler answers at {address}"):
        ClusterExecutor(address)


@pytest.mark.slow
def test_cluster_without_workers_is_waited_for_and_said(cluster: DaskCluster, monkeypatch, caplog):
    """Not for ever, and nobody wonders what it waits for."""
    monkeypatch.setattr(module, "PATIENCE_S", 3.0)
    with pytest.raises(ClusterError, match=rf"no worker for 3 s.*dask worker {cluster.address}"):
        ClusterExecutor(cluster.address)
    assert "Waiting for a worker" in caplog.text


@pytest.mark.slow
def test_worker_of_another_version_is_one_error_that_names_both(cluster: DaskCluster, tmp_path):
    """Trees of another LightGBM are other trees."""
    other = tmp_path / "other" / "lightgbm-0.0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: lightgbm\nVersion: 0.0.1\n")
    cluster.start_worker(PYTHONPATH=f"{other.parent}:{Path(__file__).parents[2]}")
    here = version("lightgbm")
    with pytest.raises(ClusterError, match=rf"lightgbm 0\.0\.1 \(here {here}\)"):
        ClusterExecutor(cluster.address, ("lightgbm", "numpy"))


@pytest.mark.slow
def test_worker_of_another_version_that_joins_later_does_nothing(cluster: DaskCluster, tmp_path):
    """What it would have made never comes back."""
    other = tmp_path / "other" / "numpy-0.0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 0.0.1\n")
    cluster.start_worker()
    with ClusterExecutor(cluster.address, ("numpy",)) as executor:
        cluster.start_worker(PYTHONPATH=f"{other.parent}:{Path(__file__).parents[2]}")
        tasks = {str(number): (0.5,) for number in range(200)}
        with pytest.raises(ClusterError, match=r"numpy 0\.0\.1"):
            list(run_tasks(executor, work.sleep, tasks))


@pytest.mark.slow
def test_worker_without_this_package_is_told_what_to_install(cluster: DaskCluster, tmp_path):
    """As is one with a version that does not know the task."""
    folder = tmp_path / "feeder_mixin"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise ModuleNotFoundError('No module named feeder_mixin')")
    cluster.start_worker(PYTHONPATH=str(tmp_path))
    with pytest.raises(ClusterError, match=r"No module named.*Install the same feeder-mixin"):
        ClusterExecutor(cluster.address)


@pytest.mark.slow
def test_worker_out_of_memory_fails_that_task_by_name_and_no_other(cluster: DaskCluster):
    """Dask's nanny ends a worker over its limit; the others go on."""
    cluster.start_worker("--memory-limit", "500MB")
    cluster.start_worker("--memory-limit", "500MB")
    with ClusterExecutor(cluster.address) as executor:
        executor.submit("BTC/USDT:USDT", work.fill_memory, 2_000_000_000)
        for value in range(20):
            executor.submit(str(value), work.double, value)
        outcomes = dict(executor.outcomes())
    error = outcomes.pop("BTC/USDT:USDT")
    assert isinstance(error, WorkerError)
    assert "BTC/USDT:USDT: its worker died 4 times (out of memory?)" in str(error)
    assert outcomes == {str(value): 2 * value for value in range(20)}


@pytest.mark.slow
def test_answer_that_is_lost_with_its_worker_is_made_again(cluster: DaskCluster):
    """`kill -9` between the end of a task and the journey of its answer."""
    killed: list[int] = []

    def kill() -> None:
        if not killed:  # the task has ended, nobody asked for its answer yet
            killed.extend(process.pid for process in cluster.worker_processes())
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    cluster.start_worker()
    with ClusterExecutor(cluster.address) as executor:
        list(run_tasks(executor, work.double, {"first": (1,)}))
        executor.submit("a", work.double, 21)
        assert dict(executor.outcomes(kill)) == {"a": 42}
    assert killed


@pytest.mark.slow
def test_lost_scheduler_ends_the_wait(cluster: DaskCluster):
    """Within seconds, with what to do."""
    cluster.start_worker()
    with ClusterExecutor(cluster.address) as executor:
        executor.submit("a", work.sleep, 60.0)
        with pytest.raises(ClusterError, match=r"is lost.*the same command goes on"):
            list(executor.outcomes(cluster.kill_scheduler))


@pytest.mark.slow
def test_tls_is_what_dask_is_told_in_its_own_settings(tmp_path, monkeypatch):
    """Scheduler, worker and command read the same variables; without them the command is refused."""
    certificate, key = tmp_path / "node.pem", tmp_path / "node.key"
    subprocess.run(  # noqa: S603
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    tls = "DASK_DISTRIBUTED__COMM__TLS__"
    settings = {"DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "true"}
    settings[f"{tls}CA_FILE"] = str(certificate)
    for who in ("SCHEDULER", "WORKER", "CLIENT"):
        settings |= {f"{tls}{who}__CERT": str(certificate), f"{tls}{who}__KEY": str(key)}
    code = (
        "import operator, sys\n"
        "from feeder_mixin.executors.base import run_tasks\n"
        "from feeder_mixin.executors.cluster import ClusterExecutor\n"
        "with ClusterExecutor(sys.argv[1]) as executor:\n"
        "    print(dict(run_tasks(executor, operator.mul, {'a': (6, 7)})))\n"
    )
    plain = dict(os.environ)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with running_cluster(tmp_path / "cluster", n_workers=1, scheme="tls") as cluster:
        command = [sys.executable, "-c", code, cluster.address]
        done, refused = (
            subprocess.run(command, env=env, capture_output=True, text=True, check=False)  # noqa: S603
            for env in (dict(os.environ), plain)
        )
    assert done.stdout == "{'a': 42}\n", done.stderr
    assert "ClusterError: no scheduler answers at tls://127.0.0.1" in refused.stderr
