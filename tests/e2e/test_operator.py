"""What an operator gets from the real bot without a look at its host: metrics and messages.

One bot, one story: start, a reload, a refused record over two reloads, a broken store. Messages arrive by
the host's own webhook, from its own loop, as they would on Telegram.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from feeder_mixin.live.state.files import read_checked, write_checked
from feeder_mixin.live.state.status import Status
from tests.e2e.bot import FEEDER_ID, PAIRS, STOPPED, TradingProject, running_bot
from tests.live.test_metrics import Samples, expected_of, key, read_samples

pytestmark = pytest.mark.slow

CHANGED, REFUSED = PAIRS[1:]
FILE_TIMES = ("feeder_status_timestamp_seconds", "feeder_last_good_timestamp_seconds")


class Inbox(HTTPServer):
    """Takes the messages that freqtrade's webhook sends."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.messages: list[str] = []

    @property
    def config(self) -> dict[str, object]:
        """Return freqtrade's ``webhook`` block, as docs/operate/monitoring.md gives it."""
        return {
            "enabled": True,
            "url": f"http://127.0.0.1:{self.server_port}",
            "format": "json",
            "allow_custom_messages": True,
            "strategy_msg": {"text": "{msg}"},
        }


class _Handler(BaseHTTPRequestHandler):
    server: Inbox

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.messages.append(json.loads(body)["text"])
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def inbox() -> Iterator[Inbox]:
    """Give a server that takes messages."""
    with Inbox() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@dataclass
class Story:
    """Samples and status by what had just happened; all messages in order."""

    looks: dict[str, tuple[Samples, Status]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def samples(self, name: str) -> Samples:
        """Return the samples of a moment, without those that are no status file's."""
        return {k: v for k, v in self.looks[name][0].items() if k[0] not in FILE_TIMES}


def serve_since_hours(project: TradingProject, hours: int) -> None:
    """Leave what a bot leaves whose models serve for hours: horizons of theirs have ended."""
    path = project.settings.state_dir / "schedule.json"
    document = read_checked(path)
    assert document is not None
    for entries in document["pairs"].values():
        entries[0]["first_candle_s"] -= hours * 3_600
    write_checked(path, document)


@pytest.fixture(scope="module")
def story(seasoned: TradingProject, tmp_path_factory, inbox: Inbox) -> Story:
    """Play the story."""
    project = seasoned.copy(tmp_path_factory.mktemp("operator") / "project")
    project.edit_config(webhook=inbox.config)
    serve_since_hours(project, 5)
    story = Story()

    def look(name: str) -> None:
        done = project.feeder("metrics", "--feeder", FEEDER_ID)
        assert done.returncode == 0, done.stderr
        story.looks[name] = read_samples(done.stdout), project.status()

    with running_bot(project) as bot:
        bot.wait_ready()
        bot.wait_for_candle(0)
        bot.wait_for_status(
            lambda s: all(p["exceedance"] is not None for p in s["pairs"].values()), "exceedances"
        )
        look("before")

        project.write({CHANGED: {"learning_rate": 0.03}})
        bot.reload()
        bot.wait_ready(generation=2)
        look("reloaded")

        project.spoil(REFUSED, "num_leaves", 500.0)
        bot.reload()
        bot.reload()
        look("rejected")

        project.store_path.write_bytes(b"this was a store once" * 500)
        bot.reload()
        look("failed")
        bot.wait_until(lambda: len(inbox.messages) >= 2 or None, "two messages")
        assert bot.stop() == STOPPED
    look("stopped")
    story.messages = list(inbox.messages)
    return story


@pytest.mark.parametrize("name", ["before", "reloaded", "rejected", "failed"])
def test_metrics_of_the_real_bot_are_its_status_files(story, name):
    """Every value; whatever a candle or a model changed between the two looks aside."""
    samples, status = story.samples(name), story.looks[name][1]
    expected = expected_of(status)
    moving = ("feeder_calibration_factor", "feeder_exceedance", "feeder_model_state")
    for found in (samples, expected):
        for k in [k for k in found if k[0].startswith(moving) or k[0] in FILE_TIMES]:
            del found[k]
    assert samples == expected


def test_metrics_tell_a_reload_a_rejection_and_a_failure(story):
    """Before and after, by the numbers that a panel shows."""

    def row(name: str, **labels: str) -> list[float]:
        moments = ("before", "reloaded", "rejected", "failed")
        return [story.samples(m)[key(name, feeder_id=FEEDER_ID, **labels)] for m in moments]

    assert row("feeder_up") == [1, 1, 1, 1]
    assert row("feeder_generation") == [1, 2, 4, 4]
    assert row("feeder_loads_total", outcome="succeeded") == [1, 2, 4, 4]
    assert row("feeder_loads_total", outcome="failed") == [0, 0, 0, 1]
    assert row("feeder_last_load_ok") == [1, 1, 1, 0]
    assert row("feeder_pair_rejected", pair=REFUSED) == [0, 0, 1, 1]
    assert row("feeder_pair_rejected", pair=CHANGED) == [0, 0, 0, 0]
    assert row("feeder_pairs", source="store") == [3, 3, 3, 3]
    loaded = row("feeder_last_successful_load_timestamp_seconds")
    assert loaded[0] < loaded[1] < loaded[2] == loaded[3]
    assert all(0 < took < 5 for took in row("feeder_last_load_duration_seconds"))
    shares = [row("feeder_exceedance_ratio", pair=pair)[0] for pair in PAIRS]
    assert all(0 <= share <= 1 for share in shares)
    assert all(row("feeder_exceedance_candles", pair=pair)[0] > 100 for pair in PAIRS)
    assert row("feeder_exceedance_nominal_ratio", pair=PAIRS[0])[0] == pytest.approx(0.1)


def test_metrics_of_the_stopped_bot_say_so_and_no_more(story):
    """Nothing runs, on nothing."""
    assert story.samples("stopped") == {key("feeder_up", feeder_id=FEEDER_ID): 0}


def test_messages_of_the_real_bot_are_each_event_once(story):
    """Reload done; a minute later the rest: pair rejected once, two reloads, one that failed."""
    first, rest = story.messages
    assert "reloaded, generation 2" in first
    assert f"changed: `{CHANGED}`" in first
    assert re.search(r"took \d+\.\d\d s", first)
    for part in ("reloaded 2 times, last generation 4", "changed: none", "num_leaves",
                 f"rejected `{REFUSED}`", "reload failed, generation 4 stays in use",
                 "the last one failed"):  # fmt: skip
        assert part in rest
    assert all(f"Feeder `{FEEDER_ID}`" in message for message in story.messages)
