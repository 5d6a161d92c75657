"""What executors cost: a task of no work, a pair on its way, one more worker, 10,000 pairs.

    python benchmarks/executors.py overhead     10,000 tasks of no work (bar: 5 ms a task)
    python benchmarks/executors.py workers      two Dask workers against one, fixed work (bar: 1.7x)
    python benchmarks/executors.py end-to-end   the real command, two workers against one (bar: 1.5x)
    python benchmarks/executors.py pair         bytes of a pair of 290 days (bar: 2 MB), then what
                                                10,000 pairs x 100 trials would cost on 100 cores
    python benchmarks/executors.py              all of them, about ten minutes

Scheduler and workers are processes of this machine. Wall times mean something only where nothing
else runs and the parent, the scheduler and each worker have a core; the load is printed beside.
"""

from __future__ import annotations

import argparse
import os
import pickle
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

import common

from feeder_mixin.executors.base import Executor, Shared, run_tasks
from feeder_mixin.executors.cluster import ClusterExecutor
from feeder_mixin.executors.processes import ProcessExecutor
from feeder_mixin.market.packed import pack_candles
from feeder_mixin.processes import tied
from feeder_mixin.tune.run import _tasks as worker
from feeder_mixin.tune.run._market import Market, PairCandles
from feeder_mixin.tune.run._measuring import Measuring
from feeder_mixin.tune.run.feeder import PreparedFeeder
from feeder_mixin.tune.run.journal import FEEDER as WHOLE_FEEDER
from feeder_mixin.tune.run.journal import Journal
from feeder_mixin.tune.search.kept import CELLS, KeptCell
from feeder_mixin.tune.search.space import start_sets
from feeder_mixin.tune.search.study import Study, choose_sets

ROOT: Final = Path(__file__).parents[1]
BIN: Final = Path(sys.executable).parent
N_EMPTY: Final = 10_000
N_FIXED: Final = 12
ROUNDS: Final = 40_000_000
"""Numbers to add up: 1 to 2 s."""

CONTEXT: Final = ("BTC", "ETH", "SOL", "XRP", "BNB")
OUTSIDER: Final = "DOGE"
N_TRIALS: Final = 100
FEEDER: Final = "feeder120b"
ALL: Final = ("overhead", "workers", "pair", "end-to-end")
MANY_PAIRS: Final = 10_000
MANY_CORES: Final = 100


def results(
    executor: Executor, function: Callable[..., Any], tasks: Mapping[str, tuple[object, ...]]
) -> list[Any]:
    """Return what tasks returned; the functions are Python's own, so that any worker has them."""
    outcomes = [outcome for _, outcome in run_tasks(executor, function, tasks)]
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    return outcomes


