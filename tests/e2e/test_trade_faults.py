"""Faults around the real bot: store, disk, models, exchange, config; what runs keeps running.

Where the fault can go, the test ends with the recovery: the next good reload is in force.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest

from feeder_mixin.live.state.lock import running_bot_pid
from tests.candle_factory import candle_file
from tests.e2e.bot import (
    BIN,
    FEEDER_ID,
    PAIRS,
    ROOT,
    RUNNING,
    STEP_S,
    STOPPED,
    Bot,
    TradingProject,
    lasting_facts,
    make_trading_project,
    running_bot,
    running_exchange,
    start_bot,
)

pytestmark = pytest.mark.slow

GARBAGE = b"this was a store once" * 500


def values_of(status) -> dict[str, dict[str, float]]:
    """Return pair -> parameters of a status."""
    return {pair: facts["parameters"] for pair, facts in status["pairs"].items()}


def sources_of(status) -> set[str]:
    """Return where the pairs' parameters came from."""
    return {facts["source"] for facts in status["pairs"].values()}


def models_of(project: TradingProject) -> dict[str, list[tuple[str, int]]]:
    """Return pair -> model and first candle of everything in force, whatever its source is called."""
    return {
        pair: [(entry["model"], entry["first_candle_s"]) for entry in entries]
        for pair, entries in project.schedule().items()
    }


def check_recovers(bot: Bot, learning_rate: float) -> None:
    """Write new records and check that one signal puts them in force."""
    bot.project.write({pair: {"learning_rate": learning_rate} for pair in PAIRS})
    generation = bot.project.status()["generation"]
    status = bot.reload()
    assert status["reload"]["last_error"] is None
    assert status["generation"] == generation + 1
    assert sources_of(status) == {"store"}
    assert values_of(status) == bot.project.stored()
    bot.wait_ready(generation=generation + 1)


def check_reload_fails(bot: Bot, reason: str) -> None:
    """Check that a reload changes nothing, and that log and status say why."""
    before, schedule = bot.project.status(), bot.project.schedule()
    since = bot.mark()
    after = bot.reload()
    assert after["generation"] == before["generation"]
    assert lasting_facts(after) == lasting_facts(before)
    assert bot.project.schedule() == schedule
    assert reason in after["reload"]["last_error"]
    (line,) = bot.lines("Reload failed, generation kept", since)
    assert reason in line
    assert f"generation={before['generation']}" in line
    assert "Traceback" not in bot.log[since:]


def check_no_candle_skipped(bot: Bot) -> None:
    """Check that the process analysed every candle of every pair."""
    for pair in PAIRS:
        opens_s = [frame.open_s for frame in bot.frames(pair)]
        assert opens_s == list(range(opens_s[0], opens_s[-1] + 1, STEP_S)), pair


