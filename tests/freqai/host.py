"""freqtrade's side of FreqAI without an exchange: a strategy, its data provider, generated candles.

FreqAI itself is the real one, data kitchen and data drawer included.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import talib
from freqtrade.enums import CandleType, RunMode
from freqtrade.strategy import IStrategy

from feeder_mixin.freqai.model import OptunaLightGBMRegressor
from tests.candle_factory import make_candles
from tests.freqai.conftest import PAIRS, freqai_block, freqai_config

HOST_WARNINGS = (
    "ignore:The argument 'eval_set' is deprecated",
    "ignore::FutureWarning",
    "ignore::pandas.errors.Pandas4Warning",
)
"""What FreqAI's own code brings up with this pandas and this LightGBM; for ``filterwarnings``."""

HORIZON = 24
N_CANDLES = 20 * 288
TIMERANGE = "20251012-20251020"
"""Two windows of five days and three, each after ten days of training."""


def frame(pair_number: int, timeframe: str = "5m") -> pd.DataFrame:
    """Return candles as freqtrade hands them over."""
    candles = make_candles(N_CANDLES, pair_number)
    if timeframe != "5m":
        rules = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}
        candles = candles.resample(pd.Timedelta(timeframe)).agg(rules).dropna()
    return host_frame(candles)


def host_frame(candles: pd.DataFrame) -> pd.DataFrame:
    """Return candles as freqtrade hands them over: a column ``date``, in milliseconds."""
    frame = candles.rename_axis("date").reset_index()
    return frame.assign(date=frame["date"].dt.as_unit("ms"))


class Strategy(IStrategy):
    """Features of every kind that FreqAI knows, and two targets."""

    timeframe, stoploss = "5m", -0.5
    minimal_roi = {"0": 9.0}  # noqa: RUF012  (freqtrade's own form)
    startup_candle_count = 40
    process_only_new_candles = True

    def feature_engineering_expand_all(self, dataframe, period, metadata, **kwargs):
        """Add what is built for every period, timeframe and pair."""
        dataframe["%-rsi-period"] = talib.RSI(dataframe["close"].to_numpy(), period)
        dataframe["%-roc-period"] = talib.ROC(dataframe["close"].to_numpy(), period)
        return dataframe

    def feature_engineering_expand_basic(self, dataframe, metadata, **kwargs):
        """Add what is built for every timeframe and pair."""
        dataframe["%-pct-change"] = dataframe["close"].pct_change()
        return dataframe

    def feature_engineering_standard(self, dataframe, metadata, **kwargs):
        """Add what is built once."""
        dataframe["%-hour"] = dataframe["date"].dt.hour / 25
        return dataframe

    def set_freqai_targets(self, dataframe, metadata, **kwargs):
        """Set the worst low and the close of the horizon."""
        low = dataframe["low"].rolling(HORIZON).min().shift(-HORIZON)
        dataframe["&-min_low"] = low / dataframe["close"] - 1
        dataframe["&-future_close"] = dataframe["close"].shift(-HORIZON) / dataframe["close"] - 1
        return dataframe

    def populate_indicators(self, dataframe, metadata):
        """Ask FreqAI."""
        return self.freqai.start(dataframe, metadata, self)

    def populate_entry_trend(self, dataframe, metadata):
        """Enter never."""
        return dataframe

    def populate_exit_trend(self, dataframe, metadata):
        """Leave never."""
        return dataframe


@dataclass
class Provider:
    """freqtrade's data provider, as far as FreqAI asks it."""

    runmode: RunMode = RunMode.BACKTEST
    frames: Mapping[tuple[str, str], pd.DataFrame] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def get_pair_dataframe(self, pair: str, timeframe: str, candle_type: str = "") -> pd.DataFrame:
        """Return a pair's candles."""
        return self.frames[pair, timeframe].copy()

    def current_whitelist(self) -> list[str]:
        """Return the pairs that are traded."""
        return list(PAIRS)

    def send_msg(self, message: str) -> None:
        """Keep what an operator would read."""
        self.messages.append(message)


def all_frames() -> dict[tuple[str, str], pd.DataFrame]:
    """Return the candles of both pairs in both timeframes."""
    return {(p, t): frame(n, t) for n, p in enumerate(PAIRS) for t in ("5m", "15m")}


def run_config(userdir: Path, mode: RunMode = RunMode.BACKTEST, **changes: Any) -> dict[str, Any]:
    """Return the config as freqtrade has it while it runs."""
    freqai = freqai_block(**changes.pop("freqai", {}))
    freqai["feature_parameters"].update(
        {"buffer_train_data_candles": 0, "shuffle_after_split": False}
    )
    freqai |= {"purge_old_models": 2, "expiration_hours": 0, "live_retrain_hours": 24}
    config = freqai_config(freqai=freqai, **changes)
    config_file = userdir.parent / "config.json"
    config_file.touch()
    return config | {
        "runmode": mode,
        "user_data_dir": userdir,
        "datadir": userdir / "data",
        "config_files": [str(config_file)],
        "timerange": TIMERANGE,
        "candle_type_def": CandleType.FUTURES,
        "backtest_cache": "none",
        "startup_candle_count": 40,
        **changes,
    }


def make_strategy(
    config: dict[str, Any], frames: Mapping[tuple[str, str], pd.DataFrame], kind: type = Strategy
) -> IStrategy:
    """Return a strategy on candles."""
    strategy = kind(config)
    strategy.dp = Provider(RunMode(config["runmode"]), frames)
    return strategy


def backtest(
    config: dict[str, Any],
    frames: Mapping[tuple[str, str], pd.DataFrame],
    pair: str = PAIRS[1],
    model: Callable[[dict[str, Any]], Any] = OptunaLightGBMRegressor,
    kind: type = Strategy,
) -> tuple[pd.DataFrame, Any]:
    """Return FreqAI's own backtest of a pair and the model that made it."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    strategy = make_strategy(config, frames, kind)
    freqai = model(config)
    strategy.freqai, strategy.freqai_info = freqai, config["freqai"]
    return freqai.start(frames[pair, "5m"].copy(), {"pair": pair}, strategy), freqai
