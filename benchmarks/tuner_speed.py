"""What tuning costs and gives, measured: speed, scaling, skill, and the naive loop beside it.

    python benchmarks/tuner_speed.py speed     ratio to the naive loop, one pair, one run
    python benchmarks/tuner_speed.py absolute  100 trials on 150 days, share that is not LightGBM
    python benchmarks/tuner_speed.py scaling   pairs, trials, context, two workers against one
    python benchmarks/tuner_speed.py fifth     skill on redrawn folds at a fifth of the naive cost
    python benchmarks/tuner_speed.py skill     ten pairs, both sides, last 15 days
    python benchmarks/tuner_speed.py           all of them

CPU seconds, because wall time on shared machines is noise. The naive loop is `naive.py`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from common import (  # isort: skip - sets thread counts before numpy is imported
    DEFAULT_DATADIR,
    LONG_PAIRS,
    TRAIN_DAYS,
    Setup,
    full,
    prepare,
    settings_of,
    tune,
)
from naive import ALPHA, Array, Parameters, fold_rows, naive_forecast, naive_loop  # isort: skip

import lightgbm as lgb
import numpy as np
from common import label_of

from feeder_mixin.executors.base import run_tasks
from feeder_mixin.executors.processes import ProcessExecutor
from feeder_mixin.market.candles import load_candles
from feeder_mixin.market.features import tree_features
from feeder_mixin.model.baseline import atr_rule_constant
from feeder_mixin.model.metrics import (
    day_block_sums,
    pinball_loss,
    pinball_losses,
    ratio_with_error,
)
from feeder_mixin.model.quantile import (
    combine,
    make_regressor,
)
from feeder_mixin.model.training_set import TrainingWindow, training_rows
from feeder_mixin.schema import default_parameters
from feeder_mixin.settings import SIDES, Side
from feeder_mixin.tune.judge.evaluate import Evaluator
from feeder_mixin.tune.run import _tasks as worker
from feeder_mixin.tune.run._market import Market, PairCandles
from feeder_mixin.tune.search.space import key_of

FIX_ALPHA = {"quantile_alpha": ALPHA}


def speed(arguments: argparse.Namespace) -> None:
    """Print CPU seconds per trial of both searches, same pair, candles and folds."""
    setup = prepare(arguments.datadir, arguments.pair)
    folds = len(setup.layout.folds)
    print(f"{setup.base} short, {folds} folds; features {setup.features_cpu_s:.1f} CPU-s,")
    print(f"shared models of {folds + 1} cuts {setup.shared_cpu_s:.1f} CPU-s (once per feeder)")
    tune([setup], settings_of("short"), 1)  # warm
    setups = [setup, *(prepare(arguments.datadir, base) for base in LONG_PAIRS[1:4])]
    rows = []
    for some in ([setup], setups):
        _, cpu_s = tune(some, settings_of("short"), 100)
        rows.append((f"ours, 100 trials over {len(some)} pairs", cpu_s / 100 / len(some)))
    naive = naive_loop(setup, "short", n_trials=arguments.naive_trials).cpu_s
    naive /= arguments.naive_trials
    for name, each in rows:
        print(
            f"{name:<36}{each:8.3f} CPU-s a trial and pair, {naive / each:6.0f}x fewer (bar: 200)"
        )
    print(f"{f'naive loop, {arguments.naive_trials} trials':<36}{naive:8.3f} CPU-s a trial")


class _Timed:
    """Adds up the CPU time spent inside LightGBM's calls."""

    def __init__(self) -> None:
        self.cpu_s, self._depth = 0.0, 0

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._depth += 1
            started = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.cpu_s += time.process_time() - started

        return timed


