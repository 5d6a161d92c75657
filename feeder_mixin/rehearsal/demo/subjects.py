"""Whose loop the demo shows: a feeder's with the built-in model, or that of freqtrade's FreqAI example.

Both are told by one story (`story`); what differs stands here.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Final

PAIRS: Final = ("BTC/USDT:USDT", "ETH/USDT:USDT", "SOL/USDT:USDT")
_EXAMPLE: Final = "FreqaiExampleStrategy"
_TARGET: Final = "&-s_close"
"""What freqtrade's example predicts: the mean close of the coming candles, against the close."""

Shown = Mapping[str, float | bool | None]
"""Name -> what a candle says beside its price."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What differs between the demos.

    Attributes
    ----------
    what
        What is written first, in words.
    named
        Options by which commands name the bot.
    config
        Keys of its config beside those of any bot.
    history_days
        Days of the market before now: what the tunings want, and what features look back on.
    optimize
        Options of its tunings.
    fixes
        What the second tuning keeps at a value, so that the swap shows whichever set wins.
    trade
        Options of ``freqtrade trade`` beside its configs.
    read
        Takes from a row of the bot's frame what is shown.
    is_predicted
        Tells whether a model of a generation has made it, as far as the frame says.
    needs_example
        Whether freqtrade's own example strategy is copied into the user folder.
    """

    what: str
    named: tuple[str, ...]
    config: Mapping[str, Any]
    history_days: int
    optimize: tuple[str, ...]
    fixes: tuple[str, ...]
    trade: tuple[str, ...]
    read: Callable[[Mapping[str, Any]], Shown]
    is_predicted: Callable[[Shown, int], bool]
    needs_example: bool = False

    def write_strategy(self, strategies: Path) -> str | None:
        """Copy freqtrade's example where it is wanted; return what was done."""
        if not self.needs_example:
            return None
        name = f"{_EXAMPLE}.py"
        with as_file(files("freqtrade.templates") / name) as source:
            shutil.copyfile(source, strategies / name)
        return f"copied freqtrade's own {name}, unchanged"


def _read_safety(row: Mapping[str, Any]) -> Shown:
    return {
        "safety_q": row["safety_q"],
        "is_safe": bool(row["safe"]),
        "params_generation": int(row["params_generation"]),
    }


def _is_of_generation(shown: Shown, generation: int) -> bool:
    return shown["safety_q"] is not None and shown["params_generation"] == generation


def _read_target(row: Mapping[str, Any]) -> Shown:
    return {_TARGET: row.get(_TARGET), "do_predict": int(row.get("do_predict") or 0)}


def _is_believed(shown: Shown, _generation: int) -> bool:
    return shown["do_predict"] == 1


FEEDER: Final = Subject(
    what="a feeder of three pairs",
    named=("--feeder", "demo"),
    config={
        "strategy": "LightGBMSafetyFeederStrategy",
        "feeder": {"side": "long", "max_adverse_ratio": "auto", "train_days": 10},
    },
    # The optimizer wants 10 labelled days, and features 4,046 candles (2.8 days) before those.
    history_days=13,
    optimize=("--days-back", "10", "--n-trials", "6"),
    fixes=("quantile_alpha=0.05", "learning_rate=0.03", "num_leaves=31"),
    trade=("--strategy", "LightGBMSafetyFeederStrategy"),
    read=_read_safety,
    is_predicted=_is_of_generation,
)

FREQAI: Final = Subject(
    what="a config for freqtrade's FreqAI example, three pairs",
    named=("--config", "config/demo.json"),
    config={
        "freqai": {
            "enabled": True,
            "identifier": "demo",
            "train_period_days": 1,
            "backtest_period_days": 1,
            "live_retrain_hours": 24,
            "purge_old_models": 2,
            "feature_parameters": {
                "include_timeframes": ["1m", "5m"],
                "include_corr_pairlist": [PAIRS[0]],
                "label_period_candles": 20,
                "include_shifted_candles": 0,
                "indicator_periods_candles": [10],
            },
            "data_split_parameters": {"test_size": 0.1, "shuffle": False},
            "model_training_parameters": {"n_estimators": 100, "n_jobs": 1, "verbosity": -1},
        }
    },
    # The optimizer wants 10 labelled days, FreqAI one of training and 40 candles of 5m before those.
    history_days=12,
    optimize=("--strategy", _EXAMPLE, "--days-back", "10", "--n-trials", "4"),
    fixes=("learning_rate=0.03", "num_leaves=31"),
    trade=("--strategy", _EXAMPLE, "--freqaimodel", "OptunaLightGBMRegressor"),
    read=_read_target,
    is_predicted=_is_believed,
    needs_example=True,
)
