"""Messages to the operator: each event once, readable by Telegram, nothing secret, never in the way."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeder_mixin.errors import StoreUnavailableError
from feeder_mixin.live.bot import LiveFeeder
from feeder_mixin.live.messages import Messages
from feeder_mixin.live.reload import reloader
from feeder_mixin.live.reload.loader import Loaded, LoadedPair
from feeder_mixin.schema import default_parameters
from tests.live.conftest import BTC, ETH, market_record
from tests.waiting import wait_until


def pair_of(name: str, rejected: str | None = None, **parameters: float) -> LoadedPair:
    """Return a pair on a store record."""
    return LoadedPair(name, default_parameters() | parameters, "store", 1, rejected=rejected)


def loaded_of(*pairs: LoadedPair, error: str | None = None) -> Loaded:
    """Return what a load of these pairs gave."""
    return Loaded({pair.pair: pair for pair in pairs}, "sqlite:///x", {}, error)


@contextmanager
def running(world, tmp_path, write_store, send: Callable[[str], None]) -> Iterator[LiveFeeder]:
    """Run a live side with one record, and a way to send."""
    write_store(market_record(ETH, time.time_ns() - 10**9, num_leaves=31))
    folder = world.folder(world.settings(tmp_path / "user_data", pairs=(ETH,)))
    live = LiveFeeder(folder, lambda _pair: world.candles[ETH].iloc[:0], send=send)
    live.start()
    try:
        yield live
    finally:
        live.stop()


@pytest.fixture
def sent() -> list[str]:
    """Give the messages sent."""
    return []


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    """Give the clock of `messages`."""
    return Clock()


@pytest.fixture
def messages(sent, clock) -> Messages:
    """Give the messages of a feeder whose name Markdown would trip over."""
    return Messages("my_feeder", sent.append, clock)


def test_reload_names_generation_changed_pairs_and_time(messages, sent, clock):
    """What an operator asks first."""
    before = {BTC: pair_of(BTC), ETH: pair_of(ETH)}
    messages.reloaded(before, loaded_of(pair_of(BTC), pair_of(ETH, num_leaves=31)), 4, 0.0312)
    (text,) = sent
    assert "`my_feeder`" in text
    assert "reloaded, generation 4," in text
    assert "0 of 2 pairs accepted" in text
    assert f"1 changed: `{ETH}`" in text
    assert "took 0.03 s" in text
    clock.now_s += 60
    messages.reloaded(before, loaded_of(*before.values()), 5, 0.01)
    assert "changed: none" in sent[-1]


def test_messages_of_one_minute_are_one_and_nothing_is_lost(messages, sent, clock):
    """206 reloads at 3 s intervals are a message a minute: counts, all pairs that changed, the last state."""
    before = {BTC: pair_of(BTC), ETH: pair_of(ETH)}
    changed = {BTC: loaded_of(pair_of(BTC, num_leaves=31), pair_of(ETH)), ETH: loaded_of(
        pair_of(BTC), pair_of(ETH, num_leaves=31)
    )}  # fmt: skip
    for n in range(206):
        messages.reloaded(before, changed[BTC if n % 2 else ETH], n + 2, 0.01 * (n % 7))
        clock.now_s += 3
        messages.send_due()
    messages.send_due(pause_s=0.0)
    counts = [int((re.findall(r"reloaded (\d+) times", text) or ["1"])[0]) for text in sent]
    assert counts == [1, 19, *[20] * 9, 6]
    for text in sent[1:]:
        assert f"`{BTC}`" in text
        assert f"`{ETH}`" in text
        assert "took up to 0.06 s" in text
    assert "last generation 207, 0 of 2 pairs accepted" in sent[-1]


def test_reload_of_160_pairs_is_one_short_message_that_begins_with_the_summary(messages, sent):
    """Numbers first, few names, within what Telegram takes, however many pairs and long reasons."""
    names = [f"COIN{number:03d}/USDT:USDT" for number in range(160)]
    pairs = [pair_of(name, num_leaves=31) for name in names[:100]]
    pairs += [pair_of(name, "x" * 600, num_leaves=31) for name in names[100:]]
    pairs[0] = replace(pairs[0], source="default")
    messages.reloaded({name: pair_of(name) for name in names}, loaded_of(*pairs), 7, 0.1)
    (text,) = sent
    assert text.startswith(
        "Feeder `my_feeder`: reloaded, generation 7, 0 of 160 pairs accepted, 1 on "
        f"defaults, 160 changed: `{names[0]}`, "
    )
    assert "and 150 more, took 0.10 s\nrejected `COIN100/USDT:USDT` (runs on `store`): `xxx" in text
    assert "and 50 more" in text
    assert len(text) <= 4_096


def test_failure_is_in_the_next_message_and_at_once_where_the_last_is_older(messages, sent, clock):
    """The merge swallows no failure, and says which outcome was the last."""
    messages.failed(1, "store is down")
    assert "reload failed, generation 1 stays in use: `store is down`" in sent[0]
    for reason in ("store is down", "token is wrong", "store is down"):
        messages.failed(1, reason)
    messages.reloaded({}, loaded_of(pair_of(BTC)), 2, 0.1)
    assert len(sent) == 1
    clock.now_s += 59.9
    messages.send_due()
    assert len(sent) == 1
    clock.now_s += 0.1
    messages.send_due()
    assert len(sent) == 2
    assert "reloaded, generation 2" in sent[1]
    assert (
        "reload failed 3 times, generation 1 stays in use: `store is down` (2 times), " in sent[1]
    )
    assert "`token is wrong`" in sent[1]
    assert sent[1].endswith("the last one succeeded")
    clock.now_s += 60
    messages.send_due()
    assert len(sent) == 2
    messages.failed(2, "disk is full")
    assert "disk is full" in sent[2]


def test_rejection_is_said_once_and_again_only_when_it_is_another(messages, sent, clock):
    """The same bad record at every reload is one event; a healed pair may fall ill again."""
    bad = loaded_of(pair_of(BTC), pair_of(ETH, "num_leaves 500 is above 63"))

    def reload(loaded: Loaded) -> str:
        clock.now_s += 60
        messages.reloaded({}, loaded, 2, 0.0)
        return sent[-1]

    assert f"rejected `{ETH}` (runs on `store`): `num_leaves 500 is above 63`" in reload(bad)
    assert "rejected" not in reload(bad)
    worse = loaded_of(
        pair_of(BTC, "max_depth 99 is above 12"), pair_of(ETH, "num_leaves 500 is above 63")
    )
    rejected = reload(worse).partition("rejected")[2]
    assert BTC in rejected
    assert ETH not in rejected
    assert "rejected" not in reload(loaded_of(pair_of(BTC), pair_of(ETH)))
    assert f"rejected `{ETH}`" in reload(bad)


def test_start_says_a_store_that_is_down_and_rejected_pairs_only(messages, sent):
    """A normal start has freqtrade's own message."""
    messages.started(loaded_of(pair_of(BTC)))
    assert not sent
    messages.started(loaded_of(pair_of(BTC, "bad"), error="influxdb: can't be reached"))
    (text,) = sent
    assert "started without the store: `influxdb: can't be reached`" in text
    assert f"rejected `{BTC}`" in text