def absolute(arguments: argparse.Namespace) -> None:
    """Print what 100 trials on 150 days cost, and how much of it is not LightGBM."""
    setup = prepare(arguments.datadir, arguments.pair, last_days=150)
    tune([setup], settings_of("short"), 1)  # warm
    timed = _Timed()
    kept = {}
    for cls, names in (
        (lgb.Booster, ("__init__", "update", "add_valid", "eval_valid", "predict")),
        (lgb.Dataset, ("construct",)),
    ):
        for name in names:
            kept[cls, name] = getattr(cls, name)
            setattr(cls, name, timed.wrap(kept[cls, name]))
    _, cpu_s = tune([setup], settings_of("short"), 100)
    for (cls, name), function in kept.items():
        setattr(cls, name, function)
    other = cpu_s - timed.cpu_s
    print(f"{setup.base} short, 150 days of candles, {setup.layout.labelled_days:.0f} labelled")
    print(
        f"features {setup.features_cpu_s:.2f} CPU-s, shared models {setup.shared_cpu_s:.2f} CPU-s"
    )
    print(f"100 trials: {cpu_s:.1f} CPU-s (bar: 20); not LightGBM: {other:.2f} CPU-s = ", end="")
    print(f"{100 * other / cpu_s:.0f} %, {10 * other:.1f} ms a trial (bar: 10 % or 15 ms)")


