"""What tuning is worth to a FreqAI strategy, and what it costs. One name runs one part.

cells   the config's own values against tuned ones: per cut and side one study over all pairs on candles up to the
        cut, then models as FreqAI's training makes them (all rows of the window), judged on the 15 days behind it
        against the ATR rule
dual    the same for two targets of two levels: each target's loss against the config's
cost    one pair: CPU of search and judging, peak memory
naive   CPU of a trial of the loop that one would write first, on the same features and folds
null    how often a running set is replaced where labels hold nothing to learn

    python benchmarks/freqai.py cells --cuts 2025-11-01 2025-12-15 2026-02-01 --windows 30 90 150
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # read by the libraries at import

import argparse
import logging
import math
import resource
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import lightgbm as lgb
import numpy as np
import optuna
import pandas as pd
import talib
from common import DEFAULT_DATADIR, full, load_timeframe
from freqai_site import (
    ALPHA,
    BASES,
    HORIZON,
    PLAN,
    TEST_DAYS,
    Inline,
    Silence,
    tune,
    write_candles,
    write_site,
)

from feeder_mixin.freqai.dataset import Cut, moment_of
from feeder_mixin.freqai.parameters import training_parameters
from feeder_mixin.model.metrics import exceedance, pinball_loss, skill
from feeder_mixin.schema import PARAMETERS
from feeder_mixin.stores.url import open_store
from feeder_mixin.tune.freqai.folds import ScoredFold
from feeder_mixin.tune.freqai.host import Host
from feeder_mixin.tune.freqai.judge import fit_as_freqai
from feeder_mixin.tune.freqai.work import FreqaiWork
from feeder_mixin.tune.run import run as runs
from feeder_mixin.tune.run.options import RunOptions
from feeder_mixin.tune.search.space import derive_seed

CUTS: Final = ("2025-11-01", "2025-12-15", "2026-02-01")
STRATEGIES: Final = {"long": "FreqaiRiskLong", "short": "FreqaiRiskShort"}
DUAL_TARGETS: Final = {"&-future_close": {"quantile": 0.75}, "&-min_low": {"quantile": 0.10}}
FEW_FEATURES: Final = {
    "include_timeframes": ["5m"],
    "include_shifted_candles": 0,
    "indicator_periods_candles": [10],
}
RULE_DAYS, DAY_S = 90, 86_400


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


# ------------------------------------------------------------------ cells


def cells(options: argparse.Namespace) -> None:
    """Print one line a cell, and the means."""
    rows: list[dict[str, Any]] = []
    for cut in options.cuts:
        for side in options.sides:
            with tempfile.TemporaryDirectory(prefix="freqai-") as folder:
                rows += _run_cut(options, pd.Timestamp(cut, tz="UTC"), side, Path(folder))
    table = pd.DataFrame(rows)
    print(table.select_dtypes("number").mean().round(2).to_string())
    better = (table["tuned 30d"] > table["config 30d"]).sum() if "tuned 30d" in table else math.nan
    print(f"tuned better than the config's own values in {better} of {len(table)} cells")
    _print_memory()


def _run_cut(
    options: argparse.Namespace, cut: pd.Timestamp, side: str, root: Path
) -> list[dict[str, Any]]:
    """Tune before a cut, judge behind it; return one row a pair."""
    settings = write_site(root / "site", options.bases)
    before = write_candles(root / "before", options.datadir, options.bases, cut)
    whole = write_candles(root / "whole", options.datadir, options.bases)
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
                data_of_cut = dataset.cut(
                    moment_of(cut_s), moment_of(cut_s + TEST_DAYS * DAY_S), days
                )
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
        _print_row(row)
        rows.append(row)
    return rows


# ------------------------------------------------------------------ dual


def dual(options: argparse.Namespace) -> None:
    """Print each target's loss against the config's, by cell, and the means."""
    rows: list[dict[str, Any]] = []
    for text in options.cuts:
        cut = pd.Timestamp(text, tz="UTC")
        with tempfile.TemporaryDirectory(prefix="freqai-") as folder:
            root = Path(folder)
            settings = write_site(root / "site", options.bases, DUAL_TARGETS)
            before = write_candles(root / "before", options.datadir, options.bases, cut)
            whole = write_candles(root / "whole", options.datadir, options.bases)
            work = FreqaiWork(settings, RunOptions(datadir=before, seed=options.seed), "FreqaiDual")
            started = time.process_time()
            found = tune(work, [full(base) for base in options.bases], options.trials)
            tuned_s = time.process_time() - started
            print(f"{text}: {tuned_s:.0f} CPU-s, {shown(found.winner.parameters)}", flush=True)
            host, cut_s = Host.load(settings, "FreqaiDual", whole), int(cut.timestamp())
            for base in options.bases:
                chosen = found.choices[full(base)].winner
                with host.data(cut_s, cut_s + TEST_DAYS * DAY_S) as data:
                    of_cut = data.pair(full(base)).cut(
                        moment_of(cut_s), moment_of(cut_s + TEST_DAYS * DAY_S)
                    )
                config = _target_losses(of_cut, None)
                tuned = _target_losses(of_cut, chosen.parameters) if chosen.number else config
                names = [target.name for target in of_cut.targets]
                ratios = dict(zip(names, tuned / config, strict=True))
                rows.append({"cut": text, "pair": base, **ratios})
                _print_row(rows[-1])
    print(pd.DataFrame(rows).select_dtypes("number").mean().round(4).to_string())


def _target_losses(cut: Cut, tuned: Mapping[str, float] | None) -> np.ndarray:
    """Return each target's mean loss behind a cut, by a model that FreqAI would have made."""
    scored = ScoredFold.of(cut)
    rows = np.searchsorted(cut.scored.opens_s, scored.opens_s)
    return np.asarray(scored.losses(fit_as_freqai(cut, PLAN, tuned)[rows]).mean(axis=0))


