"""How good the predictions are: fit at cuts, predict the 15 days after, score against the ATR rule.

    python benchmarks/quality.py --out q.parquet
    python benchmarks/quality.py --live --cuts 2025-12-15 --alpha 0.1 --out live.parquet
    python benchmarks/quality.py --pairs ADA/USDT:USDT --context BTC/USDT:USDT --out ada.parquet
    python benchmarks/quality.py --timeframe 15m --horizon 12 --cuts 2025-11-15 2026-01-01 2026-02-01

Writes what was predicted (``date`` in UTC: the candle's open, ``pair``, ``side``, ``q``, ``window``: the
cut), so that other candles and another scorer can be used, and prints the scores. Everything that is
used was known at the cut: candles and labels that had ended. With ``--live`` models are retrained
daily and calibrated online, warmed up on the 30 days before the cut, as a bot that ran since then;
the rule's constant stays that of the cut. A timeframe of which the folder has no candles is made from
the 5m candles there.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common  # first: it sets thread counts before numpy is imported
import numpy as np
import pandas as pd

from feeder_mixin.errors import CandleError, ModelError
from feeder_mixin.market.candles import timeframe_seconds
from feeder_mixin.market.context import FeatureContext
from feeder_mixin.market.features import labels
from feeder_mixin.model.baseline import atr_rule_constant
from feeder_mixin.model.calibration import calibrate
from feeder_mixin.model.metrics import exceedance, exceedance_interval, skill
from feeder_mixin.model.quantile import (
    SharedModels,
    fit_safety_model,
    fit_shared,
    pooled_weights,
    shared_rows,
)
from feeder_mixin.model.rows import DAY_S, open_seconds
from feeder_mixin.pairs import btc_beside
from feeder_mixin.schema import default_parameters
from feeder_mixin.settings import SIDES, LabelSpec, Side
from feeder_mixin.tune.search.space import derive_seed

CUTS = (
    "2025-09-15",
    "2025-10-01",
    "2025-11-01",
    "2025-11-15",
    "2025-12-15",
    "2026-01-01",
    "2026-02-01",
)
WINDOW_DAYS, WARMUP_DAYS = 15, 30


@dataclass(frozen=True)
class Task:
    """One cut to be predicted, by a process of its own."""

    datadir: Path
    pairs: tuple[str, ...]
    context: tuple[str, ...]
    cut: str
    alpha: float
    live: bool = False
    null_seed: int | None = None
    timeframe: str = "5m"
    horizon: int = common.HORIZON

    def label(self, side: Side = "long") -> LabelSpec:
        """Return what is predicted of a side; shared models are the same for both."""
        return LabelSpec(side, self.horizon, timeframe_seconds(self.timeframe))

    @property
    def defaults(self) -> dict[str, float]:
        """Return the default parameters at the task's level."""
        return {**default_parameters(), "quantile_alpha": self.alpha}

    def load(self, pair: str) -> pd.DataFrame:
        """Return a pair's candles on a regular grid."""
        return common.load_timeframe(self.datadir, pair, self.timeframe)


def build_tables(task: Task) -> tuple[dict[str, pd.DataFrame], tuple[str, ...]]:
    """Return the tables of all pairs, labels permuted where a null is asked for, and the context."""
    context = {pair: task.load(pair) for pair in task.context}
    others = {p: task.load(p) for p in task.pairs if p not in context}
    until = max(frame.index[-1] for frame in (*context.values(), *others.values()))
    market = FeatureContext(context, task.horizon, task.label().timeframe_s, until)
    tables = {p: market.build(frame) for p, frame in (*context.items(), *others.items())}
    if task.null_seed is not None:
        seeds = {pair: derive_seed("null", task.null_seed, pair) for pair in tables}
        tables = {
            pair: common.permuted(table, seeds[pair], task.horizon)
            for pair, table in tables.items()
        }
    return tables, tuple(context)


