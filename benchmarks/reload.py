"""How long a reload takes, and what it does to the bot's main thread.

    python benchmarks/reload.py [--pairs 100] [--reloads 300]

The live side of a feeder of 100 pairs runs in a process of its own, with models on disk and a local
SQLite store, and a ticker of 1 ms on its main thread. Measured from outside: from the signal to the
swap, idle and while LightGBM trains (every record is given other values first, so that the worker
has a hundred models to fit). The ticker: gaps with reloads against without, three alternating runs.
Every tenth tick reads the snapshot as a candle would: a pair whose serving model was not trained
from its record is a torn read.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import DEFAULT_DATADIR  # isort: skip - sets thread counts before numpy is imported
import numpy as np
import pandas as pd
from live_project import (
    REAL,
    LiveProject,
    make_live,
    make_project,
    put_models,
    write_records,
)

from feeder_mixin.live.bot import LiveFeeder
from feeder_mixin.live.state.status import read_status
from feeder_mixin.rehearsal.exchange.market import ReplayMarket
from feeder_mixin.settings import load_settings

TICK_S = 0.001


def percentile(values: list[float], share: float) -> float:
    """Return a percentile of measured values."""
    return float(np.percentile(values, share))


def child(project: LiveProject) -> None:
    """Run the live side and a ticker; answer commands from stdin by lines on stdout."""
    frames = {pair: _frame(project, pair) for pair in project.settings.context_pairs}
    live = make_live(project, lambda pair: frames.get(pair, pd.DataFrame()))
    swaps: list[int] = []
    reload = live.reload

    def timed() -> None:
        reload()
        swaps.append(live.snapshot.loaded_at_ns)

    live.watcher._reload = timed
    live.start()
    for pair in project.settings.context_pairs:
        live.predict(pair, frames[pair])
    print("ready", flush=True)
    os.set_blocking(sys.stdin.fileno(), False)
    gaps: list[float] = []
    torn, tick, seen = 0, 0, 0
    last = time.perf_counter()
    while True:
        time.sleep(TICK_S)
        now = time.perf_counter()
        gaps.append(now - last)
        last = now
        tick += 1
        if tick % 10 == 0:
            torn += count_torn(live)
        if len(swaps) > seen:
            seen = len(swaps)
            print(f"swap {swaps[-1]}", flush=True)
        if tick % 50 == 0 and (line := sys.stdin.readline().strip()):
            if line == "gaps":
                pairs = read_status(live.settings.status_path)["pairs"].values()
                training = sum(pair["model"]["state"] == "training" for pair in pairs)
                print(json.dumps({"gaps": gaps, "torn": torn, "training": training}), flush=True)
                gaps.clear()
            else:
                break
            last = time.perf_counter()
    live.stop()


def count_torn(live: LiveFeeder) -> int:
    """Return how many pairs have a model that was not trained from the record beside it."""
    return sum(
        serving.model.parameters != serving.loaded.parameters
        for pair in live.snapshot.pairs.values()
        for serving in pair.servings
    )


def _frame(project: LiveProject, pair: str) -> pd.DataFrame:
    series = project.market.series[pair].closed(project.market.now_ms())
    frame = pd.DataFrame(series.rows[-499:], columns=["open", "high", "low", "close", "volume"])
    frame.insert(0, "date", pd.to_datetime(series.opens_ms[-499:], unit="ms", utc=True))
    return frame


class Child:
    """The process under measurement."""

    def __init__(self, arguments: argparse.Namespace, root: Path) -> None:
        command = [sys.executable, __file__, "--child", str(root), "--pairs", str(arguments.pairs)]
        command += ["--datadir", str(arguments.datadir)]
        self._log = (root.parent / "child.log").open("w")
        self._process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        self._wait_for("ready")

    def _wait_for(self, word: str) -> str:
        for line in self._process.stdout or ():
            if line.startswith(word):
                return line
        raise SystemExit(f"the child ended: {Path(self._log.name).read_text()[-2000:]}")

    def _say(self, word: str) -> None:
        if self._process.stdin is not None:
            self._process.stdin.write(word + "\n")
            self._process.stdin.flush()

    def reload(self) -> float:
        """Send the signal and return milliseconds until the swap."""
        sent_ns = time.time_ns()
        self._process.send_signal(signal.SIGUSR1)
        return (int(self._wait_for("swap").split()[1]) - sent_ns) / 1e6

    def gaps(self) -> dict[str, list[float]]:
        """Return the ticker's gaps since the last call, in ms, torn reads and fits that wait."""
        self._say("gaps")
        answer: dict[str, list[float]] = json.loads(self._wait_for("{"))
        answer["gaps"] = [gap * 1000 for gap in answer["gaps"]]
        return answer

    def stop(self) -> None:
        """End the process."""
        self._say("stop")
        self._process.wait(60)


def measure(arguments: argparse.Namespace) -> None:
    """Print latencies and gaps."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "p"
        project = make_project(root, arguments.datadir, arguments.pairs)
        put_models(project)
        process = Child(arguments, root)
        process.gaps()
        without: list[float] = []
        during: list[float] = []
        idle: list[float] = []
        torn = 0
        for _ in range(3):
            time.sleep(arguments.seconds)
            without.append(percentile(process.gaps()["gaps"], 99.9))
            stop_at = time.monotonic() + arguments.seconds
            while time.monotonic() < stop_at or len(idle) % (arguments.reloads // 3):
                idle.append(process.reload())
                time.sleep(0.05)
            answer = process.gaps()
            during.append(percentile(answer["gaps"], 99.9))
            torn += int(answer["torn"])  # type: ignore[call-overload]
        print(f"{arguments.pairs} pairs, SQLite; milliseconds")
        _print_latency("signal to swap, idle", idle)
        print(
            f"  ticker p99.9 gap: without reloads {statistics.median(without):.1f}, during "
            f"{statistics.median(during):.1f} (runs {_texts(without)} and {_texts(during)})"
        )
        write_records(project.settings, list(project.settings.pairs), reg_alpha=0.5)
        process.reload()
        time.sleep(8)  # the worker is at work
        process.gaps()
        training: list[float] = []
        for _ in range(arguments.reloads):
            training.append(process.reload())
            time.sleep(0.05)
        answer = process.gaps()
        torn += int(answer["torn"])  # type: ignore[call-overload]
        _print_latency("signal to swap, while LightGBM trains", training)
        print(f"  ticker p99.9 gap while training: {percentile(answer['gaps'], 99.9):.1f}")
        print(f"  fits still waiting at the end: {answer['training']}; torn reads: {torn}")
        process.stop()


def _print_latency(what: str, values: list[float]) -> None:
    shown = ", ".join(f"p{p:g} {percentile(values, p):.1f}" for p in (50, 99, 100))
    print(f"  {what} (n={len(values)}): {shown}")


def _texts(values: list[float]) -> str:
    return " ".join(f"{value:.1f}" for value in values)


def main() -> None:
    """Measure, or be the process that is measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--reloads", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--datadir", type=Path, default=DEFAULT_DATADIR)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is None:
        measure(arguments)
        return
    root = arguments.child
    settings = load_settings("bench", root / "config" / "bench.json", root / "user_data")
    gc.freeze()
    child(LiveProject(root, settings, ReplayMarket.from_datadir(arguments.datadir, REAL)))


if __name__ == "__main__":
    main()
