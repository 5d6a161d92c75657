"""Whether what a trader asks for is what they get: tolerances of pairs' own, and a chosen risk.

    python benchmarks/decide.py --cache forecasts.parquet

At each of seven cuts it stands where a tuner would stand: forecasts of the walk before the cut (folds and
test window, each by a model of its own cut, at level 0.10) and of the 15 days after it, at four levels.
Prints how many candles stay within each pair's own tolerance, what is called safe, what
``feeder.max_unsafe_share`` chooses on the walk, and what came of it in the days after. With ``--cache``
the forecasts, most of the work, are kept and taken from there the next time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import common  # first: it sets thread counts before numpy is imported
import numpy as np
import pandas as pd
import quality
from numpy.typing import NDArray

from feeder_mixin.market.context import FeatureContext
from feeder_mixin.market.features import labels
from feeder_mixin.model.calibration import calibrate
from feeder_mixin.model.decision import called_safe
from feeder_mixin.model.folds import Layout, Window, plan_layout
from feeder_mixin.model.quantile import (
    POOLED_ALPHAS,
    SharedModels,
    fit_safety_model,
    fit_shared,
    pooled_weights,
    shared_rows,
)
from feeder_mixin.model.rows import DAY_S, open_seconds
from feeder_mixin.model.tolerance import SAFE_SHARE, measure_tolerance
from feeder_mixin.pairs import btc_beside
from feeder_mixin.schema import default_parameters
from feeder_mixin.settings import SIDES
from feeder_mixin.tune.judge.evaluate import Forecast, ServedForecasts
from feeder_mixin.tune.judge.result import ChosenLevel, RiskTable
from feeder_mixin.tune.judge.risk import LEVELS, choose_level, count_risk

DAYS_BACK, AFTER_DAYS, TABLE_ALPHA = 180.0, 15, 0.10


@dataclass(frozen=True)
class Task:
    """One cut, for a process of its own."""

    datadir: Path
    pairs: tuple[str, ...]
    cut: str


def predict_cut(task: Task) -> pd.DataFrame:
    """Return forecasts before and after a cut, both sides, beside label, rule and tolerance."""
    context = dict.fromkeys((*task.pairs, btc_beside(task.pairs[0])))
    frames = {pair: common.load_timeframe(task.datadir, pair, "5m") for pair in context}
    market = FeatureContext(frames, common.HORIZON, common.TIMEFRAME_S)
    tables = dict(market.build_context())
    thin = {
        pair: shared_rows(table, common.HORIZON, common.TIMEFRAME_S)
        for pair, table in tables.items()
    }
    cut_s = int(pd.Timestamp(task.cut, tz="UTC").timestamp())
    layouts = {pair: layout_before(tables[pair], cut_s) for pair in task.pairs}
    after = Window(cut_s, cut_s + AFTER_DAYS * DAY_S)
    parts: list[pd.DataFrame] = []
    for model_cut_s in sorted({*(c for one in layouts.values() for c in one.cuts_s), cut_s}):
        levels = POOLED_ALPHAS if model_cut_s == cut_s else (TABLE_ALPHA,)
        shared = fit_shared(thin, model_cut_s, common.label_of("long"), levels)
        for pair, layout in layouts.items():
            parts += [
                predict(tables[pair], pair, shared, window, levels)
                for window in (*layout.folds, layout.test, after)
                if window.cut_s == model_cut_s
            ]
    found = pd.concat(parts, ignore_index=True)
    return found.assign(cut=task.cut, is_after=found["model_cut_s"] == cut_s)


def layout_before(table: pd.DataFrame, cut_s: int) -> Layout:
    """Return the walk of a tuner whose newest candle is the one before a cut."""
    last_s = cut_s - common.TIMEFRAME_S
    return plan_layout(
        int(open_seconds(table)[0]),
        last_s,
        common.label_of("long"),
        newest_candle_s=last_s,
        days_back=DAYS_BACK,
        needed_warmup_days=15,
    )


def predict(
    table: pd.DataFrame, pair: str, shared: SharedModels, window: Window, levels: Sequence[float]
) -> pd.DataFrame:
    """Return the raw forecasts of one window, both sides, at some levels; NaN at the others."""
    opens_s = open_seconds(table)
    rows = table[(opens_s >= window.cut_s) & (opens_s < window.end_s)]
    parts = []
    for side in SIDES:
        label = common.label_of(side)
        told = pd.DataFrame(
            {
                "pair": pair,
                "side": side,
                "model_cut_s": window.cut_s,
                "open_s": open_seconds(rows),
                "y": labels(rows, side),
                "tolerance": measure_tolerance(table, label, window.cut_s),
            }
        )
        for level in POOLED_ALPHAS:
            told[f"q{100 * level:02.0f}"] = np.nan
            if level not in levels:
                continue
            parameters = {**default_parameters(), "quantile_alpha": level}
            model, _ = fit_safety_model(pair, table, label, parameters, shared, common.TRAIN_DAYS)
            told[f"q{100 * level:02.0f}"] = model.predict(rows)
            if level == TABLE_ALPHA:
                told["is_ordinary"] = model.ordinary.contains(rows)
                told["rule"] = model.rule_constant * rows["atr_ratio"].to_numpy(np.float64)
        parts.append(told)
    found = pd.concat(parts, ignore_index=True)
    return found.dropna(subset=["y"])


def run(tasks: Sequence[Task], jobs: int) -> Iterator[pd.DataFrame]:
    """Yield the forecasts of each cut, in order; processes are spawned, one thread each."""
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for number, part in enumerate(pool.imap(predict_cut, tasks), 1):
            print(f"cut {number} of {len(tasks)} predicted", file=sys.stderr)
            yield part


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--datadir", type=Path, default=common.DEFAULT_DATADIR)
    parser.add_argument("--cuts", nargs="+", default=list(quality.CUTS), metavar="DATE")
    parser.add_argument("--jobs", type=int, default=2, metavar="J", help="processes (2)")
    parser.add_argument(
        "--cache", type=Path, metavar="FILE", help="keep forecasts here, or take them"
    )
    return parser.parse_args(arguments)


def forecasts(options: argparse.Namespace) -> pd.DataFrame:
    """Return the forecasts of all cuts: those kept, or new ones."""
    if options.cache is not None and options.cache.exists():
        return pd.read_parquet(options.cache)
    pairs = tuple(common.full(base) for base in common.LONG_PAIRS)
    tasks = [Task(options.datadir, pairs, cut) for cut in options.cuts]
    found: pd.DataFrame = pd.concat(list(run(tasks, options.jobs)), ignore_index=True)
    if options.cache is not None:
        found.to_parquet(options.cache, index=False)
    return found


def serve(part: pd.DataFrame) -> pd.DataFrame:
    """Return one pair's forecasts of one cut and side, calibrated along the walk and on behind the cut."""
    q, _ = calibrate(
        part["q10"].to_numpy(),
        part["y"].to_numpy(),
        part["open_s"].to_numpy(),
        alpha=TABLE_ALPHA,
        label_s=common.HORIZON * common.TIMEFRAME_S,
    )
    return part.assign(factor=q / part["q10"], served=q)


