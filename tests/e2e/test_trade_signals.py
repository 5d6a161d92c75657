"""SIGUSR1 at the real bot: storms, start-up, rebuilt and paused bots, and candles on time meanwhile."""

from __future__ import annotations

import base64
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.bot import (
    CANDLE_PATIENCE_S,
    PAIRS,
    RECORDER,
    RUNNING,
    STEP_S,
    Bot,
    Frame,
    ask_json,
    free_port,
    running_bot,
)
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

SENDER = """
import os, signal, sys
for _ in range(int(sys.argv[2])):
    os.kill(int(sys.argv[1]), signal.SIGUSR1)
"""
BUSY = (
    RECORDER
    + '''

import numpy as np


class Busy(Recorder):
    """Spends seconds inside one NumPy call, once it is asked to."""

    def entry_trigger(self, dataframe, metadata):
        folder = Path(self.config["user_data_dir"])
        if (folder / "wanted").exists():
            (folder / "wanted").unlink()
            matrix = np.random.default_rng(0).normal(size=(2000, 2000))
            (folder / "begun").touch()
            np.linalg.svd(matrix)
            (folder / "ended").touch()
        return super().entry_trigger(dataframe, metadata)
'''
)
THREADS = ["feeder-reload", "feeder-state", "feeder-training"]
USER, PASSWORD = "tester", "loopback-only"


class Api:
    """The bot's REST API."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}/api/v1"
        pair = f"{USER}:{PASSWORD}".encode()
        self._auth = f"Basic {base64.b64encode(pair).decode()}"

    def get(self, name: str) -> dict[str, object]:
        """Return what a GET answers."""
        return ask_json(f"{self._base}/{name}", auth=self._auth)

    def post(self, name: str) -> dict[str, object]:
        """Return what a POST answers."""
        return ask_json(f"{self._base}/{name}", "POST", {}, auth=self._auth)


def with_api(project) -> Api:
    """Give a project's bot a REST API on a free port."""
    port = free_port()
    project.edit_config(
        api_server={
            "enabled": True,
            "listen_ip_address": "127.0.0.1",
            "listen_port": port,
            "username": USER,
            "password": PASSWORD,
            "jwt_secret_key": "x" * 40,
        }
    )
    return Api(port)


def values_of(status) -> dict[str, dict[str, float]]:
    """Return pair -> parameters of a status."""
    return {pair: facts["parameters"] for pair, facts in status["pairs"].items()}


def wait_for_content(bot: Bot):
    """Return the status once it holds what the store holds, with no request open."""
    stored = bot.project.stored()
    return bot.wait_for_status(
        lambda s: values_of(s) == stored and s["reload"]["requested"] == s["reload"]["completed"],
        "the store's last content",
    )


def test_storm_of_ten_thousand_signals_from_several_senders_ends_with_the_last_content(trading):
    """The bot lives, has loaded what was written last, answers a further request, and predicts."""
    with running_bot(trading) as bot:
        bot.wait_running()
        before = trading.status()
        senders = [
            subprocess.Popen([sys.executable, "-c", SENDER, str(bot.pid), "2500"])  # noqa: S603
            for _ in range(4)
        ]
        number = 0
        while any(sender.poll() is None for sender in senders):
            number += 1
            trading.write({PAIRS[number % 3]: {"learning_rate": 0.01 + number * 1e-6}})
        assert [sender.wait() for sender in senders] == [0] * 4
        trading.write({pair: {"learning_rate": 0.0333333333333} for pair in PAIRS})
        os.kill(bot.pid, signal.SIGUSR1)
        stormed = wait_for_content(bot)
        assert stormed["reload"]["last_error"] is None
        done = stormed["reload"]["completed"]
        assert stormed["generation"] == before["generation"] + done
        assert 1 <= done <= 10_001
        after = bot.reload()
        assert after["generation"] == stormed["generation"] + 1
        ready = bot.wait_ready()
        frames = bot.wait_for_candle(max(s[-1]["first_candle_s"] for s in schedule(bot)) + 1)
        for pair in PAIRS:
            assert frames[pair].last["safety_q"] < 0
            assert ready["pairs"][pair]["model"]["version"] == ready["pairs"][pair]["version"]
        assert "Traceback" not in bot.log


def test_bot_that_checks_its_store_runs_on_newer_records_without_a_signal(trading):
    """As a bot on another host than the tuner does: records of all pairs, models, predictions."""
    feeder = json.loads(trading.config.read_text())["feeder"]
    trading.edit_config(feeder=feeder | {"check_store_minutes": 0.05})
    with running_bot(trading) as bot:
        bot.wait_running()
        before = bot.wait_ready()
        mark = bot.mark()
        trading.write({pair: {"learning_rate": 0.0222222222222} for pair in PAIRS})
        wait_for_content(bot)
        ready = bot.wait_ready()
        assert ready["generation"] > before["generation"]
        for pair in PAIRS:
            model = ready["pairs"][pair]["model"]
            assert model["version"] == ready["pairs"][pair]["version"]
            assert model["version"] != before["pairs"][pair]["model"]["version"]
        assert "trigger=check_store_minutes" in bot.lines("Store has moved", mark)[0]
        n_moves = len(bot.lines("Store has moved", mark))
        time.sleep(8)  # two checks and more: nothing has moved
        assert len(bot.lines("Store has moved", mark)) == n_moves
        assert "Traceback" not in bot.log


