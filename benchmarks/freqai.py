"""What tuning is worth to a FreqAI strategy: config's own values against tuned ones, on days that nobody saw.

Per cut and side: one study over all pairs on candles up to the cut, then models as FreqAI's training makes them
(all rows of the window), judged on the 15 days behind it against the ATR rule. Prints one line a cell, and the means.

    python benchmarks/freqai.py --cuts 2025-11-01 2025-12-15 2026-02-01 --windows 30 90 150
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # read by the libraries at import

import argparse
import json
import logging
import math
import resource
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pandas as pd
import talib
from common import DEFAULT_DATADIR, full, load_timeframe

from feeder_mixin.executors.base import Shared
from feeder_mixin.freqai.dataset import Cut, utc
from feeder_mixin.freqai.settings import FreqaiSettings, load_bot_settings
from feeder_mixin.model.metrics import exceedance, skill
from feeder_mixin.tune.freqai.folds import ScoredFold
from feeder_mixin.tune.freqai.host import Host
from feeder_mixin.tune.freqai.judge import fit_as_freqai
from feeder_mixin.tune.freqai.work import FreqaiWork
from feeder_mixin.tune.run.options import RunOptions
from feeder_mixin.tune.run.work import Prepared
from feeder_mixin.tune.search.kept import Cell, Measured
from feeder_mixin.tune.search.space import start_sets
from feeder_mixin.tune.search.study import SearchResult, Study, choose_sets

BASES: Final = ("BTC", "SOL", "DOGE", "ZEC")
CUTS: Final = ("2025-11-01", "2025-12-15", "2026-02-01")
STRATEGIES: Final = {"long": "FreqaiRiskLong", "short": "FreqaiRiskShort"}
TIMEFRAMES: Final = ("5m", "15m", "1h")
HORIZON, ALPHA, TEST_DAYS, RULE_DAYS, DAY_S = 30, 0.10, 15, 90, 86_400
PLAN: Final = {"n_estimators": 200, "learning_rate": 0.05, "max_depth": 8, "num_leaves": 64}
"""The config's own values: those of a plan in use."""


def write_site(root: Path, bases: Sequence[str], trading: Mapping[str, Any]) -> Path:
    """Write a FreqAI bot's config into a folder of its own, and return it."""
    (root / "user_data").mkdir(parents=True)
    config = {
        "bot_name": "bench",
        "strategy_path": str(Path(__file__).parent / "strategies"),
        "freqai": {
            "enabled": True,
            "identifier": "bench",
            "train_period_days": 30,
            "backtest_period_days": TEST_DAYS,
            "live_retrain_hours": 24,
            "feature_parameters": {
                "include_timeframes": list(TIMEFRAMES),
                "include_corr_pairlist": [],
                "label_period_candles": HORIZON,
                "include_shifted_candles": 2,
                "indicator_periods_candles": [10, 20, 50],
                "weight_factor": 0,
                "DI_threshold": 0,
            },
            "data_split_parameters": {"test_size": 0},
            "model_training_parameters": PLAN,
        },
        "feeder": {"freqai_targets": {"&-excursion": {"quantile": ALPHA}}},
        "exchange": {"name": "binance", "pair_whitelist": [full(base) for base in bases]},
        **trading,
    }
    path = root / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


TRADING: Final[Mapping[str, Any]] = {
    "trading_mode": "futures",
    "margin_mode": "isolated",
    "timeframe": "5m",
    "stake_currency": "USDT",
    "stake_amount": 100,
    "max_open_trades": 4,
    "dry_run": True,
    "entry_pricing": {"price_side": "same"},
    "exit_pricing": {"price_side": "same"},
    "pairlists": [{"method": "StaticPairList"}],
    "dataformat_ohlcv": "feather",
}


def write_candles(root: Path, datadir: Path, bases: Sequence[str], end: pd.Timestamp) -> Path:
    """Write all timeframes' candles that are finished at a time, and return the data folder."""
    (root / "futures").mkdir(parents=True)
    for base in bases:
        for timeframe in TIMEFRAMES:
            frame = load_timeframe(datadir, full(base), timeframe).dropna()
            step = pd.Timedelta(timeframe.replace("m", "min"))
            kept = (
                frame[pd.DatetimeIndex(frame.index) + step <= end].rename_axis("date").reset_index()
            )
            name = f"{base}_USDT_USDT-{timeframe}-futures.feather"
            kept.to_feather(root / "futures" / name)
    return root


