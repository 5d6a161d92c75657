"""What one candle, the memory and the start of a live bot cost.

    python benchmarks/live.py candle    CPU seconds of one candle for 10, 50, 100, 200 pairs
    python benchmarks/live.py start     start to first prediction against an empty strategy, memory
    python benchmarks/live.py retrain   daily retraining, then a reload that changes all values of 163 pairs
    python benchmarks/live.py           the first two

`candle` runs freqtrade's own ``strategy.analyze`` over frames of 499 candles with the real
strategy, beside a strategy that adds nothing. `start` runs the real ``freqtrade trade`` against the
replay exchange, 4 and 100 pairs, models on disk, each three times in turn with the empty strategy.
`retrain` starts it with models of yesterday, waits until all are retrained, then stores ten other values
a pair, signals shortly before a candle, and waits for the last new model (about 15 minutes in all).
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from common import DEFAULT_DATADIR  # isort: skip - sets thread counts before numpy is imported
import pandas as pd
from freqtrade.configuration import Configuration
from freqtrade.data.dataprovider import DataProvider
from freqtrade.enums import CandleType, RunMode
from freqtrade.resolvers import StrategyResolver
from live_project import (
    REAL,
    STEP_S,
    LiveProject,
    file_of,
    make_project,
    put_models,
    source_of,
    write_changed_sets,
)

from feeder_mixin.live.state.status import ModelStatus, read_status
from feeder_mixin.live.train.due import due_cut_s
from feeder_mixin.schema import open_text

FRAME = 499
HOURS = 3.0
EMPTY = """
from freqtrade.strategy import IStrategy


class EmptyStrategy(IStrategy):
    INTERFACE_VERSION = 3
    timeframe = "5m"
    stoploss = -0.1
    startup_candle_count = 1
    process_only_new_candles = True

    def populate_indicators(self, dataframe, metadata):
        return dataframe

    def populate_entry_trend(self, dataframe, metadata):
        dataframe["enter_long"] = 0
        return dataframe

    def populate_exit_trend(self, dataframe, metadata):
        dataframe["exit_long"] = 0
        return dataframe
"""
TIMED = """
import time
from pathlib import Path

from {module} import {base}


class Timed{base}({base}):
    def populate_exit_trend(self, dataframe, metadata):
        dataframe = super().populate_exit_trend(dataframe, metadata)
        with Path("times.txt").open("a") as file:
            q = dataframe["safety_q"].iloc[-1] if "safety_q" in dataframe else 0.0
            file.write(f"{{time.time()}} {{metadata['pair']}} {{q}}\\n")
        return dataframe
"""


class Exchange:
    """Hands over frames as freqtrade's exchange does: newest closed candle last.

    `end` is the newest row handed over, counted from the last one: 0 or negative.
    """

    def __init__(self, project: LiveProject) -> None:
        self.frames = {
            pair: _rows(project, source_of(pair)) for pair in {*project.settings.pairs, *REAL}
        }
        self.markets: dict[str, dict[str, object]] = {
            pair: {} for pair in self.frames
        }  # all listed
        self.end = 0

    def klines(self, key: tuple[str, str, CandleType], copy: bool = True) -> pd.DataFrame:
        """Return the newest frame of a pair."""
        rows = self.frames[key[0]]
        end = len(rows) + self.end
        frame = rows.iloc[end - FRAME : end].reset_index(drop=True)
        return frame.copy() if copy else frame


def _rows(project: LiveProject, pair: str) -> pd.DataFrame:
    series = project.market.series[pair].closed(project.market.now_ms())
    frame = pd.DataFrame(series.rows, columns=["open", "high", "low", "close", "volume"])
    dates = pd.to_datetime(series.opens_ms, unit="ms", utc=True)
    frame.insert(0, "date", dates)
    return frame


def measure_candle(source: Path, sizes: list[int]) -> None:
    """Print CPU seconds of one candle, median of twenty."""
    print("candle: CPU-s of strategy.analyze over all pairs, median of 20 candles, one process")
    for n in sizes:
        with tempfile.TemporaryDirectory() as name:
            project = make_project(Path(name) / "p", source, n, hours_ago=HOURS)
            put_models(project)
            exchange = Exchange(project)
            (project.root / "user_data" / "strategies" / "EmptyStrategy.py").write_text(EMPTY)
            empty = _analyse(project, exchange, "EmptyStrategy")
            ours = _analyse(project, exchange, "LightGBMSafetyFeederStrategy")
            print(
                f"  {n:4d} pairs: {ours:.3f} s, empty strategy {empty:.3f} s, "
                f"{(ours - empty) / n * 1000:.1f} ms a pair"
            )


def _analyse(project: LiveProject, exchange: Exchange, strategy_name: str) -> float:
    config = Configuration(
        {
            "config": [str(project.root / "config" / "bench.json")],
            "user_data_dir": str(project.root / "user_data"),
            "strategy": strategy_name,
        },
        RunMode.DRY_RUN,
    ).get_config()
    config["candle_type_def"] = CandleType.FUTURES
    strategy = StrategyResolver.load_strategy(config)
    strategy.dp = DataProvider(config, exchange)
    n_candles = 20
    exchange.end = -n_candles - 1
    strategy.ft_bot_start()
    pairs = list(project.settings.pairs)
    strategy.analyze(pairs)  # the first candle loads disk and builds the context
    times = []
    for _ in range(n_candles):
        exchange.end += 1
        gc.collect()
        started = time.thread_time()
        strategy.analyze(pairs)
        times.append(time.thread_time() - started)
    frame, _ = strategy.dp.get_analyzed_dataframe(pairs[-1], "5m")
    if "safety_q" in frame and frame["safety_q"].isna().iloc[-n_candles:].any():
        raise SystemExit("candles without prediction")
    strategy.ft_bot_cleanup()
    return statistics.median(times)


def measure_start(source: Path, sizes: list[int], n_runs: int) -> None:
    """Print seconds from process start to the last pair's first frame, ours beside an empty one."""
    print("start: seconds from exec to every pair analysed once; models on disk")
    for n in sizes:
        with tempfile.TemporaryDirectory() as name:
            project = make_project(Path(name) / "p", source, n)
            put_models(project)
            strategies = project.root / "user_data" / "strategies"
            (strategies / "EmptyStrategy.py").write_text(EMPTY)
            sys.path.insert(0, str(strategies))
            for base in ("EmptyStrategy", "LightGBMSafetyFeederStrategy"):
                text = TIMED.format(module=f"user_data.strategies.{base}", base=base)
                (strategies / f"Timed{base}.py").write_text(text)
            with _replay(project, source):
                empty, ours = [], []
                for _ in range(n_runs):
                    empty.append(_time_start(project, "TimedEmptyStrategy"))
                    ours.append(_time_start(project, "TimedLightGBMSafetyFeederStrategy"))
            extra = statistics.median(o[0] - e[0] for o, e in zip(ours, empty, strict=True))
            print(
                f"  {n:4d} pairs: empty {statistics.median(e[0] for e in empty):.1f} s, "
                f"ours {statistics.median(o[0] for o in ours):.1f} s, {extra:+.1f} s; "
                f"predicted {ours[-1][1]} of {n}; memory "
                f"{statistics.median(e[2] for e in empty):.0f} and "
                f"{statistics.median(o[2] for o in ours):.0f} MB"
            )