# ------------------------------------------------------------------ cost, naive


def cost(options: argparse.Namespace) -> None:
    """Print what tuning one pair takes."""
    with tempfile.TemporaryDirectory(prefix="freqai-") as folder:
        work = _one_pair(options, Path(folder))
        pair = full(options.bases[0])
        started = time.process_time()
        tune(work, [pair], options.trials)
        searched_s = time.process_time() - started
        prepared = work.prepare(Inline(), [pair], {}, Silence(), print)
        window = prepared.layouts[pair].test
        with work.host.data(window.cut_s, window.end_s) as data:
            cut = data.pair(pair).cut(moment_of(window.cut_s), moment_of(window.end_s))
        for _ in range(2):  # the config's values, and the tuned ones
            fit_as_freqai(cut, PLAN, None)
    judged_s = time.process_time() - started - searched_s
    print(
        f"{pair}: {len(cut.names)} features, {options.trials} trials: search {searched_s:.0f} CPU-s "
        f"({searched_s / options.trials:.2f} a trial), two fits of all rows to judge {judged_s:.0f}"
    )
    _print_memory()


def naive(options: argparse.Namespace) -> None:
    """Print the CPU seconds of a trial of the naive loop, without building its data."""
    with tempfile.TemporaryDirectory(prefix="freqai-") as folder:
        work = _one_pair(options, Path(folder))
        pair = full(options.bases[0])
        work.load([pair], Silence())
        prepared = work.prepare(Inline(), [pair], {}, Silence(), print)
        folds = prepared.layouts[pair].folds
        with work.host.data(folds[0].cut_s, folds[-1].end_s) as data:
            dataset = data.pair(pair)
            cuts = [dataset.cut(moment_of(fold.cut_s), moment_of(fold.end_s)) for fold in folds]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=options.seed))
    spent_s = []
    for _ in range(options.trials):
        drawn = _draw(study.ask())
        started = time.process_time()
        loss = _naive_loss(cuts, drawn)
        spent_s.append(time.process_time() - started)
        print(
            f"{spent_s[-1]:.1f} CPU-s on {len(cuts)} folds, loss {loss:.6f}, {shown(drawn)}",
            flush=True,
        )
    print(f"{np.mean(spent_s):.1f} CPU-s a trial")


def _draw(trial: optuna.Trial) -> dict[str, float]:
    """Return a set of the schema's ranges, each parameter as it is drawn."""
    return {
        one.name: trial.suggest_int(one.name, int(one.low), int(one.high))
        if one.is_integer
        else trial.suggest_float(one.name, one.low, one.high, log=one.is_log)
        for one in PARAMETERS
    }


