"""A small market with one fitted cut, made once."""

from dataclasses import dataclass

import pandas as pd
import pytest

from feeder_mixin.market.context import FeatureContext
from feeder_mixin.model.quantile import SharedModels, fit_shared
from feeder_mixin.model.rows import DAY_S
from feeder_mixin.settings import LabelSpec
from tests.candle_factory import make_candles

HORIZON, TIMEFRAME_S = 30, 300
PAIRS = ("BTC/USDT:USDT", "ETH/USDT:USDT", "SOL/USDT:USDT")


@dataclass(frozen=True)
class SmallMarket:
    """Tables of three pairs and a cut seven days before their end."""

    candles: dict[str, pd.DataFrame]
    tables: dict[str, pd.DataFrame]
    cut_s: int
    shared: SharedModels


@pytest.fixture(scope="session")
def small_market() -> SmallMarket:
    """Give 42 days of made candles, tables and shared models."""
    candles = {pair: make_candles(42 * 288, seed) for seed, pair in enumerate(PAIRS)}
    tables = dict(FeatureContext(candles, HORIZON, TIMEFRAME_S).build_context())
    cut_s = int(candles[PAIRS[0]].index[-1].timestamp()) // DAY_S * DAY_S - 7 * DAY_S
    return SmallMarket(
        candles, tables, cut_s, fit_shared(tables, cut_s, LabelSpec("long", HORIZON, TIMEFRAME_S))
    )
