"""Random candles that look like a market: what tests use where real ones are not needed."""

from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path

import numpy as np
import pandas as pd

EPOCH_OF_CANDLES = "2025-10-01"


def make_candles(
    n: int,
    seed: int,
    *,
    timeframe_s: int = 300,
    start: str = EPOCH_OF_CANDLES,
    price: float = 100.0,
) -> pd.DataFrame:
    """Return `n` random candles, indexed by their open in UTC; equal arguments, equal candles.

    Volatility clusters (a slow autoregression) and follows the time of day; volume goes with it.
    The form is that of `Candles.frame`.
    """
    random = np.random.default_rng(seed)
    index = pd.date_range(start, periods=n, freq=f"{timeframe_s}s", tz="UTC", name="date")
    hour = (index.hour + index.minute / 60).to_numpy()
    shocks = random.normal(size=n) * 0.05
    levels = accumulate(shocks.tolist(), lambda level, shock: 0.995 * level + shock)
    cluster = np.fromiter(levels, np.float64, n)
    volatility = 1e-3 * np.exp(cluster + 0.5 * np.sin(2 * np.pi * (hour - 9) / 24))
    steps = volatility * random.standard_t(5, size=n)
    close = price * np.exp(np.cumsum(steps))
    opening = np.concatenate(([price], close[:-1]))
    above, below = np.abs(random.normal(size=(2, n))) * volatility * 0.5
    return pd.DataFrame(
        {
            "open": opening,
            "high": np.maximum(opening, close) * np.exp(above),
            "low": np.minimum(opening, close) * np.exp(-below),
            "close": close,
            "volume": 1000 * np.exp(cluster + 0.3 * random.normal(size=n)),
        },
        index=index,
    )


def halted(candles: pd.DataFrame, n: int) -> pd.DataFrame:
    """Return candles of which the last `n` stand still, without volume."""
    candles = candles.copy()
    candles.iloc[-n:, :4] = candles["close"].iloc[-n - 1]
    candles.iloc[-n:, 4] = 0.0
    return candles


def candle_file(datadir: Path, pair: str, timeframe: str = "5m") -> Path:
    """Return where freqtrade keeps futures candles in feather format."""
    name = pair.replace("/", "_").replace(":", "_")
    return datadir / "futures" / f"{name}-{timeframe}-futures.feather"


def write_candles(
    datadir: Path, candles: Mapping[str, pd.DataFrame], timeframe: str = "5m"
) -> Path:
    """Write pair -> candles as freqtrade's feather files, and return the data folder."""
    (datadir / "futures").mkdir(parents=True, exist_ok=True)
    for pair, frame in candles.items():
        frame.rename_axis("date").reset_index().to_feather(
            candle_file(datadir, pair, timeframe), compression="lz4", version=2
        )
    return datadir
