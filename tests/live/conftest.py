"""A small market of three pairs, and the ways a prediction comes about on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from feeder_mixin.live import memory
from feeder_mixin.live.bot import FRAME_CANDLES
from feeder_mixin.live.reload.loader import LoadedPair
from feeder_mixin.live.serve.calibration import Calibration
from feeder_mixin.live.serve.candles import DataFolder, LiveTails
from feeder_mixin.live.serve.columns import SafetyColumns
from feeder_mixin.live.serve.predictor import Predictor
from feeder_mixin.live.serve.snapshot import PairSnapshot, Serving
from feeder_mixin.live.train import walkforward
from feeder_mixin.live.train.models import ModelStore
from feeder_mixin.live.train.trainer import Trainer, make_trainer
from feeder_mixin.live.train.walkforward import WalkForward
from feeder_mixin.market.features import tail_candles
from feeder_mixin.model import quantile, scale
from feeder_mixin.schema import ParameterRecord, default_parameters, hash48
from feeder_mixin.settings import FeederSettings
from feeder_mixin.stores.sql import SqlStore
from tests.builders import make_record, make_settings
from tests.candle_factory import make_candles, write_candles

BTC, ETH, SOL = PAIRS = ("BTC/USDT:USDT", "ETH/USDT:USDT", "SOL/USDT:USDT")
STEP_S = 300
HORIZON = 6
DAY = 288
LAST_MIDNIGHT = 26 * DAY
N_CANDLES = LAST_MIDNIGHT + 56
"""The features look back two weeks at least and three at most: the last models know of all of that."""
FRAME = 499
LONG = {"side": 1.0}


def market_settings(
    userdir: Path, pairs: tuple[str, ...] = PAIRS, **feeder: object
) -> FeederSettings:
    """Return the settings of a LONG feeder of this market, with a short horizon."""
    block = {"side": "long", "horizon_candles": HORIZON, "context_pairs": list(PAIRS)} | feeder
    return make_settings(userdir, pairs=pairs, **block)


def market_record(
    pair: str, time_ns: int, *, metrics: Mapping[str, float] = LONG, **changes: Any
) -> ParameterRecord:
    """Return a record of that feeder; everything else as in `make_record`."""
    return make_record(pair, time_ns, metrics=metrics, **changes)


def host_frame(candles: pd.DataFrame, length: int = FRAME) -> pd.DataFrame:
    """Return candles as freqtrade hands them over: the newest, complete, with a column ``date``."""
    newest = candles.iloc[-length:].dropna()
    return newest.rename_axis("date").reset_index()


def open_s(candles: pd.DataFrame, row: int) -> int:
    """Return the open of a candle in seconds since the epoch."""
    return int(candles.index[row].timestamp())


def loaded_pair(pair: str, version: int = 1, **parameters: Any) -> LoadedPair:
    """Return what a pair runs on: defaults, changed by keyword."""
    extra = {k: parameters.pop(k) for k in ("beats_rule", "auto_tolerance") if k in parameters}
    return LoadedPair(pair, default_parameters() | parameters, "store", version, **extra)


@dataclass
class LiveRun:
    """A bot's predictor on a data folder, fed from candles as a host would feed it."""

    folder: DataFolder
    candles: Mapping[str, pd.DataFrame]
    snapshots: dict[str, PairSnapshot]
    late: dict[str, int] = field(default_factory=dict)
    """Pair -> how many candles the host is behind with it."""
    calibration: Calibration | None = None
    """What an earlier process left; begins at 0 without."""

    def __post_init__(self) -> None:
        self.row = 0
        keep = tail_candles(self.folder.settings.horizon_candles) + 2_500
        self.tails = LiveTails(self.folder, keep)
        settings = self.folder.settings
        self.calibration = self.calibration or Calibration(settings, STEP_S, FRAME_CANDLES)
        self.predictor = Predictor(self.folder, self.tails, self.calibration, self.host_frame)

    def host_frame(self, pair: str, length: int = FRAME) -> pd.DataFrame:
        """Return what the host has of a pair; an empty frame when it has nothing."""
        if pair not in self.candles:
            return pd.DataFrame(columns=["date", "open", "high", "low", "close", "volume"])
        return host_frame(self.candles[pair].iloc[: self.row + 1 - self.late.get(pair, 0)], length)

    def candle(self, row: int) -> dict[str, SafetyColumns]:
        """Analyse one candle of all pairs that have a snapshot."""
        self.row = row
        return {
            pair: self.predictor.predict(pair, self.host_frame(pair), snapshot)
            for pair, snapshot in self.snapshots.items()
        }

    def run(self, first: int, last: int) -> dict[str, SafetyColumns]:
        """Analyse candles one by one, and return the columns at the last."""
        for row in range(first, last):
            self.candle(row)
        return self.candle(last)