def predict_cut(task: Task) -> pd.DataFrame:
    """Return the predictions after one cut, both sides, beside label and rule."""
    tables, context = build_tables(task)
    cut_s = int(pd.Timestamp(task.cut, tz="UTC").timestamp())
    label = task.label()
    thin = {pair: shared_rows(tables[pair], label.horizon, label.timeframe_s) for pair in context}
    levels = tuple(pooled_weights(task.alpha))
    first_s = cut_s - WARMUP_DAYS * DAY_S if task.live else cut_s
    walk_s = DAY_S if task.live else WINDOW_DAYS * DAY_S
    end_s = cut_s + WINDOW_DAYS * DAY_S
    raw: dict[tuple[str, Side], list[pd.Series]] = {}
    for model_cut_s in range(first_s, end_s, walk_s):
        common_models = fit_shared(thin, model_cut_s, label, levels)
        for pair in task.pairs:
            models = common_models.with_pair(pair, tables[pair], label)
            for side in SIDES:
                end = model_cut_s + walk_s
                part = predict_days(task, tables[pair], pair, side, models, end, task.defaults)
                if part is not None:
                    raw.setdefault((pair, side), []).append(part)
    parts = [
        serve(task, tables[pair], pair, side, pd.concat(found), cut_s)
        for (pair, side), found in raw.items()
    ]
    return pd.concat([part for part in parts if part is not None], ignore_index=True)


def predict_days(
    task: Task,
    table: pd.DataFrame,
    pair: str,
    side: Side,
    models: SharedModels,
    end_s: int,
    parameters: Mapping[str, float],
) -> pd.Series | None:
    """Return a set's raw forecasts from the models' cut to `end_s`; None for a pair too young."""
    opens_s = open_seconds(table)
    rows = table[(opens_s >= models.cut_s) & (opens_s < end_s)]
    if rows.empty:
        return None
    try:
        model, _ = fit_safety_model(
            pair, table, task.label(side), parameters, models, common.TRAIN_DAYS
        )
    except ModelError:
        return None
    return pd.Series(model.predict(rows), index=rows.index)


def serve(
    task: Task, table: pd.DataFrame, pair: str, side: Side, raw: pd.Series, cut_s: int
) -> pd.DataFrame | None:
    """Return what was served after the cut (calibrated online where live), beside label and rule."""
    rows = table.loc[raw.index]
    y, opens_s = labels(rows, side), open_seconds(rows)
    q = raw.to_numpy(np.float64)
    if task.live:
        q, _ = calibrate(q, y, opens_s, alpha=task.alpha, label_s=task.label(side).horizon_s)
    try:
        constant = atr_rule_constant(table, task.label(side), cut_s, task.alpha)
    except ModelError:
        constant = np.nan
    after = opens_s >= cut_s
    if not after.any():
        return None
    return pd.DataFrame(
        {
            "date": rows.index[after],
            "pair": pair,
            "side": side,
            "q": q[after],
            "window": pd.Timestamp(cut_s, unit="s", tz="UTC"),
            "y": y[after],
            "rule": constant * rows["atr_ratio"].to_numpy(np.float64)[after],
        }
    )


def score(predictions: pd.DataFrame, alpha: float, horizon: int) -> pd.DataFrame:
    """Return one row a cell (window, pair, side): skill over the rule, exceedance, decisions."""
    cells = []
    for (window, pair, side), part in predictions.groupby(["window", "pair", "side"]):
        known = part[np.isfinite(part["y"]) & np.isfinite(part["rule"])]
        y, q, rule = (known[name].to_numpy(np.float64) for name in ("y", "q", "rule"))
        if not len(known):
            continue
        missed = exceedance(y, q)
        low, high = exceedance_interval(alpha, len(known) / horizon)
        unsafe = y < -common.TOLERANCE
        n_safe = int(np.sum(q >= -common.TOLERANCE))
        taken, ranked = (np.argsort(-x, kind="stable")[:n_safe] for x in (q, rule))
        cells.append(
            {
                "window": window,
                "pair": pair,
                "side": side,
                "skill": skill(y, q, rule, alpha),
                "exceedance": missed,
                "inside": low <= missed <= high,
                "n_safe": n_safe,
                "unsafe_model": int(unsafe[taken].sum()),
                "unsafe_rule": int(unsafe[ranked].sum()),
            }
        )
    return pd.DataFrame(cells)


