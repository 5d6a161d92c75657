"""What the benchmarks share: pairs with their feeder's context, set up as a worker would."""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # read by the libraries at import

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from feeder_mixin.errors import MissingCandlesError
from feeder_mixin.market.candles import Candles, load_candles, timeframe_seconds
from feeder_mixin.market.context import FeatureContext
from feeder_mixin.market.labels import LABEL_COLUMNS
from feeder_mixin.model.folds import Layout, plan_layout
from feeder_mixin.model.quantile import SharedModels, fit_shared
from feeder_mixin.model.rows import open_seconds
from feeder_mixin.settings import LabelSpec, Side
from feeder_mixin.tune.judge.comparison import compare
from feeder_mixin.tune.judge.contenders import DEFAULTS, RUNNING, TUNED, Contender
from feeder_mixin.tune.judge.evaluate import Evaluator, record_metrics
from feeder_mixin.tune.judge.result import Evidence, MeasuredSet
from feeder_mixin.tune.search.cells import PreparedPair, measure
from feeder_mixin.tune.search.kept import Cell, Measured
from feeder_mixin.tune.search.space import StudySettings, set_of, start_sets
from feeder_mixin.tune.search.study import SearchResult, Study, choose_sets

HORIZON, TIMEFRAME_S, TRAIN_DAYS, TOLERANCE = 30, 300, 150.0, 0.01
FEEDERS = {
    "a": ("BTC", "ETH", "SOL", "XRP"),
    "b": ("BNB", "DOGE", "BCH", "ZEC"),
    "c": ("INJ", "HYPE", "ADA", "LINK"),
}
LONG_PAIRS = ("BTC", "ETH", "SOL", "XRP", "BNB", "DOGE", "BCH", "ZEC", "INJ", "HYPE")
"""The ten pairs with 264 days or more."""

DEFAULT_DATADIR = Path(__file__).parents[2] / "shared" / "data" / "binance"


def full(base: str) -> str:
    """Return the pair of a base currency in freqtrade's spelling."""
    return f"{base}/USDT:USDT"


def context_of(base: str) -> list[str]:
    """Return the context pairs of the feeder that trades a base currency."""
    return sorted({*next(bases for bases in FEEDERS.values() if base in bases), "BTC"})


def load_all(datadir: Path, bases: Iterable[str]) -> dict[str, Candles]:
    """Return pair -> candles of base currencies."""
    return {full(b): load_candles(datadir, full(b), "5m", "futures", "feather") for b in bases}


def load_timeframe(datadir: Path, pair: str, timeframe: str) -> pd.DataFrame:
    """Return a pair's candles on a regular grid; made from 5m candles where the folder has none.

    A candle of which a 5m candle is missing or not finished is left out: NaN on the grid.
    """
    try:
        return load_candles(datadir, pair, timeframe, "futures", "feather").frame
    except MissingCandlesError:
        if timeframe == "5m":
            raise
    fine = load_candles(datadir, pair, "5m", "futures", "feather").frame
    step = pd.Timedelta(seconds=timeframe_seconds(timeframe))
    groups = fine.resample(step, origin="epoch")
    coarse = groups.agg(
        {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}
    )
    whole = groups["close"].count() == step // pd.Timedelta(seconds=TIMEFRAME_S)
    return coarse.where(whole)


def permuted(table: pd.DataFrame, seed: int, horizon: int = HORIZON) -> pd.DataFrame:
    """Return the table with its labels' ratios to the ATR permuted in blocks of the horizon."""
    random = np.random.default_rng(seed)
    usable = np.flatnonzero(table[list(LABEL_COLUMNS.values())].notna().all(axis=1))
    blocks = [usable[i : i + horizon] for i in range(0, len(usable) - horizon + 1, horizon)]
    to = np.concatenate(blocks)
    come_from = np.concatenate([blocks[i] for i in random.permutation(len(blocks))])
    atr = table["atr_ratio"].to_numpy(np.float64)
    out = table.copy()
    for column in LABEL_COLUMNS.values():
        label = out[column].to_numpy(np.float64, copy=True)
        label[to] = (label / atr)[come_from] * atr[to]
        out[column] = label
    return out


@dataclass(frozen=True)
class Setup:
    """A pair ready to be tuned, and what the preparation cost in CPU seconds."""

    base: str
    market: FeatureContext
    table: pd.DataFrame
    layout: Layout
    shared: dict[int, SharedModels]
    features_cpu_s: float
    shared_cpu_s: float

    def label(self, side: Side) -> LabelSpec:
        """Return what is predicted of a side."""
        return LabelSpec(side, self.market.horizon, self.market.timeframe_s)