def test_models_come_into_force_while_reloads_change_all_values_every_three_seconds(trading):
    """Sixty reloads: every pair runs on newer models all the while, and on the last values behind."""
    with running_bot(trading) as bot:
        bot.wait_running()
        bot.wait_ready()
        mark, begun = bot.mark(), time.monotonic()
        in_force: dict[str, list[float]] = {pair: [0.0] for pair in PAIRS}
        for number in range(1, 61):
            trading.write({pair: {"learning_rate": 0.01 + number * 1e-4} for pair in PAIRS})
            os.kill(bot.pid, signal.SIGUSR1)
            while time.monotonic() - begun < 3 * number:
                for pair, moments in in_force.items():
                    if len(bot.lines(f"Model is ready for {pair}", mark)) >= len(moments):
                        moments.append(time.monotonic() - begun)
                time.sleep(0.2)
        waits = {
            pair: max(b - a for a, b in zip(moments, [*moments[1:], 180.0], strict=True))
            for pair, moments in in_force.items()
        }
        assert max(waits.values()) < 60, waits
        wait_for_content(bot)
        ready = bot.wait_ready()
        for pair in PAIRS:
            assert ready["pairs"][pair]["model"]["version"] == ready["pairs"][pair]["version"]


def schedule(bot: Bot) -> list[list[dict[str, int]]]:
    """Return the models in force, pair by pair."""
    return list(bot.project.schedule().values())


def test_signals_during_the_whole_start_leave_the_bot_alive_with_the_last_content(trading):
    """Started as docs/use/run.md says, a bot survives signals from its first moment on."""
    ended = threading.Event()
    sent = []

    def send(pid: int) -> None:
        while not ended.wait(0.05):
            os.kill(pid, signal.SIGUSR1)
            sent.append(pid)

    with running_bot(trading) as bot:
        sender = threading.Thread(target=send, args=(bot.pid,))
        # The shell must have become deaf first: its own first line says so.
        wait_until(lambda: is_ignored(bot.pid), "the shell's trap")
        sender.start()
        try:
            wait_until(lambda: len(sent) > 20, "signals")
            trading.write({pair: {"learning_rate": 0.0123456789} for pair in PAIRS})
            bot.wait_running()
        finally:
            ended.set()
            sender.join()
        status = wait_for_content(bot)
        assert status["reload"]["last_error"] is None
        again = bot.reload()
        assert again["generation"] > status["generation"]  # the last of the burst may still come


def is_ignored(pid: int) -> bool:
    """Return whether a process ignores SIGUSR1, or catches it."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigIgn", "SigCgt"))]
    return any(mask & 1 << (signal.SIGUSR1 - 1) for mask in masks)


def test_signals_during_a_long_numpy_call_swap_before_it_ends(trading):
    """The main thread is deaf for seconds, the swap is not; the candle under way is whole."""
    user_data = trading.root / "user_data"
    (user_data / "strategies" / "Busy.py").write_text(BUSY, encoding="utf-8")
    with running_bot(trading, "--strategy", "Busy") as bot:
        bot.wait_running()
        bot.wait_for_candle(0)
        (user_data / "wanted").touch()
        bot.wait_until((user_data / "begun").exists, "the long call", CANDLE_PATIENCE_S)
        trading.write({pair: {"learning_rate": 0.0234567891} for pair in PAIRS})
        for _ in range(100):
            os.kill(bot.pid, signal.SIGUSR1)
        status = wait_for_content(bot)
        assert not (user_data / "ended").exists()
        assert status["generation"] > 1
        assert status["reload"]["last_error"] is None
        bot.wait_until((user_data / "ended").exists, "the end of the long call")
        bot.wait_ready()
        frames = bot.wait_for_candle(max(s[-1]["first_candle_s"] for s in schedule(bot)) + 1)
        for pair in PAIRS:
            assert frames[pair].last["safety_q"] < 0
            assert frames[pair].last["params_generation"] > 1
        assert "Traceback" not in bot.log


def test_three_reload_configs_leave_threads_handler_and_generation_in_order(trading):
    """A rebuilt bot leaves no thread behind, hears the signal, and counts generations on."""
    api = with_api(trading)
    with running_bot(trading) as bot:
        bot.wait_running()
        bot.wait_for_candle(0)
        generation = bot.reload()["generation"]
        for _ in range(3):
            generation = rebuild(bot, api, generation)
            assert own_threads(bot) == THREADS
        trading.write({pair: {"learning_rate": 0.031} for pair in PAIRS})
        status = bot.reload()
        assert status["generation"] == generation + 1
        assert values_of(status) == trading.stored()
        bot.wait_ready()
        assert trading.is_locked()
        assert "Traceback" not in bot.log


def own_threads(bot: Bot) -> list[str]:
    """Return the names of this package's threads, and of those that nobody named.

    The kernel's count says nothing: freqtrade 2026.9 alone leaves a thread of some C library behind
    with every `/reload_config`, and the API's server starts some when it needs them.
    """
    return [name for name in bot.thread_names() if name.startswith(("feeder", "Thread-"))]


def rebuild(bot: Bot, api: Api, generation: int) -> int:
    """Ask for `/reload_config` with a signal in between, and return the new bot's generation."""
    since, n_frames = bot.mark(), [len(bot.frames(pair)) for pair in PAIRS]
    api.post("reload_config")
    os.kill(bot.pid, signal.SIGUSR1)  # whichever bot hears it, none may die of it
    bot.wait_for_line(RUNNING, since)
    bot.wait_for_line("Loaded Optuna params for 3 pairs", since)
    bot.wait_until(
        lambda: all(len(bot.frames(p)) > n for p, n in zip(PAIRS, n_frames, strict=True)),
        "the rebuilt bot's first analysis",
    )
    status = bot.wait_for_status(
        lambda s: (
            s["generation"] > generation and s["reload"]["requested"] == s["reload"]["completed"]
        ),
        f"a generation above {generation}",
    )
    return status["generation"]