@contextmanager
def damaged(path: Path) -> Iterator[None]:
    """Have garbage in place of an SQLite file for the length of the block."""
    good = path.read_bytes()
    for beside in path.parent.glob(f"{path.name}-*"):
        beside.unlink()
    path.write_bytes(GARBAGE)
    try:
        yield
    finally:
        path.write_bytes(good)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Have a folder read-only, for root as well, for the length of the block."""
    mount = ["mount", "--bind", str(folder), str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode:  # noqa: S603
        pytest.skip("a read-only bind mount needs root")
    try:
        again = ["mount", "-o", "remount,bind,ro", str(folder)]
        subprocess.run(again, check=True)  # noqa: S603
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)  # noqa: S603, S607


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Give a port that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(64)
        yield server.getsockname()[1]


def postgresql(port: int) -> str:
    """Return the URL of a PostgreSQL store that is not there."""
    return f"postgresql+psycopg://bot:SECRET@127.0.0.1:{port}/none"


# ---------------------------------------------------------------------- at start


def test_store_down_at_start_without_copy_serves_defaults_and_says_so(trading):
    """The bot runs, its pairs on defaults, each of them said; a failed reload changes nothing."""
    shutil.rmtree(trading.settings.state_dir)
    with running_bot(trading, FEEDER_STORE_URL=postgresql(1)) as bot:
        bot.wait_running()
        status = bot.wait_ready()
        assert sources_of(status) == {"default"}
        assert "127.0.0.1" in status["reload"]["last_error"]
        (line,) = bot.lines("Store gave no answer")
        assert "store=postgresql+psycopg://bot:***@127.0.0.1:1/none (FEEDER_STORE_URL)" in line
        assert len(bot.lines("There is no last good copy")) == 1
        for pair in PAIRS:
            assert len(bot.lines(f"No Optuna params for {pair}, using defaults")) == 1
        check_reload_fails(bot, "127.0.0.1")
        assert "SECRET" not in bot.log + trading.settings.status_path.read_text()


def test_store_down_at_start_with_copy_serves_what_was_loaded_last(trading):
    """Values, versions and models of before go on; the source tells that it is the copy."""
    before, models = trading.status(), models_of(trading)
    with running_bot(trading, FEEDER_STORE_URL=postgresql(1)) as bot:
        bot.wait_running()
        status = bot.wait_ready()
        assert sources_of(status) == {"last_good"}
        assert values_of(status) == values_of(before)
        for pair in PAIRS:
            assert status["pairs"][pair]["version"] == before["pairs"][pair]["version"]
        assert models_of(trading) == models
        assert bot.lines("Model is ready for") == []
        assert len(bot.lines("Last good copy stands in for the store")) == 1
        assert "127.0.0.1" in status["reload"]["last_error"]
        check_reload_fails(bot, "127.0.0.1")


def test_store_without_answer_at_start_and_reload_is_waited_for_with_a_bound(trading, silent_port):
    """A store that never answers costs seconds, not the bot."""
    with running_bot(trading, FEEDER_STORE_URL=postgresql(silent_port)) as bot:
        bot.wait_running()
        assert sources_of(bot.wait_ready()) == {"last_good"}
        (line,) = bot.lines("Loaded Optuna params for 0 pairs")
        assert float(line.rpartition("took_ms=")[2].split()[0]) < 12_000
        began = time.monotonic()
        check_reload_fails(bot, "127.0.0.1")
        assert time.monotonic() - began < 15
        frames = bot.wait_for_candle(time.time())
        assert all(frame.last["safety_q"] < 0 for frame in frames.values())
        check_no_candle_skipped(bot)


def test_damaged_store_at_start_serves_the_copy_and_recovers(trading):
    """With the file whole again the next reload is the store's, and no model is fitted for it."""
    backup = shutil.copy(trading.store_path, trading.root / "backup.sqlite")
    with damaged(trading.store_path), running_bot(trading) as bot:
        bot.wait_running()
        status = bot.wait_ready()
        assert sources_of(status) == {"last_good"}
        assert "not a database" in status["reload"]["last_error"]
        check_reload_fails(bot, "not a database")
        shutil.copy(backup, trading.store_path)
        status = bot.reload()
        assert status["reload"]["last_error"] is None
        assert sources_of(status) == {"store"}
        assert bot.lines("Model is ready for") == []
        check_recovers(bot, 0.033)


def test_corrupt_copy_at_start_without_store_serves_defaults_and_recovers(trading):
    """A cut copy is refused by name; a good reload puts the store's values and a new copy there."""
    backup = shutil.copy(trading.store_path, trading.root / "backup.sqlite")
    path = trading.settings.last_good_path
    path.write_bytes(path.read_bytes()[:-100])
    with damaged(trading.store_path), running_bot(trading) as bot:
        bot.wait_running()
        status = bot.wait_ready()
        assert sources_of(status) == {"default"}
        (line,) = bot.lines("Last good copy can't be used")
        assert str(path) in line
        assert "is truncated" in line
        shutil.copy(backup, trading.store_path)
        check_recovers(bot, 0.034)
        assert bot.stop() == STOPPED
    with damaged(trading.store_path), running_bot(trading) as bot:
        status = bot.wait_for_status(lambda _: True, "the first")
        assert sources_of(status) == {"last_good"}
        assert {facts["parameters"]["learning_rate"] for facts in status["pairs"].values()} == {
            0.034
        }


def test_cut_model_file_at_restart_is_refused_and_only_that_pair_is_fitted_anew(trading):
    """A model is taken whole or not at all; the other pairs serve at once."""
    cut, *whole = PAIRS
    name = trading.schedule()[cut][-1]["model"]
    path = trading.settings.model_dir / f"{name}.json"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with running_bot(trading) as bot:
        bot.wait_running()
        (line,) = bot.lines(f"Saved model can't serve {cut}")
        assert str(path) in line
        for pair in whole:
            assert len(bot.lines(f"Saved model serves {pair} again")) == 1
        bot.wait_ready()
        assert [pair for pair in PAIRS if bot.lines(f"Model is ready for {pair}")] == [cut]
        check_recovers(bot, 0.035)


