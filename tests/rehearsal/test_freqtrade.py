"""The real freqtrade against the real command."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pandas as pd
import pytest

from tests.e2e.project import run_here
from tests.rehearsal.conftest import PAIRS
from tests.waiting import wait_until

CONFIG = {
    "dry_run_wallet": 1000,
    "stake_currency": "USDT",
    "stake_amount": 50,
    "max_open_trades": 2,
    "timeframe": "5m",
    "strategy": "Flip",
    "exchange": {"name": "binance", "pair_whitelist": list(PAIRS)},
    "pairlists": [{"method": "StaticPairList"}],
    "internals": {"process_throttle_secs": 1},
}

STRATEGY = '''
from freqtrade.strategy import IStrategy

class Flip(IStrategy):
    """In on even minutes, out on odd ones; short in ETH."""
    timeframe, can_short, minimal_roi, stoploss = "1m", True, {"0": 9.0}, -0.5

    def populate_indicators(self, dataframe, metadata):
        return dataframe

    def populate_entry_trend(self, dataframe, metadata):
        side = "enter_short" if metadata["pair"].startswith("ETH") else "enter_long"
        dataframe.loc[dataframe["date"].dt.minute % 2 == 0, side] = 1
        return dataframe

    def populate_exit_trend(self, dataframe, metadata):
        dataframe.loc[dataframe["date"].dt.minute % 2 == 1, ["exit_long", "exit_short"]] = 1
        return dataframe
'''


@pytest.fixture
def userdir(tmp_path):
    """Give a user_data folder with one strategy and, beside it, the config."""
    (tmp_path / "user_data" / "strategies").mkdir(parents=True)
    (tmp_path / "user_data" / "strategies" / "flip.py").write_text(STRATEGY)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path / "user_data"


def freqtrade(folder, command: str, *options: object) -> list[str]:
    """Return freqtrade's command line with bot and replay config."""
    configs = ["--config", folder / "config.json", "--config", folder / "replay.json"]
    everything = [command, *configs, "--userdir", folder / "user_data", *options]
    return [str(Path(sys.executable).parent / "freqtrade"), *map(str, everything)]


def test_download_data_equals_the_written_folder(run_exchange, stored_datadir, userdir, tmp_path):
    """What freqtrade downloads is, to the last bit, what the replay wrote to disk."""
    written, fetched = tmp_path / "written", tmp_path / "fetched"
    options = ("--write-datadir", written, "--write-config", tmp_path / "replay.json")
    with run_exchange("--datadir", stored_datadir, *options):
        options = ("--datadir", fetched, "--days", 3, "--timeframes", "5m")
        run_here(freqtrade(tmp_path, "download-data", *options), tmp_path)
    for path in sorted((fetched / "futures").iterdir()):
        live, disk = pd.read_feather(path), pd.read_feather(written / "futures" / path.name)
        both = live.merge(disk, on="date", suffixes=("", "_disk"))
        assert len(both) >= len(live) - 1, path.name  # one candle may have closed in between
        for column in live.columns.drop("date"):
            assert (both[column] == both[f"{column}_disk"]).all(), (path.name, column)
    assert len(list((fetched / "futures").iterdir())) == 3 * len(PAIRS)


@pytest.mark.slow
def test_dry_run_trades_without_a_complaint(run_exchange, stored_datadir, userdir, tmp_path):
    """The real bot runs, sees new candles, opens and closes trades, and warns of nothing."""
    log = tmp_path / "bot.log"
    options = ("--as-1m", "--write-config", tmp_path / "replay.json")
    with run_exchange("--datadir", stored_datadir, *options) as url:
        command = freqtrade(tmp_path, "trade", "--logfile", log)
        # With this variable freqtrade believes that pytest handles its log, and writes none.
        environment = {k: v for k, v in os.environ.items() if k != "PYTEST_VERSION"}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        bot = subprocess.Popen(command, env=environment, **quiet)  # noqa: S603
        try:
            wait_until(
                lambda: _has_traded(log),
                lambda: f"both pairs' trades: {log.read_text()}",
                300,
                process=bot,
                pause_s=1,
            )
        finally:
            bot.terminate()
            bot.wait(timeout=30)
        with urllib.request.urlopen(f"{url}/replay") as answer:  # noqa: S310
            assert json.load(answer)["unknown"] == {}
    text = log.read_text()
    assert _has_traded(log), text
    assert "Changing state to: RUNNING" in text
    assert not [line for line in text.splitlines() if re.search(" - (WARNING|ERROR) - ", line)]


def _has_traded(log) -> bool:
    """Tell whether both pairs' trades were closed by a signal."""
    text = log.read_text() if log.exists() else ""
    return all(re.search(f"'type': exit_fill.*'{pair}'", text) for pair in PAIRS)