class _replay:  # noqa: N801  (reads as a statement)
    def __init__(self, project: LiveProject, source: Path) -> None:
        self._project, self._source = project, source

    def __enter__(self) -> None:
        command = [
            str(Path(sys.executable).parent / "feeder"),
            *("replay-exchange", "--datadir", str(self._project.root / "served"), "--port", "0"),
            *("--timeframe", "5m"),
            *("--write-config", str(self._project.root / "replay.json")),
        ]
        _write_served(self._project, self._source)
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603
        for line in self._process.stdout or ():
            if "ready at" in line:
                break

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()


def _write_served(project: LiveProject, source: Path) -> None:
    # The exchange moves the same candles to now as the project did.
    for pair in {*project.settings.pairs, *REAL}:
        for kind in ("5m-futures", "1h-mark", "1h-funding_rate"):
            target = file_of(project.root / "served", pair, kind)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file_of(source, source_of(pair), kind), target)


def _time_start(project: LiveProject, strategy: str) -> tuple[float, int, float]:
    times = project.root / "times.txt"
    times.unlink(missing_ok=True)
    n = len(project.settings.pairs)
    started = time.time()
    with _bot(project, strategy) as process:
        deadline = time.monotonic() + 240
        lines: list[list[str]] = []
        while len({line[1] for line in lines}) < n:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit((project.root / "bot.log").read_text()[-3000:])
            time.sleep(0.1)
            if times.exists():
                lines = [line.split() for line in times.read_text().splitlines()]
        firsts = {line[1]: (float(line[0]), line[2]) for line in reversed(lines) if len(line) == 3}
        predicted = sum(q != "nan" for _, q in firsts.values())
        peak = next(
            int(line.split()[1]) / 1024
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
            if line.startswith("VmHWM")
        )
        return max(t for t, _ in firsts.values()) - started, predicted, peak


@dataclass(frozen=True)
class Sample:
    """CPU seconds of a bot and of its worker processes up to a moment, peak memory of both in MB."""

    at: float
    bot_cpu_s: float
    worker_cpu_s: float
    bot_mb: float
    worker_mb: float


