"""Feeders on other markets than Binance's USDT futures, with the real freqtrade."""

from __future__ import annotations

import json
import time

import pytest

from tests.e2e.bot import PAIRS, STOPPED, make_trading_project, running_bot

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
        assert len([line for line in said if "trained with a lack" in line]) == 1
        assert len(bot.lines("Feeder starts")) == 1
        assert bot.stop() == STOPPED