class Inline:
    """An executor in this process: CPU time is all here."""

    n_workers = 1

    def __init__(self) -> None:
        self._values: dict[str, object] = {}

    def share(self, value: object) -> Shared:
        """See `Executor`."""
        shared = Shared(str(len(self._values)))
        self._values[shared.name] = value
        return shared

    def value(self, argument: object) -> object:
        """Return what stands behind an argument."""
        return self._values[argument.name] if isinstance(argument, Shared) else argument

    def release(self, shared: Shared) -> None:
        """See `Executor`."""

    def submit(
        self, key: str, function: Callable[..., Any], *arguments: object, home: str = ""
    ) -> None:
        """See `Executor`; nothing is submitted here."""

    def outcomes(
        self, while_waiting: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[str, Any]]:
        """See `Executor`."""
        while_waiting()
        yield from ()

    def close(self) -> None:
        """See `Executor`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        """See `Executor`."""


class Silence:
    """A run's progress that nobody watches."""

    def stage(self, *_: Any) -> None:
        """See `Progress`."""

    def finished(self, *_: Any) -> None:
        """See `Progress`."""


def measure_with(
    prepared: Prepared, executor: Inline
) -> Callable[[Sequence[Cell]], dict[Cell, Measured]]:
    """Return what measures cells in this process."""

    def measure(cells: Sequence[Cell]) -> dict[Cell, Measured]:
        found: dict[Cell, Measured] = {}
        groups: dict[tuple[str, int], list[Cell]] = {}
        for cell in cells:
            groups.setdefault((cell.pair, cell.draw), []).append(cell)
        for (pair, draw), wanted in groups.items():
            call = prepared.cells(pair, draw, wanted)
            answer = call.function(*map(executor.value, call.arguments))
            found |= dict(zip(wanted, answer.measured, strict=True))
        return found

    return measure


def tune(work: FreqaiWork, pairs: Sequence[str], n_trials: int) -> SearchResult:
    """Return what the search finds on the candles of a work."""
    failures = work.load(pairs, Silence())
    if failures:
        raise SystemExit(str(failures))
    executor = Inline()
    prepared = work.prepare(executor, pairs, {}, Silence(), print)
    folds = {pair: len(layout.folds) for pair, layout in prepared.layouts.items()}
    measure = measure_with(prepared, executor)
    study = Study(work.study, folds, start_sets(work.study, []), measure)
    study.run(n_trials, lambda: False, lambda _trials: None)
    return choose_sets(study, folds, measure)


@dataclass(frozen=True)
class Judged:
    """One forecast in one cell: skill over the ATR rule, and exceedance."""

    skill: float
    exceed: float


def judge(cut: Cut, tuned: Mapping[str, float] | None, rule: pd.Series[float]) -> Judged:
    """Return how a model that FreqAI would have made at a cut does in the days behind it.

    Parameters
    ----------
    rule
        The ATR rule's forecast by the candles' opens, in seconds.
    """
    scored = ScoredFold.of(cut)
    rows = np.searchsorted(cut.scored.opens_s, scored.opens_s)
    q = np.ascontiguousarray(cut.in_label_units(fit_as_freqai(cut, PLAN, tuned)[rows])[:, 0])
    y = np.ascontiguousarray(scored.labels[:, 0])
    reference = np.asarray(rule.reindex(scored.opens_s), np.float64)
    return Judged(skill(y, q, reference, ALPHA), exceedance(y, q))


def atr_rule(datadir: Path, base: str, side: str, cut: pd.Timestamp) -> pd.Series[float]:
    """Return the ATR rule's forecasts, its constant by the 90 days before a cut."""
    frame = load_timeframe(datadir, full(base), "5m")
    high, low, close = (frame[name].to_numpy(float) for name in ("high", "low", "close"))
    scale = pd.Series(talib.ATR(high, low, close, 14) / close, frame.index)
    lowest = frame["low"].rolling(HORIZON).min().shift(-HORIZON)
    highest = frame["high"].rolling(HORIZON).max().shift(-HORIZON)
    y = lowest / close - 1 if side == "long" else 1 - highest / close
    ended = cut - HORIZON * pd.Timedelta("5min")
    before = (frame.index >= cut - pd.Timedelta(days=RULE_DAYS)) & (frame.index < ended)
    constant = float((y[before] / scale[before]).quantile(ALPHA))
    opens_s = pd.DatetimeIndex(frame.index).as_unit("s").asi8
    return pd.Series(constant * scale.to_numpy(), opens_s)