def test_stopped_and_started_bot_keeps_reloading_and_predicting(trading):
    """`/stop` and `/start` keep threads and models; a reload while stopped is in force after."""
    api = with_api(trading)
    with running_bot(trading) as bot:
        bot.wait_running()
        bot.wait_for_candle(0)
        api.post("stop")
        bot.wait_for_line("to: STOPPED")
        generation = bot.reload()["generation"]
        since = bot.mark()
        api.post("start")
        bot.wait_for_line(RUNNING, since)
        assert trading.status()["generation"] == generation
        frames = bot.wait_for_candle(bot.frames(PAIRS[0])[-1].open_s + STEP_S + 1)
        for pair in PAIRS:
            assert frames[pair].last["safety_q"] < 0
        assert own_threads(bot) == THREADS
        assert bot.reload()["generation"] == generation + 1


def test_candles_are_analysed_on_time_while_every_pair_is_reloaded_and_retrained(trading, capsys):
    """No candle is skipped, none is over 1 s later than in as many candles without reloads."""
    n_candles = 4
    with running_bot(trading) as bot:
        bot.wait_running()
        quiet = watch(bot, n_candles, lambda _: None)
        stop_s = quiet[PAIRS[0]][-1].open_s + STEP_S

        def disturb(number: int) -> None:
            trading.write({p: {"learning_rate": 0.02 + number * 1e-4} for p in PAIRS})
            bot.reload()

        busy = watch(bot, n_candles, disturb)
        fits = len(bot.lines("Model is ready for"))
    for pair in PAIRS:
        opens_s = [frame.open_s for frame in (*quiet[pair], *busy[pair])]
        assert opens_s == list(range(opens_s[0], opens_s[-1] + 1, STEP_S)), pair
        assert busy[pair][0].open_s == stop_s
    assert fits >= 3 * n_candles
    late = [[f.late_s for frames in part.values() for f in frames] for part in (quiet, busy)]
    figures = {
        name: {"median_s": statistics.median(values), "max_s": max(values)}
        for name, values in zip(("quiet", "reloading"), late, strict=True)
    }
    with capsys.disabled():
        print(f"\ncandles late: {json.dumps(figures)} models fitted: {fits}")  # noqa: T201
    assert max(late[1]) <= max(late[0]) + 1.0


def watch(bot: Bot, n_candles: int, disturb: Callable[[int], object]) -> dict[str, list[Frame]]:
    """Return pair -> the next candles' frames; `disturb` is called every 15 s meanwhile."""
    # The first candle of a process is late by its start: it does not count.
    bot.wait_for_candle(0)
    newest_s = bot.frames(PAIRS[0])[-1].open_s
    last_s = newest_s + n_candles * STEP_S
    deadline_s = time.time() + (n_candles + 2) * STEP_S
    number, next_s = 0, time.time()
    while not all(bot.frames(pair)[-1].open_s >= last_s for pair in PAIRS):
        assert bot.process.poll() is None, bot.log[-3000:]
        assert time.time() < deadline_s, "candles stay away"
        if time.time() >= next_s:
            number += 1
            next_s += 15
            disturb(number)
        time.sleep(0.5)  # between two looks
    return {p: [f for f in bot.frames(p) if newest_s < f.open_s <= last_s] for p in PAIRS}
