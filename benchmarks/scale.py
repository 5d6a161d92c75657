"""What `feeder optimize` costs on a feeder of hundreds of pairs: CPU seconds, memory, a further pair.

    python benchmarks/scale.py                               163 and 100 pairs, 100 trials
    python benchmarks/scale.py --pairs 24 12 --trials 20     in minutes
    python benchmarks/scale.py --checkout ../before          with the code of another checkout

Ten real pairs are the context; further pairs are copies of them under other names, at other prices
and with later starts, one in eight of them young. Each size is one run of the real command on an
empty store, with one worker. CPU seconds are user and system time of the command and all of its
children. They grow where other programs share the core, so compare only what ran in turn.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import common
import numpy as np
import pandas as pd
import psutil
from freqtrade.data.history import get_datahandler
from freqtrade.enums import CandleType

CONTEXT: Final = tuple(common.full(base) for base in common.LONG_PAIRS)
CANDLES_A_DAY: Final = 86_400 // common.TIMEFRAME_S

OLDEST_START_DAYS: Final = 70
"""Old copies begin up to so many days later than their original: 195 days are what 180 labelled need."""

YOUNG_EVERY: Final = 8
YOUNG_DAYS: Final = (26, 149)
"""Every eighth copy has so many days of candles: from about the least that are tuned to under 135 labelled."""

_SAMPLE_S: Final = 0.5
_MAIN: Final = "import sys; from feeder_mixin.cli.main import main; sys.exit(main())"
_CUTS: Final = re.compile(r"fitting shared models \d+/(\d+)")


@dataclass(frozen=True)
class Cost:
    """What one run cost.

    Attributes
    ----------
    cpu_s
        User and system time of the command and all of its children.
    parent_mb, worker_mb
        Peak resident memory, of the largest worker.
    n_cuts
        Fits of shared models; None where the run does not say it.
    """

    n_pairs: int
    cpu_s: float
    wall_s: float
    parent_mb: float
    worker_mb: float
    n_cuts: int | None


def copies(source: Path, count: int) -> list[tuple[str, pd.DataFrame]]:
    """Return names and candles of so many copies; fewer of them are the first of more."""
    handler = get_datahandler(source, "feather")
    out = []
    for number in range(count):
        random = np.random.default_rng(number)
        original = CONTEXT[number % len(CONTEXT)]
        frame = handler.ohlcv_load(original, "5m", CandleType.FUTURES)
        if number % YOUNG_EVERY == 0:
            kept = frame.tail(int(random.integers(*YOUNG_DAYS)) * CANDLES_A_DAY)
        else:
            kept = frame.iloc[int(random.integers(OLDEST_START_DAYS)) * CANDLES_A_DAY :]
        level = 10.0 ** random.uniform(-3, 3)
        prices = ["open", "high", "low", "close"]
        # In ticks, as an exchange has them: six digits of a usual price.
        digits = max(0, 5 - math.floor(math.log10(kept["close"].median() * level)))
        kept = kept.assign(**{name: (kept[name] * level).round(digits) for name in prices})
        out.append((common.full(f"COPY{number:03d}"), kept.reset_index(drop=True)))
    return out


def write_feeder(folder: Path, source: Path, n_pairs: int) -> list[str]:
    """Write data folder and config of a feeder, and return its pairs."""
    handler = get_datahandler(folder / "data", "feather")
    (folder / "data" / "futures").mkdir(parents=True)
    pairs = list(CONTEXT[:n_pairs])
    for pair in CONTEXT:
        frame = get_datahandler(source, "feather").ohlcv_load(pair, "5m", CandleType.FUTURES)
        handler.ohlcv_store(pair, "5m", frame, CandleType.FUTURES)
    for pair, frame in copies(source, n_pairs - len(pairs)):
        handler.ohlcv_store(pair, "5m", frame, CandleType.FUTURES)
        pairs.append(pair)
    config = {
        "bot_name": "scale",
        "trading_mode": "futures",
        "timeframe": "5m",
        "stake_currency": "USDT",
        "feeder": {
            "side": "short",
            "horizon_candles": common.HORIZON,
            "max_adverse_ratio": common.TOLERANCE,
            "context_pairs": list(CONTEXT),
        },
        "exchange": {"name": "binance", "pair_whitelist": pairs},
    }
    (folder / "scale.json").write_text(json.dumps(config), encoding="utf-8")
    return pairs


def measure(options: argparse.Namespace, n_pairs: int) -> Cost:
    """Return what one run over so many pairs cost.

    Raises
    ------
    RuntimeError
        When the command failed; what it said is in the message.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_feeder(folder, options.datadir, n_pairs)
        command = [sys.executable, "-c", _MAIN, "optimize", "--feeder", "scale"]
        command += ["--config", str(folder / "scale.json"), "--userdir", str(folder / "user_data")]
        command += ["--datadir", str(folder / "data"), "--store", f"sqlite:///{folder}/s.sqlite"]
        command += ["--n-trials", str(options.trials), "--jobs", "1"]
        (folder / "user_data").mkdir()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("FEEDER_")}
        environment["PYTHONPATH"] = str(options.checkout.resolve())
        before, started = _children_cpu_s(), time.monotonic()
        with (folder / "said").open("w+", encoding="utf-8") as said:
            process = subprocess.Popen(  # noqa: S603  (our own interpreter and code)
                command, cwd=folder, env=environment, stdout=said, stderr=subprocess.STDOUT
            )
            parent_mb, worker_mb = _watch_memory(process)
            said.seek(0)
            text = said.read()
        if process.returncode:
            raise RuntimeError(f"feeder optimize ended with {process.returncode}:\n{text[-4000:]}")
        cuts = _CUTS.findall(text)
        return Cost(
            n_pairs=n_pairs,
            cpu_s=_children_cpu_s() - before,
            wall_s=time.monotonic() - started,
            parent_mb=parent_mb,
            worker_mb=worker_mb,
            n_cuts=int(cuts[-1]) if cuts else None,
        )


