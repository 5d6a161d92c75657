"""Candles that go away around the real bot: the data folder's, one pair's, and those of new models.

What serves goes on, what is served is told as it is, and nothing is called safe that is not.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator

import pytest

from feeder_mixin.live.state.status import Status
from feeder_mixin.schema import parse_time_ns
from tests import disks
from tests.e2e.bot import (
    CANDLE_PATIENCE_S,
    FEEDER_ID,
    GENERATE_DAYS,
    PAIRS,
    STEP_S,
    Bot,
    Exchange,
    TradingProject,
    make_trading_project,
    running_bot,
    running_exchange,
)

pytestmark = pytest.mark.slow

LONG_DAYS = 8
"""Training window of which the candles that a bot holds in memory are far under half."""

MARKETS = "/fapi/v1/exchangeInfo"
"""What a download asks first, and a running bot once an hour."""

GONE, *KEPT = reversed(PAIRS)


def findings(project: TradingProject) -> tuple[int, dict[str, str]]:
    """Return the doctor's exit code, and check -> state and message of everything."""
    done = project.feeder("doctor", "--feeder", FEEDER_ID, "--json")
    found = {f["check"]: f"{f['state']}: {f['message']}" for f in json.loads(done.stdout)}
    return done.returncode, found


def values_of(status: Status) -> dict[str, dict[str, float]]:
    """Return pair -> parameters loaded."""
    return {pair: facts["parameters"] for pair, facts in status["pairs"].items()}


def rows_of(status: Status) -> dict[str, tuple[int | None, int | None]]:
    """Return pair -> rows of the model that serves, and the expected ones."""
    return {
        pair: (facts["model"]["rows"], facts["model"]["expected_rows"])
        for pair, facts in status["pairs"].items()
    }


def open_s(time_text: str | None) -> int:
    """Return a status time in seconds since the epoch, 0 without one."""
    return 0 if time_text is None else parse_time_ns(time_text) // 10**9


def served_from_s(project: TradingProject) -> int:
    """Return the open of the first candle that every pair's newest model serves."""
    return max(serving[-1]["first_candle_s"] for serving in project.schedule().values())


def write_and_signal(bot: Bot, learning_rate: float) -> Status:
    """Write a new record for every pair, signal, and return the status in which they are loaded."""
    generation = bot.project.status()["generation"] + 1
    bot.project.write({pair: {"learning_rate": learning_rate} for pair in PAIRS})
    os.kill(bot.pid, signal.SIGUSR1)
    status = bot.wait_for_status(lambda s: s["generation"] == generation, "the new records")
    assert values_of(status) == bot.project.stored()
    return status


# ---------------------------------------------------------------------- the data folder


@pytest.fixture
def long_project(tmp_path) -> Iterator[TradingProject]:
    """Give a project whose models learn from many more candles than a bot holds in memory."""
    days = ("--generate-days", LONG_DAYS + GENERATE_DAYS)
    with running_exchange(tmp_path / "market", *days) as exchange:
        project = make_trading_project(tmp_path / "project", exchange)
        block = json.loads(project.config.read_text())["feeder"]
        project.edit_config(feeder={**block, "train_days": LONG_DAYS})
        project.write({pair: {"learning_rate": 0.02} for pair in PAIRS})
        yield project


def test_data_folder_gone_beside_the_bot_leaves_its_models_and_back_trains_whole_ones(
    long_project,
):
    """No model on a fraction replaces one on all; with the folder back nobody has to ask again."""
    project = long_project
    data, away = project.root / "user_data" / "data", project.root / "user_data" / "away"
    with running_bot(project) as bot:
        whole = rows_of(bot.wait_ready())
        assert all(rows > 0.95 * expected for rows, expected in whole.values())
        bot.wait_for_candle(0)
        models = project.schedule()

        project.exchange.fault(path=MARKETS, status=503)  # or the bot fetches all candles anew
        data.rename(away)
        since = bot.mark()
        write_and_signal(bot, 0.03)
        for pair in PAIRS:
            (line,) = bot.wait_for_line(
                f"No new model for {pair}, the current one stays in use", since
            )
            assert " are missing" in line
        status = bot.wait_for_status(
            lambda s: all(facts["model"]["error"] for facts in s["pairs"].values()), "the errors"
        )
        assert project.schedule() == models
        assert rows_of(status) == whole
        assert {facts["model"]["generation"] for facts in status["pairs"].values()} == {1}
        code, found = findings(project)
        assert code == 1
        assert found["models"].startswith("fail: training failed")
        assert all(pair in found["models"] for pair in PAIRS)
        frames = bot.wait_for_candle(time.time())
        for pair in PAIRS:
            assert frames[pair].last["safety_q"] < 0
            assert frames[pair].last["params_generation"] == 1

        shutil.rmtree(data, ignore_errors=True)  # what the refused download made
        away.rename(data)
        status = bot.wait_ready(generation=2)
        assert all(rows > 0.95 * expected for rows, expected in rows_of(status).values())
        assert {facts["model"]["generation"] for facts in status["pairs"].values()} == {2}
        assert status["reload"]["requested"] == 1
        assert bot.lines("Model has a short history") == []
        code, found = findings(project)
        assert found["models"].startswith("pass")
        frames = bot.wait_for_candle(served_from_s(project) + 1)
        assert {frame.last["params_generation"] for frame in frames.values()} == {2}


