"""What one candle, the memory and the start of a live bot cost.

    python benchmarks/live.py candle    CPU seconds of one candle for 10, 50, 100, 200 pairs
    python benchmarks/live.py start     start to first prediction against an empty strategy, memory
    python benchmarks/live.py           both

`candle` runs freqtrade's own ``strategy.analyze`` over frames of 499 candles with the real
strategy, beside a strategy that adds nothing. `start` runs the real ``freqtrade trade`` against the
replay exchange, 4 and 100 pairs, models on disk, each three times in turn with the empty strategy.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import DEFAULT_DATADIR  # isort: skip - sets thread counts before numpy is imported
import pandas as pd
from freqtrade.configuration import Configuration
from freqtrade.data.dataprovider import DataProvider
from freqtrade.enums import CandleType, RunMode
from freqtrade.resolvers import StrategyResolver
from live_project import (
    REAL,
    LiveProject,
    file_of,
    make_project,
    put_models,
    source_of,
)

from feeder_mixin.rehearsal.exchange.disk import write_datadir

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
            with _replay(project):
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
    def __init__(self, project: LiveProject) -> None:
        self._project = project

    def __enter__(self) -> None:
        command = [
            str(Path(sys.executable).parent / "feeder"),
            *("replay-exchange", "--datadir", str(self._project.root / "served"), "--port", "0"),
            *("--weeks", "0", "--timeframe", "5m"),
            *("--write-config", str(self._project.root / "replay.json")),
        ]
        _write_served(self._project)
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603
        for line in self._process.stdout or ():
            if "ready at" in line:
                break

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()


def _write_served(project: LiveProject) -> None:
    # The exchange serves the same market as on disk, with the candles still to come.
    served = project.root / "served"
    write_datadir(project.market, served, project.market.end_ms)
    for pair in project.settings.pairs:
        if pair not in REAL:
            for kind in ("5m-futures", "1h-mark", "1h-funding_rate"):
                shutil.copy(file_of(served, source_of(pair), kind), file_of(served, pair, kind))


def _time_start(project: LiveProject, strategy: str) -> tuple[float, int, float]:
    times = project.root / "times.txt"
    times.unlink(missing_ok=True)
    n = len(project.settings.pairs)
    command = [
        str(Path(sys.executable).parent / "freqtrade"),
        *("trade", "--config", "config/bench.json", "--config", "replay.json"),
        *("--strategy", strategy),
    ]
    started = time.time()
    environment = {**os.environ, "PYTHONPATH": str(project.root)}
    with (project.root / "bot.log").open("w") as log:
        process = subprocess.Popen(  # noqa: S603
            command, cwd=project.root, stdout=log, stderr=log, env=environment
        )
    try:
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
    if "start" in arguments.parts:
        measure_start(arguments.datadir, arguments.sizes or [4, 100], arguments.runs)


if __name__ == "__main__":
    main()