def risk_of(walk: pd.DataFrame) -> RiskTable:
    """Return what the walk before a cut says of levels, as the tuner counts it."""
    rows = Forecast(
        excursion=walk["y"].to_numpy(),
        q=walk["served"].to_numpy(),
        rule=walk["rule"].to_numpy(),
        opens_s=walk["open_s"].to_numpy(),
        tolerance=walk["tolerance"].to_numpy(),
        is_ordinary=walk["is_ordinary"].to_numpy(),
        is_allowed=walk["is_ordinary"].to_numpy(),
    )
    return count_risk(ServedForecasts(TABLE_ALPHA, (), rows, rows, 0.0, 0))


def called_at(after: pd.DataFrame, level: float) -> NDArray[np.bool_]:
    """Return what models at a level would have called safe: between the fitted ones, calibrated alike."""
    weights = pooled_weights(level)
    raw = sum(weight * after[f"q{100 * fitted:02.0f}"] for fitted, weight in weights.items())
    served = (raw * after["factor"]).to_numpy()
    return called_safe(served, after["tolerance"].to_numpy(), after["is_ordinary"].to_numpy())


def print_tolerances(served: pd.DataFrame) -> None:
    """Print how the 15 days after the cuts stand to each pair's own tolerance, at level 0.10."""
    after = served[served["is_after"]]
    after = after.assign(
        safe=after["y"] >= -after["tolerance"],
        called=called_safe(*(after[c].to_numpy() for c in ("served", "tolerance", "is_ordinary"))),
        rule=after["rule"].where(after["is_ordinary"], -np.inf),
    )
    cells = after.groupby(["cut", "pair", "side"])
    away = (cells["safe"].mean() - SAFE_SHARE).abs()
    print(
        f"tolerances of pairs' own, {len(away)} cells: base rate within 20 points of {SAFE_SHARE:.0%} in "
        f"{(away <= 0.20).mean():.1%}, within 15 in {(away <= 0.15).mean():.1%}, mean "
        f"{cells['safe'].mean().mean():.1%}"
    )
    by_pair = after.groupby("pair")["called"].mean()
    print(
        "  called safe: " + ", ".join(f"{str(p).split('/')[0]} {x:.1%}" for p, x in by_pair.items())
    )
    n = model = rule = 0
    for _, one in cells:
        called, unsafe = one["called"].to_numpy(), ~one["safe"].to_numpy()
        by_rule = np.argsort(-one["rule"].to_numpy(), kind="stable")[: called.sum()]
        n += int(called.sum())
        model += int(unsafe[called].sum())
        rule += int(unsafe[by_rule].sum())
    print(
        f"  decision value {1 - model / rule:.1%}: {model / n:.2%} unsafe against {rule / n:.2%} of the "
        f"ATR rule, of {n} candles ({n / len(after):.1%})"
    )