@contextmanager
def cluster(n_workers: int) -> Iterator[str]:
    """Run a scheduler and workers on the loopback; give the address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    scheduler = ("scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
    one = ("worker", address, "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1")
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("wb") as log:
        processes = [
            subprocess.Popen(  # noqa: S603 - our own arguments
                tied([str(BIN / "dask"), *command]),
                cwd=folder,
                env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'benchmarks'}"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            for command in (scheduler, *[one] * n_workers)
        ]
        try:
            _wait_for_workers(address, n_workers)
            yield address
        finally:
            for process in reversed(processes):
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _wait_for_workers(address: str, n_workers: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with ClusterExecutor(address) as executor:
                while executor.n_workers < n_workers:
                    results(executor, time.sleep, {"wait": (1.0,)})
                return
        except Exception as error:  # noqa: BLE001 - the scheduler is not there yet
            print(f"  ... {error}", file=sys.stderr)
    raise TimeoutError(f"no cluster of {n_workers} workers in a minute")


def load() -> str:
    """Return how busy the machine is."""
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


def overhead() -> None:
    """Print what a task of no work costs."""

    def measure(name: str, executor: Executor) -> None:
        results(executor, int, {str(i): () for i in range(20)})
        wall, cpu = time.monotonic(), time.process_time()
        n = len(results(executor, int, {str(i): () for i in range(N_EMPTY)}))
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
        print(
            f"{name}: {1e3 * wall / n:.2f} ms a task of no work, {1e3 * cpu / n:.2f} CPU-ms of it in "
            f"the command ({n} tasks, {load()}; bar: 5)"
        )

    with ProcessExecutor(2) as processes:
        measure("processes", processes)
    with cluster(2) as address, ClusterExecutor(address) as workers_of_dask:
        measure("cluster", workers_of_dask)


def workers() -> None:
    """Print what a second worker gives on fixed work."""
    walls = {}
    for n_workers in (1, 2):
        with cluster(n_workers) as address, ClusterExecutor(address) as executor:
            results(executor, sum, {str(i): (range(1),) for i in range(4)})
            started = time.monotonic()
            results(executor, sum, {str(i): (range(ROUNDS),) for i in range(N_FIXED)})
            walls[n_workers] = time.monotonic() - started
    print(
        f"fixed work: {walls[1]:.1f} s on one worker, {walls[2]:.1f} s on two: "
        f"{walls[1] / walls[2]:.2f}x ({load()}; bar: 1.7)"
    )


def end_to_end(datadir: Path, n_trials: int) -> None:
    """Print what a second worker gives to the real command."""
    walls = {}
    for n_workers in (1, 2):
        with cluster(n_workers) as address, tempfile.TemporaryDirectory() as userdir:
            started = time.monotonic()
            subprocess.run(  # noqa: S603 - our own arguments
                [
                    *(str(BIN / "feeder"), "optimize", "--feeder", FEEDER, "--scheduler", address),
                    *("--datadir", str(datadir), "--userdir", userdir),
                    *("--n-trials", str(n_trials)),
                ],
                cwd=ROOT,
                check=True,
                capture_output=True,
            )
            walls[n_workers] = time.monotonic() - started
    print(
        f"{FEEDER}, {n_trials} trials: {walls[1]:.1f} s on one worker, {walls[2]:.1f} s on two: "
        f"{walls[1] / walls[2]:.2f}x ({load()}; bar: 1.5)"
    )


class CountingExecutor:
    """Does tasks in this process and counts the bytes that a cluster would be sent."""

    n_workers = 1

    def __init__(self) -> None:
        self._tasks: deque[tuple[str, bytes]] = deque()
        self._values: dict[str, object] = {}
        self._named: set[str] = set()
        self.n_sent = self.n_back = 0

    def share(self, value: object) -> Shared:
        """See `Executor`; it counts when a task first names it."""
        shared = Shared(str(len(self._values)))
        self._values[shared.name] = value
        return shared

    def release(self, _shared: Shared) -> None:
        """Keep it: names are counted."""

    def submit(
        self, key: str, function: Callable[..., Any], *arguments: object, home: str = ""
    ) -> None:
        """See `Executor`."""
        del home
        for one in arguments:
            if isinstance(one, Shared) and one.name not in self._named:
                self._named.add(one.name)
                packed = pickle.dumps(self._values[one.name])
                self.n_sent += len(packed)
                self._values[one.name] = pickle.loads(packed)  # noqa: S301 - made above
        packed = pickle.dumps((function, arguments))
        self.n_sent += len(packed)
        self._tasks.append((key, packed))

    def outcomes(
        self, while_waiting: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[str, Any]]:
        """See `Executor`."""
        while self._tasks:
            key, packed = self._tasks.popleft()
            function, arguments = pickle.loads(packed)  # noqa: S301 - made above
            values = [self._values[a.name] if isinstance(a, Shared) else a for a in arguments]
            answer = pickle.dumps(function(*values))
            self.n_back += len(answer)
            while_waiting()
            yield key, pickle.loads(answer)  # noqa: S301 - made above

    def close(self) -> None:
        """Have nothing to end."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._tasks.clear()