def _sample(pid: int) -> Sample:
    tick = os.sysconf("SC_CLK_TCK")

    def stat(process: int) -> list[str]:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()

    def peak_mb(process: int) -> float:
        status = Path(f"/proc/{process}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    children = Path(f"/proc/{pid}/task")
    ids = [int(c) for task in children.iterdir() for c in (task / "children").read_text().split()]
    own = stat(pid)
    workers, worker_mb = sum(map(int, own[13:15])), 0.0
    for child in ids:
        with contextlib.suppress(OSError):
            workers += sum(map(int, stat(child)[11:13]))
            worker_mb = max(worker_mb, peak_mb(child))
    return Sample(
        time.time(), sum(map(int, own[11:13])) / tick, workers / tick, peak_mb(pid), worker_mb
    )


def measure_retrain(source: Path, n: int) -> None:
    """Print what daily retraining and a reload of all pairs cost, and how late candles were."""
    with tempfile.TemporaryDirectory() as name:
        project = make_project(Path(name) / "p", source, n)
        put_models(project, days_ago=1)
        cut = open_text(due_cut_s(time.time(), project.settings.retrain_hours))
        base = "LightGBMSafetyFeederStrategy"
        text = TIMED.format(module=f"user_data.strategies.{base}", base=base)
        (project.root / "user_data" / "strategies" / f"Timed{base}.py").write_text(text)
        with _replay(project, source), _bot(project, f"Timed{base}") as process:
            print(f"retrain: {n} pairs; load {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores")

            def is_trained(model: ModelStatus) -> bool:
                return str(model["trained_until"]).startswith(cut[:16])

            _await_models(project, process, lambda model: model["trained_until"] is not None)
            began = _sample(process.pid)
            ended = _await_models(project, process, is_trained)
            _print_cost("daily retraining", began, ended)
            _sleep_until_candle(before_s=20.0)
            write_changed_sets(project.settings)
            began = _sample(process.pid)
            process.send_signal(signal.SIGUSR1)
            ended = _await_models(
                project,
                process,
                lambda model: model["generation"] == 2 and model["state"] == "ready",
            )
            _print_cost("all values changed, signal to last model", began, ended)
            _sleep_until_candle(after_s=30.0)  # one candle without training
            for candle, (late_s, n_pairs) in sorted(_lateness(project).items()):
                what = "while training" if began.at < candle < ended.at else ""
                when = time.strftime("%H:%M", time.gmtime(candle))
                print(f"  candle {when}: last of {n_pairs} pairs after {late_s:.1f} s {what}")


def _print_cost(what: str, began: Sample, ended: Sample) -> None:
    print(
        f"  {what}: {ended.at - began.at:.0f} s, worker {ended.worker_cpu_s - began.worker_cpu_s:.0f} "
        f"CPU-s, bot {ended.bot_cpu_s - began.bot_cpu_s:.0f} CPU-s; peak memory bot {ended.bot_mb:.0f} MB, "
        f"worker {ended.worker_mb:.0f} MB",
        flush=True,
    )


def _await_models(
    project: LiveProject,
    process: subprocess.Popen[bytes],
    is_done: Callable[[ModelStatus], bool],
    timeout_s: float = 1_800.0,
) -> Sample:
    """Return a sample as soon as every pair's model is what is waited for."""
    deadline = time.monotonic() + timeout_s
    while True:
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit((project.root / "bot.log").read_text()[-3000:])
        if project.settings.status_path.exists():
            pairs = read_status(project.settings.status_path)["pairs"]
            if pairs and all(is_done(pair["model"]) for pair in pairs.values()):
                return _sample(process.pid)
        time.sleep(0.5)


def _sleep_until_candle(*, before_s: float = 0.0, after_s: float = 0.0) -> None:
    """Sleep until so long before, or after, the next candle opens."""
    next_s = (time.time() + before_s) // STEP_S * STEP_S + STEP_S
    time.sleep(max(0.0, next_s - before_s + after_s - time.time()))


def _lateness(project: LiveProject) -> dict[int, tuple[float, int]]:
    """Return open of a candle -> seconds until its last pair was analysed, and how many were."""
    found: dict[int, list[float]] = {}
    for line in (project.root / "times.txt").read_text().splitlines():
        at = float(line.split()[0])
        found.setdefault(int(at // STEP_S * STEP_S), []).append(at % STEP_S)
    return {candle: (max(late), len(late)) for candle, late in found.items()}


@contextlib.contextmanager
def _bot(project: LiveProject, strategy: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [
        str(Path(sys.executable).parent / "freqtrade"),
        *("trade", "--config", "config/bench.json", "--config", "replay.json"),
        *("--strategy", strategy),
    ]
    paths = [str(project.root), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with (project.root / "bot.log").open("w") as log:
        process = subprocess.Popen(  # noqa: S603
            command, cwd=project.root, stdout=log, stderr=log, env=environment
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def main() -> None:
    """Run the parts named on the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("parts", nargs="*", default=["candle", "start"])
    parser.add_argument("--datadir", type=Path, default=DEFAULT_DATADIR)
    parser.add_argument("--sizes", type=int, nargs="+")
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    if "candle" in arguments.parts:
        measure_candle(arguments.datadir, arguments.sizes or [10, 50, 100, 200])
    if "retrain" in arguments.parts:
        measure_retrain(arguments.datadir, (arguments.sizes or [163])[0])
    if "start" in arguments.parts:
        measure_start(arguments.datadir, arguments.sizes or [4, 100], arguments.runs)


if __name__ == "__main__":
    main()