def test_read_only_state_folder_at_start_costs_no_prediction_and_is_said(trading):
    """Models live in a temporary folder, which goes with the bot; reloads work."""
    with read_only(trading.settings.state_dir):
        with running_bot(trading) as bot:
            bot.wait_running()
            (line,) = bot.lines("State folder can't be used")
            assert "ERROR" in line
            folder = Path(line.partition("models=")[2].split()[0])
            bot.wait_for_line("Model is ready for", count=3)
            assert len(list(folder.glob("*.json"))) >= 3
            assert running_bot_pid(trading.settings) == bot.pid
            said = trading.feeder("status", "--feeder", FEEDER_ID)
            assert said.returncode == 0, said.stderr
            assert "because it can't write" in said.stdout
            trading.write({pair: {"learning_rate": 0.036} for pair in PAIRS})
            since = bot.mark()
            os.kill(bot.pid, signal.SIGUSR1)
            (line,) = bot.wait_for_line("Loaded Optuna params for 3 pairs", since)
            assert "generation=2" in line
            bot.wait_for_line("Model is ready for", since, count=3)
            frames = bot.wait_for_candle(time.time())
            for pair in PAIRS:
                assert frames[pair].last["safety_q"] < 0
                assert frames[pair].last["params_generation"] == 2
            assert bot.stop() == STOPPED
        assert not folder.exists()
    with running_bot(trading) as bot:
        assert values_of(bot.wait_ready()) == trading.stored()


def test_gap_between_disk_and_exchange_is_said_filled_and_predicted_over(tmp_path):
    """Freqtrade's own downloader closes it; nothing is trained over a gap."""
    options = ("--write-until-hours-ago", 12)
    with running_exchange(tmp_path / "market", *options) as exchange:
        project = make_trading_project(tmp_path / "project", exchange)
        project.write({pair: {} for pair in PAIRS})
        with running_bot(project) as bot:
            bot.wait_running()
            bot.wait_for_line("Downloading newer candles")
            for pair in PAIRS:
                (line,) = bot.lines(f"Candles are missing between disk and exchange pair={pair}")
                assert "gap=candles from" in line
            bot.wait_ready()
            assert bot.lines("Model was trained over a gap") == []
            assert bot.lines("Gap is not filled") == []
            frames = bot.wait_for_candle(time.time())
            assert all(frame.last["safety_q"] < 0 for frame in frames.values())
            for pair in PAIRS:
                path = candle_file(project.root / "user_data" / "data" / "binance", pair, "1m")
                dates = pd.DatetimeIndex(pd.read_feather(path, columns=["date"])["date"])
                assert (dates[1:] - dates[:-1] == pd.Timedelta(seconds=STEP_S)).all()
                assert dates[-1].timestamp() > time.time() - 3600


# ---------------------------------------------------------------------- one running bot


@pytest.fixture(scope="module")
def lasting(seasoned, tmp_path_factory) -> Iterator[Bot]:
    """Give one bot that lasts through the tests below; each leaves it healthy."""
    project = seasoned.copy(tmp_path_factory.mktemp("lasting") / "project")
    with running_bot(project) as bot:
        bot.wait_running()
        bot.wait_ready()
        bot.wait_for_candle(0)
        yield bot


def test_store_locked_at_reload_fails_it_and_recovers(lasting):
    """The wait is bounded; with the lock gone the next reload is good."""
    began = time.monotonic()
    store = sqlite3.connect(lasting.project.store_path, isolation_level=None, timeout=30)
    try:
        store.execute("PRAGMA locking_mode = EXCLUSIVE")  # readers, too, in any journal mode
        store.execute("BEGIN EXCLUSIVE")
        while time.monotonic() < began + 10:
            check_reload_fails(lasting, "locked")
        store.execute("ROLLBACK")
    finally:
        store.close()
    check_recovers(lasting, 0.041)
    check_no_candle_skipped(lasting)


def test_store_gone_at_reload_keeps_what_runs_warns_and_recovers(lasting):
    """A missing file has no records, which takes nothing from pairs that run."""
    project = lasting.project
    before, since = project.status(), lasting.mark()
    away = project.store_path.with_suffix(".away")
    project.store_path.rename(away)
    try:
        after = lasting.reload()
        assert values_of(after) == values_of(before)
        assert [p["model"] for p in after["pairs"].values()] == [
            p["model"] for p in before["pairs"].values()
        ]
        (line,) = lasting.lines("No pair has Optuna params from the store", since)
        assert "WARNING" in line
        assert "feeder_params.sqlite" in line
        assert not project.store_path.exists()
    finally:
        away.rename(project.store_path)
    check_recovers(lasting, 0.042)