@dataclass
class World:
    """Candles of three pairs in a data folder, and the feeder on it; nobody changes it."""

    root: Path
    candles: dict[str, pd.DataFrame]
    datadir: Path
    _served: dict[tuple[object, ...], PairSnapshot] = field(default_factory=dict)

    def settings(self, userdir: Path | None = None, **feeder: Any) -> FeederSettings:
        """Return the feeder's settings; models and state in `userdir`."""
        return market_settings(userdir or self.root / "user_data", **feeder)

    def folder(
        self, settings: FeederSettings | None = None, datadir: Path | None = None
    ) -> DataFolder:
        """Return the feeder's data folder."""
        return DataFolder(settings or self.settings(), datadir or self.datadir, STEP_S)

    def write(self, datadir: Path, rows: int | None = None, pairs: tuple[str, ...] = PAIRS) -> Path:
        """Write the first candles of some pairs into another data folder."""
        parts = {pair: self.candles[pair].iloc[:rows].dropna() for pair in pairs}
        return write_candles(datadir, parts)

    def model_dir(self, settings: FeederSettings) -> Path:
        """Return a folder of models that tests of one context share: no fit is done twice."""
        return self.root / f"models-{hash48(*settings.context_pairs):x}"

    def share_backtest_models(self, settings: FeederSettings) -> None:
        """Let a backtest find what other tests fitted: a model's name tells all it depends on."""
        shared = self.model_dir(settings)
        shared.mkdir(exist_ok=True)
        settings.state_dir.mkdir(parents=True, exist_ok=True)
        (settings.state_dir / "backtest_models").symlink_to(shared)

    def trainer(self, folder: DataFolder, model_dir: Path | None = None) -> Trainer:
        """Return a trainer over all candles of a folder."""
        until_s = open_s(self.candles[ETH], -1)
        trainer, _ = make_trainer(folder, {}, model_dir or self.model_dir(folder.settings), until_s)
        return trainer

    def serve(
        self,
        folder: DataFolder,
        loaded: LoadedPair,
        cuts_s: tuple[int, ...],
        generation: int = 1,
    ) -> PairSnapshot:
        """Return a pair's snapshot with a model at each cut, in force from there."""
        s = folder.settings
        key = (folder.datadir, s.side, s.context_pairs, repr(loaded), cuts_s, generation)
        if key not in self._served:
            self._served[key] = self._serve(folder, loaded, cuts_s, generation)
        return self._served[key]

    def _serve(
        self, folder: DataFolder, loaded: LoadedPair, cuts_s: tuple[int, ...], generation: int
    ) -> PairSnapshot:
        trainer = self.trainer(folder)
        joined = folder.load_joined(loaded.pair, None)
        assert joined is not None
        candles = joined.frame()
        table = trainer.market.build(candles)
        store = ModelStore(self.model_dir(folder.settings), folder.settings)
        servings = []
        for cut_s in cuts_s:
            name = trainer.fit(loaded.pair, candles, loaded.parameters, cut_s, table)
            servings.append(Serving(loaded, store.load(name), cut_s, generation))
        return PairSnapshot(loaded, generation, tuple(servings))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Give the market: 26 days of 5m candles, from which nothing is ever taken away."""
    root = tmp_path_factory.mktemp("world")
    candles = {pair: make_candles(N_CANDLES, seed) for seed, pair in enumerate(PAIRS, 11)}
    return World(root, candles, write_candles(root / "data", candles))


@pytest.fixture(autouse=True)
def _fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what a process keeps over `/reload_config`: generations and reload counts."""
    monkeypatch.setattr(memory, "memories", {})


@pytest.fixture(autouse=True)
def _small_shared_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fit a scale on few rows, and few pooled trees: most of a fit's time, and alike on all ways."""
    monkeypatch.setattr(scale, "MIN_ROWS", 300)
    monkeypatch.setattr(quantile, "POOLED_TREES", 8)


@pytest.fixture(autouse=True)
def _small_own_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fit a fifth of a pair's own trees, for the same reason."""
    whole = quantile.lightgbm_params

    def few(parameters: Mapping[str, float], seed: int) -> quantile.Params:
        params = whole(parameters, seed)
        return {**params, "n_estimators": params["n_estimators"] // 5}

    monkeypatch.setattr(quantile, "lightgbm_params", few)


@pytest.fixture(autouse=True)
def _few_calibration_days(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibrate backtests over two days: each costs a fit."""
    monkeypatch.setattr(walkforward, "CALIBRATION_DAYS", 2)


@pytest.fixture
def cuts_s(world: World) -> tuple[int, ...]:
    """Give the three last midnights of the market: where its models are cut."""
    last = open_s(world.candles[BTC], -1) // 86_400 * 86_400
    return (last - 2 * 86_400, last - 86_400, last)


@pytest.fixture
def write_store(tmp_path: Path) -> Callable[..., None]:
    """Give a function that writes records into the default store of ``tmp_path``."""

    def write(*records: ParameterRecord) -> None:
        with SqlStore(tmp_path / "user_data" / "feeder_params.sqlite") as store:
            store.write(records)

    return write


def same(left: np.ndarray, right: np.ndarray) -> bool:
    """Return whether two columns agree to 1e-9, NaN in the same places."""
    return np.allclose(left, right, rtol=0, atol=1e-9, equal_nan=True)


def uncalibrated(forward: WalkForward, pair: str, frame: pd.DataFrame) -> NDArray[np.float64]:
    """Return a backtest's column without its calibration: what its models forecast."""
    with mock.patch.object(walkforward, "calibrate", lambda q, *_, **__: (q, 0.0)):
        return forward.predict(pair, frame).q