def peak_memory_mb(_ignored: int = 0) -> float:
    """Return this process's peak resident memory; `getrusage` would count the parent's, too."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _worker_memory(datadir: Path, context: Sequence[str]) -> float:
    """Return the peak memory of a real worker that tunes one pair, shared models included."""
    found = {b: load_candles(datadir, full(b), "5m", "futures", "feather") for b in context}
    candles = {full(b): PairCandles(one.frame) for b, one in found.items()}
    pair = full(context[0])
    settings = settings_of("short")
    with ProcessExecutor(1) as executor:
        market = executor.share(Market(candles, settings.label, candles[pair].frame.index[-1]))
        plan = {"plan": (market, pair, None, 180.0)}
        ((_, layout),) = run_tasks(executor, worker.plan_pair, plan)
        cuts = {str(cut_s): (market, cut_s, [ALPHA]) for cut_s in layout.cuts_s}
        models = [executor.share(one) for _, one in run_tasks(executor, worker.fit_cut, cuts)]
        wanted = [(fold, key_of(settings.start)) for fold in range(len(layout.folds))]
        for draw in range(2):
            cells = worker.CellsTask(pair, settings, layout, draw, wanted)
            calls = {pair: (market, None, cells, *models)}
            ((_, _measured),) = run_tasks(executor, worker.measure_cells, calls)
        ((_, memory),) = run_tasks(executor, peak_memory_mb, {"memory": (0,)})
    return float(memory)


def _tune_pairs(datadir: Path, bases: Sequence[str], n_trials: int) -> float:
    return sum(tune([prepare(datadir, base)], settings_of("short"), n_trials)[1] for base in bases)


def scaling(arguments: argparse.Namespace) -> None:
    """Print how cost grows with trials, pairs, context and workers."""
    datadir, pool_context = arguments.datadir, get_context("spawn")
    setup = prepare(datadir, arguments.pair)
    tune([setup], settings_of("short"), 1)
    for n_trials in (50, 100, 200):
        cpu_s = tune([setup], settings_of("short"), n_trials)[1]
        print(f"trials {n_trials:4d}: {cpu_s:6.1f} CPU-s, {1e3 * cpu_s / n_trials:6.1f} ms a trial")
    for n_pairs in (1, 2, 4, 8):
        cpu_s = _tune_pairs(datadir, LONG_PAIRS[:n_pairs], 30)
        print(f"pairs {n_pairs}: {cpu_s:6.1f} CPU-s, {cpu_s / n_pairs:.2f} a pair (30 trials)")
    for n_context in (1, 2, 5, 10):
        memory = _worker_memory(datadir, LONG_PAIRS[:n_context])
        print(
            f"context of {n_context:2d} pairs: worker's peak memory {memory:5.0f} MB (bar at 5: 600)"
        )
    walls = {}
    for n_workers in (1, 2):
        with ProcessPoolExecutor(n_workers, mp_context=pool_context) as pool:
            list(pool.map(_tune_pairs, [datadir] * 2, [["BTC"]] * 2, [1] * 2))  # warm
            started = time.monotonic()
            list(pool.map(_throughput, [datadir] * 4, ["BTC", "ETH", "SOL", "XRP"]))
            walls[n_workers] = time.monotonic() - started
    print(f"four pairs, 60 trials: one worker {walls[1]:.1f} s, two {walls[2]:.1f} s: ", end="")
    print(f"{walls[1] / walls[2]:.2f}x the throughput (bar: 1.7)")


def _throughput(datadir: Path, base: str) -> float:
    return tune([prepare(datadir, base)], settings_of("short"), 60)[1]


def _redrawn_skill(setup: Setup, side: Side, naive: Parameters, ours: Parameters) -> list[float]:
    """Return skill over the ATR rule on redrawn folds: another seed, first day dropped."""
    seed, pair = 12345, f"{setup.base}/USDT:USDT"
    parts: dict[str, list[Array]] = {"y": [], "naive": [], "ours": [], "rule": []}
    for window in setup.layout.folds:
        y, q = naive_forecast(setup, side, window, naive, seed, 1.0)
        models, (_, test, _) = setup.shared[window.cut_s], fold_rows(setup, side, window)
        training = training_rows(
            pair,
            setup.table,
            models.scale,
            label_of(side),
            TrainingWindow(window.cut_s, TRAIN_DAYS, drop_days=1.0),
        )
        model = make_regressor(ours, seed)
        model.fit(training.x, training.z, sample_weight=training.weight)
        rows = setup.table.iloc[test]
        log_scale = models.scale.log_scale(pair, rows)
        own = model.booster_.predict(tree_features(rows, log_scale, side))
        pooled = models.pooled_z(rows, log_scale, side, ALPHA)
        constant = atr_rule_constant(setup.table, label_of(side), window.cut_s, ALPHA)
        parts["y"].append(y)
        parts["naive"].append(q)
        rule, scale = constant * rows["atr_ratio"].to_numpy(), np.exp(log_scale)
        parts["ours"].append(combine(own, pooled, rule / scale) * scale)
        parts["rule"].append(rule)
    joined = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    reference = pinball_loss(joined["y"], joined["rule"], ALPHA)
    return [
        1 - pinball_loss(joined["y"], joined[name], ALPHA) / reference for name in ("naive", "ours")
    ]


def _fifth_of(
    datadir: Path, base: str, naive_trials: int
) -> tuple[str, float, float, int, list[float]]:
    setup = prepare(datadir, base)
    naive, _, naive_cpu_s = naive_loop(setup, "short", n_trials=naive_trials)
    n_trials, ours, cpu_s = 100, None, 0.0
    while ours is None or cpu_s > naive_cpu_s / 5:
        # Too dear: fewer trials, until the search fits into a fifth of the naive loop's cost.
        ours, cpu_s = tune([setup], settings_of("short"), n_trials)
        n_trials = n_trials if cpu_s <= naive_cpu_s / 5 else n_trials // 2
    return (
        base,
        naive_cpu_s,
        cpu_s,
        n_trials,
        _redrawn_skill(setup, "short", naive, ours.winner.parameters),
    )


def fifth(arguments: argparse.Namespace) -> None:
    """Print skill on redrawn folds of both winners, ours at a fifth of the naive cost."""
    won = 0
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        n_pairs = len(arguments.pairs)
        rows = pool.map(
            _fifth_of,
            [arguments.datadir] * n_pairs,
            arguments.pairs,
            [arguments.naive_trials] * n_pairs,
        )
        for base, naive_cpu_s, cpu_s, n_trials, (naive, ours) in rows:
            won += ours >= naive
            print(
                f"{base:<5} naive {naive_cpu_s:6.0f} CPU-s skill {100 * naive:6.2f} %   "
                f"ours {cpu_s:5.1f} CPU-s, {n_trials} trials, skill {100 * ours:6.2f} %",
                flush=True,
            )
    print(f"ours not below the naive loop on {won} of {n_pairs} pairs (bar: 9 of 10)")


class TestLosses(NamedTuple):
    """A cell's losses by day on its test window: of the ATR rule, the defaults, the tuned set."""

    base: str
    side: Side
    exceedance: float
    rule: Array
    defaults: Array
    tuned: Array
    is_default: bool