def test_store_damaged_at_reload_fails_it_and_recovers(lasting):
    """Garbage in the store's place is an error with its name."""
    with damaged(lasting.project.store_path):
        check_reload_fails(lasting, "not a database")
    check_recovers(lasting, 0.043)


PASSED_OVER = ("incomplete: num_leaves missing", "passed_over", "Stored record passed over:")
REJECTED = ("rejected", "Rejected Optuna params for")


@pytest.mark.parametrize(
    ("value", "reason", "key", "said"),
    [
        pytest.param(None, *PASSED_OVER, id="missing"),
        pytest.param(float("nan"), *PASSED_OVER, id="nan"),  # SQLite's NULL
        pytest.param("many", "num_leaves='many' is not a number", *REJECTED, id="text"),
        pytest.param(31.5, "num_leaves=31.5 is not a whole number", *REJECTED, id="fraction"),
    ],
)
def test_record_that_can_not_serve_keeps_its_pair_is_said_and_recovers(
    lasting, value, reason, key, said
):
    """A foreign writer's record costs nothing; log and status name the field."""
    project, pair = lasting.project, PAIRS[1]
    before, since = project.status(), lasting.mark()
    project.spoil(pair, "num_leaves", value)
    after = lasting.reload()
    assert after["generation"] == before["generation"] + 1
    assert values_of(after) == values_of(before)
    for name in PAIRS:
        assert after["pairs"][name]["model"] == before["pairs"][name]["model"]
        assert (reason in (after["pairs"][name][key] or "")) is (name == pair)
    (line,) = lasting.lines(f"{said} {pair}", since)
    assert reason in line
    check_recovers(lasting, 0.05)
    assert lasting.project.status()["pairs"][pair][key] is None


def test_record_with_whole_number_as_text_and_unknown_field_is_taken(lasting):
    """What reads as the number it is, in a table that has a column of another version, serves."""
    project, pair = lasting.project, PAIRS[1]
    store = sqlite3.connect(project.store_path)
    store.execute(
        "ALTER TABLE optimized_parameters ADD COLUMN phase_of_the_moon TEXT DEFAULT 'new'"
    )
    store.close()
    project.spoil(pair, "num_leaves", "33")
    facts = lasting.reload()["pairs"][pair]
    assert (facts["parameters"]["num_leaves"], facts["rejected"]) == (33, None)
    check_recovers(lasting, 0.051)


def test_state_folder_read_only_at_reload_keeps_the_bot_and_recovers(lasting):
    """New parameters are in force though status and schedule can't say so; later they do."""
    project = lasting.project
    before, since = project.status(), lasting.mark()
    project.write({pair: {"learning_rate": 0.044} for pair in PAIRS})
    with read_only(project.settings.state_dir):
        os.kill(lasting.pid, signal.SIGUSR1)
        (line,) = lasting.wait_for_line("The status file is not written", since)
        assert "Read-only file system" in line
        assert "it is written to" in line
        lasting.wait_for_line("Loaded Optuna params for 3 pairs", since)
        assert project.status() == before
        said = project.feeder("status", "--feeder", FEEDER_ID)
        assert "because it can't write" in said.stdout
        assert f"generation {before['generation'] + 1}," in said.stdout
        lasting.wait_for_line("No new model for", since, count=3)
    # Not `lasting.reload()`: the file may tell of the reload before only now.
    os.kill(lasting.pid, signal.SIGUSR1)
    status = lasting.wait_for_status(
        lambda s: s["generation"] == before["generation"] + 2, "the second reload completed"
    )
    assert values_of(status) == project.stored()
    check_recovers(lasting, 0.045)
    check_no_candle_skipped(lasting)


def test_second_bot_of_the_same_feeder_refuses_to_start_and_names_the_first(lasting):
    """Two writers of one state are never there; the first is not disturbed."""
    with running_bot(lasting.project) as second:
        assert second.process.wait(60) != 0
        said = second.log
        assert f"another bot (pid {lasting.pid}) runs on" in said
        assert "Unexpected error" not in said
        assert "Traceback" not in said
        assert RUNNING not in said
    check_recovers(lasting, 0.046)