def _children_cpu_s() -> float:
    """Return the CPU seconds of children that ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _watch_memory(process: subprocess.Popen[bytes]) -> tuple[float, float]:
    """Return the peak memory of a command and of the largest of its children, once it has ended."""
    parent_mb = worker_mb = 0.0
    root = psutil.Process(process.pid)
    while process.poll() is None:
        parent_mb = max(parent_mb, _peak_mb(process.pid))
        try:
            children = root.children(recursive=True)
        except psutil.NoSuchProcess:
            continue
        worker_mb = max([worker_mb, *(_peak_mb(child.pid) for child in children)])
        time.sleep(_SAMPLE_S)
    return parent_mb, worker_mb


def _peak_mb(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:  # it has just ended
        return 0.0
    peak = re.search(r"VmHWM:\s+(\d+)", status)
    return int(peak[1]) / 1024 if peak else 0.0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--datadir", type=Path, default=common.DEFAULT_DATADIR)
    parser.add_argument("--pairs", nargs="+", type=int, default=[163, 100], metavar="N")
    parser.add_argument("--trials", type=int, default=100, metavar="N")
    parser.add_argument(
        "--checkout",
        type=Path,
        default=Path(__file__).parents[1],
        metavar="DIR",
        help="run the code of another checkout (this one)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure all sizes, print what they cost and what a further pair does."""
    options = parse(arguments)
    print(f"{options.trials} trials a pair, {len(CONTEXT)} context pairs, one worker")
    costs = []
    for n_pairs in options.pairs:
        cost = measure(options, n_pairs)
        costs.append(cost)
        print(
            f"{cost.n_pairs:4d} pairs: {cost.cpu_s:7.1f} CPU-s ({cost.cpu_s / 60:.1f} min), "
            f"{cost.wall_s:6.0f} s; parent {cost.parent_mb:4.0f} MB, worker {cost.worker_mb:4.0f} MB; "
            f"cuts {'?' if cost.n_cuts is None else cost.n_cuts}",
            flush=True,
        )
    few, many = (pick(costs, key=lambda cost: cost.n_pairs) for pick in (min, max))
    further_s = None
    if many.n_pairs > few.n_pairs:
        further_s = (many.cpu_s - few.cpu_s) / (many.n_pairs - few.n_pairs)
        print(f"a further pair: {further_s:.2f} CPU-s")
    if options.json is not None:
        document = {
            "trials": options.trials,
            "further_pair_cpu_s": further_s,
            "runs": [asdict(cost) for cost in costs],
        }
        options.json.write_text(json.dumps(document, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
