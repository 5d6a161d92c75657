"""What `freqai.py` measures on: a FreqAI bot's config, candles up to a time, and a run in this process."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import pandas as pd
from common import full, load_timeframe

from feeder_mixin.executors.base import Shared
from feeder_mixin.freqai.settings import FreqaiSettings, load_bot_settings
from feeder_mixin.tune.freqai.work import FreqaiWork
from feeder_mixin.tune.run.work import PlannedPairs
from feeder_mixin.tune.search.kept import Cell, Measured
from feeder_mixin.tune.search.space import start_sets
from feeder_mixin.tune.search.study import SearchResult, Study, choose_sets

BASES: Final = ("BTC", "SOL", "DOGE", "ZEC")
TIMEFRAMES: Final = ("5m", "15m", "1h")
HORIZON, ALPHA, TEST_DAYS = 30, 0.10, 15
EXCURSION: Final = {"&-excursion": {"quantile": ALPHA}}
_NEVER: Final = pd.Timestamp.max.tz_localize("UTC")
PLAN: Final = {"n_estimators": 200, "learning_rate": 0.05, "max_depth": 8, "num_leaves": 64}
"""The config's own values: those of a plan in use."""


def write_site(
    root: Path,
    bases: Sequence[str],
    targets: Mapping[str, object] = EXCURSION,
    features: Mapping[str, object] | None = None,
    **freqai: object,
) -> FreqaiSettings:
    """Write a FreqAI bot's config into a folder of its own, and return what it decides.

    Parameters
    ----------
    features
        Keys of its ``feature_parameters`` that are others.
    freqai
        Further keys of its block.
    """
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
                **(features or {}),
            },
            "data_split_parameters": {"test_size": 0},
            "model_training_parameters": PLAN,
            **freqai,
        },
        "feeder": {"freqai_targets": dict(targets)},
        "exchange": {"name": "binance", "pair_whitelist": [full(base) for base in bases]},
        **_TRADING,
    }
    path = root / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    settings = load_bot_settings(None, [path], root / "user_data")
    if not isinstance(settings, FreqaiSettings):
        raise SystemExit("the config is no FreqAI bot's")
    return settings


_TRADING: Final[Mapping[str, Any]] = {
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


def write_candles(
    root: Path, datadir: Path, bases: Sequence[str], end: pd.Timestamp = _NEVER
) -> Path:
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

    def __init__(self, *_: object) -> None:
        self._values: dict[str, object] = {}
        self._tasks: deque[tuple[str, Callable[..., Any], tuple[object, ...]]] = deque()

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
        self,
        key: str,
        function: Callable[..., Any],
        *arguments: object,
        home: str = "",  # noqa: ARG002
    ) -> None:
        """See `Executor`."""
        self._tasks.append((key, function, arguments))

    def outcomes(
        self, while_waiting: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[str, Any]]:
        """See `Executor`."""
        while self._tasks:
            key, function, arguments = self._tasks.popleft()
            while_waiting()
            yield key, function(*map(self.value, arguments))

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
    prepared: PlannedPairs, executor: Inline
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
