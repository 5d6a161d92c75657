"""SIGUSR1 to a reload: no storm ends the process, no request is lost, nothing is left behind."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest

from feeder_mixin.errors import StateError, StoreUnavailableError
from feeder_mixin.live.bot import LiveFeeder
from feeder_mixin.live.reload import reloader
from feeder_mixin.live.reload.watcher import SignalWatcher
from feeder_mixin.live.serve.candles import DataFolder, LiveTails
from feeder_mixin.live.serve.snapshot import PairSnapshot, ParameterCache
from feeder_mixin.live.state import keeper, last_good
from feeder_mixin.live.state.files import write_checked
from feeder_mixin.live.state.schedule import schedule_identity
from feeder_mixin.live.state.status import read_status
from feeder_mixin.live.train.due import DueFits
from feeder_mixin.live.train.history import TrainingHistory
from feeder_mixin.schema import open_text
from tests.fake_influx import running_server
from tests.live.conftest import BTC, ETH, PAIRS, SOL, loaded_pair, market_record, open_s
from tests.waiting import wait_until

N_SIGNALS, N_SENDERS = 10_000, 4
DEADLINE_S = 60.0

CHILD = """
import json, os, signal, sys, threading, time
from pathlib import Path
import numpy as np
from feeder_mixin.live.reload.watcher import SignalWatcher

store, log = Path(sys.argv[1]), open(sys.argv[2], "a", buffering=1)
gate = threading.Event()
if "gated" not in sys.argv:
    gate.set()

def reload():
    began = time.monotonic()
    log.write(json.dumps({"at": began, "content": store.read_text()}) + "\\n")
    gate.wait()

def say(**facts):
    print(json.dumps(facts), flush=True)

def end(number, frame):
    sys.exit(7)

def state():
    fds = sorted(os.listdir("/proc/self/fd"))
    return {"threads": threading.active_count(), "fds": len(fds)}

signal.signal(signal.SIGUSR2, lambda *_: None)
if "handler" in sys.argv:
    signal.signal(signal.SIGTERM, end)
mine = os.pipe()
os.set_blocking(mine[1], False)
if "wakeup" in sys.argv:
    signal.set_wakeup_fd(mine[1])
before = state()
watcher = SignalWatcher(reload)
watcher.install()
watcher.start()
say(ready=True)
for line in sys.stdin:
    command = line.strip()
    if command == "svd":
        matrix = np.random.default_rng(0).normal(size=(1300, 1300))
        say(begun=time.monotonic())
        np.linalg.svd(matrix)
        say(ended=time.monotonic())
    elif command == "open":
        gate.set()
        say(opened=True)
    elif command == "stop":
        watcher.stop()
        handler, fd = signal.getsignal(signal.SIGUSR1), signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(fd)
        say(ignored=handler is signal.SIG_IGN, restored=fd == (mine[1] if "wakeup" in sys.argv else -1),
            before=before, after=state())
    elif command == "start":
        watcher = SignalWatcher(reload)
        watcher.install()
        watcher.start()
        say(ready=True)
    elif command == "end":
        break
"""

SENDER = """
import os, signal, sys
pid, number, count, path = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
file = os.open(path, os.O_WRONLY)
sys.stdin.readline()
for i in range(1, count + 1):
    os.pwrite(file, b"%06d " % i, 7 * number)
    os.kill(pid, signal.SIGUSR1)
"""


class Child:
    """A process with a watcher, a file it reads at every reload, and a log of its reloads."""

    def __init__(self, folder: Path, *modes: str) -> None:
        self.store, self._log = folder / "store", folder / "log"
        self.store.write_text("first", encoding="utf-8")
        self._log.touch()
        self.process = subprocess.Popen(  # noqa: S603 - our own interpreter and code
            [sys.executable, "-c", CHILD, str(self.store), str(self._log), *modes],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
        assert self.read() == {"ready": True}

    def send(self) -> float:
        """Send SIGUSR1, and return when."""
        now = time.monotonic()
        self.process.send_signal(signal.SIGUSR1)
        return now

    def tell(self, command: str) -> None:
        """Give the main thread something to do."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()

    def read(self) -> dict:
        """Return the next line of the main thread."""
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    @property
    def reloads(self) -> list[dict]:
        """Return all reloads so far."""
        lines = self._log.read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def wait_for(self, is_there) -> list[dict]:
        """Return the reloads as soon as they are what is waited for."""
        wait_until(
            lambda: is_there(self.reloads),
            lambda: f"a reload; the newest are {self.reloads[-3:]}",
            process=self.process,
        )
        return self.reloads


