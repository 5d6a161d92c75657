"""Feeders on other markets than Binance's USDT futures, with the real freqtrade."""

from __future__ import annotations

import json
import sys
import time
import zipfile

import pytest
from freqtrade.data.history import get_datahandler
from freqtrade.enums import CandleType

from tests.candle_factory import make_candles
from tests.e2e.bot import PAIRS, STOPPED, make_trading_project, running_bot
from tests.e2e.conftest import Project, make_project
from tests.e2e.project import install_strategy, quantile_of

pytestmark = pytest.mark.slow

UNLISTED = "BTC/USDC:USDC"


def test_bot_never_asks_for_a_context_pair_that_the_exchange_does_not_list(tmp_path, exchange):
    """It is said once by name; not a line of the host's follows in all candles after."""
    project = make_trading_project(tmp_path / "project", exchange)
    feeder = json.loads(project.config.read_text())["feeder"]
    project.edit_config(feeder={**feeder, "context_pairs": [PAIRS[0], PAIRS[1], UNLISTED]})
    with running_bot(project) as bot:
        bot.wait_ready()
        bot.wait_for_candle(time.time())
        said = [line for line in bot.lines(UNLISTED) if "feeder_mixin" in line]
        assert bot.lines(UNLISTED) == said
        assert len([line for line in said if "does not list" in line]) == 1
        assert len(said) == 1
        assert len(bot.lines("Feeder starts")) == 1
        assert bot.stop() == STOPPED


SPOT_PAIRS = ("BTC/USDT", "ETH/USDT", "SOL/USDT")
DAYS = 40

SPOT_HOST = """
import asyncio
import sys

import ccxt.async_support
from freqtrade.main import main

MARKET = {"type": "spot", "spot": True, "active": True, "maker": 0.001, "taker": 0.001}
LIMITS = {"amount": {"min": 1e-5}, "price": {"min": 1e-5}, "cost": {"min": 5}, "leverage": {}}


async def fetch_markets(self, params={}):
    return [
        MARKET | {
            "id": pair.replace("/", ""), "symbol": pair, "base": pair.split("/")[0], "quote": "USDT",
            "precision": {"amount": 1e-5, "price": 1e-5}, "limits": LIMITS, "info": {},
        }
        for pair in PAIRS
    ]


ccxt.async_support.binance.fetch_markets = fetch_markets
main(sys.argv[1:])
"""
"""freqtrade on a spot exchange of these pairs: the replay exchange has futures alone."""


@pytest.fixture
def spot_project(tmp_path):
    """Give a project of a LONG spot feeder with its candles, as freqtrade stores them."""
    project = make_project(tmp_path / "project")
    config = {
        "add_config_files": ["base.json"],
        "bot_name": "test1",
        "trading_mode": "spot",
        "margin_mode": "",
        "feeder": {"side": "long", "train_days": 10},
        "exchange": {"name": "binance", "pair_whitelist": list(SPOT_PAIRS)},
    }
    (project.root / "config" / "test1.json").write_text(json.dumps(config), encoding="utf-8")
    datadir = project.root / "user_data" / "data" / "binance"
    datadir.mkdir(parents=True)
    handler = get_datahandler(datadir, "feather")
    for seed, pair in enumerate(SPOT_PAIRS):
        frame = make_candles(DAYS * 288, seed).rename_axis("date").reset_index()
        handler.ohlcv_store(pair, "5m", frame, CandleType.SPOT)
    install_strategy(project.root)
    return Project(project.root, datadir)


def test_spot_feeder_is_tuned_and_backtested(spot_project):
    """From candle files without a futures folder to long trades that name their prediction."""
    project = spot_project
    options = ("--n-trials", 1, "--days-back", 12, "--jobs", 1, "--promote", "always")
    tuned = project.run(project.optimize(*options))
    assert tuned.returncode == 0, tuned.stderr
    assert [record["pair"] for record in project.records()] == sorted(SPOT_PAIRS)
    host = f"PAIRS = {SPOT_PAIRS!r}\n{SPOT_HOST}"
    command = [sys.executable, "-c", host, "backtesting", "--config", "config/test1.json"]
    ran = project.run([*command, "--timerange", "20251105-20251108", "--cache", "none"])
    words = " ".join((ran.stdout + ran.stderr).split())
    assert ran.returncode == 0, words
    assert "Loaded Optuna params for 3 pairs" in words
    path = max((project.root / "user_data" / "backtest_results").glob("*.zip"))
    with zipfile.ZipFile(path) as archive:
        (result,) = json.loads(archive.read(f"{path.stem}.json"))["strategy"].values()
    assert len(result["trades"]) > 5
    assert {trade["pair"] for trade in result["trades"]} <= set(SPOT_PAIRS)
    for trade in result["trades"]:
        q, _, _ = quantile_of(trade["enter_tag"])
        assert not trade["is_short"]
        assert trade["stop_loss_ratio"] == pytest.approx(2 * q, abs=1e-4), trade
