"""A FreqAI bot's config and records."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

import pytest

from feeder_mixin.schema import FREQAI_MODEL_TYPE, ParameterRecord
from tests.builders import make_record
from tests.cli.conftest import feeder, project, store, write_config

__all__ = ["feeder", "project", "store", "write_config"]  # fixtures

BOT = "my_freqai"
PAIRS = ("BTC/USDT:USDT", "ETH/USDT:USDT")
TARGETS = {"&-min_low": {"quantile": 0.10}, "&-future_close": {"quantile": 0.75}}
TRAINING = {"n_estimators": 200, "learning_rate": 0.05, "max_depth": -1, "num_leaves": 64}


def freqai_block(**changes: object) -> dict[str, object]:
    """Return a small ``freqai`` block, as a user's config has it."""
    return {
        "enabled": True,
        "identifier": "example",
        "train_period_days": 10,
        "backtest_period_days": 5,
        "live_retrain_hours": 1,
        "feature_parameters": {
            "include_timeframes": ["5m", "15m"],
            "include_corr_pairlist": ["BTC/USDT:USDT"],
            "label_period_candles": 24,
            "include_shifted_candles": 2,
            "indicator_periods_candles": [10, 20],
            "weight_factor": 0.9,
            "DI_threshold": 0,
        },
        "data_split_parameters": {"test_size": 0.2, "shuffle": False},
        "model_training_parameters": dict(TRAINING),
        **changes,
    }


def freqai_config(**changes: object) -> dict[str, object]:
    """Return a merged config of a FreqAI bot."""
    return {
        "bot_name": BOT,
        "freqai": freqai_block(),
        "feeder": {"freqai_targets": TARGETS},
        "trading_mode": "futures",
        "timeframe": "5m",
        "exchange": {"name": "binance", "pair_whitelist": list(PAIRS)},
        **changes,
    }


def freqai_record(
    pair: str = PAIRS[0],
    time_ns: int | None = None,
    *,
    metrics: Mapping[str, float] | None = None,
    **parameters: float,
) -> ParameterRecord:
    """Return a record for a FreqAI bot: the default parameters, changed by keyword."""
    time_ns = time.time_ns() if time_ns is None else time_ns
    record = make_record(pair, time_ns, feeder_id=BOT, metrics=metrics or {}, **parameters)
    return replace(record, model_type=FREQAI_MODEL_TYPE)


@pytest.fixture
def write_freqai(write_config):
    """Write the FreqAI bot's config into the project; return its path."""

    def write(**changes: object):
        config = freqai_config(**changes)
        return write_config(str(config.pop("file", BOT)), **config)

    return write