@contextlib.contextmanager
def child(folder: Path, *modes: str) -> Iterator[Child]:
    """Run a child process; end it afterwards."""
    made = Child(folder, *modes)
    process = made.process
    try:
        yield made
    finally:
        process.kill()
        process.wait()
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()


def storm(made: Child, count: int, store: Path) -> None:
    """Send `count` signals from four processes at once; each writes the store before each."""
    store.write_text("000000 " * N_SENDERS, encoding="utf-8")
    code = [sys.executable, "-c", SENDER, str(made.process.pid)]
    senders = [
        subprocess.Popen(  # noqa: S603 - our own interpreter and code
            [*code, str(number), str(count // N_SENDERS), str(store)],
            stdin=subprocess.PIPE,
            text=True,
        )
        for number in range(N_SENDERS)
    ]
    for sender in senders:
        sender.stdin.write("go\n")
        sender.stdin.close()
    assert [sender.wait(DEADLINE_S) for sender in senders] == [0] * N_SENDERS


def test_storm_of_10000_signals_from_4_senders_ends_alive_with_the_last_content(tmp_path):
    """What was written before the last signal is loaded after it, and the process lives."""
    with child(tmp_path) as made:
        storm(made, N_SIGNALS, made.store)
        last = f"{N_SIGNALS // N_SENDERS:06d} " * N_SENDERS
        reloads = made.wait_for(lambda known: known and known[-1]["content"] == last)
        assert len(reloads) < N_SIGNALS
        made.store.write_text("afterwards", encoding="utf-8")
        made.send()
        made.wait_for(lambda known: known[-1]["content"] == "afterwards")
        assert made.process.poll() is None


def test_storm_during_a_long_numpy_call_loses_nothing(tmp_path):
    """A full wake-up descriptor and a busy main thread still end in the last content."""
    with child(tmp_path) as made:
        made.tell("svd")
        made.read()
        storm(made, N_SIGNALS // 5, made.store)
        last = f"{N_SIGNALS // 5 // N_SENDERS:06d} " * N_SENDERS
        made.wait_for(lambda known: known and known[-1]["content"] == last)
        assert "ended" in made.read()


def test_signal_during_a_long_numpy_call_is_answered_at_once(tmp_path):
    """The watcher does not wait for the main thread: within 100 ms, long before the call ends."""
    with child(tmp_path) as made:
        made.tell("svd")
        made.read()
        delays = []
        for number in range(1, 6):
            sent = made.send()
            reloads = made.wait_for(lambda known, n=number: len(known) == n)
            delays.append(reloads[-1]["at"] - sent)
        ended = made.read()["ended"]
        assert made.reloads[-1]["at"] < ended
        assert median(delays) < 0.1
        assert max(delays) < 1.0


def test_signals_during_a_reload_make_exactly_one_more(tmp_path):
    """A burst while a load is under way coalesces; the one more sees what was written by then."""
    with child(tmp_path, "gated") as made:
        made.send()
        made.wait_for(lambda known: len(known) == 1)
        for number in range(50):
            made.store.write_text(f"burst {number}", encoding="utf-8")
            made.send()
        made.tell("open")
        made.read()
        made.wait_for(lambda known: len(known) == 2)
        made.store.write_text("third", encoding="utf-8")
        made.send()
        reloads = made.wait_for(lambda known: known[-1]["content"] == "third")
        assert [known["content"] for known in reloads] == ["first", "burst 49", "third"]


@pytest.mark.parametrize(
    ("modes", "code"), [((), -signal.SIGTERM), (("handler",), 7)], ids=["default", "handler"]
)
def test_sigterm_still_ends_the_process_and_reloads_nothing(tmp_path, modes, code):
    """Other signals do what they did before; their bytes in the descriptor are no requests."""
    with child(tmp_path, *modes) as made:
        made.send()
        made.wait_for(lambda known: len(known) == 1)
        made.process.send_signal(signal.SIGTERM)
        assert made.process.wait(DEADLINE_S) == code
        assert len(made.reloads) == 1


def test_signal_of_another_kind_is_no_request(tmp_path):
    """Its byte comes through the same descriptor and makes no reload."""
    with child(tmp_path) as made:
        made.process.send_signal(signal.SIGUSR2)
        made.store.write_text("after another signal", encoding="utf-8")
        made.tell("svd")  # its byte is read long before this ends
        made.read()
        made.read()
        assert made.reloads == []
        made.send()
        made.wait_for(lambda known: len(known) == 1)


@pytest.mark.parametrize("modes", [(), ("wakeup",)], ids=["none_before", "one_before"])
def test_stop_ignores_the_signal_and_puts_back_the_descriptor(tmp_path, modes):
    """After `stop` a signal neither ends the process nor reloads; the wake-up descriptor is back."""
    with child(tmp_path, *modes) as made:
        made.tell("stop")
        state = made.read()
        assert state["ignored"]
        assert state["restored"]
        assert state["after"] == state["before"]
        made.send()
        made.tell("start")
        assert made.read() == {"ready": True}
        assert made.reloads == []
        made.send()
        made.wait_for(lambda known: len(known) == 1)


def test_start_and_stop_three_times_leave_no_thread_and_no_descriptor(tmp_path):
    """Every `/reload_config` gives back what it took, and the handler works in between."""
    with child(tmp_path) as made:
        for number in range(1, 4):
            made.send()
            made.wait_for(lambda known, n=number: len(known) == n)
            made.tell("stop")
            state = made.read()
            assert state["after"] == state["before"]
            if number < 3:
                made.tell("start")
                made.read()


def test_stop_waits_for_a_reload_under_way():
    """`stop` returns only when no reload runs any more: what it would write is still there."""
    begun, gate, done = threading.Event(), threading.Event(), []

    def reload():
        begun.set()
        gate.wait(DEADLINE_S)
        done.append(True)

    watcher = SignalWatcher(reload)
    watcher.install()
    watcher.start()
    os.kill(os.getpid(), signal.SIGUSR1)
    assert begun.wait(DEADLINE_S)
    threading.Timer(0.1, gate.set).start()
    watcher.stop()
    assert done == [True]


def test_check_comes_every_so_often_and_a_request_during_one_is_answered_after_it():
    """The clock asks on the watcher's thread; SIGUSR1 works meanwhile, and puts the next check off."""
    begun, gate, calls = threading.Event(), threading.Event(), []

    def check():
        calls.append("check")
        begun.set()
        gate.wait(DEADLINE_S)
        if len(calls) > 3:
            raise ZeroDivisionError  # a defect ends nothing

    watcher = SignalWatcher(lambda: calls.append("reload"), check, 0.05)
    watcher.install()
    watcher.start()
    try:
        assert begun.wait(DEADLINE_S)
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.1)
        assert calls == ["check"]
        gate.set()
        wait_until(lambda: len(calls) >= 6, "checks after the request")
        assert calls[:3] == ["check", "reload", "check"]
    finally:
        gate.set()
        watcher.stop()


def test_watcher_without_a_period_never_checks():
    """A config without `check_store_minutes` asks the store at signals only."""
    calls = []
    watcher = SignalWatcher(lambda: calls.append("reload"), lambda: calls.append("check"))
    watcher.install()
    watcher.start()
    os.kill(os.getpid(), signal.SIGUSR1)
    wait_until(lambda: calls, "the reload")
    watcher.stop()
    assert calls == ["reload"]


# ------------------------------------------------------------------ the bot's reload


@pytest.fixture
def live(world, tmp_path, write_store) -> Iterator[LiveFeeder]:
    """Give a started live side on an SQLite store with one record; its host has no candles yet."""
    write_store(market_record(ETH, time.time_ns() - 10**9, num_leaves=31))
    folder = world.folder(world.settings(tmp_path / "user_data", pairs=(ETH,)))
    feeder = LiveFeeder(folder, lambda _pair: world.candles[ETH].iloc[:0])
    feeder.start()
    yield feeder
    feeder.stop()


def status(live: LiveFeeder) -> dict:
    """Return what the bot says of itself."""
    return read_status(live.settings.status_path)


def test_request_is_in_the_status_file_while_a_slow_store_is_waited_for(live, monkeypatch):
    """Who looks at a bot that hangs at its store must see that it was asked."""
    seen = []
    load = reloader.load_parameters

    def slow(*arguments):
        def asked() -> bool:
            now = status(live)["reload"]
            return (now["requested"], now["completed"]) == (1, 0)

        seen.append(wait_until(asked, "the request in the status"))
        return load(*arguments)

    monkeypatch.setattr(reloader, "load_parameters", slow)
    live.reload()
    assert seen == [True]
    assert (status(live)["reload"]["requested"], status(live)["reload"]["completed"]) == (1, 1)


def test_status_is_written_once_by_a_reload_whose_store_answers_at_once(live, monkeypatch):
    """It takes half as long as the load of a hundred pairs, and the main thread waits for it."""
    monkeypatch.setattr(reloader, "SLOW_S", 60.0)
    written = []
    keep = keeper.keep_status
    monkeypatch.setattr(
        keeper, "keep_status", lambda *arguments: written.append(1) or keep(*arguments)
    )
    live.reload()
    assert len(written) == 1


def test_reload_without_a_thread_to_spare_fails_and_the_bot_keeps_its_parameters(live, monkeypatch):
    """It is told as any other failure; the watcher lives on."""

    def start(_timer):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(reloader.threading.Timer, "start", start)
    generation = live.snapshot.generation
    live.reload()
    told = status(live)["reload"]
    assert told["last_error"] == "RuntimeError: can't start new thread"
    assert (told["requested"], told["completed"]) == (1, 1)
    assert live.snapshot.generation == generation


def test_signal_during_the_first_load_is_answered_after_it(
    world, tmp_path, write_store, monkeypatch
):
    """A slow first answer of the store never ends up over the newer one of a reload."""
    write_store(market_record(ETH, time.time_ns() - 10**9, learning_rate=0.02))
    folder = world.folder(world.settings(tmp_path / "user_data", pairs=(ETH,)))
    load = reloader.load_parameters

    def slow(*arguments):
        loaded = load(*arguments)
        if arguments[-1] is None:  # the first load: its answer is old by the time it is used
            write_store(market_record(ETH, time.time_ns(), learning_rate=0.05))
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.1)
        return loaded

    monkeypatch.setattr(reloader, "load_parameters", slow)
    feeder = LiveFeeder(folder, lambda _pair: world.candles[ETH].iloc[:0])
    try:
        feeder.start()
        wait_until(lambda: status(feeder)["reload"]["completed"], "the reload")
        assert feeder.snapshot.generation == 2
        assert feeder.snapshot.pairs[ETH].loaded.parameters["learning_rate"] == 0.05
    finally:
        feeder.stop()


def signal_reload(feeder) -> None:
    """Send SIGUSR1 to the bot in this process and return when it has reloaded."""
    before = status(feeder)["reload"]["completed"]
    os.kill(os.getpid(), signal.SIGUSR1)
    wait_until(lambda: status(feeder)["reload"]["completed"] > before, "the reload")


def test_signal_to_the_bot_swaps_parameters_and_counts_a_generation(live, write_store):
    """One SIGUSR1: the store's newest values to the last digit, generation up by one."""
    before = status(live)
    value = 0.1 / 3
    write_store(market_record(ETH, time.time_ns(), learning_rate=value))
    signal_reload(live)
    after = status(live)
    assert after["generation"] == before["generation"] + 1 == live.snapshot.generation
    assert after["pairs"][ETH]["parameters"]["learning_rate"] == value
    assert after["pairs"][ETH]["parameters"]["num_leaves"] == 15
    assert after["reload"]["last_error"] is None
    assert after["reload"]["last_success_at"] is not None


@pytest.mark.parametrize(
    "error", [StoreUnavailableError("db: connection refused"), ZeroDivisionError("a defect")],
    ids=["store", "defect"],
)  # fmt: skip
def test_failed_reload_changes_nothing_is_reported_and_the_next_recovers(
    live, monkeypatch, caplog, error
):
    """Whatever fails: snapshot kept, reason in log and status, and the next good load mends it."""
    before, known = live.snapshot, status(live)

    def fail(*_arguments):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(reloader, "load_parameters", fail)
        live.reload()
    assert live.snapshot is before
    failed = status(live)
    assert failed["reload"]["completed"] == 1
    assert failed["reload"]["last_error"] == f"{type(error).__name__}: {error}"
    assert failed["pairs"] == known["pairs"]  # no candle came
    (line,) = [r for r in caplog.records if r.getMessage().startswith("Reload failed, generation")]
    assert f"generation={before.generation}" in line.getMessage()
    live.reload()
    assert live.snapshot.generation == before.generation + 1
    assert status(live)["reload"]["last_error"] is None


def messages_of(caplog, *levels: int) -> list[str]:
    """Return what was logged at some levels."""
    return [r.getMessage() for r in caplog.records if r.levelno in levels]


def test_check_reloads_when_the_store_has_moved_and_only_then(live, write_store, caplog):
    """A newer record is a reload of its own kind, counted as any; nothing moved is no line above DEBUG."""
    live.check_store()
    assert live.snapshot.generation == 1
    assert status(live)["reload"]["requested"] == 0
    assert messages_of(caplog, logging.INFO, logging.WARNING, logging.ERROR) == []
    write_store(market_record(ETH, time.time_ns(), num_leaves=40))
    with caplog.at_level(logging.INFO):
        live.check_store()
    assert live.snapshot.generation == 2
    assert live.snapshot.pairs[ETH].loaded.parameters["num_leaves"] == 40
    counts = status(live)["reload"]
    assert (counts["requested"], counts["completed"], counts["last_error"]) == (1, 1, None)
    (line,) = [t for t in messages_of(caplog, logging.INFO) if t.startswith("Store has moved")]
    assert "trigger=check_store_minutes pairs=1 newest=20" in line
    live.check_store()
    assert live.snapshot.generation == 2


def test_check_reloads_once_for_a_record_that_is_refused(live, write_store):
    """What can't be used moves the store's times, too; it is looked at once, not at every check."""
    write_store(market_record(ETH, time.time_ns(), metrics={"side": -1.0}))
    live.check_store()
    assert live.snapshot.generation == 2
    assert live.snapshot.pairs[ETH].loaded.rejected is not None
    live.check_store()
    assert live.snapshot.generation == 2


def test_check_of_a_store_that_is_down_is_said_once_and_again_when_it_is_back(
    live, monkeypatch, caplog, write_store
):
    """A night without store is one warning; what was written meanwhile is loaded afterwards."""
    caplog.set_level(logging.INFO)
    load = reloader.load_times
    for reason in ("timed out", "connection refused", "timed out"):
        monkeypatch.setattr(
            reloader,
            "load_times",
            lambda *_, r=reason: (_ for _ in ()).throw(StoreUnavailableError(r)),
        )
        live.check_store()
    assert [t[:30] for t in messages_of(caplog, logging.WARNING)] == [
        "Store can't be asked for newer"
    ]
    monkeypatch.setattr(reloader, "load_times", load)
    write_store(market_record(ETH, time.time_ns(), num_leaves=40))
    live.check_store()
    assert sum(t.startswith("Store answers again") for t in messages_of(caplog, logging.INFO)) == 1
    assert live.snapshot.pairs[ETH].loaded.parameters["num_leaves"] == 40


def test_bot_on_another_host_picks_new_records_up_by_itself(world, tmp_path, write_store):
    """With `check_store_minutes` no signal is needed."""
    write_store(market_record(ETH, time.time_ns() - 10**9, num_leaves=31))
    settings = world.settings(tmp_path / "user_data", pairs=(ETH,), check_store_minutes=0.05)
    settings = replace(settings, check_store_minutes=0.002)  # not to wait three seconds
    feeder = LiveFeeder(world.folder(settings), lambda _pair: world.candles[ETH].iloc[:0])
    feeder.start()
    try:
        write_store(market_record(ETH, time.time_ns(), num_leaves=40))
        wait_until(lambda: feeder.snapshot.generation == 2, "the reload")
        assert feeder.snapshot.pairs[ETH].loaded.parameters["num_leaves"] == 40
    finally:
        feeder.stop()


def test_failed_reload_leaves_the_token_nowhere(live, monkeypatch, caplog):
    """A server that repeats the token gets it into no log, status file or other state."""
    secret = "k9-Zq7_never-to-be-seen-Ww3=="  # noqa: S105  (a secret of nothing)
    caplog.set_level(logging.DEBUG)
    with running_server() as server:
        server.always = (401, f"who is {secret}?")
        monkeypatch.setenv("FEEDER_STORE_URL", f"influxdb+{server.url}?org=ArtiSky")
        monkeypatch.setenv("FEEDER_STORE_TOKEN", secret)
        live.reload()
    assert "the token is wrong" in status(live)["reload"]["last_error"]
    assert secret not in caplog.text
    files = [path for path in live.settings.state_dir.rglob("*") if path.is_file()]
    assert live.settings.status_path in files
    assert [str(path) for path in files if secret.encode() in path.read_bytes()] == []


def test_reload_with_a_full_disk_still_swaps(live, monkeypatch, caplog, write_store):
    """A state folder that can't be written costs the status file, not the reload."""

    def full(*_arguments):
        raise StateError("status.json can't be written: No space left on device")

    for module, name in ((keeper, "keep_status"), (last_good, "write_checked")):
        monkeypatch.setattr(module, name, full)
    write_store(market_record(ETH, time.time_ns(), num_leaves=40))
    live.reload()
    assert live.snapshot.pairs[ETH].loaded.parameters["num_leaves"] == 40
    assert "No space left" in caplog.text


def test_three_restarts_in_one_process_leave_the_same_threads_and_a_working_handler(
    world, tmp_path, write_store
):
    """`/reload_config` three times: no thread, descriptor or lock is left, generation goes on."""
    write_store(market_record(ETH, time.time_ns() - 10**9))
    folder = world.folder(world.settings(tmp_path / "user_data", pairs=(ETH,)))

    def state():
        return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

    states, generations = [], []
    for _ in range(4):
        feeder = LiveFeeder(folder, lambda _pair: world.candles[ETH].iloc[:0])
        feeder.start()
        signal_reload(feeder)
        generations.append(feeder.snapshot.generation)
        feeder.stop()
        del feeder
        states.append(state())
    assert len(set(states)) == 1
    assert [g - generations[0] for g in generations] == [0, 2, 4, 6]


def test_models_of_a_clock_set_back_are_said_in_one_line(world, tmp_path, caplog):
    """Twenty servings of three pairs, one reason: one line that names them."""
    settings = world.settings(tmp_path / "user_data", pairs=(BTC, ETH, SOL))
    begin_s = int(time.time()) + 7_200
    kept = {"model": "x", "source": "default", "version": None, "beats_rule": True}
    entries = [{**kept, "first_candle_s": begin_s + n} for n in range(7)]
    document = {
        "identity": schedule_identity(settings),
        "pairs": dict.fromkeys((BTC, ETH, SOL), entries),
    }
    write_checked(settings.state_dir / "schedule.json", document)
    feeder = LiveFeeder(world.folder(settings), lambda _pair: world.candles[ETH].iloc[:0])
    feeder.start()
    feeder.stop()
    (line,) = [r.getMessage() for r in caplog.records if "in the future" in r.getMessage()]
    assert f"Saved model can't serve {BTC}, {ETH}, {SOL}: " in line
    assert open_text(begin_s + 6) in line


def test_changed_context_drops_neither_models_nor_what_was_served(world, tmp_path, caplog):
    """/reload_config with one more context pair: the old model serves on, served values stay."""
    caplog.set_level(logging.INFO, "feeder_mixin")
    settings = world.settings(tmp_path / "user_data", pairs=(ETH,), context_pairs=[BTC, ETH])
    folder = world.folder(settings)
    cut_s = int(time.time()) // 86_400 * 86_400
    (serving,) = world.serve(
        folder, loaded_pair(ETH), (open_s(world.candles[ETH], 7_000),)
    ).servings
    assert serving.model.misfits(settings) == []
    other = replace(settings, context_pairs=tuple(sorted(PAIRS)), train_days=90.0)
    assert serving.model.misfits(other) == ["context_pairs", "train_days"]
    assert schedule_identity(settings) == schedule_identity(other)
    pair = PairSnapshot(
        loaded_pair(ETH),
        1,
        (
            replace(
                serving, model=replace(serving.model, cut_s=cut_s, rows=21_600, context_share=1.0)
            ),
        ),
    )
    assert due_fits(folder).due(pair, time.time()) is None
    assert due_fits(world.folder(other)).due(pair, time.time()) is not None


def due_fits(folder: DataFolder) -> DueFits:
    """Return what decides on a bot's fits, without the bot."""
    return DueFits(TrainingHistory(folder, LiveTails(folder, 1)), ParameterCache())


def test_saved_models_of_another_side_are_named_with_both_values(world, tmp_path, caplog):
    """Which key of the config did not fit, what it was, what it is now."""
    settings = world.settings(tmp_path / "user_data", pairs=(ETH,))
    before = schedule_identity(settings)
    document = {"identity": before | {"side": "short"}, "pairs": {}}
    write_checked(settings.state_dir / "schedule.json", document)
    feeder = LiveFeeder(world.folder(settings), lambda _pair: world.candles[ETH].iloc[:0])
    feeder.start()
    feeder.stop()
    assert (
        "Saved models do not match this config, new ones are trained: side=short, now long"
        in caplog.text
    )
