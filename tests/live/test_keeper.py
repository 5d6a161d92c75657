"""The state folder of a running bot: written soon, by its own thread, and in nobody's way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from feeder_mixin.live.bot import LiveFeeder
from feeder_mixin.live.state import keeper
from feeder_mixin.live.state.files import read_checked
from feeder_mixin.live.state.status import read_status
from feeder_mixin.live.train.models import TrainedModel
from tests.live.conftest import ETH, World, market_record
from tests.waiting import wait_until

DEADLINE_S = 60.0


def model_of(live: LiveFeeder, name: str = "model") -> TrainedModel:
    """Return a model of what is loaded, without trees."""
    parameters = live.snapshot.pairs[ETH].loaded.parameters
    cut_s = int(time.time()) // 86_400 * 86_400
    return TrainedModel(ETH, parameters, cut_s, 4_320, 1.0, 0, 150.0, name, "shared", None)


def put(live: LiveFeeder, model: TrainedModel) -> None:
    """Put a model in force, as training does."""
    assert live.cache.put_model(model, int(time.time()) // 300 * 300)
    live.keeper.changed.set()


def kept_models(live: LiveFeeder) -> list[str]:
    """Return the models in the schedule file, oldest first."""
    document = read_checked(live.settings.state_dir / "schedule.json")
    assert document is not None
    return [entry["model"] for entry in document["pairs"][ETH]]


def own_threads() -> list[str]:
    """Return the names of the live side's threads."""
    names = (thread.name for thread in threading.enumerate())
    return sorted(name for name in names if name.startswith("feeder-"))


@pytest.fixture
def live(world: World, tmp_path: Path, write_store) -> Iterator[LiveFeeder]:
    """Give a started live side of one pair; its host has no candles yet, so nothing is trained."""
    write_store(market_record(ETH, time.time_ns() - 10**9))
    folder = world.folder(world.settings(tmp_path / "user_data", pairs=(ETH,)))
    feeder = LiveFeeder(folder, lambda _pair: world.candles[ETH].iloc[:0])
    feeder.start()
    yield feeder
    if own_threads():
        feeder.stop()


def test_state_is_written_within_a_second_of_a_swap(live):
    """The schedule first: a model that the status calls one of the bot's is there after a restart."""
    put(live, model_of(live))

    def is_said() -> bool:
        model = read_status(live.settings.status_path)["pairs"][ETH]["model"]
        return model["trained_until"] is not None

    wait_until(is_said, "the status file", timeout_s=1.0)
    assert kept_models(live) == ["model"]


def test_swap_just_before_the_end_is_written(live, monkeypatch):
    """The keeper's last turn may be over: what came since is written by `stop`."""
    monkeypatch.setattr(keeper, "POLL_S", 0.0)
    for number in range(20):
        put(live, model_of(live, f"model {number}"))
    live.stop()
    assert kept_models(live) == ["model 19"]


def test_all_threads_end_with_the_bot(live):
    """Reload, training and state: each has its own, none stays."""
    assert own_threads() == ["feeder-reload", "feeder-state", "feeder-training"]
    live.stop()
    assert own_threads() == []


def test_slow_disk_holds_up_no_candle(live, world, monkeypatch):
    """A candle waits for no file, whichever thread is writing one."""
    begun, gate = threading.Event(), threading.Event()

    def slow(*_arguments: object) -> None:
        begun.set()
        assert gate.wait(DEADLINE_S)

    monkeypatch.setattr(keeper, "keep_status", slow)
    put(live, model_of(live))
    assert begun.wait(DEADLINE_S)
    frame = world.candles[ETH].iloc[:499].dropna().rename_axis("date").reset_index()
    try:
        assert len(live.predict(ETH, frame).q) == len(frame)
        assert not gate.is_set()
    finally:
        gate.set()


def test_defect_ends_no_thread_and_is_said_once(live, monkeypatch, caplog):
    """Whatever a turn raises: the next one is made, and the log has one traceback of it."""
    calls = []

    def fail() -> None:
        calls.append(True)
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(keeper, "POLL_S", 0.01)
    with monkeypatch.context() as patch:
        patch.setattr(live.keeper.messages, "send_due", fail)
        live.keeper.changed.set()
        wait_until(lambda: len(calls) > 3, "more turns")
    assert caplog.text.count("State is not kept feeder=") == 1
    put(live, replace(model_of(live), name="later"))
    wait_until(lambda: kept_models(live) == ["later"], "the schedule")