@given(
    st.lists(st.text(max_size=600), min_size=1, max_size=40),
    st.lists(st.text(max_size=5_000), min_size=1, max_size=6),
)
def test_every_message_is_markdown_that_telegram_takes(reasons, errors):
    """Below 4,096 characters, code spans closed on their line, no mark outside of them."""
    sent: list[str] = []
    clock = Clock()
    messages = Messages("my_feeder", sent.append, clock)
    pairs = [pair_of(f"P_{n}/USDT:USDT", reason) for n, reason in enumerate(reasons)]
    messages.failed(6, errors[0])
    messages.started(loaded_of(error=errors[0]))
    messages.reloaded({}, loaded_of(*pairs), 7, 0.1)
    for error in errors:
        messages.failed(7, error)
    clock.now_s += 60
    messages.send_due()
    assert len(sent) == 2
    for text in sent:
        assert len(text) < 4_096
        outside = re.sub(r"`[^`\n]*`", "", text)
        assert not set("_*`[") & set(outside), text


def test_send_that_fails_breaks_no_reload_and_is_logged(world, tmp_path, write_store, caplog):
    """The host's side is down: parameters are swapped all the same."""

    def fail(_message: str) -> None:
        raise RuntimeError("rpc is gone")

    with running(world, tmp_path, write_store, fail) as live:
        write_store(market_record(ETH, time.time_ns(), num_leaves=40))
        live.reload()
        assert live.snapshot.pairs[ETH].loaded.parameters["num_leaves"] == 40
    assert "Message is not sent error=RuntimeError('rpc is gone')" in caplog.text


@pytest.mark.parametrize(
    ("error", "told", "kept"),
    [
        (StoreUnavailableError("influxdb http://h:8086: refused"), "http://h:8086: refused", ""),
        (ZeroDivisionError("at token=abc"), "ZeroDivisionError, see the bot's log", "token=abc"),
    ],
    ids=["store", "defect"],
)
def test_failed_reload_is_said_with_its_reason_but_no_foreign_text(
    world, tmp_path, write_store, monkeypatch, sent, error, told, kept
):
    """Our errors mask secrets; what a defect's text holds nobody knows."""

    def fail(*_arguments: object) -> Loaded:
        raise error

    with running(world, tmp_path, write_store, sent.append) as live:
        monkeypatch.setattr(reloader, "load_parameters", fail)
        live.reload()
    (text,) = sent
    assert "reload failed, generation 1 stays in use" in text
    assert told in text
    assert not kept or kept not in text


def test_rejected_record_in_the_store_is_said_once_over_reloads(world, tmp_path, write_store, sent):
    """From a real store through the whole reload; what waits is said at the end."""
    with running(world, tmp_path, write_store, sent.append) as live:
        write_store(market_record(ETH, time.time_ns(), metrics={"horizon_candles": 99.0}))
        for _ in range(3):
            live.reload()
        assert len(sent) == 1
    first, last = sent
    assert "reloaded, generation 2" in first
    assert ETH in first.partition("rejected")[2]
    assert "horizon" in first
    assert "reloaded 2 times, last generation 4" in last
    assert "rejected" not in last


def test_what_waits_is_sent_by_the_keeper(world, tmp_path, write_store, sent, monkeypatch):
    """No reload has to come for it."""
    monkeypatch.setattr(Messages.send_due, "__defaults__", (0.05,))
    with running(world, tmp_path, write_store, sent.append) as live:
        live.reload()
        live.reload()
        wait_until(lambda: len(sent) > 1, "the second message")
    assert "reloaded, generation 3" in sent[1]
