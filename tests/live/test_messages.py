"""Messages to the operator: each event once, readable by Telegram, nothing secret, never in the way."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feeder_mixin.errors import StoreUnavailableError
from feeder_mixin.live import bot
from feeder_mixin.live.bot import LiveFeeder
from feeder_mixin.live.loader import Loaded, LoadedPair
from feeder_mixin.live.messages import Messages
from feeder_mixin.schema import default_parameters
from tests.live.conftest import BTC, ETH, make_record


def pair_of(name: str, rejected: str | None = None, **parameters: float) -> LoadedPair:
    """Return a pair on a store record."""
    return LoadedPair(name, default_parameters() | parameters, "store", 1, rejected=rejected)


def loaded_of(*pairs: LoadedPair, error: str | None = None) -> Loaded:
    """Return what a load of these pairs gave."""
    return Loaded({pair.pair: pair for pair in pairs}, "sqlite:///x", {}, error)


@contextmanager
def running(world, tmp_path, write_store, send: Callable[[str], None]) -> Iterator[LiveFeeder]:
    """Run a live side with one record, and a way to send."""
    write_store(make_record(ETH, time.time_ns() - 10**9, num_leaves=31))
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


@pytest.fixture
def messages(sent) -> Messages:
    """Give the messages of a feeder whose name Markdown would trip over."""
    return Messages("my_feeder", sent.append)


def test_reload_names_generation_changed_pairs_and_time(messages, sent):
    """What an operator asks first."""
    before = {BTC: pair_of(BTC), ETH: pair_of(ETH)}
    messages.reloaded(before, loaded_of(pair_of(BTC), pair_of(ETH, num_leaves=31)), 4, 0.0312)
    (text,) = sent
    assert "`my_feeder`" in text
    assert "reloaded, generation 4," in text
    assert "0 of 2 pairs accepted" in text
    assert f"changed: `{ETH}`" in text
    assert "took 0.03 s" in text
    messages.reloaded(before, loaded_of(*before.values()), 5, 0.01)
    assert "changed: none" in sent[-1]


def test_rejection_is_said_once_and_again_only_when_it_is_another(messages, sent):
    """The same bad record at every reload is one event; a healed pair may fall ill again."""
    bad = loaded_of(pair_of(BTC), pair_of(ETH, "num_leaves 500 is above 63"))
    for generation in (2, 3):
        messages.reloaded({}, bad, generation, 0.0)
    rejections = [text for text in sent if "rejected" in text]
    assert len(rejections) == 1
    assert f"`{ETH}` (runs on `store`): `num_leaves 500 is above 63`" in rejections[0]
    worse = loaded_of(
        pair_of(BTC, "max_depth 99 is above 12"), pair_of(ETH, "num_leaves 500 is above 63")
    )
    messages.reloaded({}, worse, 4, 0.0)
    assert BTC in sent[-1]
    assert ETH not in sent[-1]
    messages.reloaded({}, loaded_of(pair_of(BTC), pair_of(ETH)), 5, 0.0)
    messages.reloaded({}, bad, 6, 0.0)
    assert f"rejected `{ETH}`" in sent[-1]


def test_one_reason_of_many_pairs_is_said_once(messages, sent):
    """Fifty pairs of a wrong horizon are one line on a phone."""
    pairs = [f"P{n:02}/USDT:USDT" for n in range(50)]
    messages.reloaded({}, loaded_of(*(pair_of(p, f"{p}: horizon 60") for p in pairs)), 2, 0.0)
    (text,) = [text for text in sent if "rejected" in text]
    assert text.count("horizon 60") == 1
    assert f"`{pairs[0]}`" in text
    assert "and 46 more (runs on `store`): `horizon 60`" in text


def test_start_says_a_store_that_is_down_and_rejected_pairs_only(messages, sent):
    """A normal start has freqtrade's own message."""
    messages.started(loaded_of(pair_of(BTC)))
    assert not sent
    messages.started(loaded_of(pair_of(BTC, "bad"), error="influxdb: can't be reached"))
    assert "started without the store: `influxdb: can't be reached`" in sent[0]
    assert f"rejected `{BTC}`" in sent[1]


@given(st.lists(st.text(max_size=600), min_size=1, max_size=40), st.text(max_size=5_000))
@settings(deadline=None)  # of a loaded machine
def test_every_message_is_markdown_that_telegram_takes(reasons, error):
    """Below 4,096 characters, code spans closed on their line, no mark outside of them."""
    sent: list[str] = []
    messages = Messages("my_feeder", sent.append)
    pairs = [pair_of(f"P_{n}/USDT:USDT", reason) for n, reason in enumerate(reasons)]
    messages.reloaded({}, loaded_of(*pairs), 7, 0.1)
    messages.failed(7, error)
    assert len(sent) == 3
    for text in sent:
        assert len(text) < 4_096
        outside = re.sub(r"`[^`\n]*`", "", text)
        assert not set("_*`[") & set(outside), text


def test_send_that_fails_breaks_no_reload_and_is_logged(world, tmp_path, write_store, caplog):
    """The host's side is down: parameters are swapped all the same."""

    def fail(_message: str) -> None:
        raise RuntimeError("rpc is gone")

    with running(world, tmp_path, write_store, fail) as live:
        write_store(make_record(ETH, time.time_ns(), num_leaves=40))
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
        monkeypatch.setattr(bot, "load_parameters", fail)
        live.reload()
    (text,) = sent
    assert "reload failed, generation 1 goes on" in text
    assert told in text
    assert not kept or kept not in text


def test_rejected_record_in_the_store_is_said_once_over_reloads(world, tmp_path, write_store, sent):
    """From a real store through the whole reload."""
    with running(world, tmp_path, write_store, sent.append) as live:
        write_store(make_record(ETH, time.time_ns(), {"horizon_candles": 99.0}))
        for _ in range(3):
            live.reload()
    assert len([text for text in sent if "reloaded" in text]) == 3
    (text,) = [text for text in sent if "rejected" in text]
    assert ETH in text
    assert "horizon" in text
