"""A feeder that `feeder doctor` finds nothing wrong with, and the ways to spoil it.

The test's own process acts as the bot: it has the lock, catches SIGUSR1 and wrote the status file.
"""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from feeder_mixin.live.state.last_good import save_last_good
from feeder_mixin.live.state.status import Status, write_status
from feeder_mixin.market.features import FEATURE_HASH
from feeder_mixin.schema import NANOSECONDS, ParameterRecord, hash48
from feeder_mixin.settings import FeederSettings, load_settings
from feeder_mixin.stores.sql import SqlStore
from tests.builders import make_record
from tests.candle_factory import candle_file, make_candles, write_candles
from tests.live.fake_bot import make_pair, make_status

FEEDER = "feeder120b"
PAIRS = ("BNB/USDT:USDT", "DOGE/USDT:USDT")
CONTEXT = ("BTC/USDT:USDT", *PAIRS)
DAY_NS = 86_400 * NANOSECONDS


@dataclass
class Patient:
    """A project with one feeder, its store, candles and status file."""

    root: Path
    now_ns: int
    status: Status

    @property
    def settings(self) -> FeederSettings:
        """Return the feeder's settings as its config has them now."""
        return load_settings(FEEDER, self.config_path)

    @property
    def config_path(self) -> Path:
        """Return the feeder's config."""
        return self.root / "config" / f"{FEEDER}.json"

    @property
    def store_path(self) -> Path:
        """Return the file of the default store."""
        return self.root / "user_data" / "feeder_params.sqlite"

    @property
    def datadir(self) -> Path:
        """Return freqtrade's folder of candles."""
        return self.root / "user_data" / "data" / "binance"

    @property
    def feeder_block(self) -> dict[str, Any]:
        """Return the config's ``feeder`` block as it is now."""
        block: dict[str, Any] = json.loads(self.config_path.read_text())["feeder"]
        return block

    def configure(self, **changes: object) -> None:
        """Set keys of the config."""
        config = json.loads(self.config_path.read_text()) | changes
        self.config_path.write_text(json.dumps(config))

    def record(self, pair: str, time_ns: int, **metrics: float) -> ParameterRecord:
        """Return a record of this feeder."""
        facts = {
            "side": 1.0 if self.settings.side == "long" else -1.0,
            "horizon_candles": 30.0,
            "timeframe_s": 300.0,
            "feature_hash": float(FEATURE_HASH),
            "context_hash": float(hash48(*sorted(CONTEXT))),
        }
        return make_record(pair, time_ns, feeder_id=FEEDER, metrics={**facts, **metrics})

    def write(self, pair: str, time_ns: int, **metrics: float) -> None:
        """Write a record to the store."""
        with SqlStore(self.store_path) as store:
            store.write([self.record(pair, time_ns, **metrics)])

    def sql(self, statement: str) -> None:
        """Change the store past all checks."""
        with sqlite3.connect(self.store_path) as store:
            store.execute(statement)
        store.close()

    def say(self, change: Callable[[Status], None]) -> None:
        """Write the status file with a change."""
        change(self.status)
        write_status(self.settings.status_path, self.status)

    def say_model(self, **facts: object) -> None:
        """Write the status file with other facts about the first pair's model."""
        self.say(lambda s: s["pairs"][PAIRS[0]]["model"].update(facts))

    def write_candles(self, pair: str, end_ns: int) -> None:
        """Write a day of candles, the last of which opened before `end_ns`."""
        n = 288
        last = pd.Timestamp(end_ns, unit="ns").floor("5min") - pd.Timedelta(minutes=5)
        start = str(last - pd.Timedelta(minutes=5 * (n - 1)))
        write_candles(self.datadir, {pair: make_candles(n, 1, start=start)})

    def candle_file(self, pair: str) -> Path:
        """Return where a pair's candles lie."""
        return candle_file(self.datadir, pair)


def make_patient(root: Path) -> Patient:
    """Return a healthy feeder in a project folder that has the configs."""
    now_ns = time.time_ns()
    status = make_status(FEEDER)
    patient = Patient(root, now_ns, status)
    config: dict[str, Any] = {
        "add_config_files": ["base.json"],
        "bot_name": FEEDER,
        "db_url": "sqlite:///user_data/one.sqlite",
        "feeder": {"side": "short", "context_pairs": list(CONTEXT)},
        "exchange": {"pair_whitelist": list(PAIRS)},
    }
    patient.config_path.write_text(json.dumps(config))
    records = [patient.record(pair, now_ns - DAY_NS - i) for i, pair in enumerate(PAIRS)]
    with SqlStore(patient.store_path) as store:
        store.write(records)
    first, *others = CONTEXT
    patient.write_candles(first, now_ns)
    for pair in others:  # the same candles
        shutil.copyfile(patient.candle_file(first), patient.candle_file(pair))
    save_last_good(patient.settings, records)
    status["pairs"] = {record.pair: make_pair(record.time_ns) for record in records}
    write_status(patient.settings.status_path, status)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    return patient
