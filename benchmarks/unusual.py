"""What the check for ordinary candles costs, and what it keeps from being called safe.

    python benchmarks/unusual.py
    python benchmarks/unusual.py --cuts 2025-12-15 --events 10

The models of `quality.py`, frozen at each cut, say what of the 15 days after it is safe, with and without
the check: at a tolerance of 1 %, and at each pair's own as it is measured at the cut ("auto"). Then events are put into the candles by hand, one at a time at random candles of the same
days: a wick of ten times ATR14, down or up; a jump of the close by as much; a halt of 6 to 12 candles
without trades at the last price; and the six candles behind it. `called safe` is the share of those
candles that would let an entry pass. A halted candle without features has no prediction and is not safe.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import common  # first: it sets thread counts before numpy is imported
import numpy as np
import pandas as pd
from quality import CUTS, WINDOW_DAYS, Task

from feeder_mixin.market.context import FeatureContext
from feeder_mixin.market.features import (
    build_table,
    labels,
    own_features,
    tail_candles,
)
from feeder_mixin.model.quantile import (
    SafetyModel,
    fit_safety_model,
    fit_shared,
    pooled_weights,
    shared_rows,
)
from feeder_mixin.model.rows import DAY_S, open_seconds
from feeder_mixin.model.tolerance import measure_tolerance
from feeder_mixin.pairs import btc_beside
from feeder_mixin.schema import default_parameters
from feeder_mixin.settings import SIDES, Side

ATRS = 10.0
HALT_CANDLES = (6, 12)
AFTER_CANDLES = 6
ALPHA = 0.10
PRICES = ["open", "high", "low", "close"]


class Event(NamedTuple):
    """Candles with an event in them, the last one of which `n_after` follow; `n` are of the event."""

    kind: str
    candles: pd.DataFrame
    n: int
    n_after: int = 0


@dataclass
class Counts:
    """Candles of one kind at one tolerance, both sides: how many, and how many are called safe."""

    n: int = 0
    unusual: int = 0
    without: int = 0
    checked: int = 0
    cells: list[float] = field(default_factory=list)

    def add(self, called: np.ndarray, is_ordinary: np.ndarray, n: int) -> None:
        """Count candles; those among `n` that have no prediction are called nothing."""
        self.n += n
        self.unusual += int((~is_ordinary).sum())
        self.without += int(called.sum())
        self.checked += int((called & is_ordinary).sum())
        self.cells.append(float((~is_ordinary).mean()) if len(is_ordinary) else 0.0)


@dataclass
class Decisions:
    """Unsafe candles among those called safe, and among as many that the ATR rule ranks highest."""

    n: int = 0
    model: int = 0
    rule: int = 0

    def add(self, called: np.ndarray, rule: np.ndarray, unsafe: np.ndarray) -> None:
        """Count a cell."""
        ranked = np.argsort(-rule, kind="stable")[: int(called.sum())]
        self.n += int(called.sum())
        self.model += int(unsafe[called].sum())
        self.rule += int(unsafe[ranked].sum())

    def __str__(self) -> str:
        """Return the decision value and its parts."""
        value, n = 100 * (1 - self.model / max(self.rule, 1)), max(self.n, 1)
        return (
            f"{value:.2f} % fewer unsafe candles than the rule ({100 * self.model / n:.2f} against "
            f"{100 * self.rule / n:.2f} % of {self.n})"
        )


class Bench:
    """Candles, tables and counts over all cuts."""

    def __init__(self, task: Task, n_events: int) -> None:
        self.task, self.label, self.n_events = task, task.label(), n_events
        self.frames = {pair: task.load(pair) for pair in task.context}
        until = max(frame.index[-1] for frame in self.frames.values())
        self.market = FeatureContext(self.frames, task.horizon, self.label.timeframe_s, until)
        self.tables = {pair: self.market.build(frame) for pair, frame in self.frames.items()}
        self.thin = {
            pair: shared_rows(table, task.horizon, self.label.timeframe_s)
            for pair, table in self.tables.items()
        }
        self.measured: dict[tuple[str, Side, int], float] = {}
        self.counts: dict[tuple[str, str], Counts] = defaultdict(Counts)
        self.decisions: dict[tuple[str, bool], Decisions] = defaultdict(Decisions)
        self.random = np.random.default_rng(1)

    def run_cut(self, cut: str) -> None:
        """Fit all pairs at a cut, and count what they call safe in the days after it."""
        cut_s = int(pd.Timestamp(cut, tz="UTC").timestamp())
        shared = fit_shared(self.thin, cut_s, self.label, tuple(pooled_weights(ALPHA)))
        for pair in self.task.pairs:
            models = shared.with_pair(pair, self.tables[pair], self.label)
            parameters = {**default_parameters(), "quantile_alpha": ALPHA}
            fitted = {
                side: fit_safety_model(
                    pair,
                    self.tables[pair],
                    self.task.label(side),
                    parameters,
                    models,
                    common.TRAIN_DAYS,
                )[0]
                for side in SIDES
            }
            self.count_ordinary(pair, fitted, cut_s)
            for event in self.events(pair, cut_s):
                self.count_event(pair, fitted, cut_s, event)

    def tolerances(self, pair: str, side: Side, cut_s: int) -> dict[str, float]:
        """Return the tolerances that candles are called safe at."""
        key = pair, side, cut_s
        if key not in self.measured:
            label = self.task.label(side)
            self.measured[key] = measure_tolerance(self.tables[pair], label, cut_s)
        return {f"{common.TOLERANCE:.0%}": common.TOLERANCE, "own": self.measured[key]}

    def count_ordinary(self, pair: str, fitted: dict[Side, SafetyModel], cut_s: int) -> None:
        """Count the candles after a cut as they are."""
        opens_s = open_seconds(self.tables[pair])
        after = (opens_s >= cut_s) & (opens_s < cut_s + WINDOW_DAYS * DAY_S)
        table = self.tables[pair][after]
        for side, model in fitted.items():
            q, is_ordinary, y = (
                model.predict(table),
                model.ordinary.contains(table),
                labels(table, side),
            )
            rule = model.rule_constant * table["atr_ratio"].to_numpy()
            known = np.isfinite(y)
            for name, tolerance in self.tolerances(pair, side, cut_s).items():
                called = q >= -tolerance
                self.counts["ordinary", name].add(called, is_ordinary, len(q))
                unsafe = y < -tolerance
                self.decisions[name, False].add(called[known], rule[known], unsafe[known])
                kept = np.where(is_ordinary, rule, -np.inf)
                self.decisions[name, True].add(
                    (called & is_ordinary)[known], kept[known], unsafe[known]
                )

    def count_event(
        self, pair: str, fitted: dict[Side, SafetyModel], cut_s: int, event: Event
    ) -> None:
        """Count the candles of an event, and those behind it."""
        n_last = event.n + event.n_after
        table = build_table(
            own_features(event.candles, self.task.horizon, n_last), self.market.shared
        )
        behind = table.index > event.candles.index[-1 - event.n_after]
        for side, model in fitted.items():
            q, is_ordinary = model.predict(table), model.ordinary.contains(table)
            for name, tolerance in self.tolerances(pair, side, cut_s).items():
                called = q >= -tolerance
                self.counts[event.kind, name].add(called[~behind], is_ordinary[~behind], event.n)
                if event.n_after:
                    self.counts[f"behind a {event.kind}", name].add(
                        called[behind], is_ordinary[behind], event.n_after
                    )

    def events(self, pair: str, cut_s: int) -> list[Event]:
        """Return events at random candles of a pair after a cut; one at a time, the rest as it is."""
        frame, table = self.frames[pair], self.tables[pair]
        opens_s = open_seconds(table)
        last_s = cut_s + WINDOW_DAYS * DAY_S - DAY_S
        places = np.flatnonzero((opens_s >= cut_s) & (opens_s < last_s))
        found = []
        for place in self.random.choice(places, self.n_events, replace=False):
            at = int(frame.index.searchsorted(table.index[place]))
            here = frame.iloc[at + 1 - tail_candles(self.task.horizon) : at + 1]
            away = ATRS * float(table["atr_ratio"].iloc[place])
            found += [
                Event("wick down", _changed(here, low=1 - away), 1),
                Event("wick up", _changed(here, high=1 + away), 1),
                Event("jump down", _changed(here, **dict.fromkeys(PRICES, 1 - away)), 1),
                Event("jump up", _changed(here, **dict.fromkeys(PRICES, 1 + away)), 1),
                self.halt(frame, at),
            ]
        return found

    def halt(self, frame: pd.DataFrame, at: int) -> Event:
        """Return a halt that begins after a candle, and the candles behind it."""
        n = int(self.random.integers(HALT_CANDLES[0], HALT_CANDLES[1] + 1))
        stop = at + 1 + n + AFTER_CANDLES
        candles = frame.iloc[
            stop - tail_candles(self.task.horizon) - n - AFTER_CANDLES : stop
        ].copy()
        halted = candles.index[-n - AFTER_CANDLES : -AFTER_CANDLES]
        candles.loc[halted, PRICES] = frame["close"].iloc[at]
        candles.loc[halted, "volume"] = 0.0
        return Event("halt", candles, n, AFTER_CANDLES)


def _changed(candles: pd.DataFrame, **factors: float) -> pd.DataFrame:
    """Return candles whose last one has some prices multiplied; a wick is measured from the close."""
    changed, last = candles.copy(), candles.index[-1]
    for name, factor in factors.items():
        base = "close" if len(factors) == 1 else name
        changed.loc[last, name] = candles.loc[last, base] * factor
    return changed


def print_counts(bench: Bench) -> None:
    """Print what the check costs and what it keeps."""
    for name in dict.fromkeys(name for _, name in bench.counts):
        one = bench.counts["ordinary", name]
        cells = 100 * np.array(one.cells)
        lost = 100 * (one.without - one.checked) / max(one.without, 1)
        print(f"tolerance {name}, {one.n} ordinary candles in {len(cells)} cells")
        print(
            f"  out of the ordinary: {100 * one.unusual / one.n:.2f} % (worst cell {cells.max():.2f}); of "
            f"those called safe ({100 * one.without / one.n:.1f} %) {lost:.2f} % are lost"
        )
        print(f"  decision value without the check: {bench.decisions[name, False]}")
        print(f"  decision value with the check:    {bench.decisions[name, True]}")
        for kind in dict.fromkeys(kind for kind, _ in bench.counts if kind != "ordinary"):
            event = bench.counts[kind, name]
            print(
                f"  {kind}: {event.n} candles, called safe without the check "
                f"{100 * event.without / event.n:.2f} %, with it {100 * event.checked / event.n:.2f} %"
            )


def main(arguments: Sequence[str] | None = None) -> int:
    """Count over all cuts and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--datadir", type=Path, default=common.DEFAULT_DATADIR)
    parser.add_argument(
        "--pairs", nargs="+", default=[common.full(base) for base in common.LONG_PAIRS], metavar="P"
    )
    parser.add_argument("--cuts", nargs="+", default=list(CUTS), metavar="DATE")
    parser.add_argument(
        "--events", type=int, default=20, metavar="N", help="of each kind, per pair and cut (20)"
    )
    options = parser.parse_args(arguments)
    pairs = tuple(dict.fromkeys(options.pairs))
    context = tuple(dict.fromkeys((*pairs, btc_beside(pairs[0]))))
    started = time.process_time()
    bench = Bench(Task(options.datadir, pairs, context, options.cuts[0], ALPHA), options.events)
    for cut in options.cuts:
        bench.run_cut(cut)
    print_counts(bench)
    print(f"{time.process_time() - started:.0f} CPU-s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