def print_scores(cells: pd.DataFrame, alpha: float, title: str) -> None:
    """Print what the cells say together, and window by window."""
    skills = 100 * cells["skill"]
    by_side = 100 * cells.groupby("side")["skill"].mean()
    away = 100 * (cells["exceedance"] - alpha).abs()
    model, rule, n = (cells[name].sum() for name in ("unsafe_model", "unsafe_rule", "n_safe"))
    print(f"{title}, level {alpha:g}, {len(cells)} cells")
    print(
        f"  skill over the ATR rule: mean {skills.mean():.2f} % "
        f"({', '.join(f'{s} {v:.2f}' for s, v in by_side.items())}), median {skills.median():.2f}, "
        f"above 0 in {int((skills > 0).sum())} of {len(cells)}"
    )
    windows = 100 * cells.groupby("window")["skill"].mean()
    print(
        f"  by window (lowest {windows.min():.2f} %): "
        + ", ".join(f"{w:%Y-%m-%d} {v:.2f}" for w, v in windows.items())
    )
    pairs = 100 * cells.groupby("pair")["skill"].mean()
    print("  by pair: " + ", ".join(f"{str(p).split('/')[0]} {v:.2f}" for p, v in pairs.items()))
    print(
        f"  exceedance: mean {100 * cells['exceedance'].mean():.2f} %, mean distance from nominal "
        f"{away.mean():.2f} points, inside the 95 % interval {100 * cells['inside'].mean():.1f} %"
    )
    if n and rule:
        print(
            f"  decision value at {common.TOLERANCE:.0%}: {100 * (1 - model / rule):.2f} % fewer unsafe "
            f"candles at equal numbers ({100 * model / n:.2f} against {100 * rule / n:.2f} % of {n})"
        )


def run(
    predict: Callable[[Any], pd.DataFrame], tasks: Sequence[Task], jobs: int
) -> Iterator[pd.DataFrame]:
    """Yield the predictions of each cut, in order; processes are spawned, one thread each."""
    if jobs == 1:
        yield from map(predict, tasks)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for number, part in enumerate(pool.imap(predict, tasks), 1):
            print(f"cut {number} of {len(tasks)} predicted", file=sys.stderr)
            yield part


def make_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser of the options that say what is predicted, and where."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--datadir", type=Path, default=common.DEFAULT_DATADIR)
    parser.add_argument(
        "--pairs",
        nargs="+",
        default=[common.full(base) for base in common.LONG_PAIRS],
        metavar="P",
        help="pairs in freqtrade's spelling (the ten with 264 days or more)",
    )
    parser.add_argument(
        "--context", nargs="+", metavar="P", help="context pairs (the pairs, and BTC)"
    )
    parser.add_argument("--cuts", nargs="+", default=list(CUTS), metavar="DATE")
    parser.add_argument("--timeframe", default="5m", metavar="T", help="of the candles (5m)")
    parser.add_argument(
        "--horizon", type=int, default=common.HORIZON, metavar="H", help="candles ahead (30)"
    )
    parser.add_argument("--alpha", type=float, default=0.10, metavar="A")
    parser.add_argument("--jobs", type=int, default=2, metavar="J", help="processes (2)")
    return parser


def what(options: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of a `Task`, but for the cut, that `make_parser`'s options ask for."""
    pairs = tuple(dict.fromkeys(options.pairs))
    context = tuple(dict.fromkeys(options.context or (*pairs, btc_beside(pairs[0]))))
    return {
        "datadir": options.datadir,
        "pairs": pairs,
        "context": context,
        "alpha": options.alpha,
        "timeframe": options.timeframe,
        "horizon": options.horizon,
    }


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = make_parser((__doc__ or "").splitlines()[0])
    parser.add_argument("--live", action="store_true", help="retrain daily, calibrate online")
    parser.add_argument(
        "--null", type=int, metavar="SEED", help="permute labels in blocks: no skill may be left"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="parquet file for the predictions")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict all cuts, write and score them."""
    options = parse(arguments)
    tasks = [
        Task(cut=cut, live=options.live, null_seed=options.null, **what(options))
        for cut in options.cuts
    ]
    started, cpu = time.monotonic(), time.process_time()
    try:
        predictions = pd.concat(list(run(predict_cut, tasks, options.jobs)), ignore_index=True)
    except CandleError as error:
        print(f"quality: {error}", file=sys.stderr)
        return 2
    if options.out is not None:
        columns = ["date", "pair", "side", "q", "window"]
        predictions[columns].to_parquet(options.out, index=False)
    title = "as the bot runs it" if options.live else "frozen at the cut"
    title = f"{options.timeframe}, {options.horizon} candles ahead, {title}"
    print_scores(score(predictions, options.alpha, options.horizon), options.alpha, title)
    took = f"{time.monotonic() - started:.0f} s"
    print(f"  {took}" + (f", {time.process_time() - cpu:.0f} CPU-s" if options.jobs == 1 else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
