"""Markets on a clock of the test's own, and the real command as a subprocess."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ccxt
import pytest

from feeder_mixin.rehearsal.exchange.market import ReplayMarket
from feeder_mixin.rehearsal.exchange.overlay import freqtrade_overlay
from tests.candle_factory import make_candles, write_candles
from tests.waiting import wait_until

PAIRS = ("BTC/USDT:USDT", "ETH/USDT:USDT")
DAYS = 21
NOW_S = 1_795_489_507.0
"""Tuesday 2026-11-24 03:05:07 UTC, seven seconds into a 5m candle."""

READY_TIMEOUT_S = 60


@dataclass
class Clock:
    """A clock that stands until a test moves it."""

    now_s: float = NOW_S

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now_s


@pytest.fixture
def clock():
    """Give a clock that stands."""
    return Clock()


@pytest.fixture(scope="session")
def stored_datadir(tmp_path_factory):
    """Give a data folder with three weeks of random candles of two pairs."""
    candles = {
        pair: make_candles(DAYS * 288, seed=i, price=100.0 * (i + 1)).round(3)
        for i, pair in enumerate(PAIRS)
    }
    return write_candles(tmp_path_factory.mktemp("stored") / "binance", candles)


@pytest.fixture
def market(stored_datadir, clock):
    """Give the market of those candles, at `NOW_S`."""
    return ReplayMarket.from_datadir(stored_datadir, clock=clock)


@pytest.fixture
def make_client():
    """Give a function that makes a ccxt client of a base URL."""

    def make(url: str) -> ccxt.binance:
        exchange = freqtrade_overlay(url)["exchange"]
        settings = exchange["ccxt_config"]
        settings["options"]["defaultType"] = "swap"
        return ccxt.binance(settings)

    return make


@pytest.fixture
def run_exchange(tmp_path):
    """Give a context manager: the real command with options, on a free port; yields its URL."""

    @contextmanager
    def run(*options: object) -> Iterator[str]:
        log = tmp_path / "exchange.log"
        command = [sys.executable, "-c", "from feeder_mixin.cli.main import run; run()"]
        with log.open("w", encoding="utf-8") as file:
            process = subprocess.Popen(  # noqa: S603
                [*command, "replay-exchange", *map(str, options)],
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=tmp_path,
            )
        try:
            yield _wait_ready(process, log)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=10) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()

    return run


def _wait_ready(process: subprocess.Popen[bytes], log: Path) -> str:
    found = wait_until(
        lambda: re.search(r"ready at (\S+)", log.read_text()),
        lambda: f"the exchange; it said {log.read_text()}",
        READY_TIMEOUT_S,
        process=process,
    )
    return found[1]