def run_cut(
    options: argparse.Namespace, cut: pd.Timestamp, side: str, root: Path
) -> list[dict[str, Any]]:
    """Tune before a cut, judge behind it; return one row a pair."""
    config = write_site(root / "site", options.bases, TRADING)
    before = write_candles(root / "before", options.datadir, options.bases, cut)
    whole = write_candles(
        root / "whole", options.datadir, options.bases, pd.Timestamp.max.tz_localize("UTC")
    )
    settings = load_bot_settings(None, [config], root / "site" / "user_data")
    if not isinstance(settings, FreqaiSettings):
        raise SystemExit("the config is no FreqAI bot's")
    pairs = [full(base) for base in options.bases]
    started = time.process_time()
    work = FreqaiWork(settings, RunOptions(datadir=before, seed=options.seed), STRATEGIES[side])
    found = tune(work, pairs, options.trials)
    tuned_s = time.process_time() - started
    print(
        f"{cut:%Y-%m-%d} {side}: {tuned_s:.0f} CPU-s for {len(pairs)} pairs, {options.trials} trials;",
        f"trial {found.winner.number} won: {shown(found.winner.parameters)}",
        flush=True,
    )
    host = Host.load(settings, STRATEGIES[side], whole)
    cut_s, rows = int(cut.timestamp()), []
    for base in options.bases:
        rule = atr_rule(options.datadir, base, side, cut)
        row: dict[str, Any] = {"cut": f"{cut:%Y-%m-%d}", "side": side, "pair": base}
        more_s = max(0, max(options.windows) - host.train_days) * DAY_S
        with host.data(cut_s - more_s, cut_s + TEST_DAYS * DAY_S) as data:
            dataset = data.pair(full(base))
            for days in options.windows:
                data_of_cut = dataset.cut(utc(cut_s), utc(cut_s + TEST_DAYS * DAY_S), days)
                chosen = found.choices[full(base)].winner
                sets = {"tuned": chosen.parameters if chosen.number else None}
                if days == host.train_days:
                    sets["config"] = None
                for name, parameters in sets.items():
                    started = time.process_time()
                    judged = judge(data_of_cut, parameters, rule)
                    row[f"{name} {days}d"] = 100 * judged.skill
                    row[f"{name} {days}d exceed"] = 100 * judged.exceed
                    row[f"{name} {days}d CPU-s"] = time.process_time() - started
        row["tuning CPU-s"] = tuned_s / len(pairs)
        print(
            " ".join(f"{k}={v:.1f}" if isinstance(v, float) else f"{v}" for k, v in row.items()),
            flush=True,
        )
        rows.append(row)
    return rows


def shown(parameters: Mapping[str, float]) -> str:
    """Return a set in one line."""
    return " ".join(f"{name}={value:.3g}" for name, value in parameters.items())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--datadir", type=Path, default=DEFAULT_DATADIR)
    parser.add_argument("--cuts", nargs="+", default=list(CUTS))
    parser.add_argument("--sides", nargs="+", default=list(STRATEGIES))
    parser.add_argument("--bases", nargs="+", default=list(BASES))
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument(
        "--windows", nargs="+", type=int, default=[30], help="train_period_days to judge"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="freqtrade|sklearn|lightgbm")
    logging.disable(logging.WARNING)
    rows: list[dict[str, Any]] = []
    for cut in options.cuts:
        for side in options.sides:
            with tempfile.TemporaryDirectory(prefix="freqai-") as folder:
                rows += run_cut(options, pd.Timestamp(cut, tz="UTC"), side, Path(folder))
    table = pd.DataFrame(rows)
    print(table.select_dtypes("number").mean().round(2).to_string())
    better = (table["tuned 30d"] > table["config 30d"]).sum() if "tuned 30d" in table else math.nan
    print(f"tuned better than the config's own values in {better} of {len(table)} cells")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
