"""A project folder as a user has it: configs and user_data, no candles."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from feeder_mixin.cli.main import main
from feeder_mixin.schema import NANOSECONDS, format_time_ns
from feeder_mixin.stores.sql import SqlStore
from tests.builders import make_record

ROOT = Path(__file__).parents[2]
FEEDER = ("--feeder", "feeder120b")
PAIR, OTHER = "BNB/USDT:USDT", "DOGE/USDT:USDT"
TUNED = {"skill": 0.05, "optimization_trials": 20.0}
BASE_NS = (time.time_ns() // NANOSECONDS - 3600) * NANOSECONDS


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Return an empty project folder with the real configs, made the working directory."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    (tmp_path / "user_data").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("FEEDER_STORE_URL", "FEEDER_STORE_TOKEN", "FEEDER_STORE_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def feeder(capsys):
    """Return a function that runs a command and returns exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        try:
            code = main([str(a) for a in arguments])
        except SystemExit as stop:  # argparse
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def write_config(project):
    """Return a function that writes a feeder's config with changes."""

    def write(name: str, **changes: object) -> Path:
        config = {
            "add_config_files": ["base.json"],
            "bot_name": name,
            "feeder": {"side": "long"},
            "exchange": {"pair_whitelist": ["BTC/USDT:USDT", "ETH/USDT:USDT"]},
            **changes,
        }
        path = project / "config" / f"{name}.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        return path

    return write


def record_after(after_s, pair=PAIR, *, metrics=TUNED, **changes):
    """Return a record made so many seconds after `BASE_NS`."""
    time_ns = BASE_NS + int(after_s * NANOSECONDS)
    origin = {"host": "h", "seed": 3}
    return make_record(pair, time_ns, metrics=metrics, provenance=origin, **changes)


@pytest.fixture
def store(project):
    """Give the project's default store."""
    with SqlStore(project / "user_data" / "feeder_params.sqlite") as store:
        yield store


@pytest.fixture
def history(store):
    """Give three records of one pair, at 10, 20.25 and 30 s, oldest first."""
    values = [(10, 0.1 / 3), (20.25, 0.02), (30, 0.05)]
    records = [record_after(s, learning_rate=rate) for s, rate in values]
    store.write(records)
    return records


def shown(record):
    """Return a record's time as `feeder history` shows it."""
    return format_time_ns(record.time_ns)