def pair(datadir: Path) -> None:
    """Print the bytes and CPU seconds of a pair outside of the context, then what many would cost."""
    frames = {name: one.frame for name, one in common.load_all(datadir, CONTEXT).items()}
    name = common.full(OUTSIDER)
    outside = common.load_all(datadir, [OUTSIDER])[name].frame
    settings = common.settings_of("short")
    with (
        CountingExecutor() as executor,
        tempfile.TemporaryDirectory() as folder,
        Journal(Path(folder) / "journal.sqlite") as journal,
    ):
        context = {pair: PairCandles(frame) for pair, frame in frames.items()}
        market = executor.share(Market(context, settings.label, outside.index[-1]))
        results(executor, id, {"context": (market,)})
        once = executor.n_sent
        started, sent = time.process_time(), executor.n_sent
        plan = {name: (market, name, PairCandles(outside), 180.0)}
        ((_, layout),) = run_tasks(executor, worker.plan_pair, plan)
        planned_s, planned = time.process_time() - started, executor.n_sent - sent
        fits = {str(cut_s): (market, cut_s, [settings.table_alpha]) for cut_s in layout.cuts_s}
        started = time.process_time()
        models = {
            int(cut): executor.share(one) for cut, one in run_tasks(executor, worker.fit_cut, fits)
        }
        fitted_s = time.process_time() - started
        results(executor, nothing_of, {"models": (*models.values(),)})
        once += executor.n_sent - once - planned
        run = journal.begin({WHOLE_FEEDER: {}}, {})[WHOLE_FEEDER]
        outsiders = {name: PairCandles(outside)}
        prepared = PreparedFeeder(executor, market, settings, {name: layout}, outsiders, models)
        measuring = Measuring(
            executor,
            prepared,
            journal=journal,
            run_id=run.run_id,
            failed=lambda _pair, error: sys.exit(str(error)),
        )
        folds = {name: len(layout.folds)}
        sent, back, started = executor.n_sent, executor.n_back, time.process_time()
        study = Study(settings, folds, start_sets(settings, []), measuring)
        study.run(N_TRIALS, lambda: False, lambda _trials: None)
        choose_sets(study, folds, measuring)
        tuned_s = time.process_time() - started
        sent, back = executor.n_sent - sent + planned, executor.n_back - back
        journal_s = _journal_s(journal, run.run_id)
    print(f"once per worker: {once / 1e6:.2f} MB (context of {len(CONTEXT)}, {len(models)} cuts)")
    print(
        f"per pair: {sent / 1e6:.2f} MB out, {back / 1e6:.2f} MB back for {len(outside)} candles and "
        f"{N_TRIALS} trials (bar: 2 MB)"
    )
    print(
        f"CPU-s: {planned_s:.1f} to plan, {tuned_s:.1f} to tune; {fitted_s:.1f} for the shared "
        f"models, once; journal {1e3 * journal_s:.3f} CPU-ms a cell"
    )
    _print_paper(planned_s + tuned_s, fitted_s, sent + back, journal_s, len(pack_candles(outside)))


def nothing_of(*_values: object) -> None:
    """Do no work with shared values."""


def _journal_s(journal: Journal, run_id: int) -> float:
    """Return the CPU seconds that keeping one cell costs, in batches of ten."""
    one = next(iter(journal.trials(run_id, CELLS, KeptCell).values())).to_json()
    started, n_batches = time.process_time(), 200
    for batch in range(n_batches):
        first = 1_000 + 10 * batch
        journal.save_trials(run_id, CELLS, dict.fromkeys(range(first, first + 10), one))
    return (time.process_time() - started) / n_batches / 10


def _print_paper(
    pair_s: float, fitted_s: float, n_bytes: int, journal_s: float, candle_bytes: float
) -> None:
    hours = (MANY_PAIRS * pair_s + fitted_s) / MANY_CORES / 3600
    parent_s = MANY_PAIRS * N_TRIALS * journal_s
    parent_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"on paper, {MANY_PAIRS} pairs x {N_TRIALS} trials on {MANY_CORES} cores: {hours:.1f} h; "
        f"{MANY_PAIRS * n_bytes / 1e9:.0f} GB over the command's line, "
        f"{MANY_PAIRS * n_bytes / hours / 3600 / 1e6:.1f} MB/s; journal {parent_s:.0f} CPU-s "
        f"({100 * parent_s / hours / 3600:.1f} % of the command's core). First to break is the "
        f"command's memory: it holds all candles packed, {MANY_PAIRS * candle_bytes / 1e9:.0f} GB "
        f"({parent_gb:.1f} GB in this process)"
    )


def main() -> None:
    """Measure what is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", choices=[*ALL, []], help="all without")
    parser.add_argument("--datadir", type=Path, default=common.DEFAULT_DATADIR)
    parser.add_argument("--n-trials", type=int, default=30, help="of end-to-end")
    arguments = parser.parse_args()
    for what in arguments.what or ALL:
        if what == "overhead":
            overhead()
        elif what == "workers":
            workers()
        elif what == "pair":
            pair(arguments.datadir)
        else:
            end_to_end(arguments.datadir, arguments.n_trials)


if __name__ == "__main__":
    main()