def test_late_candles_are_analysed_when_they_come_and_none_is_skipped(lasting):
    """Candles of an exchange that is 20 s late are predicted like others."""
    exchange = lasting.project.exchange
    exchange.fault(path="/fapi/v1/klines", lag_s=20)
    try:
        frames = lasting.wait_for_candle(time.time() + 1)
        for frame in frames.values():
            assert 10 < frame.late_s < 30  # freqtrade takes what there is after 15 s
            assert frame.last["safety_q"] < 0
    finally:
        exchange.clear()
    check_no_candle_skipped(lasting)
    check_recovers(lasting, 0.047)


def test_candle_first_seen_unfinished_gives_later_ones_the_values_of_a_restart(trading):
    """The host hands over what a late exchange has of a candle and corrects it with the next one."""
    exchange = trading.exchange
    with running_bot(trading) as bot:
        bot.wait_ready()
        bot.wait_for_candle(0)
        exchange.fault(path="/fapi/v1/klines", lag_s=20)
        try:
            first = bot.wait_for_candle(time.time() + 1)
        finally:
            exchange.clear()
        assert all(frame.late_s < 20 for frame in first.values())  # before it was complete
        second = bot.wait_for_candle(first[PAIRS[0]].open_s + STEP_S + 1)
        assert bot.stop() == STOPPED
    with running_bot(trading) as bot:
        again = bot.wait_for_candle(second[PAIRS[0]].open_s)
    for pair in PAIRS:
        opened_s = second[pair].open_s
        (q,) = second[pair].table["safety_q"][second[pair].opens_s == opened_s]
        (q_again,) = again[pair].table["safety_q"][again[pair].opens_s == opened_s]
        assert q == q_again, pair


def test_exchange_answering_503_leaves_the_bot_alive_and_candles_predicted_afterwards(lasting):
    """Reloads work meanwhile; with the exchange back every missed candle has its prediction."""
    exchange = lasting.project.exchange
    since = lasting.mark()
    exchange.fault(path="/fapi/v1/klines", status=503)
    try:
        lasting.wait_until(lambda: lasting.lines("503", since), "a refused request", 150)
        status = lasting.reload()
        assert status["reload"]["last_error"] is None
    finally:
        exchange.clear()
    frames = lasting.wait_for_candle(time.time())
    for pair, frame in frames.items():
        table = frame.table
        first_s = lasting.project.schedule()[pair][0]["first_candle_s"]
        assert table.loc[frame.opens_s >= first_s, "safety_q"].notna().all()
    assert not [line for line in lasting.lines("feeder_mixin", since) if "ERROR" in line]
    check_recovers(lasting, 0.048)


# ---------------------------------------------------------------------- configs


@pytest.mark.parametrize(
    ("key", "said"),
    [
        pytest.param("bot_name", "bot_name is", id="bot_name"),
        pytest.param("feeder", "no feeder block with a side", id="side"),
    ],
)
def test_bot_without_a_needed_key_does_not_start_and_says_which(trading, key, said):
    """A bot that can't know whose parameters to load never trades."""
    trading.edit_config(**{key: None})
    with running_bot(trading) as bot:
        assert bot.process.wait(60) not in {0, STOPPED}
        assert said in bot.log
        assert RUNNING not in bot.log
        assert "Traceback" not in bot.log


def test_default_config_in_the_repository_root_runs_feeder75a(tmp_path, exchange):
    """The shortest command of the pages starts the first feeder."""
    root = tmp_path / "clone"
    shutil.copytree(ROOT / "config", root / "config")
    (root / "user_data").mkdir()
    shutil.copy(ROOT / "user_data" / "config.json", root / "user_data")
    shutil.copytree(ROOT / "user_data" / "strategies", root / "user_data" / "strategies")
    log = root / "bot.log"
    command = [
        *(BIN / "freqtrade", "trade", "--strategy", "LightGBMSafetyFeederStrategy"),
        # The default has to be named, because the replay's comes after it.
        *("--config", "user_data/config.json", "--config", exchange.overlay, "--logfile", log),
    ]
    project = TradingProject(root, exchange)
    with start_bot(project, command, log, root / "bot.out", {}) as bot:
        bot.wait_running()
        (line,) = bot.lines("Loaded Optuna params for 0 pairs feeder=feeder75a")
        assert "/user_data/feeder_params.sqlite (default)" in line
        assert (root / "user_data" / "feeder_state" / "feeder75a" / "status.json").exists()
        done = project.feeder("status", "--feeder", "feeder75a")
        assert done.returncode == 0, done.stderr
        assert f"feeder75a: running, pid {bot.pid}" in done.stdout
        assert bot.stop() == STOPPED
