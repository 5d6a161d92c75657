"""The one place where tests make records and a feeder's settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from feeder_mixin.schema import METRIC_NAMES, NANOSECONDS, ParameterRecord, default_parameters
from feeder_mixin.settings import FeederSettings, build_settings

FEEDER = "feeder120b"
PAIR = "BTC/USDT:USDT"
PAIRS = ("BNB/USDT:USDT", "DOGE/USDT:USDT", "ZEC/USDT:USDT")
"""The pairs of `FEEDER` in the repository's configs."""
NOW_NS = 1_795_176_000 * NANOSECONDS
"""A time for tests whose clock stands still."""


def make_record(
    pair: str = PAIR,
    time_ns: int = NOW_NS,
    *,
    feeder_id: str = FEEDER,
    metrics: Mapping[str, float] | None = None,
    provenance: Mapping[str, object] | None = None,
    **parameters: float,
) -> ParameterRecord:
    """Return a record: the default parameters, changed by keyword."""
    return ParameterRecord(
        feeder_id,
        pair,
        time_ns,
        {**default_parameters(), **parameters},
        {"skill": 0.05} if metrics is None else metrics,
        {"host": "h"} if provenance is None else provenance,
    )


def make_full_record(
    pair: str = PAIR,
    time_ns: int = NOW_NS,
    *,
    feeder_id: str = FEEDER,
    **parameters: float,
) -> ParameterRecord:
    """Return a record with every metric, no two alike, and a provenance that is hard to quote."""
    return make_record(
        pair,
        time_ns,
        feeder_id=feeder_id,
        metrics={name: i / 7 for i, name in enumerate(METRIC_NAMES, 1)},
        provenance={
            "seed": 7,
            "pairs": ["BTC/USDT:USDT", "ETH/USDT:USDT"],
            "text": "é \"'\\ \n",
        },
        **parameters,
    )


def make_settings(
    userdir: Path,
    feeder_id: str = FEEDER,
    *,
    pairs: Sequence[str] = PAIRS,
    side: str = "short",
    **feeder: object,
) -> FeederSettings:
    """Return the settings of a feeder on `userdir`; keys of its ``feeder`` block by keyword."""
    config = {
        "bot_name": feeder_id,
        "feeder": {"side": side, **feeder},
        "trading_mode": "futures",
        "timeframe": "5m",
        "exchange": {"name": "binance", "pair_whitelist": list(pairs)},
    }
    return build_settings(config, Path("test.json"), userdir)