# ---------------------------------------------------------------------- a pair


@pytest.fixture
def ending(exchange) -> Iterator[Exchange]:
    """Give the exchange of all bots; its faults are cleared afterwards."""
    yield exchange
    exchange.clear()


def end_candles(exchange: Exchange, last_s: int) -> None:
    """End the candles of `GONE` within the one that opens at `last_s`, as of a pair that is delisted."""
    symbol = GONE.partition(":")[0].replace("/", "")
    exchange.fault(symbol=symbol, end_s=last_s + STEP_S - 10)


def test_pair_whose_candles_end_beside_the_bot_stands_still_in_the_status(trading, ending):
    """Status and command say what was served last, pair by pair; no later candle is made up."""
    with running_bot(trading) as bot:
        bot.wait_ready()
        bot.wait_for_candle(served_from_s(trading) + 1)
        last_s = int(time.time()) // STEP_S * STEP_S - STEP_S
        end_candles(ending, last_s)
        bot.wait_until(
            lambda: all(bot.frames(pair)[-1].open_s > last_s for pair in KEPT) or None,
            "a candle that the ended pair does not have",
            CANDLE_PATIENCE_S,
        )
        status = bot.wait_for_status(
            lambda s: all(open_s(s["pairs"][pair]["last_served"]) > last_s for pair in KEPT),
            "that candle",
        )
        facts = status["pairs"][GONE]
        assert facts["last_candle"] == facts["last_served"]
        assert open_s(facts["last_served"]) == bot.frames(GONE)[-1].open_s == last_s
        said = trading.feeder("status", "--feeder", FEEDER_ID).stdout
        (line,) = [line for line in said.splitlines() if line.strip().startswith(GONE)]
        assert line.split()[-4] == f"{facts['last_served'][:16]}Z"  # before q, its unit, and safe


def test_pair_whose_candles_ended_a_while_ago_fails_in_the_doctor_by_name(trading, ending):
    """It has parameters and a model that are as they should be, and yet nothing is served."""
    last_s = int(time.time()) // STEP_S * STEP_S - 20 * STEP_S
    end_candles(ending, last_s)
    with running_bot(trading) as bot:
        bot.wait_ready()
        bot.wait_for_candle(0)
        status = bot.wait_for_status(
            lambda s: all(facts["last_candle"] for facts in s["pairs"].values()), "all candles"
        )
        last = status["pairs"][GONE]["last_candle"]
        assert open_s(last) == last_s
        code, found = findings(trading)
        assert code == 1
        assert found["models"].startswith("pass")
        assert found["served"].startswith("fail: ")
        assert f"so they get no prediction: {GONE} (last candle {last[:16]}Z)" in found["served"]
        assert not any(pair in found["served"] for pair in KEPT)


# ---------------------------------------------------------------------- too old models


def test_model_past_its_age_calls_nothing_safe_and_says_so_until_a_new_one_stands(trading):
    """Where no model can be written, forecasts go on and the gate closes; then it opens again."""
    block = json.loads(trading.config.read_text())["feeder"]
    # The models' cut lies two hours back at least: they are due, and too old.
    ages = {"retrain_hours": 1, "model_max_age_hours": 1.5, "max_adverse_ratio": 0.5}
    trading.edit_config(feeder={**block, **ages})
    with running_bot(trading) as bot:
        with disks.read_only(trading.settings.model_dir):
            for pair in PAIRS:
                bot.wait_for_line(f"No new model for {pair}, the current one stays in use")
            status = bot.wait_for_status(
                lambda s: all(facts["model"]["state"] == "stale" for facts in s["pairs"].values()),
                "too old models",
            )
            assert all(facts["model"]["error"] for facts in status["pairs"].values())
            code, found = findings(trading)
            assert code == 1
            assert found["models"].startswith(
                "fail: model older than feeder.model_max_age_hours=1.5"
            )
            assert all(pair in found["models"] for pair in PAIRS)
            frames = bot.wait_for_candle(time.time())
            for pair in PAIRS:
                assert frames[pair].last["safety_q"] < 0
                assert frames[pair].last["safe"] == 0
                bot.wait_for_line(f"Model of {pair} is too old, no candle is safe")
        write_and_signal(bot, 0.03)
        bot.wait_ready(generation=2)
        frames = bot.wait_for_candle(served_from_s(trading) + 1)
        for pair in PAIRS:
            assert frames[pair].last["safety_q"] < 0
            assert frames[pair].last["safe"] == 1
        assert findings(trading)[1]["models"].startswith("pass")
