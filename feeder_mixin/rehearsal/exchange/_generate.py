"""A market made from a seed, for a clone without candles: plausible, never a real price.

Volatility clusters (half a day of memory), follows the time of day and rests at the weekend; pairs
share a factor, which is BTC's own return, so they move together. Tails are those of Student's t.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from feeder_mixin.pairs import base_of
from feeder_mixin.rehearsal.exchange._series import DAY_MS, Series

START_MS: Final = 1_736_121_600_000
"""Monday 2025-01-06, so that equal seeds give equal candles whenever they are asked for."""

_PRICES: Final[Mapping[str, float]] = {
    "BTC": 60_000.0, "ETH": 3_000.0, "SOL": 150.0, "BNB": 600.0, "XRP": 2.0, "DOGE": 0.2,
    "ADA": 0.5, "BCH": 450.0, "LINK": 15.0, "INJ": 12.0, "ZEC": 300.0, "HYPE": 30.0,
}  # fmt: skip
_OTHER_PRICE: Final = 10.0
_COMMON: Final = "BTC/USDT:USDT"
"""Seeds what all pairs have in common, whatever they are priced in."""
_VOLATILITY_5M: Final = 0.0012
_MEMORY_MS: Final = DAY_MS / 2
_TAIL: Final = 5
"""Degrees of freedom of the steps: crypto returns over minutes have tails about like that."""
_TURNOVER_5M: Final = 5e6
"""Traded per five minutes in USDT, before clustering."""

FUNDING_STEP_MS: Final = DAY_MS // 3
MEAN_FUNDING_RATIO: Final = 1e-4


def price_decimals(price: float) -> int:
    """Return how many decimals give a price six significant digits, as exchanges do."""
    return max(0, 5 - int(np.floor(np.log10(price))))


def generate_candles(pairs: Sequence[str], step_ms: int, n: int, seed: int) -> dict[str, Series]:
    """Return `n` candles per pair from `START_MS` on; equal arguments, equal candles.

    A pair's candles do not depend on which other pairs are asked for.
    """
    opens_ms = START_MS + step_ms * np.arange(n, dtype=np.int64)
    season = _season(opens_ms)
    scale = _VOLATILITY_5M * np.sqrt(step_ms / 300_000)
    common_volatility = scale * np.exp(season + _cluster(_random(seed, ""), n, step_ms))
    common = common_volatility * _steps(_random(seed, _COMMON), n)
    return {
        pair: Series(step_ms, opens_ms, _walk(pair, common, common_volatility, step_ms, seed))
        for pair in pairs
    }


def generate_funding(
    pair: str, seed: int, end_ms: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return funding times from `START_MS` to before `end_ms`, and their rates."""
    times_ms = np.arange(START_MS, end_ms, FUNDING_STEP_MS, dtype=np.int64)
    noise = _random(seed, f"funding {pair}").normal(size=len(times_ms))
    return times_ms, np.round(MEAN_FUNDING_RATIO * (1 + 0.5 * noise), 8)


def _random(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def _steps(random: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Return fat-tailed steps of variance one."""
    steps: NDArray[np.float64] = random.standard_t(_TAIL, size=n) * np.sqrt((_TAIL - 2) / _TAIL)
    return steps


def _cluster(random: np.random.Generator, n: int, step_ms: int) -> NDArray[np.float64]:
    """Return log volatility around 0: an autoregression that forgets half in `_MEMORY_MS`."""
    keep = 0.5 ** (step_ms / _MEMORY_MS)
    shocks = 0.5 * random.normal(size=n)
    shocks[1:] *= np.sqrt((1 + keep) / (1 - keep))  # so that the level's spread is 0.5 throughout
    level: NDArray[np.float64] = (
        pd.Series(shocks).ewm(alpha=1 - keep, adjust=False).mean().to_numpy(np.float64)
    )
    return level


def _season(opens_ms: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return log volatility by time of day (highest at 15:00 UTC), lower at weekends."""
    hour = opens_ms % DAY_MS / 3_600_000
    is_weekend = (opens_ms // DAY_MS + 3) % 7 >= 5
    season: NDArray[np.float64] = 0.4 * np.cos(2 * np.pi * (hour - 15) / 24) - 0.3 * is_weekend
    return season


def _walk(
    pair: str,
    common: NDArray[np.float64],
    common_volatility: NDArray[np.float64],
    step_ms: int,
    seed: int,
) -> NDArray[np.float64]:
    """Return one pair's values, shape (n, 5)."""
    random, n = _random(seed, f"walk {pair}"), len(common)
    start = _PRICES.get(base_of(pair), _OTHER_PRICE)
    is_btc = base_of(pair) == "BTC"  # in whatever currency
    own = 0.0 if is_btc else 0.8
    beta = 1.0 if is_btc else random.uniform(0.9, 1.4)
    cluster = _cluster(random, n, step_ms)
    returns = beta * common + own * common_volatility * np.exp(0.5 * cluster) * _steps(random, n)
    close = start * np.exp(np.cumsum(returns))
    opening = np.concatenate(([start], close[:-1]))
    wicks = np.abs(random.normal(size=(2, n))) * common_volatility * 0.6
    prices = np.column_stack(
        (
            opening,
            np.maximum(opening, close) * np.exp(wicks[0]),
            np.minimum(opening, close) * np.exp(-wicks[1]),
            close,
        )
    )
    decimals = price_decimals(start)
    prices = np.maximum(np.round(prices, decimals), 10.0**-decimals)
    calm = _VOLATILITY_5M * np.sqrt(step_ms / 300_000)
    turnover = (
        _TURNOVER_5M * step_ms / 300_000 * (common_volatility / calm + np.abs(returns) / calm)
    )
    volume = np.round(turnover * np.exp(0.3 * random.normal(size=n)) / close, 3)
    return np.column_stack((prices, volume))