def print_risks(served: pd.DataFrame, asked: Sequence[float]) -> None:
    """Print what a risk chooses on the walk, and what came of it after each cut; sides apart, then summed."""
    levels: dict[tuple[object, object, float], ChosenLevel] = {}
    for (cut, side), part in served[~served["is_after"]].groupby(["cut", "side"]):
        tables = {str(pair): risk_of(walk) for pair, walk in part.groupby("pair")}
        for share in asked:
            levels[cut, side, share] = choose_level(tables, share)
    after = served[served["is_after"]]
    unsafe = (after["y"] < -after["tolerance"]).to_numpy()
    fixed = {level: called_at(after, level) for level in LEVELS}
    calls = {}
    for share in asked:
        called = np.zeros(len(after), bool)
        for (cut, side), part in after.reset_index(drop=True).groupby(["cut", "side"]):
            rows = part.index.to_numpy()
            called[rows] = fixed[levels[cut, side, share].level][rows]
        calls[share] = called
        of_cut = pd.DataFrame({"cut": after["cut"], "n": called, "unsafe": called & unsafe})
        sums = of_cut.groupby("cut").sum()
        found = dict(zip(sums.index, sums["unsafe"] / sums["n"], strict=True))
        entries = dict(zip(sums.index, sums["n"], strict=True))
        print(
            f"max_unsafe_share {share:g}: {sum(x <= share for x in found.values())} of {len(found)} cuts within"
        )
        for cut, value in found.items():
            chosen = ", ".join(
                f"{side} {one.level:g} ({one.share:.2%}, upper {one.upper:.2%}{'' if one.is_kept else ', none keeps'})"
                for side in SIDES
                if (one := levels[cut, side, share]).share is not None and one.upper is not None
            )
            print(f"  {cut}: {value:.2%} of {entries[cut]}; level {chosen}")
        within = {
            level: called_fixed.sum()
            for level, called_fixed in fixed.items()
            if (called_fixed & unsafe).sum() <= share * called_fixed.sum()
        }
        best = max(within, key=lambda level: within[level], default=None)
        of_best = (
            f"{called.sum() / within[best]:.0%} of those at the best fixed level {best:g}"
            if best
            else "-"
        )
        print(
            f"  all cuts: {(called & unsafe).sum() / called.sum():.2%} unsafe, entries {called.sum()}, {of_best}"
        )
    first, last = asked[0], asked[-1]
    print(
        f"entries at {last:g} over those at {first:g}: {calls[last].sum() / calls[first].sum():.2f}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict, choose and count."""
    options, started = parse(arguments), time.monotonic()
    found = forecasts(options)
    found = found.sort_values(["cut", "pair", "side", "open_s"], ignore_index=True)
    groups = found.groupby(["cut", "pair", "side"], sort=False)
    served = pd.concat([serve(part) for _, part in groups], ignore_index=True)
    print_tolerances(served)
    print_risks(served, (0.05, 0.10))
    print(f"  {time.monotonic() - started:.0f} s, {len(found)} forecasts")
    return 0


if __name__ == "__main__":
    sys.exit(main())