def prepare(
    datadir: Path,
    base: str,
    *,
    days_back: float = 180.0,
    last_days: float | None = None,
    context: list[str] | None = None,
    with_shared: bool = True,
) -> Setup:
    """Return a pair with its context's features and shared models.

    Parameters
    ----------
    last_days
        Use only this many days of candles before the last one.
    with_shared
        Fit the shared models; without, the caller brings its own.
    """
    names = context_of(base) if context is None else context
    frames = {pair: candles.frame for pair, candles in load_all(datadir, names).items()}
    if last_days is not None:
        frames = {
            p: f[f.index > f.index[-1] - pd.Timedelta(days=last_days)] for p, f in frames.items()
        }
    started = time.process_time()
    market = FeatureContext(frames, HORIZON, TIMEFRAME_S)
    tables = dict(market.build_context())
    table = tables[full(base)]
    features_cpu_s = time.process_time() - started
    layout = plan_layout(
        int(open_seconds(table)[0]),
        int(frames[full(base)].index[-1].timestamp()),
        label_of("long"),
        newest_candle_s=int(frames[full(base)].index[-1].timestamp()),
        days_back=days_back,
        needed_warmup_days=15,
    )
    started = time.process_time()
    cuts_s = layout.cuts_s if with_shared else ()
    shared = {cut_s: fit_shared(tables, cut_s, label_of("long")) for cut_s in cuts_s}
    shared_cpu_s = time.process_time() - started
    return Setup(base, market, table, layout, shared, features_cpu_s, shared_cpu_s)


def label_of(side: Side) -> LabelSpec:
    """Return what the benchmarks predict on a side."""
    return LabelSpec(side, HORIZON, TIMEFRAME_S)


def settings_of(
    side: Side | LabelSpec, seed: int = 0, fixes: dict[str, float] | None = None
) -> StudySettings:
    """Return the study settings of the benchmarks; of a side, its label is `label_of` it."""
    label = side if isinstance(side, LabelSpec) else label_of(side)
    return StudySettings("bench", label, TOLERANCE, TRAIN_DAYS, seed, fixes or {})


def tune(
    setups: Sequence[Setup],
    settings: StudySettings,
    n_trials: int,
    budget_s: float = math.inf,
) -> tuple[SearchResult, float]:
    """Return the search of a feeder of some prepared pairs, in this process, and its CPU seconds.

    From the first trial to the last redraw.
    """
    since = time.monotonic()
    started = time.process_time()
    prepared = {full(s.base): _prepare(s, settings) for s in setups}

    def measure_all(cells: Sequence[Cell]) -> dict[Cell, Measured]:
        return {
            cell: measure(prepared[cell.pair].folds(cell.draw)[cell.fold], set_of(cell.key))
            for cell in cells
        }

    folds = {full(s.base): len(s.layout.folds) for s in setups}
    study = Study(settings, folds, start_sets(settings, []), measure_all)
    study.run(n_trials, lambda: time.monotonic() - since > budget_s, lambda _trials: None)
    return choose_sets(study, folds, measure_all), time.process_time() - started


def evidence_of(setup: Setup, settings: StudySettings, found: SearchResult) -> Evidence:
    """Return what promotion is shown of a pair's set, with the defaults as what runs."""
    pair, start = full(setup.base), settings.start
    choice = found.choices[pair]
    evaluator = Evaluator(pair, settings, setup.table, setup.shared)
    sets: dict[Contender, dict[str, float]] = {
        DEFAULTS: start,
        RUNNING: start,
        TUNED: choice.winner.parameters,
    }
    measured = {
        name: MeasuredSet(values, record_metrics(evaluator, evaluator.walk(setup.layout, values)))
        for name, values in sets.items()
    }
    n_rows = len(evaluator.walk(setup.layout, choice.winner.parameters).test.q)
    return Evidence(
        measured,
        compare(evaluator, setup.layout, sets, start["quantile_alpha"]),
        n_independent=n_rows / settings.label.horizon,
        is_feeders=choice.winner is found.winner,
    )


def _prepare(setup: Setup, settings: StudySettings) -> PreparedPair:
    return PreparedPair(full(setup.base), settings, setup.layout, lambda: setup.table, setup.shared)