def _naive_loss(cuts: list[Cut], parameters: Mapping[str, float]) -> float:
    """Return the mean loss over all folds of a regressor on all rows, as one would write it first."""
    losses = []
    for cut in cuts:
        values = training_parameters(PLAN, parameters)
        model = lgb.LGBMRegressor(
            **{**values, "objective": "quantile", "alpha": ALPHA, "n_jobs": 1, "verbosity": -1}
        )
        model.fit(cut.train.features, cut.train.labels[:, 0])
        scored = ScoredFold.of(cut)
        predicted = cut.in_label_units(model.predict(scored.features)[:, None])
        losses.append(pinball_loss(scored.labels[:, 0], predicted[:, 0], ALPHA))
    return float(np.mean(losses))


def _one_pair(options: argparse.Namespace, root: Path) -> FreqaiWork:
    bases, cut = options.bases[:1], pd.Timestamp(options.cuts[-1], tz="UTC")
    settings = write_site(root / "site", bases)
    before = write_candles(root / "before", options.datadir, bases, cut)
    return FreqaiWork(settings, RunOptions(datadir=before, seed=options.seed), STRATEGIES["long"])


# ------------------------------------------------------------------ null


def null(options: argparse.Namespace) -> None:
    """Print how often the running set is replaced on labels that are permuted in blocks.

    The champion is what a first tuning finds on one permutation; each run is a whole tuning on another one,
    with the store, the decision and the command's own steps. One pair and few features: nothing can be learned
    from more of them either.
    """
    base, cut = options.bases[0], pd.Timestamp(options.cuts[-1], tz="UTC")
    runs.make_executor = lambda *_: Inline()
    outcomes: Counter[str] = Counter()
    champion = None
    started = time.process_time()
    with tempfile.TemporaryDirectory(prefix="freqai-") as folder:
        datadir = write_candles(Path(folder) / "before", options.datadir, [base], cut)
        for number in range(options.runs + 1):
            root = Path(folder) / f"run{number}"
            seed = derive_seed("null", options.seed, number)
            settings = write_site(root, [base], features=FEW_FEATURES, null_seed=seed)
            tried = RunOptions(
                n_trials=options.trials,
                datadir=datadir,
                seed=number,
                promote="auto" if champion else "always",
            )
            with open_store(f"sqlite:///{root}/store.sqlite", root=root) as store:
                if champion is not None:
                    store.write([champion])
                work = FreqaiWork(settings, tried, "FreqaiNull")
                summary = runs.run_work(work, tried, store, Silence())
            (result,) = summary.results.values()
            if champion is None:
                champion = next(iter(summary.records.values()))
                print(f"champion: {shown(champion.parameters)}", flush=True)
                continue
            outcomes[result.decided.outcome] += 1
            print(number, dict(outcomes), f"{time.process_time() - started:.0f} CPU-s", flush=True)
    share = outcomes["promoted"] / options.runs
    bar = 0.05 + 2 * math.sqrt(0.05 * 0.95 / options.runs)
    print(f"promoted {100 * share:.1f} % of {options.runs}, at most {100 * bar:.1f} %")


# ------------------------------------------------------------------ what the parts share


def shown(parameters: Mapping[str, float]) -> str:
    """Return a set in one line."""
    return " ".join(f"{name}={value:.3g}" for name, value in parameters.items())


def _print_row(row: Mapping[str, Any]) -> None:
    told = (f"{k}={v:.4g}" if isinstance(v, float) else str(v) for k, v in row.items())
    print(*told, flush=True)


def _print_memory() -> None:
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


PARTS: Final = {"cells": cells, "dual": dual, "cost": cost, "naive": naive, "null": null}


def main() -> None:
    """Run a part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--datadir", type=Path, default=DEFAULT_DATADIR)
    parser.add_argument("--cuts", nargs="+", default=list(CUTS), help="cost, naive, null: the last")
    parser.add_argument("--sides", nargs="+", default=list(STRATEGIES), help="of cells")
    parser.add_argument(
        "--bases", nargs="+", default=list(BASES), help="cost, naive, null: the first"
    )
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument(
        "--windows", nargs="+", type=int, default=[30], help="of cells: train_period_days to judge"
    )
    parser.add_argument("--runs", type=int, default=40, help="of null")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="freqtrade|sklearn|lightgbm")
    logging.disable(logging.WARNING)
    PARTS[options.part](options)


if __name__ == "__main__":
    main()