def _test_losses(datadir: Path, base: str, n_trials: int) -> list[TestLosses]:
    setup = prepare(datadir, base)
    out = []
    for side in SIDES:
        result, _ = tune([setup], settings_of(side), n_trials)
        evaluator = Evaluator(full(base), settings_of(side), setup.table, setup.shared)
        defaults = evaluator.forecast(setup.layout.test, default_parameters())
        tuned = evaluator.forecast(setup.layout.test, result.winner.parameters)
        rule, ours, best = (
            day_block_sums(pinball_losses(defaults.excursion, q, ALPHA), defaults.opens_s)
            for q in (defaults.rule, defaults.q, tuned.q)
        )
        exceedance = float(np.mean(defaults.excursion < defaults.q))
        is_default = result.winner.parameters == default_parameters()
        out.append(TestLosses(base, side, exceedance, rule, ours, best, is_default))
    return out


def skill(arguments: argparse.Namespace) -> None:
    """Print skill over the ATR rule on the last 15 days, with the defaults and tuned."""
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        n_pairs = len(arguments.pairs)
        nested = pool.map(
            _test_losses,
            [arguments.datadir] * n_pairs,
            arguments.pairs,
            [arguments.trials] * n_pairs,
        )
        cells = [cell for cells in nested for cell in cells]
    for cell in cells:
        gains = [100 * (1 - q.sum() / cell.rule.sum()) for q in (cell.defaults, cell.tuned)]
        note = "defaults won" if cell.is_default else ""
        print(
            f"{cell.base:<5}{cell.side:<6} defaults {gains[0]:6.2f} %  tuned {gains[1]:6.2f} %  "
            f"exceedance {100 * cell.exceedance:5.1f} %  {note}"
        )
    means = [
        np.mean([1 - c.defaults.sum() / c.rule.sum() for c in cells]),
        np.mean([1 - c.tuned.sum() / c.rule.sum() for c in cells]),
    ]
    # Pooled: each cell's losses in units of its own rule, then blocks of a day over all cells.
    days = min(len(c.rule) for c in cells)
    blocks = [
        np.stack([q[:days] for q in (c.rule, c.defaults, c.tuned)]) / c.rule.sum() for c in cells
    ]
    rule, defaults, tuned = np.sum(blocks, axis=0)
    gain, error = ratio_with_error(rule - defaults, rule)
    difference, paired = ratio_with_error(defaults - tuned, rule)
    print(
        f"mean of {len(cells)} cells: defaults {100 * means[0]:.2f} %, tuned {100 * means[1]:.2f} %"
    )
    print(f"pooled: defaults {100 * gain:.2f} % (SE {100 * error:.2f}) over the ATR rule (bar: 5)")
    print(f"tuned minus defaults {100 * difference:+.3f} points (paired SE {100 * paired:.3f})")


COMMANDS = {
    "speed": speed,
    "absolute": absolute,
    "scaling": scaling,
    "fifth": fifth,
    "skill": skill,
}


def main() -> int:
    """Run the chosen measurements."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", nargs="*", choices=[*COMMANDS, []], help="all when none is named")
    parser.add_argument("--datadir", type=Path, default=DEFAULT_DATADIR)
    parser.add_argument("--pair", default="BTC", help="base currency for speed and scaling (BTC)")
    parser.add_argument("--pairs", nargs="+", default=LONG_PAIRS, help="for fifth and skill")
    parser.add_argument("--naive-trials", type=int, default=20)
    parser.add_argument("--trials", type=int, default=100, help="for skill")
    parser.add_argument("--jobs", type=int, default=2, help="pairs at a time, for fifth and skill")
    arguments = parser.parse_args()
    if not arguments.datadir.is_dir():
        print(f"no candles: {arguments.datadir} does not exist; name a folder with --datadir")
        return 2
    for name in arguments.what or COMMANDS:
        print(f"== {name}", flush=True)
        COMMANDS[name](arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
